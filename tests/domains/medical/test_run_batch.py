"""A batch with bad scans: the others are finished, the bad ones listed, nothing is done twice."""

from __future__ import annotations

import csv
import gzip
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pytest

from domains.medical import domain
from shared_runtime.batch import BatchResult
from shared_runtime.cli import main
from shared_runtime.domain import Domain
from shared_runtime.errors import DataError
from shared_runtime.options import resolve
from shared_runtime.verbs.evaluate import evaluate
from shared_runtime.verbs.predict import predict_folder
from shared_runtime.verbs.train import train
from tests.domains.medical.made_scans import declare, oblique, save, series, stored

DOMAIN = cast(Domain, domain)
SIDE = 12
SETTINGS = (
    "model.name=UNet",
    "model.widths=[4,8]",
    "data.folds=2",
    "data.patch_size=[16,16,16]",
    "data.spacing=[1.0,1.0,1.0]",
    "data.patches_per_epoch=2",
    "training.epochs=1",
    "device=cpu",
)


def scan(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-200, 300, (SIDE,) * 3).astype(np.int16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    for number in range(6):
        image = scan(number)
        save(root / "data" / "imagesTr" / f"c{number}_0000.nii.gz", image, np.eye(4))
        save(root / "data" / "labelsTr" / f"c{number}.nii.gz", (image > 200) + 0, np.eye(4))
    declare(root / "data", labels={"background": 0, "bright": 1})
    config = resolve(DOMAIN, flags={"data.path": root / "data"}, sets=list(SETTINGS))
    train(DOMAIN, config, root / "run", progress=False)
    return root / "run"


def grid_of(path: Path) -> tuple[tuple[int, ...], np.ndarray]:
    image = cast(nib.Nifti1Image, nib.load(path))
    return image.shape, image.affine


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def magic(path: Path) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[:4], raw[344:348] = b"\x4d\0\0\0", b"xyz\0"
    path.write_bytes(gzip.compress(bytes(raw)))


def nan(path: Path) -> None:
    array = scan(0).astype(np.float32)
    array[3, 4, 5] = np.nan
    save(path, array)


def four_axes(path: Path) -> None:
    save(path, np.stack([scan(0)] * 3, axis=-1))


def second_channel(path: Path) -> None:
    for channel in range(2):
        save(path.with_name(f"s077_{channel:04}.nii.gz"), scan(channel))
    path.unlink()


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "s003.nii.gz": (cut, "its voxels cannot be read"),
    "s050.nii.gz": (magic, "is no NIfTI file, or a damaged one"),
    "s120.nii.gz": (nan, "1 of 1728 voxels are NaN or infinite"),
    "s199.nii.gz": (four_axes, "has four axes: 3 volumes where one is expected"),
    "s077_0000.nii.gz": (second_channel, "is channel 1 of s077, the model takes 1"),
}


def test_five_bad_scans_of_two_hundred(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "scans", tmp_path / "masks"
    for number in range(200):
        save(folder / f"s{number:03}.nii.gz", scan(number), oblique((1.0, 1.0, 1.0)))
    for name, (damage, _) in BAD.items():
        damage(folder / name.replace("_0000", ""))

    result = predict_folder(DOMAIN, run, folder, out)

    assert (result.done, result.skipped, set(result.failures)) == (195, 0, set(BAD))
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        listed = {row["file"]: row["error"] for row in csv.DictReader(file)}
    for name, (_, what) in BAD.items():
        assert what in listed[name] and str(folder) in listed[name] and "\n" not in listed[name]
    masks = sorted(out.glob("*.nii.gz"))
    assert len(masks) == 195 == len(list(out.glob("*.predictions.csv")))
    shape, affine = grid_of(masks[0])
    assert shape == (SIDE,) * 3 and np.allclose(affine, oblique((1.0, 1.0, 1.0)))

    save(folder / "s120.nii.gz", scan(120), oblique((1.0, 1.0, 1.0)))
    masks[0].unlink()
    arguments = ["--run", str(run), "--data", str(folder), "--out", str(out), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["heed", "medical", "predict", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    assert "2 done, 194 already done, 4 failed" in capsys.readouterr().out
    assert masks[0].exists() and (out / "s120.nii.gz").exists()


def test_series_of_the_same_name_stay_apart(run: Path, tmp_path: Path) -> None:
    for number, above in enumerate(("patient_1", "patient_2")):
        series(tmp_path / "export" / above / "CT", stored(12, 10, 11, seed=number))
    out = tmp_path / "masks"
    assert predict_folder(DOMAIN, run, tmp_path / "export", out) == BatchResult(2, 0, {})
    for above in ("patient_1", "patient_2"):
        assert grid_of(out / above / "CT.nii.gz")[0] == (11, 10, 12)
        assert (out / above / "CT.predictions.csv").exists()
    assert predict_folder(DOMAIN, run, tmp_path / "export", out) == BatchResult(0, 2, {})
    shutil.rmtree(tmp_path / "export" / "patient_2")
    one = tmp_path / "export" / "patient_1" / "CT"
    assert predict_folder(DOMAIN, run, one, tmp_path / "one") == BatchResult(1, 0, {})
    assert (tmp_path / "one" / "CT.nii.gz").exists()


def test_a_few_strangers_are_scored_whole(run: Path, tmp_path: Path) -> None:
    declare(tmp_path, cases=1, labels={"background": 0, "bright": 1})
    save(tmp_path / "imagesTr" / "other_0000.nii.gz", scan(50), np.eye(4))
    save(tmp_path / "labelsTr" / "other.nii.gz", (scan(50) > 200) + 0, np.eye(4))
    assert evaluate(DOMAIN, run, data=tmp_path)["n_scored"] == 1
    again = resolve(DOMAIN, flags={"data.path": tmp_path}, sets=list(SETTINGS))
    with pytest.raises(DataError, match="1 patient for 2 folds; name a test part"):
        train(DOMAIN, again, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
