"""Window attention beside torchvision's and MONAI's, with the same weights.

    pip install torchvision monai
    python scripts/benchmarks/swin_window.py --threads 1

Outputs are compared first; times are the least of interleaved rounds, in processor seconds. What
is timed is the attention part of a Swin block: partition, shift, projections, attention, merge.
MONAI gets its mask ready made; `monai flash` is its option `use_flash_attention`, for inference.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
from timing import interleaved
from torch import Tensor, nn

from shared_attention.mechanisms.swin_window import SwinWindowAttention


class Case(NamedTuple):
    """Sizes of one comparison."""

    batch: int
    grid: tuple[int, ...]
    channels: int
    heads: int
    window: int
    shift: int


CASES = (
    Case(4, (56, 56), 96, 3, 7, 0),
    Case(4, (56, 56), 96, 3, 7, 3),
    Case(4, (14, 14), 384, 12, 7, 3),
    Case(2, (48, 48), 128, 4, 12, 6),
    Case(1, (28, 28, 28), 48, 3, 7, 0),
    Case(1, (28, 28, 28), 48, 3, 7, 3),
    Case(1, (14, 14, 14), 96, 6, 7, 3),
)
"""Swin-T's first and third stages, a window of 12, and Swin UNETR's first and second stages."""


def copy_weights(ours: SwinWindowAttention, theirs: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            theirs.get_parameter(name).copy_(parameter)


def torchvision_way(case: Case, ours: SwinWindowAttention) -> Callable[[Tensor], Tensor]:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    sizes = [case.window] * 2, [case.shift] * 2
    theirs = ShiftedWindowAttention(case.channels, *sizes, case.heads)
    copy_weights(ours, theirs)
    return theirs


def monai_way(
    case: Case, ours: SwinWindowAttention, flash: bool = False
) -> Callable[[Tensor], Tensor]:
    from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask

    dims = len(case.grid)
    sizes = (case.window,) * dims, (case.shift,) * dims
    block = SwinTransformerBlock(case.channels, case.heads, *sizes, qkv_bias=True)
    block.norm1 = nn.Identity()
    block.attn.use_flash_attention = flash
    copy_weights(ours, block.attn)
    mask = compute_mask(list(case.grid), *sizes, torch.device("cpu")) if case.shift else None
    return lambda x: block.forward_part1(x, mask)


def ways_of(case: Case, installed: set[str]) -> dict[str, Callable[[Tensor], Tensor]]:
    ours = SwinWindowAttention(
        case.channels,
        num_heads=case.heads,
        window=case.window,
        shift=case.shift,
        dims=len(case.grid),
    )
    nn.init.normal_(ours.relative_position_bias_table)
    ways: dict[str, Callable[[Tensor], Tensor]] = {"ours": ours}
    if "torchvision" in installed and len(case.grid) == 2:
        ways["torchvision"] = torchvision_way(case, ours)
    if "monai" in installed:
        ways["monai"] = monai_way(case, ours)
        ways["monai flash"] = monai_way(case, ours, flash=True)
    return ways


def compare(case: Case, installed: set[str], repeats: int) -> list[str]:
    ways = ways_of(case, installed)
    x = torch.randn(case.batch, *case.grid, case.channels)
    with torch.no_grad():
        expected = ways["ours"](x)
        errors = {name: (way(x) - expected).abs().max().item() for name, way in ways.items()}
        inference = interleaved(
            {name: lambda way=way: way(x) for name, way in ways.items()}, repeats
        )
    x.requires_grad_()
    training = interleaved(
        {
            name: lambda way=way: way(x).square().mean().backward()
            for name, way in ways.items()
            if name != "monai flash"
        },
        repeats,
    )
    rows = []
    for name in list(ways)[1:]:
        cells = [
            f"{case.batch}x{'x'.join(map(str, case.grid))}x{case.channels}/{case.heads}",
            f"{case.window}, {case.shift}",
            name,
            f"{errors[name]:.0e}",
        ]
        for times in (inference, training):
            if name in times:
                ratio = times[name] / times["ours"]
                cells += [f"{1e3 * times['ours']:.1f}", f"{1e3 * times[name]:.1f}", f"{ratio:.2f}"]
            else:
                cells += ["", "", ""]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    installed = {n for n in ("torchvision", "monai") if importlib.util.find_spec(n) is not None}
    if not installed:
        raise SystemExit(
            "swin_window benchmark: neither torchvision nor monai is installed; "
            "pip install torchvision monai"
        )
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {arguments.threads} thread(s); a ratio above 1 is ours faster"
    )
    print(
        "| batch x grid x channels/heads | window, shift | other | difference "
        "| forward ms | theirs | ratio | training ms | theirs | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        print("\n".join(compare(case, installed, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
