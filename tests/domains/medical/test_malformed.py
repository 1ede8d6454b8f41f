"""Malformed inputs, one by one: a clear line or a stated behaviour, never another error."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from domains.medical.data.case import Case
from domains.medical.data.checking import check
from domains.medical.data.config import DataConfig
from domains.medical.data.items import case_of, items
from domains.medical.data.layouts import read_data_set
from domains.medical.data.reading import read_label, read_scan
from shared_runtime.errors import DataError
from tests.domains.medical.made_scans import declare, mask, nnunet, oblique, save, series, stored
from tests.domains.medical.made_scans import volume as made

IMAGE = "imagesTr/case_02_0000.nii.gz"
LABEL = "labelsTr/case_02.nii.gz"


def cut(root: Path) -> None:
    path = save(root / IMAGE, made(2, (40, 30, 20)))
    path.write_bytes(path.read_bytes()[:-40])


def flip(root: Path) -> None:
    """A checksum that does not fit: only reading to the end of the file tells."""
    path = save(root / IMAGE, made(2, (40, 30, 20)))
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)


def text(root: Path) -> None:
    (root / IMAGE).write_text("<html>404 not found</html>")


def empty(root: Path) -> None:
    (root / IMAGE).write_bytes(b"")


def magic(root: Path) -> None:
    raw = bytearray(gzip.decompress((root / IMAGE).read_bytes()))
    raw[344:348] = b"xyz\0"
    raw[:4] = struct.pack("<i", 77)
    (root / IMAGE).write_bytes(gzip.compress(bytes(raw)))


def datatype(root: Path) -> None:
    raw = bytearray(gzip.decompress((root / IMAGE).read_bytes()))
    raw[70:72] = struct.pack("<h", 9999)
    (root / IMAGE).write_bytes(gzip.compress(bytes(raw)))


def not_a_number(root: Path) -> None:
    array = made(2).astype(np.float32)
    array[0] = np.nan
    save(root / IMAGE, array)


def infinite(root: Path) -> None:
    save(root / IMAGE, np.where(made(2) > 900, 1e300, made(2)))


def four_axes(root: Path) -> None:
    save(root / IMAGE, np.stack([made(2)] * 3, axis=-1))


def five_axes(root: Path) -> None:
    save(root / IMAGE, np.stack([np.stack([made(2)] * 2, axis=-1)] * 2, axis=-1))


def no_voxels(root: Path) -> None:
    save(root / IMAGE, np.zeros((0, 6, 5), np.int16))


def complex_numbers(root: Path) -> None:
    save(root / IMAGE, made(2).astype(np.complex64))


def one_slice(root: Path) -> None:
    save(root / IMAGE, made(2, (7, 6)))


def no_affine(root: Path) -> None:
    image = nib.Nifti1Image(made(2), oblique())
    image.header.set_sform(np.zeros((4, 4)), 1)
    nib.save(nib.Nifti1Image(made(2), None, image.header), root / IMAGE)


def mixed_affines(root: Path) -> None:
    save(root / LABEL, mask(), oblique((0.8, 1.5, 5.0)))


def another_shape(root: Path) -> None:
    save(root / LABEL, mask(shape=(7, 6, 4)))


def out_of_range(root: Path) -> None:
    save(root / LABEL, mask((0, 1, 200)))


def negative(root: Path) -> None:
    save(root / LABEL, mask((0, -1)))


def fractions(root: Path) -> None:
    save(root / LABEL, mask().astype(np.float32) * 0.5)


def nan_label(root: Path) -> None:
    save(root / LABEL, np.where(mask() == 2, np.nan, 1.0))


def one_hot(root: Path) -> None:
    save(root / LABEL, np.stack([mask() == n for n in range(3)], axis=-1).astype(np.uint8))


def label_gone(root: Path) -> None:
    (root / LABEL).unlink()


def link_out(root: Path) -> None:
    outside = root.parent / "outside.nii.gz"
    shutil.move(root / IMAGE, outside)
    (root / IMAGE).symlink_to(outside)


def folder_out(root: Path) -> None:
    shutil.move(root / "labelsTr", root.parent / "labels")
    (root / "labelsTr").symlink_to(root.parent / "labels")


def link_to_nothing(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).symlink_to(root / "gone")


def link_to_itself(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).symlink_to(root / IMAGE)


def same_name(root: Path) -> None:
    declare(root, file_ending=None)
    save(root / "imagesTr" / "case_02_0000.nii", made(2))


def folder_as_image(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).mkdir()


def bad_json(root: Path) -> None:
    (root / "dataset.json").write_text('{"labels": ')


def strange_bytes(root: Path) -> None:
    name = os.fsencode(root / "imagesTr") + b"/\xff\xfe_0000.nii.gz"
    shutil.copy(os.fsencode(root / IMAGE), name)


FAULTS: list[tuple[Callable[[Path], None], str, str]] = [
    (cut, IMAGE, "its voxels cannot be read (EOFError"),
    (flip, IMAGE, "its voxels cannot be read (BadGzipFile: CRC check failed"),
    (text, IMAGE, "is no NIfTI file, or a damaged one"),
    (empty, IMAGE, "is no NIfTI file, or a damaged one"),
    (magic, IMAGE, "is no NIfTI file, or a damaged one"),
    (datatype, IMAGE, "is no NIfTI file, or a damaged one"),
    (not_a_number, IMAGE, "30 of 210 voxels are NaN or infinite"),
    (infinite, IMAGE, "voxels are NaN or infinite"),
    (four_axes, IMAGE, "has four axes: 3 volumes where one is expected"),
    (five_axes, IMAGE, "has 5 axes, 7 x 6 x 5 x 2 x 2"),
    (no_voxels, IMAGE, "has no voxels (shape [0, 6, 5])"),
    (complex_numbers, IMAGE, "has voxels of type complex64"),
    (one_slice, IMAGE, "has 7 x 6 x 5 voxels"),
    (no_affine, IMAGE, "its affine places no voxels"),
    (mixed_affines, LABEL, "mm from those of case_02_0000.nii.gz (spacing 0.8 x 1.5 x 5 against"),
    (another_shape, LABEL, "has 7 x 6 x 4 voxels, case_02_0000.nii.gz has 7 x 6 x 5"),
    (out_of_range, LABEL, "label values 200 (60 voxels) are none of 0, 1, 2"),
    (negative, LABEL, "label values -1 (90 voxels) are none of 0, 1, 2"),
    (fractions, LABEL, "0.5 among the label values; give one integer per class"),
    (nan_label, LABEL, "nan among the label values"),
    (one_hot, LABEL, "3 volumes in a label file"),
    (label_gone, IMAGE, "no label for case_02"),
    (link_out, IMAGE, "a symbolic link that leads out of the folder, to"),
    (folder_out, "labelsTr", "a symbolic link that leads out of the folder, to"),
    (link_to_nothing, IMAGE, "a symbolic link to nothing"),
    (link_to_itself, IMAGE, "a symbolic link to nothing"),
    (same_name, "case_02", "a second file of case_02"),
    (folder_as_image, LABEL, "no image for case_02"),
    (bad_json, "dataset.json", "is no JSON"),
    (strange_bytes, "\ufffd\ufffd_0000.nii.gz", "no label for"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return nnunet(tmp_path / "Studie Köln 研究")


@pytest.mark.parametrize(
    ("damage", "where", "what"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_one_clear_line(root: Path, damage: Callable, where: str, what: str) -> None:
    damage(root)
    config = DataConfig(path=root, folds=2)
    errors = [problem for problem in check(config) if problem.severity == "error"]
    named = [p for p in errors if where in p.where and what in p.what + "; " + p.remedy]
    if damage is one_slice:
        named = [p for p in errors if "3 expected" in p.what or what in p.what]
    assert named, errors
    for problem in errors:
        assert "\n" not in str(problem) and problem.remedy and "Traceback" not in str(problem)
        str(problem).encode()
    data_set, _ = read_data_set(config)
    for case in data_set.cases:
        for read in (lambda c: read_scan(c, 1, spatial_dims=3), lambda c: read_label(c, data_set)):
            try:
                read(case)
            except DataError as error:
                assert case.id == "case_02" and "\n" not in str(error)


def test_names_in_any_script_work(root: Path) -> None:
    shutil.copy(root / IMAGE, root / "imagesTr" / "Müller 患者_0000.nii.gz")
    save(root / "imagesTr" / "Müller 患者_0000.nii.gz", made(99))
    shutil.copy(root / LABEL, root / "labelsTr" / "Müller 患者.nii.gz")
    declare(root, 1, 7)
    assert check(DataConfig(path=root, folds=2)) == []
    data_set, _ = read_data_set(DataConfig(path=root))
    case = next(case for case in data_set.cases if case.id == "Müller 患者")
    np.testing.assert_array_equal(read_scan(case, 1).array[0], made(99))


@pytest.mark.parametrize("kind", ["jpg", "csv", "dcm", "nrrd", "folder"])
def test_files_of_other_kinds_to_predict_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("folder" if kind == "folder" else f"a.{kind}")
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\0\1\2" * 50)
    with pytest.raises(DataError) as caught:
        read_scan(case_of(path, 1), 1)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_five_bad_volumes_of_two_hundred(tmp_path: Path) -> None:
    source = save(tmp_path / "x000.nii.gz", made())
    for n in range(1, 200):
        shutil.copy(source, tmp_path / f"x{n:03}.nii.gz")
    bad = {"x003", "x050", "x077", "x120", "x199"}
    for place, name in enumerate(sorted(bad)):
        content = (tmp_path / f"{name}.nii.gz").read_bytes()
        (tmp_path / f"{name}.nii.gz").write_bytes(content[: 30 * place])
    failed = set()
    for path in items(tmp_path, "*"):
        try:
            read_scan(case_of(path, 1), 1)
        except DataError:
            failed.add(path.name[:4])
    assert failed == bad


def test_pictures_of_another_size_than_their_masks(tmp_path: Path) -> None:
    for folder, shape in (("images", (6, 8)), ("masks", (8, 6))):
        (tmp_path / folder).mkdir()
        for n in range(2):
            array = mask((0, 255), shape) + n * (folder == "images")
            Image.fromarray(array.astype(np.uint8)).save(tmp_path / folder / f"{n}.png")
    found = [str(problem) for problem in check(DataConfig(path=tmp_path, folds=2))]
    assert sum("has 8 x 6 voxels, 0.png has 6 x 8" in line for line in found) == 1


def test_a_series_with_a_damaged_slice(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", stored())
    path = folder / "IM002.dcm"
    for length in (0, 3, 140, 300, 600, path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[:length] or b"")
        with pytest.raises(DataError, match=r"IM002\.dcm") as caught:
            read_scan(Case("s", "s", (folder,)), 1)
        assert "\n" not in str(caught.value)
        shutil.rmtree(folder)
        series(folder, stored())
