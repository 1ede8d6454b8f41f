"""Cross-validation: every case once, restartable, and one bad fold does not spoil the others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from domains.medical.data.config import DataConfig
from domains.medical.ensemble import load_ensemble, plan_of
from domains.medical.scoring import summarise
from domains.medical.verbs import crossvalidate as verb
from domains.medical.verbs.crossvalidate import CrossValidation, command, crossvalidate
from shared_runtime.artifact import load_model
from shared_runtime.domain import Domain, LoadedModel
from shared_runtime.errors import BatchFailures, DataError, HeedError, Interrupted, UsageError
from shared_runtime.options import RunConfig, resolve
from tests.domains.medical import tiny_domain

DOMAIN = cast(Domain, tiny_domain)
CPU = torch.device("cpu")
QUICK = (
    "data.folds=3",
    "data.patches_per_epoch=4",
    "data.augment=none",
    "training.epochs=1",
    "training.batch_size=2",
    "device=cpu",
)


@pytest.fixture(autouse=True)
def whole_folds() -> Iterator[None]:
    yield
    tiny_domain.broken_folds.clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven cases of six patients with spacings that differ, so that folds plan differently."""
    root = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(7):
        label = np.zeros((12, 12, 12), np.uint8)
        label[2:6, 3:9, 3:8] = 1
        label[7:10, 3:9, 3:8] = 2
        image = (50 * label + rng.normal(0, 5, label.shape)).astype(np.float32)
        affine = np.diag([1 + 0.1 * number] * 3 + [1])
        for kind, array in (("image", image), ("label", label)):
            nibabel.Nifti1Image(array, affine).to_filename(root / f"{kind}{number}.nii.gz")
        rows.append(
            {
                "id": f"00{number}",
                "patient": f"0{min(number, 5)}",
                "image": f"image{number}.nii.gz",
                "label": f"label{number}.nii.gz",
            }
        )
    pd.DataFrame(rows).to_csv(root / "manifest.csv", index=False)
    return root / "manifest.csv"


def configuration(data: Path, *sets: str) -> RunConfig:
    return resolve(DOMAIN, flags={"data.path": data}, sets=[*QUICK, *sets])


def run(data: Path, out: Path, *sets: str) -> CrossValidation:
    return crossvalidate(DOMAIN, configuration(data, *sets), out, progress=False)


def values(data: Path | None, out: Path | None, sets: Sequence[str] = QUICK) -> dict[str, Any]:
    names = ("model", "attention", "seed", "config", "device")
    given: dict[str, Any] = {
        "data": data,
        "out": out,
        "set": list(sets),
        "quiet": True,
        "flags": {},
    }
    return {**dict.fromkeys(names), **given}


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    """Stopped by a signal in fold 1, then started again; `kept` has when fold 0 was written."""
    out = tmp_path_factory.mktemp("cv") / "out"
    train = verb.train

    def stopped(domain: Domain, config: RunConfig, folder: Path, **how: Any) -> Any:
        if config.data.fold == 1:
            raise Interrupted("interrupted; the same command with --resume continues from there")
        return train(domain, config, folder, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "train", stopped)
        with pytest.raises(Interrupted, match="in fold-1; the same command continues from there"):
            run(data, out)
    assert not (out / "fold-1").exists() and not (out / "summary.json").exists()
    before = (out / "fold-0" / "model.safetensors").stat().st_mtime_ns
    result = run(data, out)
    assert (out / "fold-0" / "model.safetensors").stat().st_mtime_ns == before
    return result


def test_every_case_is_scored_once_by_a_model_that_never_saw_it(finished: CrossValidation) -> None:
    cases = finished.cases
    assert sorted(set(cases["case"])) == [f"00{n}" for n in range(7)]
    assert not cases.duplicated(["case", "label"]).any() and len(cases) == 14
    assert cases.groupby("patient")["fold"].nunique().eq(1).all()
    for fold, rows in cases.groupby("fold"):
        record = json.loads((finished.folder / f"fold-{fold}" / "model.json").read_text())
        assert not {*rows["patient"]} & {*record["preprocessing"]["trained_on"]}
    written = pd.read_csv(finished.folder / "summary.csv", dtype={"case": str, "patient": str})
    assert list(written.columns[:4]) == ["case", "patient", "fold", "label"]
    assert np.allclose(written["dice"], cases["dice"])


def test_scores_are_those_of_all_cases_together(finished: CrossValidation) -> None:
    document = json.loads((finished.folder / "summary.json").read_text())
    assert document["n_scored"] == 7 and document["patients"] == 6 and document["failed"] == {}
    by_label = finished.cases.groupby(["label", "patient"])["dice"].mean()
    expected = by_label.groupby("label").mean().mean()
    dice = document["metrics"]["dice"]
    assert (
        dice["value"] == pytest.approx(expected) and dice["ci_low"] <= expected <= dice["ci_high"]
    )
    scores = finished.cases.drop(columns=["patient", "fold"])
    rows = [{str(k): v for k, v in row.items()} for row in scores.to_dict("records")]
    patients = dict(zip(finished.cases["case"], finished.cases["patient"], strict=True))
    assert document["metrics"].keys() == summarise(rows, patients, seed=0).keys()
    counts = [fold["n_scored"] for fold in document["folds"].values()]
    assert document["baselines"]["cases"]["dice"] == pytest.approx(np.dot(counts, counts) / 7)
    assert document["baselines"]["cases"]["iou"] == pytest.approx(np.pi)


def test_folds_share_a_grid_and_predict_together(finished: CrossValidation) -> None:
    loaded = [one for name in ("fold-0", "fold-1", "fold-2") for one in [load(finished, name)]]
    assert len({plan_of(one).spacing for one in loaded}) == 1
    assert len({plan_of(one).patch_size for one in loaded}) == 1
    _, *others = finished.document["ensemble"]
    config = DataConfig(path=Path("scans"), ensemble=", ".join(others))
    models = load_ensemble(loaded[0], config, DOMAIN.models(), CPU)
    assert len(models) == 3
    weights = [model.state_dict()["layer.weight"] for model in models]
    assert torch.equal(weights[2], loaded[2].model.state_dict()["layer.weight"])
    assert not torch.equal(weights[0], weights[1])
    scored = finished.cases.loc[finished.cases["fold"] == "0", "patient"]
    with pytest.raises(DataError, match=r"fold-1 was trained on \d of the patients to score"):
        load_ensemble(loaded[0], config, DOMAIN.models(), CPU, scored=set(scored))


def load(finished: CrossValidation, name: str) -> LoadedModel:
    return load_model(finished.folder / name, DOMAIN.models(), domain="medical")


def test_runs_with_other_plans_are_no_ensemble(finished: CrossValidation, tmp_path: Path) -> None:
    one = load(finished, "fold-0")
    plan = {**one.preprocessing["plan"], "spacing": [2.0, 2.0, 2.0]}
    other = dataclasses.replace(one, preprocessing={"plan": plan})
    config = DataConfig(path=Path("scans"), ensemble=str(finished.folder / "fold-1"))
    with pytest.raises(UsageError, match="fold-1 was trained with another spacing than"):
        load_ensemble(other, config, DOMAIN.models(), CPU)
    finder = dataclasses.replace(one, preprocessing={})
    with pytest.raises(UsageError, match="Tiny does not segment"):
        load_ensemble(finder, config, DOMAIN.models(), CPU)


def test_members_are_read_once(finished: CrossValidation, monkeypatch: pytest.MonkeyPatch) -> None:
    one = load(finished, "fold-0")
    config = DataConfig(path=Path("scans"), ensemble=str(finished.folder / "fold-1"))
    first = load_ensemble(one, config, DOMAIN.models(), CPU)
    monkeypatch.setattr("domains.medical.ensemble.load_model", None)
    again = load_ensemble(one, config, DOMAIN.models(), CPU)
    assert [id(model) for model in again] == [id(model) for model in first]


def test_flips_are_for_members_that_know_them(finished: CrossValidation, tmp_path: Path) -> None:
    other = tmp_path / "fold-1"
    shutil.copytree(finished.folder / "fold-1", other)
    one = load(finished, "fold-0")
    config = DataConfig(path=Path("scans"), ensemble=str(other), mirror=True)
    assert len(load_ensemble(one, config, DOMAIN.models(), CPU)) == 2
    document = yaml.safe_load((other / "config.yaml").read_text())
    document["data"]["flips"] = False
    (other / "config.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(UsageError, match=r"fold-1 was trained with data\.flips=false"):
        load_ensemble(one, config, DOMAIN.models(), CPU)
    load_ensemble(one, dataclasses.replace(config, mirror=False), DOMAIN.models(), CPU)


def test_a_finished_cross_validation_is_kept(data: Path, finished: CrossValidation) -> None:
    with pytest.raises(UsageError, match="holds a finished run"):
        run(data, finished.folder)


def test_one_bad_fold_is_reported_and_tried_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    tiny_domain.broken_folds.add(1)
    two = (*QUICK, "data.folds=2")
    with pytest.raises(BatchFailures, match=r"1 of 2 folds failed.*fold-1: RuntimeError: the") as e:
        command(DOMAIN, values(data, out, two))
    assert e.value.exit_code == 4 and "\n" not in str(e.value)
    printed = capsys.readouterr().out
    assert "1 of 2 folds: 4 items scored" in printed and "For tests only." in printed
    assert "ran out of luck" in (out / "fold-1" / "run.log").read_text()
    document = json.loads((out / "summary.json").read_text())
    assert document["failed"] == {"fold-1": "RuntimeError: the machine ran out of luck"}
    tiny_domain.broken_folds.clear()
    with pytest.raises(UsageError, match="changed"):
        command(DOMAIN, values(data, out, [*two, "training.epochs=2"]))
    command(DOMAIN, values(None, out, []))
    printed = capsys.readouterr().out
    assert "all folds: 7 items scored" in printed
    assert f"--run {out / 'fold-0'} --ensemble {out / 'fold-1'}" in printed
    assert json.loads((out / "summary.json").read_text())["failed"] == {}
    grids = [yaml.safe_load((out / n / "config.yaml").read_text())["data"] for n in ("fold-0", ".")]
    assert grids[0]["spacing"] == grids[1]["spacing"] != []


def test_where_every_fold_fails_the_first_error_ends_it(data: Path, tmp_path: Path) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DataError("scan.nii.gz: is broken; mend it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verb, "train", fails)
        with pytest.raises(DataError, match=r"^scan.nii.gz: is broken; mend it$"):
            run(data, tmp_path / "out")
        patch.setattr(verb, "train", lambda *_, **__: 1 // 0)
        with pytest.raises(HeedError, match="ZeroDivisionError"):
            run(data, tmp_path / "out")
    assert not (tmp_path / "out" / "summary.json").exists()


def test_data_with_their_own_test_part_have_no_folds(data: Path, tmp_path: Path) -> None:
    table = pd.read_csv(data, dtype=str)
    for column in ("image", "label"):
        table[column] = [str(data.parent / name) for name in table[column]]
    table["split"] = ["test"] * 2 + ["train"] * 5
    table.to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(DataError, match="folds 0 and 1 would both score 000"):
        run(tmp_path / "manifest.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--out is needed"):
        command(DOMAIN, values(data, None))
    with pytest.raises(UsageError, match="Finder does not segment"):
        run(data, tmp_path / "out", "model.name=Finder")
    with pytest.raises(DataError, match="6 patients for 9 folds"):
        run(data, tmp_path / "out", "data.folds=9")
    assert not (tmp_path / "out").exists()
