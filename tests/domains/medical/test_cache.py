"""Cached cases equal those in memory, are read once, and are made again where damaged."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from domains.medical.data import cache
from domains.medical.data.cache import case_key, foreground_centres, prepare_cases
from domains.medical.data.case import Case, Scan
from domains.medical.data.config import DataConfig
from domains.medical.data.patches import PatchBatches
from shared_runtime.errors import DataError, UsageError
from tests.domains.medical.small_cases import plan, scan


@dataclass
class Files:
    """Two cases whose files exist; what they hold is made up when they are read."""

    folder: Path
    reads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cases = []
        for name in ("á", "b"):
            image, label = self.folder / f"{name}_0000.nii.gz", self.folder / f"{name}.nii.gz"
            image.write_text(f"image {name}")
            label.write_text(f"label {name}")
            self.cases.append(Case(name, name, (image,), label))

    def read(self, case: Case) -> tuple[Scan, np.ndarray]:
        self.reads.append(case.id)
        rng = np.random.default_rng(len(case.id))
        image = rng.standard_normal((1, 8, 9, 10))
        return scan(image), rng.integers(0, 3, (8, 9, 10)).astype(np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "data").mkdir()
    return Files(tmp_path / "data")


def test_equal_to_memory_and_read_once(files: Files, tmp_path: Path) -> None:
    memory = prepare_cases(files.cases, plan(), files.read)
    files.reads.clear()
    for _ in range(2):
        mapped = prepare_cases(files.cases, plan(), files.read, tmp_path / "cache")
        for one, other in zip(mapped, memory, strict=True):
            assert one.id == other.id and one.placement == other.placement
            assert isinstance(one.image, np.memmap) and not isinstance(other.image, np.memmap)
            for name in ("image", "label", "centres"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert files.reads == ["á", "b"]
    config = DataConfig(path=tmp_path, patches_per_epoch=8)
    one, two = (
        PatchBatches(x, plan(), config, seed=1).batch(np.arange(8)) for x in (mapped, memory)
    )
    assert (one["image"] == two["image"]).all() and (one["label"] == two["label"]).all()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped byte": lambda entry: flip(entry / "image.npy"),
    "flipped label": lambda entry: flip(entry / "label.npy"),
    "cut short": lambda entry: os.truncate(entry / "image.npy", 200),
    "array lost": lambda entry: (entry / "centres.npy").unlink(),
    "entry lost": lambda entry: (entry / "entry.json").unlink(),
    "no JSON": lambda entry: (entry / "entry.json").write_text("{"),
    "other JSON": lambda entry: (entry / "entry.json").write_text("[1]"),
    "no checksums": lambda entry: (entry / "entry.json").write_text('{"checksums": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_made_again(files: Files, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cache"
    first = prepare_cases(files.cases, plan(), files.read, folder)
    expected = [np.array(one.image) for one in first]
    del first
    DAMAGES[damage](folder / case_key(files.cases[0], plan()))
    files.reads.clear()
    again = prepare_cases(files.cases, plan(), files.read, folder)
    assert files.reads == ["á"]
    for one, image in zip(again, expected, strict=True):
        np.testing.assert_array_equal(one.image, image)
    files.reads.clear()
    prepare_cases(files.cases, plan(), files.read, folder)
    assert files.reads == []


def test_keys_follow_files_and_preparation(files: Files, tmp_path: Path) -> None:
    case = files.cases[0]
    key = case_key(case, plan())
    assert key == case_key(replace(case, id="renamed"), replace(plan(), batch_size=9))
    assert key != case_key(case, plan((1, 1, 2)))
    assert key != case_key(case, plan(normalisation=("rescale",)))
    assert key != case_key(case, plan(crop=True))
    assert case.label is not None
    case.label.write_text("corrected")
    assert key != case_key(case, plan())
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_text("slice")
    before = case_key(replace(case, images=(series,)), plan())
    (series / "2.dcm").write_text("slice")
    assert before != case_key(replace(case, images=(series,)), plan())


def test_centres_are_spread_over_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CENTRES", 50)
    label = np.zeros((10, 10, 10), np.uint8)
    label[:, :5] = 1
    label[3, 9, 9] = 3
    found = foreground_centres(label, 4)
    assert found.dtype == np.int32 and np.bincount(found[:, 0]).tolist() == [0, 50, 0, 1]
    assert (label[tuple(found[:, 1:].T)] == found[:, 0]).all()
    assert set(found[found[:, 0] == 1, 1]) == set(range(10))
    assert foreground_centres(np.zeros((3, 3), np.uint8), 4).shape == (0, 3)


def test_refusals(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"data\.cache: .*file: cannot be written"):
        prepare_cases(files.cases, plan(), files.read, tmp_path / "file")
    with pytest.raises(DataError, match="has no label"):
        prepare_cases(files.cases, plan(), lambda case: (files.read(case)[0], None))
    files.cases[0].images[0].unlink()
    with pytest.raises(DataError, match=r"_0000\.nii\.gz: cannot be read"):
        prepare_cases(files.cases, plan(), files.read, tmp_path / "cache")
