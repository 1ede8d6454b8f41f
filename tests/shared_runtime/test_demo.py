from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from shared_runtime import discovery
from shared_runtime.cli import root
from shared_runtime.demo import demo
from shared_runtime.domain import Domain
from shared_runtime.errors import UsageError
from tests.shared_runtime.test_cli import TOY
from tests.shared_runtime.toy_domain import domain as toy


def absent() -> Domain:
    raise ModuleNotFoundError("No module named 'feathers'")


def test_every_domain_in_turn_and_one_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    items = demo({"bird": absent, "toy": lambda: toy}, out)
    assert [(item.domain, bool(item.error)) for item in items] == [("bird", True), ("toy", False)]
    page = (out / "index.html").read_text()
    assert "bird did not finish" in page and items[1].link in page
    assert (out / items[1].link).is_file()
    for name in ("toy/sample/rows.csv", "toy/predictions.csv", "toy/explain/explain.html"):
        assert (out / name).is_file()
    said = capsys.readouterr().err
    assert "[1/2] bird" in said and "[2/2] toy" in said and "No module named 'feathers'" in said
    with pytest.raises(UsageError, match="is not an empty folder"):
        demo({}, out)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "entry_points", lambda group: [TOY])
    result = CliRunner().invoke(root(), ["demo", "--out", str(tmp_path / "demo")])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'demo' / 'index.html'}\n"

    def fail(*_: object, **__: object) -> ModuleType:
        raise RuntimeError("boom")

    monkeypatch.setattr(toy, "prepare", fail)
    result = CliRunner().invoke(root(), ["demo", "--out", str(tmp_path / "again")])
    assert result.exit_code == 1
    assert "heed: error: failed: toy" in result.stderr
    assert "boom" in (tmp_path / "again/index.html").read_text()
    monkeypatch.setattr(discovery, "entry_points", lambda group: [])
    result = CliRunner().invoke(root(), ["demo", "--out", str(tmp_path / "none")])
    assert "no domain is installed: pip install 'heed[all]'" in result.stderr
