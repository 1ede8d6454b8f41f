"""NIfTI: what is read is what an independent reader sees, and masks come back on its grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.medical.data.case import Case
from domains.medical.data.files import read_labels
from domains.medical.data.reading import read_grid, read_scan
from domains.medical.data.writing import mask_suffix, write_map, write_mask
from shared_runtime.errors import DataError, UsageError
from tests.domains.medical.made_scans import mask, oblique, save, volume


def case(*paths: Path) -> Case:
    return Case("a", "a", paths)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_and_grid(tmp_path: Path, ending: str) -> None:
    path = save(tmp_path / f"a{ending}", volume())
    scan = read_scan(case(path), 1)
    assert scan.array.shape == (1, 7, 6, 5)
    assert scan.array.dtype == np.float32
    np.testing.assert_array_equal(scan.array[0], volume())
    np.testing.assert_allclose(scan.grid.affine, nib.load(path).affine)
    np.testing.assert_allclose(scan.grid.spacing, (0.8, 1.5, 3.0), rtol=1e-6)
    grid = read_grid(path)
    assert grid.shape == scan.grid.shape
    np.testing.assert_array_equal(grid.affine, scan.grid.affine)


def test_slope_and_intercept(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume() * 0.37 - 3, oblique())
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    assert nib.load(tmp_path / "a.nii").dataobj.slope not in (0, 1)
    assert nib.load(tmp_path / "a.nii").dataobj.inter != 0
    scan = read_scan(case(tmp_path / "a.nii"), 1)
    np.testing.assert_allclose(scan.array[0], expected, rtol=1e-5, atol=1e-4)
    write_mask(tmp_path / "m.nii", mask(), scan, (0, 1, 2))
    np.testing.assert_array_equal(nib.load(tmp_path / "m.nii").get_fdata(), mask())


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (0, 0), (1, 4)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_masks_have_the_grid_and_codes_of_the_input(
    tmp_path: Path, codes: tuple[int, int], kind: type
) -> None:
    image = kind(volume(), oblique())
    image.set_qform(oblique(degrees=10), codes[0])
    image.set_sform(oblique(), codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_scan(case(tmp_path / "a.nii.gz"), 1)
    write_mask(tmp_path / "m.nii.gz", mask(), scan, (0, 1, 2))
    before, after = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "m.nii.gz")
    assert type(after) is type(before)
    assert after.shape == before.shape
    np.testing.assert_array_equal(after.affine, before.affine)
    for name in ("qform_code", "sform_code", "xyzt_units", "srow_x", "quatern_b", "pixdim"):
        np.testing.assert_array_equal(after.header[name], before.header[name])
    np.testing.assert_array_equal(np.asarray(after.dataobj), mask())
    assert after.get_data_dtype() == np.uint8


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ((0, 63, 252), np.uint8),
        ((0, 255), np.uint8),
        ((0, 300), np.int16),
        ((0, -1), np.int16),
        ((0, 40_000), np.uint16),
        ((0, 70_000), np.int32),
    ],
)
def test_masks_hold_raw_values(tmp_path: Path, values: tuple[int, ...], dtype: type) -> None:
    scan = read_scan(case(save(tmp_path / "a.nii.gz", volume())), 1)
    indices = mask(range(len(values)))
    write_mask(tmp_path / "m.nii.gz", indices, scan, values)
    raw, _ = read_labels(tmp_path / "m.nii.gz")
    assert nib.load(tmp_path / "m.nii.gz").get_data_dtype() == dtype
    np.testing.assert_array_equal(raw, np.array(values)[indices])


def test_maps_are_float32(tmp_path: Path) -> None:
    scan = read_scan(case(save(tmp_path / "a.nii.gz", volume())), 1)
    values = np.random.default_rng(0).random((7, 6, 5))
    write_map(tmp_path / "u.nii.gz", values, scan)
    back = nib.load(tmp_path / "u.nii.gz")
    assert back.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(back.dataobj), values.astype(np.float32))
    np.testing.assert_array_equal(back.affine, nib.load(tmp_path / "a.nii.gz").affine)


def test_files_are_the_same_each_time(tmp_path: Path) -> None:
    scan = read_scan(case(save(tmp_path / "a.nii.gz", volume())), 1)
    for name in ("b.nii.gz", "c.nii.gz"):
        write_mask(tmp_path / name, mask(), scan, (0, 1, 2))
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()


@pytest.mark.parametrize("shape", [(7, 6), (7, 6, 1), (7, 1, 5), (1, 6, 5)])
def test_a_slice_has_two_axes_and_its_mask_the_shape_of_the_file(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    path = save(tmp_path / "a.nii.gz", volume(shape=shape))
    scan = read_scan(case(path), 1)
    flat = tuple(n for n in shape if n > 1)
    assert scan.grid.shape == flat
    assert scan.grid.affine.shape == (3, 3)
    spacing = [mm for mm, n in zip((0.8, 1.5, 3.0), (*shape, 1), strict=False) if n > 1]
    np.testing.assert_allclose(scan.grid.spacing, spacing, rtol=1e-6)
    write_mask(tmp_path / "m.nii.gz", mask(shape=flat), scan, (0, 1, 2))
    assert nib.load(tmp_path / "m.nii.gz").shape == nib.load(path).shape
    if len(shape) == 3:
        assert read_scan(case(path), 1, spatial_dims=3).grid.shape == shape
    with pytest.raises(DataError, match=r"has 3 axes \(7 x 6 x 5\), 2 expected"):
        read_scan(case(save(tmp_path / "b.nii", volume())), 1, spatial_dims=2)


def test_a_flat_file_without_a_third_spacing(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.25, 0.0, 1.0])
    header = nib.Nifti1Header()
    header.set_data_shape((7, 6))
    header.set_data_dtype(np.int16)
    header.set_sform(affine, 1)
    image = nib.Nifti1Image(volume(shape=(7, 6)), None, header)
    nib.save(image, tmp_path / "a.nii")
    assert read_scan(case(tmp_path / "a.nii"), 1).grid.spacing == (0.5, 0.25)


def test_channels_in_the_last_axis_and_in_files(tmp_path: Path) -> None:
    array = np.stack([volume(n) for n in range(3)], axis=-1)
    scan = read_scan(case(save(tmp_path / "a.nii.gz", array)), 3)
    np.testing.assert_array_equal(scan.array, np.moveaxis(array, -1, 0))
    files = [save(tmp_path / f"a_{n:04}.nii.gz", volume(n)) for n in range(3)]
    np.testing.assert_array_equal(read_scan(case(*files), 3).array, scan.array)
    write_mask(tmp_path / "m.nii.gz", mask(), scan, (0, 1, 2))
    assert nib.load(tmp_path / "m.nii.gz").shape == (7, 6, 5)
    long = save(tmp_path / "b.nii.gz", volume()[..., None, None])
    assert read_scan(case(long), 1).array.shape == (1, 7, 6, 5)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    scan = read_scan(case(save(tmp_path / "a.nii.gz", volume())), 1)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"expected a name that ends in .nii or .nii.gz"):
        write_mask(out / "m.png", mask(), scan, (0, 1, 2))
    with pytest.raises(UsageError, match=r"shape \[6, 7, 5\] is not that of the scan"):
        write_map(out / "m.nii", volume(shape=(6, 7, 5)), scan)
    with pytest.raises(UsageError, match="class indices 0 to 2, expected 0 to 1"):
        write_mask(out / "m.nii", mask(), scan, (0, 1))
    assert not out.exists()
    assert mask_suffix(scan) == ".nii.gz"


def test_a_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    """Refused before memory for it is asked for."""
    for ending in (".nii", ".nii.gz"):
        path = save(tmp_path / f"a{ending}", volume())
        image = nib.load(path)
        header = image.header.copy()
        header.set_data_shape((30_000, 30_000, 30_000))
        content = bytearray(image.to_bytes() if ending == ".nii" else b"")
        if ending == ".nii":
            content[:348] = header.binaryblock
            path.write_bytes(content)
        else:
            import gzip

            raw = bytearray(gzip.decompress(path.read_bytes()))
            raw[:348] = header.binaryblock
            path.write_bytes(gzip.compress(bytes(raw)))
        with pytest.raises(DataError, match=r"its header promises 54000000000000 bytes"):
            read_scan(case(path), 1)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_bytes_never_end_in_another_error(tmp_path: Path, data: st.DataObject) -> None:
    path = save(tmp_path / "a.nii", volume(shape=(4, 3, 2)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 360))] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:length] if data.draw(st.booleans()) else content)
    for read in (lambda: read_scan(case(path), 1), lambda: read_labels(path)):
        try:
            read()
        except DataError as error:
            assert "\n" not in str(error) and "; " in str(error)
