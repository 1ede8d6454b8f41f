from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts" / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module(name)


def test_the_benchmark_states_rows_per_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("book_reading", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["book_reading.py", "--rows", "300", "--repeats", "1"])
    module.main()
    out = capsys.readouterr().out
    assert "rows/s" in out and "ratio" in out


def test_the_benchmark_of_preparation_states_each_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("book_preparation", monkeypatch)
    threads = str(pa.cpu_count())
    options = ["--rows", "4000", "--repeats", "1", "--threads", threads]
    monkeypatch.setattr(sys, "argv", ["book_preparation.py", *options])
    module.main()
    out = capsys.readouterr().out
    assert "ratio" in out and all(step in out for step in ("read", "windows", "labels", "scale"))


def test_both_sides_of_the_benchmark_prepare_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load("book_preparation", monkeypatch)
    paths = module.write_day(tmp_path, 4000, 10)
    _, windows = module.prepare(tmp_path)
    table, train = module.prepare_with_pandas(paths), windows["train"]
    labels = table["label_10"].to_numpy()[train.ends]
    assert np.mean(labels == train.label) > 0.99
    scaled = train.batch(np.arange(len(train)))["x"][:, -1, :40].numpy()
    book = table.iloc[train.ends, :40].to_numpy()
    np.testing.assert_allclose(scaled, book, rtol=1e-3, atol=2e-3)
    depth = table["depth"].to_numpy()[train.ends]
    assert np.corrcoef(depth, train.last()[:, -1])[0, 1] > 0.999
