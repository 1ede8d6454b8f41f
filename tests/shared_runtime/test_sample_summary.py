"""What `sample` prints: few files by name, many by folder."""

from __future__ import annotations

from pathlib import Path

from shared_runtime.verbs.sample import summary


def test_many_files_are_counted_by_folder() -> None:
    out = Path("sample")
    few = [out / "a.csv", out / "b" / "c.csv"]
    assert summary(out, few) == ["sample/a.csv", "sample/b/c.csv"]
    many = [out / "ct" / "dataset.json", out / "read.me", out / "flat" / "one.txt"]
    many += [out / "ct" / "imagesTr" / f"{number}.nii.gz" for number in range(20)]
    many += [out / "dicom" / "patient_1" / f"{number}.dcm" for number in range(3)]
    assert summary(out, many) == [
        "sample/ct: 20 in imagesTr, 1 file beside them",
        "sample/read.me",
        "sample/flat: 1 file",
        "sample/dicom: 3 in patient_1",
    ]
