"""Swin blocks on volumes and a whole encoder beside those of MONAI's SwinUNETR, weights equal.

    pip install monai
    python scripts/benchmarks/swin_volume.py --threads 1

Outputs are compared first and must agree; times are the least of interleaved rounds, in processor
seconds. A block is norm, attention in windows, norm and network; MONAI gets its mask ready made.
The encoder is all that SwinUNETR computes before its convolutions, masks included. MONAI reads
the position biases of other offsets where a grid is smaller than its window, so tables of such
stages are zero; all grids are multiples of their windows, as MONAI lets tokens attend to padding.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from monai.networks.nets.swin_unetr import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlock,
    compute_mask,
)
from timing import interleaved
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.models.parts.swin import (
    PatchEmbedding,
    PatchMerging,
    SwinBlock,
    swin_stage,
)
from domains.medical.models.parts.swin_attention import build_window_attention

AGREE = 1e-4
"""Largest difference of outputs, which are of the order of one."""
attention = functools.partial(build_window_attention, None)


class Block(NamedTuple):
    """Sizes of one block."""

    grid: tuple[int, int, int]
    channels: int
    heads: int
    window: int
    shift: int


class Encoder(NamedTuple):
    """Sizes of one encoder: a cube, its first channels, and its windows."""

    side: int
    channels: int
    window: int


BLOCKS = (
    Block((28, 28, 28), 48, 3, 7, 0),
    Block((28, 28, 28), 48, 3, 7, 3),
    Block((14, 14, 14), 96, 6, 7, 0),
    Block((14, 14, 14), 96, 6, 7, 3),
    Block((7, 7, 7), 192, 12, 7, 0),
    Block((24, 32, 24), 48, 3, 4, 0),
    Block((24, 32, 24), 48, 3, 4, 2),
)
"""SwinUNETR's first three stages for a cube of 56 with its window of 7, and a window of 4."""
ENCODERS = (Encoder(56, 48, 7), Encoder(64, 48, 4))


class OurEncoder(nn.Module):
    """Embedding and four stages, each followed by merging, whose maps are standardised."""

    def __init__(self, sizes: Encoder) -> None:
        super().__init__()
        widths = [sizes.channels * 2**at for at in range(4)]
        self.embed = PatchEmbedding(1, sizes.channels, 2, 3)
        self.embed.norm = nn.Identity()
        self.stages = nn.ModuleList(
            swin_stage(attention, width, heads, (sizes.window,) * 3, mlp_ratio=4, drop_paths=(0, 0))
            for width, heads in zip(widths, (3, 6, 12, 24), strict=True)
        )
        self.merge = nn.ModuleList(PatchMerging(width, 3) for width in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps `[B, C, *grid]`, finest first."""
        x = self.embed(image)
        maps = [x]
        for stage, merge in zip(self.stages, self.merge, strict=True):
            for block in stage:
                x = block(x)
            x = merge(x)
            maps.append(x)
        return [functional.layer_norm(x, x.shape[-1:]).movedim(-1, 1) for x in maps]


def copy_block(ours: SwinBlock, theirs: nn.Module) -> None:
    names = {"mlp.linear1": "mlp.0", "mlp.linear2": "mlp.3"}
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            for old, new in names.items():
                name = name.replace(old, new)
            parameter.copy_(ours.get_parameter(name))


def copy_merging(ours: PatchMerging, theirs: PatchMergingV2) -> None:
    """Copy; MONAI's neighbours stand with the last axis running fastest."""
    channels = ours.reduction.in_features // 8
    order = torch.arange(8 * channels).view(2, 2, 2, channels).permute(2, 1, 0, 3).flatten()
    with torch.no_grad():
        theirs.reduction.weight.copy_(ours.reduction.weight[:, order])
        theirs.norm.weight.copy_(ours.norm.weight[order])
        theirs.norm.bias.copy_(ours.norm.bias[order])


def copy_encoder(ours: OurEncoder, theirs: SwinTransformer, sizes: Encoder) -> None:
    theirs.patch_embed.load_state_dict(ours.embed.state_dict())
    side = sizes.side // 2
    layers = (theirs.layers1, theirs.layers2, theirs.layers3, theirs.layers4)
    for stage, merge, (layer,) in zip(ours.stages, ours.merge, layers, strict=True):
        for block, other in zip(stage, layer.blocks, strict=True):
            if side < sizes.window:
                nn.init.zeros_(block.attn.relative_position_bias_table)
            copy_block(block, other)
        copy_merging(merge, layer.downsample)
        side = -(-side // 2)


def randomise(module: nn.Module) -> None:
    """Draw biases of positions and scales of norms, which start at or near constants."""
    for name, parameter in module.named_parameters():
        if "table" in name or "norm" in name:
            nn.init.normal_(parameter, mean=float("weight" in name), std=0.3)


def block_ways(sizes: Block) -> tuple[Tensor, dict[str, Callable[[Tensor], list[Tensor]]]]:
    window, shift = (sizes.window,) * 3, (sizes.shift,) * 3
    attend = attention(sizes.channels, sizes.heads, window, shift)
    ours = SwinBlock(attend, sizes.channels, mlp_ratio=4, drop_path=0)
    randomise(ours)
    theirs = SwinTransformerBlock(sizes.channels, sizes.heads, window, shift)
    copy_block(ours, theirs)
    mask = compute_mask(list(sizes.grid), window, shift, torch.device("cpu"))
    given = mask if sizes.shift else None
    x = torch.randn(1, *sizes.grid, sizes.channels)
    return x, {"ours": lambda x: [ours(x)], "monai": lambda x: [theirs(x, given)]}


def encoder_ways(sizes: Encoder) -> tuple[Tensor, dict[str, Callable[[Tensor], list[Tensor]]]]:
    ours = OurEncoder(sizes)
    randomise(ours)
    theirs = SwinTransformer(
        in_chans=1,
        embed_dim=sizes.channels,
        window_size=(sizes.window,) * 3,
        patch_size=(2, 2, 2),
        depths=(2, 2, 2, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.0,
        downsample="mergingv2",
    )
    copy_encoder(ours, theirs, sizes)
    return torch.randn(1, 1, *(sizes.side,) * 3), {"ours": ours, "monai": theirs}


def compare(name: str, sizes: Block | Encoder, repeats: int) -> str:
    x, ways = block_ways(sizes) if isinstance(sizes, Block) else encoder_ways(sizes)
    with torch.no_grad():
        outputs = {way: call(x) for way, call in ways.items()}
        error = max(
            (one - other).abs().max().item()
            for one, other in zip(outputs["ours"], outputs["monai"], strict=True)
        )
        if error > AGREE:
            raise SystemExit(f"swin_volume benchmark: {name} {sizes}: outputs differ by {error}")
        inference = interleaved(
            {way: functools.partial(call, x) for way, call in ways.items()}, repeats
        )
    x.requires_grad_()

    def train(call: Callable[[Tensor], list[Tensor]]) -> None:
        sum(out.square().mean() for out in call(x)).backward()

    training = interleaved(
        {way: functools.partial(train, call) for way, call in ways.items()}, repeats
    )
    cells = [name, " ".join(map(str, sizes)), f"{error:.0e}"]
    for times in (inference, training):
        cells += [f"{1e3 * times[way]:.0f}" for way in ("ours", "monai")]
        cells.append(f"{times['monai'] / times['ours']:.2f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("block", "encoder"), default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, {arguments.threads} thread(s); a ratio above 1 is ours faster"
    )
    print(
        "| what | sizes | difference | inference ms | MONAI's | ratio "
        "| training ms | MONAI's | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, cases in (("block", BLOCKS), ("encoder", ENCODERS)):
        for sizes in cases if arguments.only in (None, name) else ():
            print(compare(name, sizes, arguments.repeats), flush=True)


if __name__ == "__main__":
    main()
