"""Small models and the command, for the tests of finance runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from typer.testing import CliRunner

from domains.finance import domain as finance
from domains.finance.cli import app
from shared_runtime.domain import Domain
from shared_runtime.options import RunConfig, find_model, model_arguments, resolve

DOMAIN = cast(Domain, finance)
LOOKBACK = 8
FI2010 = ["data.label=given", "data.features=given"]
_SIZES = {"d_model": 8, "num_heads": 1, "d_ff": 8, "layers": 1}


def configuration(
    data: Path, model: str, sets: Sequence[str] = (), attention: str | None = None
) -> RunConfig:
    """A small model, trained for one epoch on every eighth window."""
    known = model_arguments(find_model(DOMAIN, model))
    settings = [f"model.{name}={value}" for name, value in _SIZES.items() if name in known]
    settings += [f"data.lookback={LOOKBACK}", "data.train_stride=8", "device=cpu"]
    settings += ["training.epochs=1", "training.batch_size=64", *sets]
    flags = {"data.path": data, "model.name": model, "attention.name": attention}
    return resolve(DOMAIN, flags=flags, sets=settings)


def first_lines(path: Path, out: Path, count: int) -> Path:
    lines = path.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:count]))
    return out


def heed(*arguments: object, code: int = 0) -> str:
    """Run the command; return what it says."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output or result.exception
    assert "Traceback" not in result.output
    return result.output
