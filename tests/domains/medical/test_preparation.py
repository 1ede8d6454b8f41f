"""From files to parts: what is planned, who is scored, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from domains.medical.data.config import DataConfig
from domains.medical.preparation import Part, hash_of, prepare, usable
from shared_runtime.errors import DataError


def write_cases(root: Path, names: list[str], *, seed: int = 0, labels: int = 2) -> Path:
    rng = np.random.default_rng(seed)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        label = np.zeros((12, 14, 10), np.uint8)
        for value in range(1, labels + 1):
            label[2 * value : 2 * value + 3, 4:9, 3:7] = value
        image = (label * 50 + rng.normal(0, 5, label.shape)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", label)):
            nibabel.Nifti1Image(array, np.eye(4)).to_filename(root / folder / f"{name}.nii.gz")
    return root


def names(prefix: str, count: int = 10) -> list[str]:
    return [f"{prefix}_{number:02d}" for number in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("data"), names("a"))


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(**{"path": path, "patches_per_epoch": 6, **settings})


def test_parts_hold_patients_apart_and_the_model_gets_its_arguments(data: Path) -> None:
    prepared = prepare(config(data), seed=0)
    parts = [getattr(prepared, name) for name in ("train", "val", "test")]
    assert all(isinstance(part, Part) for part in parts)
    patients = [{case.patient for case in part.cases} for part in parts]
    assert [len(p) for p in patients] == [7, 1, 2]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    arguments = prepared.model_arguments
    assert (arguments["channels"], arguments["classes"], arguments["spatial_dims"]) == (1, 3, 3)
    batch = prepared.train.batch(np.arange(3))
    assert batch["image"].shape == (3, 1, *arguments["patch_size"])
    assert batch["label"].shape == (3, *arguments["patch_size"])
    assert set(batch["label"].unique().tolist()) <= {0, 1, 2}
    assert len(prepared.train) == 6 and len(prepared.test) == 2
    with pytest.raises(DataError, match="whole cases"):
        prepared.test.batch(np.arange(1))


def test_patches_differ_between_epochs_and_come_back(data: Path) -> None:
    train = prepare(config(data), seed=3).train
    first = train.batch(np.arange(6))
    train.start_epoch(1)
    second = train.batch(np.arange(6))
    assert not torch.equal(first["image"], second["image"])
    again = prepare(config(data), seed=3).train
    again.start_epoch(1)
    torch.testing.assert_close(again.batch(np.arange(6))["image"], second["image"])


def test_the_plan_knows_nothing_of_patients_that_are_scored(data: Path, tmp_path: Path) -> None:
    changed = write_cases(tmp_path, names("a"))
    scored = prepare(config(data), seed=0).test.cases
    for case in scored:
        path = changed / "imagesTr" / case.images[0].name
        bright = np.full((12, 14, 10), 1e4, np.float32)
        bright[0, 0, 0] = 0
        nibabel.Nifti1Image(bright, np.eye(4)).to_filename(path)
    before = prepare(config(data, normalisation="ct"), seed=0).preprocessing["plan"]
    after = prepare(config(changed, normalisation="ct"), seed=0).preprocessing["plan"]
    assert before == after


def test_patients_that_were_trained_on_are_never_scored(data: Path, tmp_path: Path) -> None:
    trained = prepare(config(data), seed=0).preprocessing
    again = prepare(config(data), seed=0, preprocessing=trained)
    assert len(again.test.cases) == 2
    with pytest.raises(DataError, match="2 of the patients to score were trained on"):
        prepare(config(data, fold=1), seed=0, preprocessing=trained)
    others = write_cases(tmp_path / "b", names("b", 4))
    whole = prepare(config(others), seed=0, preprocessing=trained)
    assert len(whole.test.cases) == 4, "strangers are scored whole"
    assert not whole.train.cases


def test_data_of_another_kind_do_not_fit_a_trained_model(data: Path, tmp_path: Path) -> None:
    trained = prepare(config(data), seed=0).preprocessing
    other = write_cases(tmp_path / "c", names("c", 5), labels=1)
    with pytest.raises(DataError, match=r"has labels .* the model was trained with"):
        prepare(config(other), seed=0, preprocessing=trained)


def test_the_hash_sees_every_voxel_but_not_the_place(data: Path, tmp_path: Path) -> None:
    copy = write_cases(tmp_path / "copy", names("a"))
    one, two = (hash_of(usable(config(path))) for path in (data, copy))
    contents = [
        p.read_bytes() for p in (data / "imagesTr/a_00.nii.gz", copy / "imagesTr/a_00.nii.gz")
    ]
    assert (one == two) == (contents[0] == contents[1])
    image = nibabel.load(copy / "imagesTr/a_00.nii.gz")
    array = np.asarray(image.dataobj).copy()
    array[1, 2, 3] += 1
    nibabel.Nifti1Image(array, image.affine).to_filename(copy / "imagesTr/a_00.nii.gz")
    assert hash_of(usable(config(copy))) not in (one, two)


def test_errors_of_the_listing_are_all_named(tmp_path: Path) -> None:
    root = write_cases(tmp_path, names("a", 6))
    for name in ("a_01", "a_03"):
        (root / "labelsTr" / f"{name}.nii.gz").unlink()
    with pytest.raises(DataError) as error:
        prepare(config(root), seed=0)
    assert "a_01" in str(error.value) and "a_03" in str(error.value)
    assert dataclasses.is_dataclass(config(root))
