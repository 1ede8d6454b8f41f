"""`check`: every planted fault is found, with its file, and sound data are left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from domains.medical.data.checking import check
from domains.medical.data.config import DataConfig
from tests.domains.medical.made_scans import (
    declare,
    mask,
    nnunet,
    oblique,
    save,
    series,
    stored,
    volume,
)


def run(path: Path, **options: object) -> list[str]:
    found = check(DataConfig(path=path, **{"folds": 2, **options}))
    lines = [f"{p.severity}: {p.where}: {p.what}; {p.remedy}" for p in found]
    assert not any("\n" in line or not p.remedy for line, p in zip(lines, found, strict=True))
    return lines


@pytest.mark.parametrize("channels", [1, 3])
def test_sound_data_have_no_problem(tmp_path: Path, channels: int) -> None:
    assert run(nnunet(tmp_path, channels=channels)) == []


def test_sound_pictures_have_no_problem(tmp_path: Path) -> None:
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{n}.png")
        binary = (255 * mask((0, 1), (6, 8))).astype(np.uint8)
        Image.fromarray(binary).save(tmp_path / "masks" / f"{n}.png")
    assert run(tmp_path) == []
    Image.fromarray(binary).save(tmp_path / "masks" / "2.jpg")
    (tmp_path / "masks" / "2.png").unlink()
    assert "a JPEG mask, which has lost its values" in run(tmp_path)[0]


def test_faults_of_several_cases_are_found_in_one_pass(tmp_path: Path) -> None:
    nnunet(tmp_path)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    holes = volume(1).astype(np.float32)
    holes[2, 3, 4] = np.nan
    save(images / "case_01_0000.nii.gz", holes)
    moved = oblique()
    moved[0, 3] += 5
    save(labels / "case_02.nii.gz", mask(), moved)
    save(labels / "case_03.nii.gz", mask((0, 1, 7)))
    save(labels / "case_04.nii.gz", np.zeros((7, 6, 5), np.int16))
    shutil.copy(images / "case_00_0000.nii.gz", images / "case_05_0000.nii.gz")
    found = run(tmp_path)
    for severity, name, what in (
        ("error", "case_01_0000.nii.gz", "1 of 210 voxels are NaN or infinite"),
        ("error", "case_02.nii.gz", "up to 5 mm from those of case_02_0000.nii.gz"),
        ("error", "case_03.nii.gz", r"label values 7 (60 voxels) are none of 0, 1, 2"),
        ("warning", "case_04.nii.gz", "no foreground"),
        ("error", "case_05_0000.nii.gz", "the same voxels as case_00, which is patient case_00"),
    ):
        lines = [line for line in found if what in line]
        assert len(lines) == 1 and lines[0].startswith(severity) and name in lines[0], found
    assert len(found) == 5


def test_both_files_of_a_case_are_looked_at(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "imagesTr" / "case_03_0000.nii.gz").write_bytes(b"no image")
    save(tmp_path / "labelsTr" / "case_03.nii.gz", mask((0, 9)))
    found = run(tmp_path)
    assert len(found) == 1 and "case_03_0000.nii.gz: is no NIfTI file" in found[0]
    save(tmp_path / "imagesTr" / "case_03_0000.nii.gz", volume().astype(np.float32) * np.inf)
    assert any("9" in line and "case_03.nii.gz" in line for line in run(tmp_path))


def test_channels_that_do_not_fit(tmp_path: Path) -> None:
    nnunet(tmp_path, channels=2)
    save(tmp_path / "imagesTr" / "case_01_0001.nii.gz", volume(shape=(7, 6, 4)))
    found = run(tmp_path)
    assert (
        "case_01_0001.nii.gz: has 7 x 6 x 4 voxels, case_01_0000.nii.gz has 7 x 6 x 5" in found[0]
    )


def test_patients_and_copies_over_parts(tmp_path: Path) -> None:
    lines = ["image,label,patient,split"]
    for n, (patient, part) in enumerate((("a", "train"), ("b", "train"), ("a", "test"))):
        save(tmp_path / f"{n}.nii.gz", volume(n % 2))
        save(tmp_path / f"{n}_label.nii.gz", mask())
        lines.append(f"{n}.nii.gz,{n}_label.nii.gz,{patient},{part}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    found = run(tmp_path / "m.csv")
    assert len(found) == 2
    assert "warning: " in found[0] and "2.nii.gz: the same voxels as 0; remove one" in found[0]
    assert "error: " in found[1] and "patient a is in test and train" in found[1]


def test_too_few_patients_for_the_folds(tmp_path: Path) -> None:
    found = run(nnunet(tmp_path), folds=9)
    assert len(found) == 1
    assert "6 patients for 9 folds; set data.folds to 6 or less" in found[0]


def test_hounsfield_units(tmp_path: Path) -> None:
    nnunet(tmp_path)
    for n in (2, 4):
        save(tmp_path / "imagesTr" / f"case_{n:02}_0000.nii.gz", abs(volume(n)))
    found = run(tmp_path)
    assert len(found) == 1 and found[0].startswith("warning")
    assert "case_02_0000.nii.gz: channel CT goes from" in found[0]
    assert "no Hounsfield units (so in 2 of 6 cases)" in found[0]
    assert run(tmp_path, normalisation="zscore") == []
    declare(tmp_path, channel_names={"0": "T1"})
    assert run(tmp_path) == []


def test_scales_that_differ_under_one_normalisation(tmp_path: Path) -> None:
    nnunet(tmp_path)
    declare(tmp_path, channel_names={"0": "T1"})
    save(tmp_path / "imagesTr" / "case_02_0000.nii.gz", volume(2) * 0.01)
    assert run(tmp_path) == []
    found = run(tmp_path, normalisation="ct")
    assert len(found) == 1 and "which one normalisation for all cases cannot suit" in found[0]


def test_constant_images_missing_classes_and_outlying_spacing(tmp_path: Path) -> None:
    nnunet(tmp_path)
    declare(tmp_path, labels={"background": 0, "a": 1, "b": 2, "c": 3})
    save(tmp_path / "imagesTr" / "case_01_0000.nii.gz", np.full((7, 6, 5), -1000, np.int16))
    large = oblique((8.0, 15.0, 30.0))
    save(tmp_path / "imagesTr" / "case_02_0000.nii.gz", volume(2), large)
    save(tmp_path / "labelsTr" / "case_02.nii.gz", mask(), large)
    found = run(tmp_path, normalisation="zscore")
    assert all(line.startswith("warning") for line in found)
    assert "channel CT is -1000 everywhere" in found[0]
    assert "no label file has class c (value 3)" in found[1]
    assert "a spacing of 8 x 15 x 30 mm" in found[2]
    assert len(found) == 3


def test_no_class_at_all(tmp_path: Path) -> None:
    nnunet(tmp_path, declared=False)
    for path in (tmp_path / "labelsTr").iterdir():
        save(path, np.zeros((7, 6, 5), np.int16))
    assert any("no class but the background" in line for line in run(tmp_path))


def test_forms_that_differ(tmp_path: Path) -> None:
    nnunet(tmp_path)
    image = nib.Nifti1Image(volume(), oblique())
    image.set_qform(oblique(degrees=80), 1)
    image.set_sform(oblique(), 1)
    nib.save(image, tmp_path / "imagesTr" / "case_00_0000.nii.gz")
    found = run(tmp_path)
    assert len(found) == 1 and "case_00_0000.nii.gz: qform and sform place voxels" in found[0]


def test_whatever_happens_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nnunet(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("domains.medical.data.case_checks.read_scan", fail)
    found = run(tmp_path)
    assert len(found) == 6 and "cannot be used (RuntimeError: two lines)" in found[0]
    monkeypatch.setattr("domains.medical.data.checking.read_data_set", fail)
    assert "cannot be read (RuntimeError: two lines)" in run(tmp_path)[0]


def test_the_real_hippocampus_is_sound(heed_data: Path) -> None:
    assert run(heed_data / "medical" / "hippocampus") == []


def test_dicom_series_are_checked_as_volumes(tmp_path: Path) -> None:
    for number in range(2):
        series(tmp_path / f"patient_{number}" / "CT", stored(8, 10, 11, seed=number))
    config = DataConfig(path=tmp_path)
    (only,) = [p for p in check(config) if "Hounsfield" not in p.what]
    assert only.severity == "warning" and only.what.startswith("2 DICOM series without labels")
    slices = sorted((tmp_path / "patient_1" / "CT").iterdir())
    slices[3].unlink()
    errors = [p for p in check(config) if p.severity == "error"]
    assert [p.where for p in errors] == [str(tmp_path / "patient_1" / "CT")]
    assert "1 slice is missing" in errors[0].what
    one = check(DataConfig(path=tmp_path / "patient_0" / "CT"))
    assert any(p.what.startswith("a DICOM series without labels") for p in one)
