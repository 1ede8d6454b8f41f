"""`heed attention`: list, check and time the mechanisms of the core."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from shared_runtime.console import guarded, say
from shared_runtime.errors import HeedError, UsageError

CAPABILITIES = (
    "causal",
    "cross",
    "key_padding",
    "dense_mask",
    "bias",
    "bias_grad",
    "grouped_heads",
    "state",
    "weights",
)

app = typer.Typer(
    help="List, check and time the attention mechanisms.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@app.command("list")
def list_mechanisms(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List every mechanism with its complexity, capabilities and paper."""
    from shared_attention import catalogue
    from shared_runtime.results import aligned

    with guarded("all", {}):
        rows = [_describe(spec) for spec in catalogue().values()]
        if as_json:
            print(json.dumps(rows, indent=2))
            return
        lines = [["NAME", "FAMILY", "COMPLEXITY", "CAN", "PAPER"]]
        for row in rows:
            can = " ".join(row["capabilities"])
            lines.append([row["name"], row["family"], row["complexity"], can, row["paper"]])
        print(aligned(lines))


@app.command("check")
def check(
    name: Annotated[Optional[str], typer.Argument(help="Mechanism.")] = None,  # noqa: UP045
    every: Annotated[bool, typer.Option("--all", help="Check every mechanism.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run the conformance kit on one mechanism, or on all."""
    with guarded("all", {"debug": debug}):
        if every == (name is not None):
            raise UsageError("give the name of one mechanism, or --all")
        from shared_attention import catalogue
        from shared_runtime.options import find_mechanism

        chosen = list(catalogue()) if name is None else [find_mechanism(name)]
        from shared_attention.testing import check_mechanism

        failed = []
        for mechanism in chosen:
            report = check_mechanism(mechanism)
            print(report)
            if not report.ok:
                failed.append(mechanism)
        if failed:
            raise HeedError(f"the conformance kit fails for: {', '.join(failed)}")


@app.command("benchmark")
def benchmark(
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Mechanisms; every one if absent.", show_default=False),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Numbers of positions.")] = "512,1024,2048,4096",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for costs.csv, crossovers.csv and pictures."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what --out holds.")] = False,
    batch: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    heads: Annotated[int, typer.Option(help="Heads.")] = 4,
    head_dim: Annotated[int, typer.Option(help="Width of a head.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, ...")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Threads on the CPU; PyTorch's number if absent."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of a cell at most.")] = 25,
    limit_seconds: Annotated[float, typer.Option(help="Seconds that a cell may take.")] = 120.0,
    limit_gib: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="GiB that a cell may take; half of the machine's if absent."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Time, memory and error of mechanisms beside fused softmax attention, over lengths."""
    with guarded("all", {"debug": debug, "out": out}):
        try:
            sizes = [int(length) for length in lengths.split(",")]
        except ValueError as error:
            raise UsageError(f"--lengths {lengths}: expected integers, such as 128,512") from error
        import torch

        from shared_runtime.attention_benchmark.cells import Settings
        from shared_runtime.attention_benchmark.command import benchmark, default_limit
        from shared_runtime.attention_benchmark.crossover import summary
        from shared_runtime.devices import resolve_device
        from shared_runtime.results import aligned

        place = resolve_device(device).type
        settings = Settings(
            batch=batch,
            heads=heads,
            head_dim=head_dim,
            dtype=dtype,
            device=place,
            threads=torch.get_num_threads() if threads is None else threads,
            rounds=rounds,
            limit_seconds=limit_seconds,
            limit_gib=default_limit(place) if limit_gib is None else limit_gib,
        )
        tell = _nothing if quiet else say
        rows = benchmark(names or (), sizes, settings, out=out, resume=resume, tell=tell)
        print(aligned(summary(rows)))


def _nothing(line: str) -> None:
    pass


def _describe(spec: Any) -> dict[str, Any]:
    return {
        "name": spec.name,
        "family": spec.family,
        "complexity": spec.complexity,
        "capabilities": [name for name in CAPABILITIES if spec.supports(name)],
        "paper": spec.paper,
        "options": [
            {"name": option.name, "default": option.shown_default, "help": option.help}
            for option in spec.options
        ],
    }
