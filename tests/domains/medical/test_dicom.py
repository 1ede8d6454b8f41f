"""DICOM series: values, order and places by the standard's own formula, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, RLELossless, generate_uid

from domains.medical.data.case import Case, DataSet
from domains.medical.data.reading import read_grid, read_label, read_scan
from domains.medical.data.writing import mask_suffix, write_mask
from shared_runtime.errors import DataError
from tests.domains.medical.made_scans import mask, series, slice_of_series, stored


def read(path: Path, **options: int) -> object:
    return read_scan(Case("a", "a", (path,)), 1, **options)


TILTED = {"step": (0.0, 0.6, 2.4)}
SAGITTAL = {
    "step": (3.0, 0, 0),
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
}


@pytest.mark.parametrize("options", [{}, TILTED, SAGITTAL, {"step": (0.0, 0.0, -2.5)}])
def test_voxels_are_where_the_standard_puts_them(tmp_path: Path, options: dict) -> None:
    """Each pixel by equation C.7.6.2.1-1 of PS3.3, file by file, found in the volume by place."""
    values = stored()
    folder = series(tmp_path / "s", values, order=[2, 0, 3, 1], **options)
    scan = read(folder)
    assert scan.grid.shape == (6, 5, 4)
    inverse = np.linalg.inv(scan.grid.affine)
    for path in folder.iterdir():
        data = dcmread(path)
        along, down = np.split(np.array(data.ImageOrientationPatient, float), 2)
        row_mm, column_mm = map(float, data.PixelSpacing)
        for row, column in ((0, 0), (4, 0), (0, 5), (3, 2)):
            lps = np.array(data.ImagePositionPatient, float)
            lps = lps + along * column_mm * column + down * row_mm * row
            index = inverse @ [-lps[0], -lps[1], lps[2], 1]
            np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
            i, j, k, _ = np.rint(index).astype(int)
            assert scan.array[0, i, j, k] == data.pixel_array[row, column] * 2.0 - 1024
    grid = read_grid(folder)
    assert grid.shape == scan.grid.shape
    np.testing.assert_array_equal(grid.affine, scan.grid.affine)


def test_slope_of_each_slice(tmp_path: Path) -> None:
    """As in PET, where every slice has its own."""
    values = stored()
    folder = series(tmp_path / "s", values)
    for place, path in enumerate(sorted(folder.iterdir())):
        data = dcmread(path)
        data.RescaleSlope, data.RescaleIntercept = 0.25 * (place + 1), 0
        data.save_as(path)
    scan = read(folder)
    expected = values * (0.25 * np.arange(1, 5))[:, None, None]
    np.testing.assert_allclose(scan.array[0], expected.transpose(2, 1, 0))


def test_signed_pixels_and_monochrome1(tmp_path: Path) -> None:
    values = stored()
    straight = read(series(tmp_path / "a", values)).array
    turned = read(
        series(tmp_path / "b", 4095 - values, PhotometricInterpretation="MONOCHROME1")
    ).array
    np.testing.assert_array_equal(straight, turned)
    signed = values.astype(np.int16) - 2048
    folder = series(tmp_path / "c", signed.view(np.uint16), PixelRepresentation=1, BitsStored=16)
    np.testing.assert_array_equal(read(folder).array[0], (signed * 2.0 - 1024).transpose(2, 1, 0))


def test_the_mask_is_nifti_on_the_grid_of_the_patient(tmp_path: Path) -> None:
    scan = read(series(tmp_path / "s", stored()))
    assert mask_suffix(scan) == ".nii.gz"
    write_mask(tmp_path / "m.nii.gz", mask(shape=(6, 5, 4)), scan, (0, 1, 2))
    back = nib.load(tmp_path / "m.nii.gz")
    assert back.shape == (6, 5, 4)
    np.testing.assert_allclose(back.affine, scan.grid.affine, atol=1e-5)
    assert int(back.header["sform_code"]) == int(back.header["qform_code"]) == 1
    assert nib.aff2axcodes(back.affine) == ("L", "P", "S")
    np.testing.assert_allclose(back.header.get_zooms(), (0.75, 1.5, 2.5))


def test_a_label_converted_from_the_series_is_turned_to_it(tmp_path: Path) -> None:
    """Converters to NIfTI turn the rows over; the places are the same."""
    folder = series(tmp_path / "s", stored(), order=[3, 1, 2, 0])
    scan = read(folder)
    labels = mask(range(5), (5, 6, 4)).transpose(1, 0, 2).astype(np.uint8)
    affine = scan.grid.affine.copy()
    affine[:3, 3] += affine[:3, 1] * 4
    affine[:3, 1] *= -1
    nib.save(nib.Nifti1Image(labels[:, ::-1], affine), tmp_path / "l.nii.gz")
    case = Case("s", "s", (folder,), tmp_path / "l.nii.gz")
    names = {str(n): n for n in range(5)}
    data_set = DataSet((case,), ("CT",), names, tuple(range(5)), 3)
    np.testing.assert_array_equal(read_label(case, data_set), labels)


def test_other_files_of_the_folder_are_left_out(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", stored())
    (folder / "readme.txt").write_text("notes")
    (folder / ".hidden.dcm").write_bytes(b"x")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    report = slice_of_series(stored()[0], (0, 0, 0), generate_uid())
    del report.PixelData, report.Rows, report.Columns
    report.Modality = "SR"
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    for path in sorted(folder.glob("IM*")):
        path.rename(path.with_suffix(""))
    assert read(folder).grid.shape == (6, 5, 4)


def test_one_image_has_rows_and_columns(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", stored(1), PixelSpacing=[0.2, 0.3])
    scan = read(folder / "IM000.dcm")
    assert scan.grid.shape == (5, 6)
    assert scan.grid.spacing == (0.2, 0.3)
    np.testing.assert_array_equal(scan.array[0], stored(1)[0] * 2.0 - 1024)
    assert mask_suffix(scan) == ".png"
    bare = series(tmp_path / "x", stored(1), PixelSpacing=None, ImagePositionPatient=None)
    assert read(bare / "IM000.dcm").grid.spacing == (1, 1)


def test_compressed_without_loss(tmp_path: Path) -> None:
    folder = series(tmp_path / "s", stored())
    plain = read(folder).array
    for path in folder.iterdir():
        data = dcmread(path)
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(path)
    np.testing.assert_array_equal(read(folder).array, plain)


def damaged(tmp_path: Path, kind: str) -> Path:
    folder = series(tmp_path / "s", stored(), uid="1.2.3")
    paths = sorted(folder.iterdir())
    data = dcmread(paths[1])
    if kind == "missing":
        paths[2].unlink()
    elif kind == "double":
        shutil.copy(paths[1], folder / "copy.dcm")
    elif kind == "uneven":
        data.ImagePositionPatient = [-40, -30, 103.4]
    elif kind == "shifted":
        data.ImagePositionPatient = [-38, -30, 102.5]
    elif kind == "two series":
        for path in series(tmp_path / "t", stored(), uid="4.5.6", Modality="MR").iterdir():
            path.rename(folder / f"x{path.name}")
    elif kind == "size":
        data = slice_of_series(stored(1, 7, 8)[0], (-40, -30, 102.5), "1.2.3")
    elif kind == "orientation":
        data.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]
    elif kind == "no position":
        del data.ImagePositionPatient
    elif kind == "no orientation":
        for path in paths:
            each = dcmread(path)
            del each.ImageOrientationPatient
            each.save_as(path)
        data = dcmread(paths[1])
    elif kind == "frames":
        data.NumberOfFrames = 2
    elif kind == "colour":
        data.SamplesPerPixel = 3
    elif kind == "spacing":
        data.PixelSpacing = [0, 1]
    elif kind == "syntax":
        data.file_meta.TransferSyntaxUID = JPEGLSLossless
        data["PixelData"].is_undefined_length = True
        data.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0abcd"
    elif kind == "cut":
        paths[1].write_bytes(paths[1].read_bytes()[:-20])
    elif kind == "noise":
        paths[1].write_bytes(bytes(range(256)) * 4)
    elif kind == "empty":
        paths[1].write_bytes(b"")
    if kind not in ("missing", "double", "two series", "cut", "noise", "empty"):
        data.save_as(paths[1])
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"1 slice is missing, as between IM001.dcm and IM003.dcm: 5.00 mm apart"),
        ("double", r"IM001.dcm and copy.dcm lie in the same place"),
        ("uneven", r"slices are not evenly spaced: 1.60 to 3.40 mm apart, IM001.dcm is 0.90"),
        ("shifted", r"slices are not evenly spaced: .*IM001.dcm is 2.00 mm off"),
        ("two series", r'2 series in one folder: 1.2.3 \(CT "thorax", 4 files\), 4.5.6 \(MR'),
        ("size", r"IM001.dcm: 8 x 7 pixels, IM000.dcm has 6 x 5; give each size its own"),
        ("orientation", r"IM001.dcm: another ImageOrientationPatient than IM000.dcm; remove loc"),
        ("no position", r"IM001.dcm: ImagePositionPatient is missing or is not 3 numbers"),
        ("no orientation", r"ImageOrientationPatient is missing or is not 6 numbers"),
        ("frames", r"IM001.dcm: 2 frames in one file; convert it to NIfTI"),
        ("colour", r"IM001.dcm: is in colour"),
        ("spacing", r"IM001.dcm: another PixelSpacing than IM000.dcm"),
        ("syntax", r"compressed \(JPEG-LS Lossless .*no decoder .*; pip install pylibjpeg"),
        ("cut", r"IM001.dcm: its pixels cannot be read"),
        ("noise", r"IM001.dcm: is no DICOM file"),
        ("empty", r"IM001.dcm: is no DICOM file"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    folder = damaged(tmp_path, kind)
    with pytest.raises(DataError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(DataError, match="no DICOM image in the folder"):
        read(tmp_path / "s")
