from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "benchmarks" / "book_reading.py"


def test_the_benchmark_states_rows_per_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("book_reading", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["book_reading.py", "--rows", "300", "--repeats", "1"])
    module.main()
    out = capsys.readouterr().out
    assert "rows/s" in out and "ratio" in out
