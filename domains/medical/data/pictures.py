"""2-D pictures: PNG, JPEG, TIFF and BMP, as images and as masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from domains.medical.data.case import Grid, Scan
from domains.medical.data.findings import BadFileError, reason
from domains.medical.data.quiet import quiet
from shared_runtime.files import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
LOSSY = (".jpg", ".jpeg")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def read_picture(path: Path) -> Scan:
    """Return a picture as `[C, rows, columns]`: one channel if it is grey, else red, green, blue.

    Alpha is left out, palettes are looked up, and 16-bit and floating-point grey values are kept;
    Pillow gives colours in 8 bits. Resolutions in picture files are those of prints, so pixels are
    1 mm. Rotation flags of cameras are not applied, as masks are drawn on the stored pixels.

    Raises:
        BadFileError: it cannot be read, or holds several frames.
    """
    with _opened(path) as image:
        grey = _grey(image)
        pixels = np.asarray(grey if grey is not None else image.convert("RGB"), dtype=np.float32)
    array = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return Scan(np.ascontiguousarray(array), Grid(array.shape[1:], np.eye(3)), path)


def picture_grid(path: Path) -> tuple[Grid, int]:
    """Return the grid of a picture and its channels; reads no pixel of most of them."""
    with _opened(path, load=False) as image:
        columns, rows = image.size
        channels = 1 if image.mode in _GREY else 3
        if image.mode == "P":
            channels = 1 if _grey(image) is not None else 3
    return Grid((rows, columns), np.eye(3)), channels


def read_picture_labels(path: Path) -> tuple[np.ndarray, Grid]:
    """Return the raw values of a mask, as integers `[rows, columns]`, and its grid.

    Black and white is 0 and 255, in one bit too. A palette of greys stands for them, a palette of
    colours for its indices. JPEG blurs values: there, 128 and above is 255 and the rest 0.

    Raises:
        BadFileError: it cannot be read, is in colour, or its values are no integers.
    """
    with _opened(path) as image:
        grey = _grey(image)
        if grey is None and image.mode == "P":
            grey = image
        pixels = np.asarray(grey if grey is not None else image.convert("RGB"))
    if pixels.ndim == 3:
        if (pixels != pixels[..., :1]).any():
            raise BadFileError(path, "is a mask in colour", "save one grey value per class")
        pixels = pixels[..., 0]
    if path.suffix.lower() in LOSSY:
        pixels = np.where(pixels > 127, 255, 0)
    if pixels.dtype.kind == "f":
        if not (pixels == np.rint(pixels)).all():
            raise BadFileError(path, "label values that are no integers", "save one per class")
        pixels = pixels.astype(np.int32)
    return pixels, Grid(pixels.shape, np.eye(3))


def write_png(path: Path, array: np.ndarray) -> None:
    """Write integers `[rows, columns]` from 0 to 65535 as a grey PNG of 8 or 16 bits."""
    _save(path, array.astype(np.uint8 if array.max(initial=0) < 256 else np.uint16), "PNG")


def write_tiff(path: Path, array: np.ndarray) -> None:
    """Write numbers `[rows, columns]` as a TIFF of 32-bit floats."""
    _save(path, array.astype(np.float32), "TIFF")


def _save(path: Path, array: np.ndarray, kind: str) -> None:
    with replacing(path) as partial:
        Image.fromarray(np.ascontiguousarray(array)).save(partial, format=kind)


@contextmanager
def _opened(path: Path, load: bool = True) -> Iterator[Image.Image]:
    try:
        with quiet():
            image = Image.open(path)
            frames = getattr(image, "n_frames", 1)
        with image:
            if load:
                image.load()
            if frames > 1 and image.format != "MPO":
                raise BadFileError(path, f"{frames} frames in one picture", "save one per file")
            yield image
    except BadFileError:
        raise
    except FileNotFoundError:
        raise BadFileError(path, "no such file", "correct the path") from None
    except Exception as error:
        what = f"is no picture that can be read ({reason(error)})"
        raise BadFileError(path, what, "replace it with an intact copy") from error


def _grey(image: Image.Image) -> Image.Image | None:
    """Return a picture in grey values if it has no others, else None."""
    if image.mode == "LA":
        return image.getchannel("L")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in _GREY:
        return image
    if image.mode == "P":
        colours = np.asarray(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        used = np.flatnonzero(image.histogram()[: len(colours)])
        if (colours[used] == colours[used, :1]).all():
            return image.convert("L")
    return None
