"""`heed attention`: list, check and time the mechanisms of the core."""

from __future__ import annotations

import json
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
    lengths: Annotated[str, typer.Option(help="Sequence lengths.")] = "128,512,1024",
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 5,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Time every mechanism of the attention family against softmax attention."""
    with guarded("all", {"debug": debug}):
        try:
            sizes = [int(length) for length in lengths.split(",")]
        except ValueError as error:
            raise UsageError(f"--lengths {lengths}: expected integers, such as 128,512") from error
        if min(sizes) < 1 or rounds < 1:
            raise UsageError("--lengths and --rounds: expected positive integers")
        say(
            "batch 4, 4 heads of 32; forward without mask, those marked causal with one; "
            "time as a ratio to softmax without mask"
        )
        print(_time_table(sizes, rounds))


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


def _time_table(lengths: list[int], rounds: int) -> str:
    from functools import partial

    import torch

    from shared_attention import catalogue, masks
    from shared_runtime.results import aligned
    from shared_runtime.timing import interleaved

    modules = {
        name: spec.build(num_heads=4, head_dim=32).eval()
        for name, spec in catalogue().items()
        if spec.family == "attention"
    }
    always = {n for n in modules if catalogue()[n].capabilities.causal == "always"}
    columns = []
    for length in lengths:
        q, k, v = torch.randn(3, 4, 4, length, 32).unbind(0)
        calls = {
            name: partial(module, q, k, v, mask=masks.causal() if name in always else None)
            for name, module in modules.items()
        }
        with torch.inference_mode():
            columns.append(interleaved(calls, rounds=rounds, device=q.device))
    lines = [["NAME", *(f"L={length}" for length in lengths)]]
    lines += [
        [
            f"{name} (causal)" if name in always else name,
            *(f"{column[name] / column['softmax']:.2f}" for column in columns),
        ]
        for name in modules
    ]
    return aligned(lines)
