"""Sample data: the layouts, that they can be told apart and learnt from, and the same bytes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from domains.medical.data.dermoscopy import TARGETS
from domains.medical.data.dicom_samples import write_series
from domains.medical.data.phantom_ct import AIR, LABELS, blended, ct_phantom
from domains.medical.data.phantom_petct import petct_phantom
from domains.medical.data.samples import CT, DERMOSCOPY, DICOM, PETCT, write_samples


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    out = tmp_path_factory.mktemp("medical")
    return out, write_samples(out, seed=0)


def test_every_file_is_listed_once_and_all_are_small(written: tuple[Path, list[Path]]) -> None:
    out, files = written
    assert sorted(files) == sorted(path for path in out.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) < 8e6


def test_the_same_seed_gives_the_same_bytes(
    written: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, files = written
    monkeypatch.setattr("time.time", lambda: 2e9)
    again = write_samples(tmp_path, seed=0)
    assert [path.relative_to(tmp_path) for path in again] == [p.relative_to(out) for p in files]
    for one, two in zip(files, again, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.parametrize(("folder", "channels", "numbers"), [(CT, 1, (12, 2)), (PETCT, 2, (8, 2))])
def test_nnunet_folders_are_whole(
    written: tuple[Path, list[Path]], folder: str, channels: int, numbers: tuple[int, int]
) -> None:
    root = written[0] / folder
    declared = json.loads((root / "dataset.json").read_text())
    assert declared["numTraining"] == numbers[0] and declared["file_ending"] == ".nii.gz"
    assert list(declared["channel_names"]) == [str(i) for i in range(channels)]
    labels = sorted((root / "labelsTr").iterdir())
    assert len(labels) == numbers[0]
    assert len(list((root / "imagesTr").iterdir())) == numbers[0] * channels
    assert len(list((root / "imagesTs").iterdir())) == numbers[1] * channels
    codes, shapes, spacings, found = set(), set(), set(), set()
    for path in labels:
        label = nib.load(path)
        found |= set(np.unique(np.asarray(label.dataobj)))
        for channel in range(channels):
            name = path.name.replace(".nii.gz", f"_{channel:04d}.nii.gz")
            image = nib.load(root / "imagesTr" / name)
            assert image.shape == label.shape and np.allclose(image.affine, label.affine)
            assert image.get_data_dtype() == np.int16
        codes.add(nib.orientations.aff2axcodes(label.affine))
        shapes.add(label.shape)
        spacings.add(tuple(np.round(label.header.get_zooms(), 3)))
        assert all(40 <= side <= 56 for side in label.shape)
    assert found == set(declared["labels"].values())
    assert min(len(codes), len(shapes), len(spacings)) >= 4


def test_organs_have_the_intensities_of_ct_whatever_the_orientation(
    written: tuple[Path, list[Path]],
) -> None:
    expected = {"liver": (85, 130), "spleen": (95, 150), "kidney": (140, 200), "lesion": (45, 105)}
    for path in sorted((written[0] / CT / "labelsTr").iterdir()):
        image = nib.load(path.parents[1] / "imagesTr" / path.name.replace(".nii", "_0000.nii"))
        assert (image.dataobj.slope, image.dataobj.inter) == (1.0, -1024.0)
        hounsfield = image.get_fdata(dtype=np.float32)
        label = np.asarray(nib.load(path).dataobj)
        assert hounsfield.min() < -900 and hounsfield.max() < 1500
        for name, (low, high) in expected.items():
            if (label == LABELS[name]).any():
                assert low < np.median(hounsfield[label == LABELS[name]]) < high, (path.name, name)
        canonical = nib.as_closest_canonical(nib.load(path))
        right = np.argwhere(np.asarray(canonical.dataobj) == LABELS["liver"])[:, 0].mean()
        left = np.argwhere(np.asarray(canonical.dataobj) == LABELS["spleen"])[:, 0].mean()
        assert right > left


def test_lesions_are_in_some_patients_only() -> None:
    counted = [
        int((ct_phantom(np.random.default_rng(i)).label == LABELS["lesion"]).sum() > 0)
        for i in range(12)
    ]
    assert 4 <= sum(counted) < 12


def test_voxels_on_an_edge_are_mixed() -> None:
    distance = np.linspace(-10, 10, 41)
    image = blended(np.full(41, AIR), distance, 100.0, 4.0)
    assert image[0] == 100 and image[-1] == AIR and image[20] == (100 + AIR) / 2
    assert (np.diff(image) <= 0).all() and ((image > AIR) & (image < 100)).sum() == 7


def test_tumours_need_both_modalities() -> None:
    """The best interval of uptake or of Hounsfield units finds less than a plain rule on both."""
    phantoms = [petct_phantom(np.random.default_rng(i)) for i in range(8)]
    ct = np.concatenate([gaussian_filter(p.image[0], 0.7).ravel() for p in phantoms])
    pet = np.concatenate([p.image[1].ravel() for p in phantoms])
    tumour = np.concatenate([p.label.ravel() for p in phantoms]) > 0

    def dice(mask: np.ndarray) -> float:
        return 2 * np.count_nonzero(mask & tumour) / (mask.sum() + tumour.sum())

    hot = [(pet > low) & (pet < high) for low in (3, 3.5, 4, 4.5, 5, 6) for high in (8, 10, 14, 99)]
    soft = [(ct > low) & (ct < high) for low in (-40, -20, 0, 20) for high in (50, 90)]
    uptake, density = max(map(dice, hot)), max(map(dice, soft))
    both = max(dice(one & two) for one in hot[:12] for two in soft)
    assert both > 0.4 and density < 0.1 and uptake < 0.8 * both, (uptake, density, both)


def test_the_manifest_names_pictures_masks_patients_and_classes(
    written: tuple[Path, list[Path]],
) -> None:
    manifest = written[0] / DERMOSCOPY
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 48 and set(rows[0]) == {"image", "label", "patient", "target"}
    patients = [row["patient"] for row in rows]
    assert 20 < len(set(patients)) < 40 and {row["target"] for row in rows} == set(TARGETS)
    shapes, shares = set(), []
    for row in rows:
        picture, mask = (Image.open(manifest.parent / row[name]) for name in ("image", "label"))
        assert picture.size == mask.size and (picture.mode, mask.mode) == ("RGB", "L")
        values = np.asarray(mask)
        assert set(np.unique(values)) == {0, 255}
        shapes.add(picture.size)
        shares.append((values > 0).mean())
        pixels = np.asarray(picture, dtype=float).mean(axis=2)
        assert np.median(pixels[values > 0]) < np.median(pixels[values == 0])
    assert len(shapes) == 4 and min(shares) > 0.01 and max(shares) < 0.5


def test_series_are_the_phantom_in_the_patients_coordinates(tmp_path: Path) -> None:
    """Every slice's place, read as DICOM says, against the phantom's affine."""
    phantom = ct_phantom(np.random.default_rng(1))
    files = write_series(tmp_path / "p", phantom, 0, seed=0)
    assert len(files) == phantom.label.shape[2]
    inverse = np.linalg.inv(phantom.affine)
    for path in (files[0], files[17]):
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        across, down = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        row_step, column_step = (float(x) for x in dataset.PixelSpacing)
        for row, column in ((3, 9), (20, 41), (31, 12)):
            lps = np.array(dataset.ImagePositionPatient, dtype=float)
            lps = lps + across * column * column_step + down * row * row_step
            voxel = inverse @ [-lps[0], -lps[1], lps[2], 1]
            at = np.rint(voxel[:3]).astype(int)
            assert voxel[:3] == pytest.approx(at, abs=1e-3)
            assert pixels[row, column] == pytest.approx(phantom.image[0][tuple(at)], abs=0.51)
    heads = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    heights = [float(head.ImagePositionPatient[2]) for head in heads]
    assert heights == sorted(heights)
    assert [int(head.InstanceNumber) for head in heads] == list(range(len(files), 0, -1))
    assert len({head.SOPInstanceUID for head in heads}) == len(files)
    assert len({head.SeriesInstanceUID for head in heads}) == 1


def test_patients_have_series_of_their_own(written: tuple[Path, list[Path]]) -> None:
    series = sorted((written[0] / DICOM).iterdir())
    assert [path.name for path in series] == ["patient_1", "patient_2"]
    heads = [pydicom.dcmread(next(path.iterdir()), stop_before_pixels=True) for path in series]
    assert heads[0].PatientID != heads[1].PatientID
    assert heads[0].SeriesInstanceUID != heads[1].SeriesInstanceUID
    assert all(head.Modality == "CT" for head in heads)
