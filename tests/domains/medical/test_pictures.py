"""Pictures: every kind of grey and colour, masks by value, and exact PNG out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domains.medical.data.case import Case
from domains.medical.data.files import grid_of, read_labels
from domains.medical.data.reading import read_scan
from domains.medical.data.writing import map_suffix, mask_suffix, write_map, write_mask
from shared_runtime.errors import DataError, UsageError
from tests.domains.medical.made_scans import mask

GREY = np.arange(20, dtype=np.uint8).reshape(4, 5) * 12
COLOUR = np.stack([GREY, GREY[::-1], GREY.max() - GREY], axis=-1)


def picture(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def read(path: Path, channels: int) -> np.ndarray:
    scan = read_scan(Case("a", "a", (path,)), channels)
    assert scan.grid.shape == scan.array.shape[1:] == (4, 5)
    assert scan.grid.spacing == (1, 1)
    assert scan.array.dtype == np.float32
    assert grid_of(path)[0].shape == (4, 5)
    return scan.array


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "PNG"])
def test_grey_and_colour(tmp_path: Path, ending: str) -> None:
    np.testing.assert_array_equal(read(picture(tmp_path / f"g.{ending}", GREY), 1), GREY[None])
    colour = read(picture(tmp_path / f"c.{ending}", COLOUR), 3)
    np.testing.assert_array_equal(colour, np.moveaxis(COLOUR, -1, 0))


def test_sixteen_bits_and_floats(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257 + 3
    for ending in ("png", "tif"):
        np.testing.assert_array_equal(read(picture(tmp_path / f"d.{ending}", deep), 1)[0], deep)
    real = GREY.astype(np.float32) / 7
    np.testing.assert_array_equal(read(picture(tmp_path / "f.tif", real), 1)[0], real)


def test_alpha_and_palettes(tmp_path: Path) -> None:
    opaque = np.dstack([COLOUR, np.full_like(GREY, 90)])
    np.testing.assert_array_equal(read(picture(tmp_path / "a.png", opaque), 3)[0], COLOUR[..., 0])
    faint = np.dstack([GREY, np.full_like(GREY, 90)])
    np.testing.assert_array_equal(read(picture(tmp_path / "l.png", faint), 1)[0], GREY)
    palette = Image.fromarray(COLOUR).quantize(32)
    palette.save(tmp_path / "p.png")
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(read(tmp_path / "p.png", 3), np.moveaxis(expected, -1, 0))


def test_grey_serves_as_colour_and_colour_as_grey_only_without_colours(tmp_path: Path) -> None:
    path = picture(tmp_path / "g.png", GREY)
    np.testing.assert_array_equal(read(path, 3), np.stack([GREY] * 3))
    path = picture(tmp_path / "c.png", np.dstack([GREY] * 3))
    np.testing.assert_array_equal(read(path, 1), GREY[None])
    with pytest.raises(DataError, match=r"c.png: is in colour, grey is expected"):
        read(picture(tmp_path / "c.png", COLOUR), 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA"])
def test_black_and_white_masks_are_0_and_255(tmp_path: Path, mode: str) -> None:
    binary = np.where(GREY > 100, 255, 0).astype(np.uint8)
    values, grid = read_labels(picture(tmp_path / "m.png", binary, mode))
    np.testing.assert_array_equal(values, binary)
    assert grid.shape == (4, 5)


def test_palettes_of_colours_are_indices(tmp_path: Path) -> None:
    indices = mask(range(4), (4, 5)).astype(np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image = Image.fromarray(indices)
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "m.png")[0], indices)


def test_jpeg_masks_are_halved(tmp_path: Path) -> None:
    binary = np.kron(np.array([[0, 1], [1, 0]]), np.ones((20, 20))).astype(np.uint8) * 255
    path = picture(tmp_path / "m.jpg", binary, quality=40)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2
    np.testing.assert_array_equal(read_labels(path)[0], binary)


def test_masks_out_are_the_masks_in(tmp_path: Path) -> None:
    scan = read_scan(Case("a", "a", (picture(tmp_path / "a.png", COLOUR),)), 3)
    assert (mask_suffix(scan), map_suffix(scan)) == (".png", ".tif")
    for values in ((0, 255), (0, 63, 126, 189, 252), (0, 1000)):
        indices = mask(range(len(values)), (4, 5))
        write_mask(tmp_path / "m.png", indices, scan, values)
        np.testing.assert_array_equal(
            np.asarray(Image.open(tmp_path / "m.png")), np.array(values)[indices]
        )
        np.testing.assert_array_equal(read_labels(tmp_path / "m.png")[0], np.array(values)[indices])
    chance = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    write_map(tmp_path / "u.tif", chance, scan)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "u.tif")), chance)
    with pytest.raises(UsageError, match="a PNG holds 0 to 65535"):
        write_mask(tmp_path / "x.png", mask((0, 1), (4, 5)), scan, (0, 70_000))
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "m.png: is no picture that can be read"),
        ("text", "m.png: is no picture that can be read"),
        ("empty", "m.png: is no picture that can be read"),
        ("gone", "m.png: no such file"),
        ("colour", "m.png: is a mask in colour; save one grey value per class"),
        ("frames", "m.tif: 2 frames in one picture; save one per file"),
        ("parts", "m.tif: label values that are no integers"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / ("m.tif" if kind in ("frames", "parts") else "m.png")
    if kind == "frames":
        one = Image.fromarray(GREY)
        one.save(path, save_all=True, append_images=[one])
    elif kind == "parts":
        picture(path, GREY.astype(np.float32) / 7)
    else:
        picture(path, COLOUR)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:60])
    elif kind in ("text", "empty"):
        path.write_text("no picture" if kind == "text" else "")
    elif kind == "gone":
        path.unlink()
    with pytest.raises(DataError, match=message) as caught:
        read_labels(path)
    assert "\n" not in str(caught.value)
