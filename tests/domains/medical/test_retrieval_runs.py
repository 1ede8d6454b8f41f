"""From cases to scores and look-ups, and back to a scan's own grid."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as MatplotlibFigure

from domains.medical.data.case import Case, DataSet, Grid, Scan
from domains.medical.data.config import DataConfig
from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
from domains.medical.retrieval import baselines, classifier, runs
from domains.medical.retrieval.data import RetrievalImages, resized, resized_mask
from domains.medical.retrieval.inference import Embedded, Gallery
from domains.medical.retrieval.preparation import image_array, prepare
from shared_runtime.domain import LoadedModel, ModelSpec, Prepared
from shared_runtime.errors import DataError

CPU = torch.device("cpu")
CONFIG = DataConfig(path=Path("lesions"), patch_size=(20, 20))
NAMES = ("dark", "light")


@dataclasses.dataclass(frozen=True)
class Split:
    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]


def picture(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A disc that is darker or lighter than the rest, and its mask."""
    number = int(case.id[1:])
    random = np.random.default_rng([3, number])
    rows, columns = np.mgrid[:30, :40]
    mask = np.hypot(rows - random.integers(10, 20), columns - random.integers(12, 28)) < 7
    array = 100 + random.normal(0, 3, size=(3, 30, 40)) + mask * (60 if number % 2 else -60)
    return array.astype(np.float32), mask


def read(case: Case) -> Scan:
    array = picture(case)[0]
    return Scan(array, Grid(array.shape[1:], np.eye(3)), case.images[0])


def read_label(case: Case) -> np.ndarray:
    return picture(case)[1].astype(np.uint8)


def cases(count: int, **options: Any) -> tuple[Case, ...]:
    return tuple(
        Case(
            f"c{n}",
            f"p{n}",
            (Path(f"c{n}.png"),),
            Path(f"c{n}_mask.png"),
            target=NAMES[n % 2],
            **options,
        )
        for n in range(count)
    )


def data_set(found: tuple[Case, ...]) -> DataSet:
    labels = {"background": 0, "lesion": 1}
    return DataSet(found, ("red", "green", "blue"), labels, (0, 255), 2, NAMES)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    found = cases(36)
    parts = Split(found[:16], found[16:24], found[24:])
    return prepare(data_set(found), parts, CONFIG, read=read, read_label=read_label, seed=5)


@pytest.fixture(scope="module")
def loaded(prepared: Prepared) -> LoadedModel:
    torch.manual_seed(0)
    arguments = {**prepared.model_arguments, "embedding": 16, "width": 8}
    model = DynamicSubspaceLearners(**arguments).eval()
    state = dict(prepared.preprocessing)
    state |= runs.calibrate(model, prepared, batch_size=5, device=CPU)
    state = json.loads(json.dumps(state))
    spec = ModelSpec("DynamicSubspaceLearners", "a:b", "retrieve", "", "", None)
    return LoadedModel(spec, model, arguments, state, Path("run"))


def test_images_are_normalised_with_the_training_part(prepared: Prepared) -> None:
    train, test = prepared.train, prepared.test
    assert isinstance(train, RetrievalImages)
    assert isinstance(test, RetrievalImages)
    values = train.images.astype(np.float64)
    assert np.allclose(values.mean(axis=(0, 2, 3)), 0, atol=1e-2)
    assert np.allclose(values.std(axis=(0, 2, 3)), 1, atol=1e-2)
    assert prepared.model_arguments == {
        "channels": 3,
        "targets": 2,
        "spatial_dims": 2,
        "size": (20, 20),
    }
    assert train.masks is None
    assert test.masks is not None
    truth = np.mean([picture(case)[1].mean() for case in cases(36)[24:]])
    assert test.masks.mean() == pytest.approx(truth, rel=0.1)


def test_augmentation_depends_on_seed_epoch_and_item_only(prepared: Prepared) -> None:
    train = prepared.train
    assert isinstance(train, RetrievalImages)
    train.start_epoch(2)
    some = train.batch(np.array([3, 5, 9]))["image"]
    alone = train.batch(np.array([5]))["image"]
    assert torch.equal(some[1], alone[0])
    train.start_epoch(3)
    assert not torch.equal(train.batch(np.array([5]))["image"], alone)
    train.start_epoch(2)
    assert torch.equal(train.batch(np.array([5]))["image"], alone)
    other = dataclasses.replace(train, seed=6)
    other.start_epoch(2)
    assert not torch.equal(other.batch(np.array([5]))["image"], alone)
    plain = train.plain().batch(np.array([5]))["image"]
    assert torch.equal(plain, torch.from_numpy(train.images[[5]].astype(np.float32)))
    correlation = np.corrcoef(plain.abs().mean((0, 1)).sum(1), alone.abs().mean((0, 1)).sum(1))
    assert np.isfinite(correlation).all()


def test_unaugmented_flips_and_volumes_keep_their_values() -> None:
    volume = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 8)).astype(np.float16)
    names = ["a", "b"]
    made = RetrievalImages(volume, np.zeros(2, np.int64), names, names, augment="light")
    image = made.batch(np.arange(2))["image"]
    assert image.shape == (2, 1, 8, 8, 8)
    assert abs(float(image.mean()) - float(volume.mean())) < 0.2


def test_evaluation_scores_draws_and_looks_up(loaded: LoadedModel, prepared: Prepared) -> None:
    found = runs.evaluate(loaded, prepared, "test", batch_size=5, device=CPU, seed=1)
    assert set(found.metrics) == {
        "nmi",
        "recall_1",
        "recall_2",
        "recall_4",
        "recall_8",
        "weak_dice",
        "attention_dice",
    }
    assert found.n_scored == len(found.predictions) == 12
    assert set(found.predictions["target"]) == set(NAMES)
    assert len(found.figures) == 3
    assert all(isinstance(each.figure, MatplotlibFigure) for each in found.figures)
    other = runs.evaluate(loaded, prepared, "test", batch_size=12, device=CPU, seed=1)
    for name, interval in found.metrics.items():
        assert other.metrics[name].value == pytest.approx(interval.value)


def test_a_training_image_is_its_own_nearest(loaded: LoadedModel) -> None:
    case = cases(36)[7]
    table = runs.predict(loaded, [(case.id, read(case))], batch_size=1, device=CPU)
    assert table.loc[0, "nearest_1"] == "c7"
    assert table.loc[0, "distance_1"] == pytest.approx(0, abs=1e-3)
    values = table.loc[0, [f"e{n}" for n in range(16)]].to_numpy(float)
    assert np.linalg.norm(values) == pytest.approx(1, abs=1e-4)


def test_votes_are_decided_by_the_nearest(loaded: LoadedModel) -> None:
    gallery = Gallery(
        np.array([[0.0], [1.0], [2.0], [3.0], [9.0]], np.float32),
        np.array([1, 0, 0, 1, 0]),
        list("abcde"),
        list("abcde"),
    )
    state = {**loaded.preprocessing, "gallery": gallery.to_json()}
    five = dataclasses.replace(loaded, preprocessing=state)
    assert runs.lookup(np.array([[-1.0]]), five, ["q"]).loc[0, "predicted"] == "dark"
    four = Gallery(gallery.embedding[:4], gallery.target[:4], list("abcd"), list("abcd"))
    tied = dataclasses.replace(loaded, preprocessing={**state, "gallery": four.to_json()})
    assert runs.lookup(np.array([[-1.0]]), tied, ["q"]).loc[0, "predicted"] == "light"


def test_a_gallery_survives_json_bit_for_bit() -> None:
    embedding = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    gallery = Gallery(embedding, np.array([0, 1, 1]), ["a", "b", "c"], ["p", "q", "q"])
    again = Gallery.from_json(json.loads(json.dumps(gallery.to_json())))
    assert np.array_equal(again.embedding, embedding)
    assert again.target.tolist() == [0, 1, 1]
    assert list(again.patients) == ["p", "q", "q"]


def test_weak_masks_are_on_the_scans_own_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that is bright at the right, front, top marks that corner of any orientation."""
    arguments: dict[str, Any] = {"channels": 1, "targets": 2, "spatial_dims": 3, "size": (8, 8, 8)}
    model = DynamicSubspaceLearners(**arguments, embedding=8, width=8).eval()
    state = {"size": [8, 8, 8], "mean": [0.0], "std": [1.0], "channels": ["CT"]}
    spec = ModelSpec("D", "a:b", "retrieve", "", "", None)
    loaded = LoadedModel(spec, model, arguments, state, Path("run"))
    bright = np.zeros((1, 8, 8, 8), np.float32)
    bright[0, 6:, 6:, 6:] = 1
    said = Embedded(np.zeros((1, 8)), bright, 1 - bright)
    monkeypatch.setattr(runs, "embed", lambda *_, **__: said)
    volume = np.random.default_rng(0).normal(size=(9, 12, 7)).astype(np.float32)
    image = nibabel.Nifti1Image(volume, np.diag([2.0, 1.0, 3.0, 1.0]))
    straight: np.ndarray | None = None
    for codes in ("RAS", "LPS", "SAL", "IRP"):
        axes = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
        )
        turned = image.as_reoriented(axes)
        array = turned.get_fdata(dtype=np.float32)
        scan = Scan(array[None], Grid(array.shape, turned.affine), Path(codes))
        mask = runs.weak_mask(loaded, scan, device=CPU)
        assert mask.shape == array.shape
        back = nibabel.as_closest_canonical(nibabel.Nifti1Image(mask, turned.affine))
        found = np.asarray(back.dataobj)
        straight = found if straight is None else straight
        assert np.array_equal(found, straight), codes
        same = image_array(scan, (8, 8, 8))
        assert np.allclose(same, resized(volume[None], (8, 8, 8)), atol=1e-5), codes
    assert straight is not None
    assert straight[-1, -1, -1] == 1
    assert straight[0, 0, 0] == 0


def test_resizing_averages_and_keeps_means() -> None:
    image = np.indices((1, 64, 64)).sum(axis=0) % 2
    assert np.allclose(resized(image, (16, 16)), 0.5)
    assert resized(np.ones((2, 5, 9)), (10, 4)).shape == (2, 10, 4)
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4] = True
    assert resized_mask(mask, (4, 4)).tolist() == [[True] * 4] * 2 + [[False] * 4] * 2


def test_baselines_find_colours(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "STEPS", 20)
    found = baselines.baseline_scores(prepared.train, prepared.test, seed=0, device=CPU)  # type: ignore[arg-type]
    assert found["intensity histogram"]["recall_1"] == 1
    assert set(found["classifier"]) >= {"nmi", "recall_8", "weak_dice"}
    assert 0 < found["chance"]["weak_dice"] < 0.5


def test_explanations_cover_the_test_part(loaded: LoadedModel, prepared: Prepared) -> None:
    figures, tables = runs.explain(loaded, prepared, device=CPU)
    assert len(figures) == 1
    assert len(tables["Attention"]) == 12
    assert tables["Learners"]["values"].tolist() == [16]
    inside = tables["Attention"]["share inside the mask"]
    assert ((inside >= 0) & (inside <= 1)).all()


def test_data_that_cannot_be_used_are_named() -> None:
    found = cases(8)
    parts = Split(found[:4], found[4:6], found[6:])
    make = partial(prepare, data_set(found), config=CONFIG, read=read)
    nameless = dataclasses.replace(found[1], target=None)
    with pytest.raises(DataError, match="case c1 has no target"):
        make(dataclasses.replace(parts, train=(found[0], nameless)))
    with pytest.raises(DataError, match="one class of images"):
        make(dataclasses.replace(parts, train=found[:4:2]))
    state = make(parts).preprocessing
    other = dataclasses.replace(found[7], target="odd")
    with pytest.raises(DataError, match=r"c7 has target 'odd'.*it knows dark, light"):
        make(dataclasses.replace(parts, test=(other,)), preprocessing=state)
    with pytest.raises(DataError, match="one number for each axis"):
        make(parts, config=dataclasses.replace(CONFIG, patch_size=(8, 8, 8)))


def test_scans_with_other_channels_are_refused(loaded: LoadedModel) -> None:
    scan = Scan(np.zeros((1, 9, 9), np.float32), Grid((9, 9), np.eye(3)), Path("grey.png"))
    with pytest.raises(DataError, match=r"grey.png: q has 1 channels, the model was trained with"):
        runs.predict(loaded, [("q", scan)], batch_size=1, device=CPU)
