"""Crossover lengths, limits, resuming and errors of `heed attention benchmark`."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared_attention import attention, catalogue, masks
from shared_runtime.attention_benchmark import arms, errors, memory, running
from shared_runtime.attention_benchmark.cells import PASSES, Cell, Settings, plan
from shared_runtime.attention_benchmark.command import TABLE, benchmark, read_rows
from shared_runtime.attention_benchmark.crossover import crossovers
from shared_runtime.errors import UsageError

SMALL = Settings(heads=4, head_dim=32, rounds=1, budget=0.01)


def rows(speeds: dict[int, float | str], baseline_fits_to: int = 10**9) -> list[dict[str, Any]]:
    """A table of one mechanism: times its baseline's speed, or a status."""
    found: list[dict[str, Any]] = []
    for length, speed in speeds.items():
        base = {"mask": "full", "pass": "forward", "length": length, "baseline": "sdpa"}
        fits = length <= baseline_fits_to
        found.append(
            base | {"mechanism": "sdpa", "family": "baseline", "status": "ok" if fits else "time"}
        )
        row = base | {"mechanism": "flow", "family": "attention", "status": "ok"}
        if isinstance(speed, str):
            row["status"] = speed
        else:
            row |= {"seconds": 1.0, "baseline_seconds": speed if fits else None}
        found.append(row)
    return found


@pytest.mark.parametrize(
    ("speeds", "first", "text"),
    [
        ({512: 2.0, 1024: 3.0}, 512, "512 or less"),
        ({512: 0.5, 1024: 1.5, 2048: 2.0}, 1024, "512 to 1,024"),
        ({512: 0.5, 1024: 0.9}, None, "none up to 1,024"),
        ({512: 0.5, 1024: 1.04}, None, "none up to 1,024"),
        ({512: 1.5, 1024: 0.9}, None, "none that lasts (faster at 512)"),
        ({512: 1.5, 1024: "memory"}, None, "none that lasts (faster at 512)"),
        ({512: 1.5, 1024: "failed"}, 512, "512 or less"),
        ({512: "failed"}, None, "not measured"),
    ],
)
def test_crossover(speeds: dict[int, float | str], first: int | None, text: str) -> None:
    (found,) = crossovers(rows(speeds))
    assert (found.first, found.text) == (first, text)


def test_a_mechanism_that_fits_where_the_baseline_does_not_pays() -> None:
    (found,) = crossovers(rows({512: 0.5, 1024: 0.1}, baseline_fits_to=512))
    assert found.text == "512 to 1,024"


def test_the_plan_has_every_mechanism_with_the_masks_it_takes() -> None:
    cells = plan(list(catalogue().values()), [1024, 512, 512])
    assert {cell.mechanism for cell in cells} == {*catalogue(), "sdpa", "sdpa_layer"}
    assert [cell.length for cell in cells] == sorted(cell.length for cell in cells)
    of = {(c.mechanism, c.mask) for c in cells}
    assert ("arrow", "causal") not in of and ("liger", "full") not in of
    assert {("flow", "full"), ("flow", "causal"), ("scan", "causal")} <= of


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_mechanism_can_be_called_in_both_passes(name: str) -> None:
    cell = plan([catalogue()[name]], [64])[-1]
    arm = arms.build(cell, SMALL)
    assert arm.forward().isfinite().all()
    arm.training()


@pytest.mark.parametrize("causal", [False, True])
def test_the_error_of_softmax_is_rounding_and_that_of_another_function_its_distance(
    causal: bool,
) -> None:
    inputs = errors.related(SMALL, 100)
    out = attention(**inputs, mask=masks.causal() if causal else None)
    assert errors.relative_error(out, **inputs, causal=causal) < 1e-5
    assert math.isclose(
        errors.relative_error(1.25 * out, **inputs, causal=causal), 0.25, rel_tol=1e-3
    )
    assert errors.relative_error(out, **inputs, causal=not causal) > 0.1


def test_related_inputs_attend_to_their_topic() -> None:
    q, k, _ = errors.related(SMALL, 64 * 64).values()
    scores = q[0, 0, :64] @ k[0, 0].mT / math.sqrt(32)
    assert 5 < float(scores.diagonal().mean()) < 7 and abs(float(scores.mean())) < 1


def test_only_mechanisms_without_parameters_have_errors() -> None:
    assert set(errors.KINDS) <= {n for n, spec in catalogue().items() if spec.function is not None}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_tells_of_memory(error: Exception, expected: bool) -> None:
    assert memory.ran_out(error) is expected


def test_limits_are_told_and_longer_lengths_are_not_tried() -> None:
    settings = Settings(rounds=1, budget=0.01, limit_gib=0.05)
    cells = [Cell("auto_correlation", "attention", "full", n) for n in (100_000, 200_000)]
    found = running.run(cells, settings, [])
    assert {row["status"] for row in found} == {"memory"}
    assert [row["detail"] for row in found[2:]] == ["not tried: 100,000 did not fit"] * 2
    slow = Settings(rounds=10**6, budget=100.0, limit_seconds=0.3)
    (row, *_) = running.run([Cell("flow", "attention", "full", 512)], slow, [])
    assert (row["status"], row["detail"]) == ("time", "over 0.3 s")


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def stop(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(["lama"], [32, 64], SMALL, out=tmp_path, tell=stop)
    before = read_rows(tmp_path / TABLE)
    assert [row["pass"] for row in before] == list(PASSES)
    with pytest.raises(UsageError, match="--resume"):
        benchmark(["lama"], [32, 64], SMALL, out=tmp_path)
    found = benchmark(["lama"], [32, 64], SMALL, out=tmp_path, resume=True)
    assert found[:2] == before and len(found) == 8
    assert all(row["status"] == "ok" and row["seconds"] > 0 for row in found)
    assert {"speed.png", "memory.png", "crossovers.csv"} <= {p.name for p in tmp_path.iterdir()}
    assert read_rows(tmp_path / TABLE) == found
    tmp_path.joinpath("other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="is no table"):
        read_rows(tmp_path / "other.csv")


def test_memory_counts_what_a_call_holds() -> None:
    code = (
        "import torch; from shared_runtime.attention_benchmark import memory;"
        "hold = lambda: torch.ones(20, 2**20).sum(1);"
        "print(memory.peak_of(hold, torch.device('cpu'))[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "None":
        pytest.skip("this system does not tell the memory of a process")
    assert 75 * 2**20 <= int(done.stdout) <= 120 * 2**20
