"""What is predicted one at a time in a folder, and which files belong to one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domains.medical.data.items import case_of, item_files, items
from domains.medical.data.reading import read_scan
from shared_runtime.errors import DataError
from tests.domains.medical.made_scans import save, series, stored, volume


def names(folder: Path, pattern: str = "*") -> list[str]:
    return [str(path.relative_to(folder)) for path in items(folder, pattern)]


def test_channels_are_one_case(tmp_path: Path) -> None:
    for case in ("a", "b"):
        for channel in range(2):
            save(tmp_path / f"{case}_{channel:04}.nii.gz", volume(channel))
    save(tmp_path / ".hidden_0000.nii.gz", volume())
    (tmp_path / "notes.txt").write_text("x")
    assert names(tmp_path) == ["a_0000.nii.gz", "b_0000.nii.gz"]
    assert names(tmp_path, "b*") == ["b_0000.nii.gz"]
    case = case_of(tmp_path / "b_0000.nii.gz", 2)
    assert (case.id, case.patient) == ("b", "b")
    np.testing.assert_array_equal(read_scan(case, 2).array, np.stack([volume(0), volume(1)]))
    with pytest.raises(DataError, match=r"b_0001.nii.gz: is channel 1 of b, the model takes 1"):
        case_of(tmp_path / "b_0000.nii.gz", 1)
    with pytest.raises(DataError, match=r"b_0002.nii.gz: channel 2 of 3 is missing; add the file"):
        case_of(tmp_path / "b_0000.nii.gz", 3)


def test_files_without_channels_are_a_case_each(tmp_path: Path) -> None:
    for name in ("hippocampus_001", "hippocampus_002", "x"):
        save(tmp_path / f"{name}.nii.gz", volume())
    assert names(tmp_path) == ["hippocampus_001.nii.gz", "hippocampus_002.nii.gz", "x.nii.gz"]
    assert case_of(tmp_path / "hippocampus_002.nii.gz", 1).id == "hippocampus_002"
    assert case_of(tmp_path / "x.nii.gz", 2).images == (tmp_path / "x.nii.gz",)


def test_many_four_digit_names_are_cases(tmp_path: Path) -> None:
    source = save(tmp_path / "case_0000.nii.gz", volume())
    for n in range(1, 20):
        shutil.copy(source, tmp_path / f"case_{n:04}.nii.gz")
    assert len(names(tmp_path)) == 20
    assert case_of(source, 1).id == "case_0000"
    assert case_of(tmp_path / "case_0007.nii.gz", 1).id == "case_0007"


def test_series_at_any_depth(tmp_path: Path) -> None:
    for name in ("p1/ct", "p2/ct", "p2/mr"):
        series(tmp_path / name, stored())
    (tmp_path / "p3").mkdir()
    save(tmp_path / "a.nii.gz", volume())
    assert names(tmp_path) == ["a.nii.gz", "p1/ct", "p2/ct", "p2/mr"]
    assert names(tmp_path / "p1" / "ct") == ["."]
    case = case_of(tmp_path / "p1" / "ct", 1)
    assert (case.id, case.images) == ("ct", (tmp_path / "p1" / "ct",))


def test_images_of_different_series_are_a_case_each(tmp_path: Path) -> None:
    for n in range(3):
        one = series(tmp_path / "new", stored(1, seed=n))
        (one / "IM000.dcm").rename(tmp_path / f"x{n}.dcm")
        one.rmdir()
    assert names(tmp_path) == ["x0.dcm", "x1.dcm", "x2.dcm"]
    assert read_scan(case_of(tmp_path / "x1.dcm", 1), 1).array.shape == (1, 5, 6)


def test_pictures_without_their_masks(tmp_path: Path) -> None:
    for name in (
        "ISIC_0000001.jpg",
        "ISIC_0000001_segmentation.png",
        "ISIC_0000002.jpg",
        "r_0000.png",
    ):
        Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / name)
    assert names(tmp_path) == ["ISIC_0000001.jpg", "ISIC_0000002.jpg", "r_0000.png"]
    assert case_of(tmp_path / "ISIC_0000002.jpg", 3).id == "ISIC_0000002"
    case = case_of(tmp_path / "r_0000.png", 3)
    assert (case.id, read_scan(case, 3).array.shape) == ("r", (3, 4, 5))


def test_nothing_there(tmp_path: Path) -> None:
    assert names(tmp_path) == []
    with pytest.raises(DataError, match="gone: no such file or folder"):
        case_of(tmp_path / "gone", 1)


def test_an_item_is_all_its_channels_or_slices(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b.nii.gz", "c_0000.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    for item, names in (
        ("a_0000.nii.gz", ["a_0000.nii.gz", "a_0001.nii.gz"]),
        ("b.nii.gz", ["b.nii.gz"]),
        ("c_0000.nii.gz", ["c_0000.nii.gz"]),
    ):
        assert [path.name for path in item_files(tmp_path / item)] == names
    (tmp_path / "ct" / "masks").mkdir(parents=True)
    for name in ("2.dcm", "1.dcm", "notes.txt"):
        (tmp_path / "ct" / name).write_bytes(b"")
    assert [path.name for path in item_files(tmp_path / "ct")] == ["1.dcm", "2.dcm"]
