"""What the contract suite does not reach: interruption, planted faults and refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from shared_runtime.errors import DataError, HeedError, UsageError
from shared_runtime.options import resolve
from shared_runtime.runs import open_run, prepare_again
from shared_runtime.verbs import export as export_verb
from shared_runtime.verbs.evaluate import evaluate
from shared_runtime.verbs.export import export
from shared_runtime.verbs.predict import command as predict_command
from shared_runtime.verbs.predict import predict, predict_folder
from shared_runtime.verbs.train import train
from tests.shared_runtime.toy_domain import domain as toy
from tests.shared_runtime.toy_domain.cli import app
from tests.shared_runtime.toy_domain.models import Regression, Tokens


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_sample(tmp_path_factory.mktemp("data"), seed=0)[0]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(data, tmp_path_factory.mktemp("runs") / "run")


def fit(data: Path, out: Path, *sets: str) -> Path:
    settings = ["device=cpu", "training.epochs=2", "model.dropout=0.1", *sets]
    config = resolve(toy, flags={"data.path": data}, sets=settings)
    return train(toy, config, out, progress=False).folder


def test_interrupted_and_resumed_is_as_uninterrupted(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"n": 0}
    original = Regression.loss

    def loss(self: Regression, batch: dict[str, Tensor]) -> Tensor:
        calls["n"] += 1
        if calls["n"] == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(Regression, "loss", loss)
    sets = ["device=cpu", "training.epochs=2", "model.dropout=0.1"]
    base = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "-q"]
    base += [part for pair in sets for part in ("--set", pair)]
    stopped = CliRunner().invoke(app, base)
    assert stopped.exit_code == 130, stopped.stderr
    assert "--resume" in stopped.stderr and stopped.stdout == ""
    refused = CliRunner().invoke(app, base)
    assert refused.exit_code == 2 and "holds an unfinished run" in refused.stderr
    changed = CliRunner().invoke(app, [*base, "--resume", "--seed", "5"])
    assert changed.exit_code == 2 and "seed" in changed.stderr
    ended = CliRunner().invoke(app, ["train", "--resume", "--out", str(tmp_path / "run"), "-q"])
    assert ended.exit_code == 0, ended.stderr
    for name in ("model.safetensors", "metrics.json"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_every_error_in_the_data_in_one_pass(tmp_path: Path) -> None:
    bad = tmp_path / "rows.csv"
    bad.write_text("id,a,b,y\n1,2,x,4\n2,,1,inf\n3,1,1,1\n")
    with pytest.raises(DataError) as caught:
        fit(bad, tmp_path / "run")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the data have 3 errors:"
    assert [line.split(",")[1].strip() for line in sorted(lines[1:])] == ["row 2", "row 3", "row 3"]
    assert not (tmp_path / "run").exists()


def test_warnings_do_not_stop_training(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = pd.read_csv(data).assign(same=1.0)
    frame.loc[0, "same"] = 1.0
    frame.to_csv(tmp_path / "rows.csv", index=False)
    config = resolve(toy, flags={"data.path": tmp_path / "rows.csv"})
    from shared_runtime.checks import require_clean

    require_clean(toy, config.data)
    assert "column same is constant" in caplog.text


def test_model_without_attention_says_so_in_its_report(data: Path, tmp_path: Path) -> None:
    folder = fit_line(data, tmp_path)
    assert "Not shown for this model: Line has no attention" in (folder / "report.html").read_text()
    ended = CliRunner().invoke(app, ["explain", "--run", str(folder)])
    assert ended.exit_code == 2 and "Line has no attention" in ended.stderr


def fit_line(data: Path, tmp_path: Path) -> Path:
    config = resolve(
        toy,
        flags={"data.path": data, "model.name": "line"},
        sets=["training.epochs=1", "device=cpu"],
    )
    return train(toy, config, tmp_path / "line", progress=False).folder


def test_other_data_are_scored_with_the_scalers_of_training(
    data: Path, run: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(data)
    shifted = tmp_path / "shifted.csv"
    frame.assign(a=frame["a"] + 100).to_csv(shifted, index=False)
    own = evaluate(toy, run)["metrics"]["mse"]["value"]
    other = evaluate(toy, run, data=shifted)["metrics"]["mse"]["value"]
    assert own == json.loads((run / "metrics.json").read_text())["metrics"]["mse"]["value"]
    assert other != pytest.approx(own, rel=1e-3), "scalers fitted anew would hide the shift"


def test_data_that_changed_or_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    own = tmp_path / "rows.csv"
    own.write_bytes(data.read_bytes())
    folder = fit(own, tmp_path / "run")
    pd.read_csv(own).iloc[:-1].to_csv(own, index=False)
    with pytest.raises(DataError, match=r"rows.csv has changed since .* name it with --data"):
        evaluate(toy, folder)
    assert evaluate(toy, folder, data=own)["n_scored"] == 23
    pd.read_csv(own).drop(columns="a").to_csv(own, index=False)
    opened = open_run(toy, folder, data=own)
    with pytest.raises(DataError, match=r"features is 2, but Tokens .* was trained with 3"):
        prepare_again(opened, other_data=True)
    with pytest.raises(DataError, match="no column a"):
        predict(toy, folder, own)


def test_only_data_of_a_finished_run_can_be_set(run: Path) -> None:
    with pytest.raises(UsageError, match=r"--set training\.epochs=3: a trained model is fixed"):
        evaluate(toy, run, sets=["training.epochs=3"])
    assert evaluate(toy, run, sets=["data.test_share=0.1"])["n_scored"] == 12


def test_predict_follows_its_own_settings_only(run: Path, data: Path) -> None:
    table = predict(toy, run, data).table
    doubled = predict(toy, run, data, sets=["data.factor=2"])
    pd.testing.assert_frame_equal(doubled.table, table)
    for key in ("data.test_share", "training.epochs", "data.nonsense"):
        with pytest.raises(UsageError, match=rf"{key}: predict does not follow .* data.factor"):
            predict(toy, run, data, sets=[f"{key}=1"])


def test_predicted_files_are_written_beside_the_table(
    run: Path, data: Path, tmp_path: Path
) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    shutil.copyfile(data, inputs / "rows.csv")
    assert predict_folder(toy, run, inputs, out).done == 1
    once = float((out / "rows.mean").read_text())
    assert sorted(p.name for p in out.iterdir()) == [
        "failures.csv",
        "manifest.json",
        "rows.csv.predictions.csv",
        "rows.mean",
    ]
    assert predict_folder(toy, run, inputs, out).skipped == 1
    again = predict_folder(toy, run, inputs, out, sets=["data.factor=2"])
    assert (again.done, again.skipped) == (1, 0), "another setting is another prediction"
    assert float((out / "rows.mean").read_text()) == pytest.approx(2 * once, abs=1e-5)


def test_one_item_has_its_table_beside_its_files_too(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = {"run": run, "data": data, "out": out, "device": None, "flags": {}, "set": []}
    predict_command(toy, given)
    files = [out / "rows.mean", out / "rows.csv.predictions.csv"]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert sorted(out.iterdir()) == sorted(files)
    assert len(pd.read_csv(files[1])) == len(predict(toy, run, data).table)


def test_two_items_never_write_the_same_file(run: Path, data: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("rows.csv", "rows.txt"):
        shutil.copyfile(data, inputs / name)
    result = predict_folder(toy, run, inputs, tmp_path / "out")
    assert result.done == 1
    assert "its rows.mean would replace that of" in result.failures["rows.txt"]


class FixedBatch(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + (0.01 if torch.compiler.is_exporting() else 0.0)


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_an_export_that_differs_is_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Any
) -> None:
    name = f"_write_{format}"
    write = getattr(export_verb, name)
    monkeypatch.setattr(export_verb, name, lambda m, e, p: write(FixedBatch(m).eval(), e, p))
    with pytest.raises(HeedError, match=f"the {format} file differs from the model by 0.0"):
        export(toy, run, format=format, out=tmp_path / "model")
    assert not any(tmp_path.iterdir())


def test_a_model_that_cannot_be_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Tokens.forward

    def branching(self: Tokens, x: Tensor) -> Tensor:
        return forward(self, x) if float(x.sum()) > 0 else -forward(self, x)

    monkeypatch.setattr(Tokens, "forward", branching)
    with pytest.raises(HeedError, match="Tokens cannot be exported to torch: "):
        export(toy, run, format="torch", out=tmp_path / "model.pt2")
    assert not any(tmp_path.iterdir())
