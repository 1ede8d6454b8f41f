"""Every domain does every verb end to end, from a temporary folder, through its command."""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from shared_runtime.attention_cli import CAPABILITIES
from shared_runtime.domain import ModelSpec
from shared_runtime.options import find_model, model_arguments, resolve

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "domains").glob("*/domain.py"))
PACKAGES = ["tests.shared_runtime.toy_domain", *(f"domains.{path.name}" for path in FOLDERS)]
WRITTEN = [
    "config.yaml",
    "environment.json",
    "run.log",
    "history.csv",
    "last.ckpt",
    "model.safetensors",
    "model.json",
    "manifest.json",
    "metrics.json",
    "report.html",
]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A domain with its sample and one short run."""

    domain: Any
    app: Any
    spec: ModelSpec
    data: Path
    run: Path
    stdout: str
    stderr: str

    @property
    def item(self) -> Path:
        """One thing to predict for."""
        return self.domain.items(self.data, "*")[0] if self.data.is_dir() else self.data

    def __call__(self, *arguments: object, code: int = 0) -> str:
        return invoke(self.app, *arguments, code=code).stdout


def invoke(app: Any, *arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, f"{arguments}: {result.stderr}"
    return result


@pytest.fixture(scope="module", params=PACKAGES, ids=lambda name: name.rpartition(".")[2])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    domain = importlib.import_module(f"{request.param}.domain")
    app = importlib.import_module(f"{request.param}.cli").app
    folder = tmp_path_factory.mktemp(domain.NAME)
    listed = invoke(app, "sample", "--out", folder / "sample", "--seed", 1).stdout.splitlines()
    assert 0 < len(listed) <= 20
    assert all(Path(line.split(": ")[0]).exists() for line in listed)
    spec = find_model(domain, domain.DEMO["model"])
    data = folder / "sample" / domain.SAMPLES[spec.task]
    ended = invoke(app, *arguments(domain, data), "--out", folder / "run")
    return Trained(domain, app, spec, data, folder / "run", ended.stdout, ended.stderr)


def _copy(data: Path, to: Path) -> None:
    shutil.copytree(data, to) if data.is_dir() else shutil.copyfile(data, to)


def _contents(data: Path) -> dict[str, bytes]:
    files = [p for p in data.rglob("*") if p.is_file()] if data.is_dir() else [data]
    return {p.relative_to(data.parent).as_posix(): p.read_bytes() for p in files}


def arguments(domain: Any, data: Path) -> list[object]:
    settings = [*domain.DEMO["set"], "training.epochs=1"]
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["train", "--data", data, "--model", domain.DEMO["model"], "--device", "cpu", *sets]


def test_hooks(trained: Trained) -> None:
    domain = trained.domain
    assert trained.app.domain_name == domain.NAME
    assert trained.app.domain_module == domain.__name__
    first = dataclasses.fields(domain.DataConfig)[0]
    assert first.name == "path"
    assert domain.DEFAULT_MODEL in domain.models()
    assert {spec.task for spec in domain.models().values()} <= set(domain.SAMPLES)


def test_models_can_be_built_by_name(trained: Trained) -> None:
    for name, spec in trained.domain.models().items():
        assert name == spec.name == spec.load().__name__
        assert spec.paper and spec.summary
        for argument in model_arguments(spec).values():
            assert argument.type is not Any, f"{name}.{argument.name} has no type"


def test_sample_is_the_same_for_the_same_seed_and_refuses_a_full_folder(
    trained: Trained, tmp_path: Path
) -> None:
    trained("sample", "--out", tmp_path / "again", "--seed", 1)
    name = trained.data.relative_to(trained.run.parent / "sample")
    assert _contents(tmp_path / "again" / name) == _contents(trained.data)
    trained("sample", "--out", tmp_path / "again", code=2)


def test_check_finds_nothing_wrong_with_the_sample(trained: Trained) -> None:
    problems = json.loads(trained("check", "--data", trained.data, "--json"))
    assert [p for p in problems if p["severity"] == "error"] == []
    assert "0 errors" in trained("check", "--data", trained.data)


def test_data_that_are_none_fail_their_checks(trained: Trained, tmp_path: Path) -> None:
    for content in (b"", b"\x00\xff\xfe garbage \n", b"a,b\n1\n2,3,4\n"):
        bad = tmp_path / trained.data.name
        bad.write_bytes(content)
        for verb in ("check", "train"):
            result = invoke(trained.app, verb, "--data", bad, code=3)
            assert str(bad) in result.stdout + result.stderr
            assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_run_folder(trained: Trained) -> None:
    names = {path.name for path in trained.run.iterdir()}
    assert set(WRITTEN) <= names
    assert {"predictions.csv", "predictions.parquet"} & names
    assert not [name for name in names if name.endswith(".partial")]
    history = pd.read_csv(trained.run / "history.csv")
    assert list(history["epoch"]) == [1]
    assert history[["train_loss", "val_loss"]].notna().all(axis=None)
    assert json.loads((trained.run / "environment.json").read_text())["finished"]
    assert "epoch 1" in (trained.run / "run.log").read_text()


def test_metrics(trained: Trained) -> None:
    metrics = json.loads((trained.run / "metrics.json").read_text())
    assert set(metrics) == {"model", "split", "n_scored", "seed", "metrics", "baselines"}
    assert (metrics["model"], metrics["split"], metrics["seed"]) == (trained.spec.name, "test", 0)
    assert metrics["n_scored"] > 0
    for name, metric in metrics["metrics"].items():
        assert name == name.lower()
        assert set(metric) == {"value", "ci_low", "ci_high"}
        if metric["ci_low"] is not None:
            assert metric["ci_low"] <= metric["value"] <= metric["ci_high"]
    assert metrics["baselines"], "naive baselines are in every table"
    for values in metrics["baselines"].values():
        assert set(values) <= set(metrics["metrics"]) and values


def test_results_on_stdout_and_progress_on_stderr(trained: Trained) -> None:
    metrics = json.loads((trained.run / "metrics.json").read_text())
    for name in (trained.spec.name, *metrics["baselines"]):
        assert name in trained.stdout
    shown = [name for name in metrics["metrics"] if name in trained.stdout]
    assert len(shown) >= min(5, len(metrics["metrics"]))
    assert f"{metrics['n_scored']} items scored" in trained.stdout
    assert "epoch 1" in trained.stderr and "epoch 1" not in trained.stdout


def test_report_is_complete_in_itself(trained: Trained) -> None:
    report = (trained.run / "report.html").read_text()
    metrics = json.loads((trained.run / "metrics.json").read_text())
    for text in (trained.spec.name, "Results", "Training", "Environment", *metrics["baselines"]):
        assert text in report
    for outside in ("<script", "http://", "https://", "@import", 'src="/', "url(http"):
        assert outside not in report.replace("http://www.w3.org/2000/svg", ""), outside


def test_resolved_configuration_repeats_the_run(trained: Trained, tmp_path: Path) -> None:
    trained("train", "--config", trained.run / "config.yaml", "--out", tmp_path / "again", "-q")
    for name in ("config.yaml", "metrics.json", "model.safetensors", "model.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained.run / name).read_bytes(), name


def test_a_finished_run_is_not_overwritten(trained: Trained) -> None:
    before = {path: path.read_bytes() for path in trained.run.iterdir() if path.is_file()}
    again = [*arguments(trained.domain, trained.data), "--out", trained.run]
    result = invoke(trained.app, *again, code=2)
    assert "holds a finished run" in result.stderr
    assert all(path.read_bytes() == content for path, content in before.items())


def test_dry_run_writes_nothing(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = trained(*arguments(trained.domain, trained.data), "--dry-run")
    assert "loss:" in said and "would write to" in said
    assert not any(tmp_path.iterdir())


def test_evaluate_repeats_the_score(trained: Trained, tmp_path: Path) -> None:
    trained("evaluate", "--run", trained.run, "--out", tmp_path / "test")
    assert (tmp_path / "test/metrics.json").read_bytes() == (
        trained.run / "metrics.json"
    ).read_bytes()
    copy = tmp_path / trained.data.name
    _copy(trained.data, copy)
    trained("evaluate", "--run", trained.run, "--data", copy, "--out", tmp_path / "copy")
    assert (tmp_path / "copy/metrics.json").read_bytes() == (
        trained.run / "metrics.json"
    ).read_bytes()
    assert "val: " in trained("evaluate", "--run", trained.run, "--split", "val")


def test_predict_one_file(trained: Trained, tmp_path: Path) -> None:
    printed = trained("predict", "--run", trained.run, "--data", trained.item)
    for suffix in ("csv", "parquet"):
        out = tmp_path / f"p.{suffix}"
        trained("predict", "--run", trained.run, "--data", trained.item, "--out", out)
    assert printed == (tmp_path / "p.csv").read_text()
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert len(frame) == len(printed.splitlines()) - 1 > 0
    trained("predict", "--run", trained.run, "--data", trained.item, "--out", "x.txt", code=2)
    trained("predict", "--run", trained.run, "--data", tmp_path / "none.csv", code=3)


def test_predict_a_folder_with_a_bad_file(trained: Trained, tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    suffix = "".join(trained.item.suffixes)
    if trained.data.is_dir():
        shutil.copytree(trained.data, inputs)
    else:
        inputs.mkdir()
        shutil.copyfile(trained.data, inputs / f"good{suffix}")
    items = trained.domain.items(inputs, "*")
    good = [path.name for path in items]
    (items[0].parent / f"bad{suffix}").write_bytes(b"\x00\xff not data")
    base = ("predict", "--run", trained.run, "--data", inputs, "--out", out)
    result = invoke(trained.app, *base, code=4)
    assert f"{len(good)} done, 0 already done, 1 failed" in result.stdout
    assert f"bad{suffix}" in (out / "failures.csv").read_text()
    assert len(pd.read_csv(out / f"{good[0]}.predictions.csv")) > 0
    assert f"0 done, {len(good)} already done, 1 failed" in trained(*base, code=4)
    again = f"{len(good)} done, 0 already"
    assert again in trained(*base, "--pattern", "[!b]*", "--overwrite")
    trained("predict", "--run", trained.run, "--data", inputs, "--out", inputs, code=2)


def test_explain(trained: Trained, tmp_path: Path) -> None:
    if trained.spec.attention is None:
        pytest.skip(f"{trained.spec.name} has no attention")
    trained("explain", "--run", trained.run, "--out", tmp_path / "explain")
    names = {path.suffix for path in (tmp_path / "explain").iterdir()}
    assert {".html", ".png"} <= names


def test_models(trained: Trained) -> None:
    rows = json.loads(trained("models", "--json"))
    assert [row["name"] for row in rows] == list(trained.domain.models())
    assert all(row["parameters"] > 0 for row in rows)
    table = trained("models")
    assert all(row["name"] in table for row in rows)


def test_swapping_the_mechanism(trained: Trained, tmp_path: Path) -> None:
    if trained.spec.attention is None:
        pytest.skip(f"{trained.spec.name} has no attention")
    other = "linear" if trained.spec.attention == "softmax" else "softmax"
    base = [*arguments(trained.domain, trained.data), "--attention", other]
    trained(*base, "--out", tmp_path / "run", "-q")
    record = json.loads((tmp_path / "run/model.json").read_text())
    assert record["attention"]["name"] == other
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["attention"]["name"] == other


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_export(trained: Trained, tmp_path: Path, format: str) -> None:
    out = tmp_path / "model.bin"
    said = trained("export", "--run", trained.run, "--format", format, "--out", out)
    assert "same output as the original" in said
    assert out.stat().st_size > 0


def test_benchmark(trained: Trained) -> None:
    base = ("benchmark", "--rounds", 1, "--device", "cpu", "--json")
    name = trained.domain.DEFAULT_MODEL
    rows = json.loads(trained(*base, "--model", name, "--set", "training.batch_size=4"))
    assert [row["name"] for row in rows] == [name]
    assert rows[0]["train_ratio"] == rows[0]["inference_ratio"] == 1.0


def test_a_flipped_byte_is_noticed(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    result = invoke(trained.app, "predict", "--run", run, "--data", trained.item, code=1)
    assert "has changed since the model was saved" in result.stderr


def test_python_api_needs_no_command(trained: Trained) -> None:
    config = resolve(trained.domain, config=trained.run / "config.yaml")
    assert config.to_dict() == yaml.safe_load((trained.run / "config.yaml").read_text())


def test_capabilities_are_those_of_the_catalogue() -> None:
    from shared_attention import catalogue

    for spec in catalogue().values():
        assert all(isinstance(spec.supports(name), bool) for name in CAPABILITIES)
