from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from shared_attention import catalogue, testing
from shared_attention.testing.report import Check, Report
from shared_runtime.cli import root


def heed(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(root(), ["attention", *arguments])
    assert result.exit_code == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def test_list() -> None:
    rows = json.loads(heed("list", "--json"))
    assert [row["name"] for row in rows] == list(catalogue())
    softmax = next(row for row in rows if row["name"] == "softmax")
    assert "causal" in softmax["capabilities"] and softmax["paper"]
    assert all(row["name"] in heed("list") for row in rows)


def test_benchmark_prints_crossovers() -> None:
    lines = heed("benchmark", "softmax", "lama", "--lengths", "8,16", "--rounds", "1").splitlines()
    assert lines[0].startswith("NAME") and "SPEED AT 16" in lines[0]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["softmax", "full"],
        ["softmax", "causal"],
        ["lama", "full"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "give the name of one mechanism, or --all"),
        (["check", "softmax", "--all"], "give the name of one mechanism, or --all"),
        (["check", "sofmax"], "did you mean softmax?"),
        (["benchmark", "--lengths", "8,x"], "--lengths 8,x: expected integers"),
        (["benchmark", "--rounds", "0"], "--rounds: expected a positive number"),
        (["benchmark", "sofmax"], "did you mean softmax?"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    assert message in heed(*arguments, code=2)


def test_check_prints_the_report_and_fails_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str) -> Report:
        status = "failed" if name == "window" else "passed"
        return Report(name, (Check("causality", status, "why"),))

    monkeypatch.setattr(testing, "check_mechanism", check)
    assert heed("check", "SoftMax").startswith("softmax: 1 passed, 0 failed")
    assert "the conformance kit fails for: window" in heed("check", "--all", code=1)
