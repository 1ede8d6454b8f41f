"""Small simulated data sets in the layouts and formats that are read."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from domains.medical.data import phantom_ct, phantom_petct
from domains.medical.data.dermoscopy import TARGETS, draw_lesion, draw_skin
from domains.medical.data.dicom_samples import write_series
from domains.medical.data.phantom_ct import Phantom

CT, PETCT, DERMOSCOPY, DICOM = "ct", "petct", "dermoscopy/manifest.csv", "dicom"
"""What `data.path` takes, relative to the folder of the samples; `DICOM` is for `predict`."""
_ORIENTATIONS = ("RAS", "LPS", "LAS", "RAS", "PIR", "LPS", "ARS", "RAI")
_PICTURES, _PATIENTS = 48, 30
_SHAPES = ((96, 128), (96, 96), (112, 128), (100, 120))
_STEPS = {"CT": (1.0, -1024.0), "PET": (0.005, 0.0)}
"""Slope and intercept from stored int16 to the values."""


def write_samples(out: Path, *, seed: int) -> list[Path]:
    """Write simulated scans; return the files. The same seed gives the same bytes.

    - `ct/`: an nnU-Net folder of 12 abdomens with labels and 2 without: liver, spleen, kidney and
      lesions, which some patients lack. Sizes, spacings, orientations and tilt differ.
    - `petct/`: an nnU-Net folder of 8 and 2 PET/CT pairs (`_0000` CT, `_0001` PET in SUV); tumours
      can only be told from what is healthy with both.
    - `dermoscopy/`: 48 pictures of skin lesions of 30 patients with masks, named as ISIC's, and
      `manifest.csv` with the columns `image, label, patient, target`.
    - `dicom/`: a CT series for each of two further patients, to predict for.
    """
    files = _write_nnunet(
        out / CT, "abdomen", phantom_ct.ct_phantom, ("CT",), phantom_ct.LABELS, (12, 2), seed
    )
    files += _write_nnunet(
        out / PETCT,
        "tumour",
        phantom_petct.petct_phantom,
        phantom_petct.CHANNELS,
        phantom_petct.LABELS,
        (8, 2),
        seed,
    )
    files += _write_pictures(out / "dermoscopy", seed)
    for number in range(2):
        phantom = phantom_ct.ct_phantom(_rng(seed, 3, number))
        files += write_series(out / DICOM / f"patient_{number + 1}", phantom, number, seed)
    return files


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _write_nnunet(
    folder: Path,
    name: str,
    draw: Callable[[np.random.Generator], Phantom],
    channels: Sequence[str],
    labels: Mapping[str, int],
    numbers: tuple[int, int],
    seed: int,
) -> list[Path]:
    """Write a data set of the second version of nnU-Net's layout."""
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    declaration = {
        "channel_names": {str(i): channel for i, channel in enumerate(channels)},
        "labels": dict(labels),
        "numTraining": numbers[0],
        "file_ending": ".nii.gz",
        "name": folder.name,
        "description": "Simulated patients; no person's data.",
    }
    files = [folder / "dataset.json"]
    files[0].write_text(json.dumps(declaration, indent=2) + "\n", encoding="utf-8")
    for number in range(sum(numbers)):
        case = f"{name}_{number + 1:03d}"
        phantom = draw(_rng(seed, len(channels), number))
        part = "imagesTr" if number < numbers[0] else "imagesTs"
        axes = _ORIENTATIONS[number % len(_ORIENTATIONS)]
        for i, channel in enumerate(channels):
            slope, intercept = _STEPS[channel]
            stored = np.rint((phantom.image[i] - intercept) / slope).astype(np.int16)
            path = folder / part / f"{case}_{i:04d}.nii.gz"
            files.append(_write_nifti(path, stored, phantom.affine, axes, (slope, intercept)))
        if number < numbers[0]:
            path = folder / "labelsTr" / f"{case}.nii.gz"
            files.append(_write_nifti(path, phantom.label, phantom.affine, axes))
    return files


def _write_nifti(
    path: Path,
    stored: np.ndarray,
    affine: np.ndarray,
    axes: str,
    scale: tuple[float, float] | None = None,
) -> Path:
    image = nib.nifti1.Nifti1Image(stored, affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(axes)))
    image = image.as_reoriented(turn)
    image.header.set_xyzt_units("mm")
    if scale is not None:
        image.header.set_slope_inter(*scale)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
    return path


def _write_pictures(folder: Path, seed: int) -> list[Path]:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    files, lines = [], []
    for number in range(_PICTURES):
        patient = number % _PATIENTS
        rng = _rng(seed, 4, number)
        target = TARGETS[number % len(TARGETS)]
        shape = _SHAPES[int(rng.integers(len(_SHAPES)))]
        picture, mask = draw_lesion(target, draw_skin(_rng(seed, 5, patient)), shape, rng)
        stem = f"ISIC_{number + 1:07d}"
        image, label = f"images/{stem}.jpg", f"masks/{stem}_segmentation.png"
        Image.fromarray(picture).save(folder / image, quality=92)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / label, optimize=True)
        files += [folder / image, folder / label]
        lines.append((image, label, f"patient_{patient + 1:02d}", target))
    manifest = folder / "manifest.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("image", "label", "patient", "target"), *lines])
    return [*files, manifest]
