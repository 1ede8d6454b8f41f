from __future__ import annotations

import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from shared_runtime import discovery
from shared_runtime.cli import domain_app, root
from shared_runtime.console import guarded
from shared_runtime.domain import DomainOption
from shared_runtime.errors import DataError, UsageError
from tests.shared_runtime.toy_domain.cli import app

ROOT = Path(__file__).parents[2]
HEAVY = "torch lightning pandas matplotlib numpy scipy yaml jinja2 shared_attention"
TOY = EntryPoint("toy", "tests.shared_runtime.toy_domain.cli:app", discovery.GROUP)
BROKEN = EntryPoint("broken", "tests.shared_runtime.no_such_module:app", discovery.GROUP)

FROZEN = {
    "sample": "--out --seed --debug",
    "check": "--data --config --set --json --debug --target",
    "train": "--data --model --attention --out --seed --config --device --set --resume "
    "--dry-run --quiet -q --debug --target",
    "evaluate": "--run --data --split --out --device --set --quiet -q --debug",
    "predict": "--run --data --out --pattern --overwrite --device --quiet -q --debug --set",
    "explain": "--run --data --out --device --quiet -q --debug",
    "models": "--json --debug",
    "export": "--run --format --out --quiet -q --debug",
    "benchmark": "--data --model --rounds --seed --device --set --json --debug",
}


def test_the_list_of_options_is_frozen() -> None:
    """A new setting belongs into `--set`; a new flag needs a reason and a change here."""
    group = typer.main.get_command(app)
    found = {
        name: {flag for option in command.params for flag in option.opts}
        for name, command in group.commands.items()
    }
    assert found == {name: set(flags.split()) for name, flags in FROZEN.items()}
    assert max(len(command.params) for command in group.commands.values()) <= 14


@pytest.mark.parametrize("arguments", [["--help"], ["toy", "--help"], ["toy", "train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = f"""
        import sys
        from importlib.metadata import EntryPoint
        from shared_runtime import discovery
        point = EntryPoint("toy", {TOY.value!r}, discovery.GROUP)
        discovery.entry_points = lambda group: [point]
        from shared_runtime.cli import main
        sys.argv = ["heed", *{arguments!r}]
        try:
            main()
        except SystemExit as end:
            assert end.code == 0, end.code
        heavy = sorted(set({HEAVY!r}.split()) & set(sys.modules))
        assert not heavy, heavy
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Usage: heed" in ended.stdout


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "entry_points", lambda group: [TOY, BROKEN])


def test_root_finds_domains_and_survives_a_broken_one(installed: None) -> None:
    help_text = CliRunner().invoke(root(), ["--help"]).stdout
    assert "toy " in help_text and "attention " in help_text and "demo " in help_text
    assert "(does not load: No module" in help_text
    broken = CliRunner().invoke(root(), ["broken", "train", "--data", "x"])
    assert broken.exit_code == 1
    assert "heed: error: the domain broken does not load" in broken.stderr
    assert CliRunner().invoke(root(), ["toy", "train", "--help"]).exit_code == 0
    assert CliRunner().invoke(root(), ["nothing"]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train"], 2, "heed: error: data.path is needed"),
        (["train", "--data", "absent.csv"], 3, "absent.csv: cannot be read"),
        (["train", "--data", "x", "--model", "Lin"], 2, "did you mean Line?"),
        (["train", "--data", "x", "--resume"], 2, "--resume needs --out"),
        (["train", "--data", "x", "--config", "no.yaml"], 2, "cannot read the configuration"),
        (["train", "--data", "x", "--set", "a.b=1"], 2, "unknown key 'a.b'"),
        (["train", "--bogus"], 2, "--bogus"),
        (["train", "--seed", "x"], 2, "Invalid value for '--seed'"),
        (["evaluate"], 2, "--run is needed"),
        (["evaluate", "--run", "absent"], 2, "absent: holds no trained model"),
        (
            ["evaluate", "--run", "absent", "--set", "model.d_model=3"],
            2,
            "a trained model is fixed",
        ),
        (["predict", "--data", "x"], 2, "--run and --data are needed"),
        (["explain"], 2, "--run is needed"),
        (["export"], 2, "--run is needed"),
        (["sample"], 2, "--out is needed"),
        (["check"], 2, "data.path is needed"),
        (["benchmark", "--rounds", "0"], 2, "--rounds: expected at least 1, got 0"),
        (["benchmark", "--model", "Lime"], 2, "did you mean Line?"),
    ],
)
def test_mistakes_end_with_one_line_and_their_code(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert not any(tmp_path.iterdir()), "nothing is written"


def ended(error: BaseException, values: dict[str, object]) -> int:
    with pytest.raises(typer.Exit) as caught, guarded("toy", values):
        raise error
    return caught.value.exit_code


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(UsageError("u"), {}) == 2
    assert ended(DataError("d"), {}) == 3
    assert ended(KeyboardInterrupt(), {}) == 130
    assert ended(ModuleNotFoundError("No module named 'spam'", name="spam.eggs"), {}) == 1
    assert capsys.readouterr().err.splitlines() == [
        "heed: error: u",
        "heed: error: d",
        "heed: interrupted",
        "heed: error: toy needs spam, which is not installed: pip install 'heed[toy]'",
    ]


def test_a_crash_is_one_line_and_says_where_the_traceback_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HEED_DEBUG", raising=False)
    assert ended(RuntimeError("two\nlines"), {"out": tmp_path}) == 1
    assert capsys.readouterr().err == (
        "heed: error: RuntimeError: two lines (repeat with --debug for the traceback)\n"
    )
    log = tmp_path / "run.log"
    log.write_text("before\n")
    assert ended(RuntimeError("two\nlines"), {"out": None, "run": tmp_path}) == 1
    assert capsys.readouterr().err == (
        f"heed: error: RuntimeError: two lines (traceback in {log})\n"
    )
    assert log.read_text().startswith("before\nTraceback (most recent call last)")
    ended(RuntimeError("x"), {"debug": True})
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    monkeypatch.setenv("HEED_DEBUG", "1")
    ended(RuntimeError("x"), {})
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_missing_dependency_of_a_domain_names_the_extra() -> None:
    absent = domain_app("bird", "tests.shared_runtime.needs_missing", summary="s")
    result = CliRunner().invoke(absent, ["models"])
    assert result.exit_code == 1
    assert result.stderr == (
        "heed: error: bird needs nosuchpackage, which is not installed: pip install 'heed[bird]'\n"
    )


def test_domain_options_only_where_there_is_a_configuration() -> None:
    option = DomainOption("--level", "data.level", int, "Level.", ("explain",))
    with pytest.raises(ValueError, match="--level: the verb explain takes no configuration"):
        domain_app("x", "x.domain", summary="s", options=(option,))
