"""Small scans in every format, with known values and places."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SHAPE = (7, 6, 5)


def oblique(spacing: Sequence[float] = (0.8, 1.5, 3.0), degrees: float = 20.0) -> np.ndarray:
    """An affine that is rotated, flipped and off centre."""
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1.0]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(spacing)
    affine[:3, 3] = (-12.5, 31.0, 8.25)
    return affine


def volume(seed: int = 0, shape: Sequence[int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)


def mask(values: Sequence[int] = (0, 1, 2), shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Every value, in stripes along the first axis."""
    stripes = np.array(values)[np.arange(shape[0]) % len(values)]
    return np.broadcast_to(stripes[(slice(None), *(None,) * (len(shape) - 1))], shape).astype(int)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if array.dtype.kind == "i" and array.dtype.itemsize > 4:
        array = array.astype(np.int16)
    nib.save(nib.Nifti1Image(array, oblique() if affine is None else affine), path)
    return path


def nnunet(root: Path, cases: int = 6, channels: int = 1, declared: bool = True) -> Path:
    """An nnU-Net folder of `case_00`, `case_01`, ..."""
    for number in range(cases):
        name = f"case_{number:02}"
        for channel in range(channels):
            array = volume(10 * number + channel)
            save(root / "imagesTr" / f"{name}_{channel:04}.nii.gz", array)
        save(root / "labelsTr" / f"{name}.nii.gz", mask())
    if declared:
        declare(root, channels, cases)
    return root


def declare(root: Path, channels: int = 1, cases: int = 6, **changes: Any) -> Path:
    content = {
        "channel_names": {str(n): ("CT", "PET", "MRI")[n] for n in range(channels)},
        "labels": {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        **changes,
    }
    content = {key: value for key, value in content.items() if value is not None}
    root.mkdir(parents=True, exist_ok=True)
    path = root / "dataset.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def slice_of_series(
    stored: np.ndarray, position: Sequence[float], uid: str, changes: Mapping[str, Any] = {}
) -> Dataset:
    """One slice; `stored` is `[rows, columns]`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID = uid
    data.SeriesDescription = "thorax"
    data.Modality = "CT"
    data.Rows, data.Columns = stored.shape
    data.PixelSpacing = [1.5, 0.75]
    data.SliceThickness = 2.5
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [float(x) for x in position]
    data.RescaleSlope, data.RescaleIntercept = 2, -1024
    data.PhotometricInterpretation = "MONOCHROME2"
    data.SamplesPerPixel = 1
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = 0
    data.PixelData = stored.astype(np.uint16).tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    return data


def series(
    folder: Path,
    stored: np.ndarray,
    origin: Sequence[float] = (-40.0, -30.0, 100.0),
    step: Sequence[float] = (0.0, 0.0, 2.5),
    uid: str | None = None,
    order: Sequence[int] | None = None,
    **changes: Any,
) -> Path:
    """A series of `stored [slices, rows, columns]`; names follow `order`, not position."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    for place, name in enumerate(order or range(len(stored))):
        position = np.asarray(origin) + place * np.asarray(step)
        data = slice_of_series(stored[place], position, uid, changes)
        data.save_as(folder / f"IM{name:03}.dcm", enforce_file_format=True)
    return folder


def stored(slices: int = 4, rows: int = 5, columns: int = 6, seed: int = 0) -> np.ndarray:
    shape = (slices, rows, columns)
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.uint16)
