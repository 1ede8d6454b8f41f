"""Aggregated attention: one softmax over a token's neighbours and a pooled view of the image."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.linear import Linear
from shared_attention.primitives.grid_blocks import around_blocks, blocks
from shared_attention.primitives.near_and_far import Cut, Parts, near_and_far
from shared_attention.references.aggregated import reference_aggregated
from shared_attention.spec import Capabilities, MechanismSpec, Option

HIDDEN = 512
"""Width of the position network, as published."""


class AggregatedAttention(nn.Module):
    """Attention of each pixel to its window and to a pooled image, jointly normalised.

    With q̂ = q/|q|, k̂ = k/|k| and n_i the number of keys that pixel i sees,
    s_ij = (q̂_i + e) k̂_jᵀ · softplus(τ) · log n_i + B_ij and A = softmax(s) over both kinds of
    keys; out_i = Σ_local (A_ij + q̂_i t_{j-i} + b_{j-i}) v_j + Σ_pooled A_ij v_j. Learned are the
    query embedding e, temperature τ, tokens t and b that act after the softmax, the biases of
    the window's offsets, and a network that gives B of pooled keys from log-spaced offsets.

    Windows are read as 4 x 4 blocks with the ring around them, one matrix product each; the
    published code unfolds keys and values ninefold. Image size is free (there it is fixed at
    construction), and coordinates of a grid with one row or column are not divided by zero.

    Args:
        channels: Width of inputs and outputs.
        num_heads: Heads; must divide `channels`.
        window: Side of the local window, odd.
        reduction: Side of a pooling cell: an H x W grid gives ⌊H / reduction⌋ x ⌊W / reduction⌋
            pooled keys, at least one.
        pretrained: Side of the grid that offsets are measured against; None: the input's own.
        qkv_bias: Whether the query, key and value projections have biases.

    Raises:
        ValueError: Sizes do not fit together.

    Source: Shi, TransNeXt, CVPR 2024, section 3.1-3.3, eq. 4-9.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 4,
        window: int = 3,
        reduction: int = 2,
        pretrained: int | None = None,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"aggregated: num_heads {num_heads} does not divide channels {channels}"
            )
        if window < 1 or window % 2 == 0:
            raise ValueError(f"aggregated: window got {window}, expected an odd number")
        if reduction < 1:
            raise ValueError(f"aggregated: reduction got {reduction}, expected at least 1")
        self.channels, self.num_heads = channels, num_heads
        self.window, self.reduction, self.pretrained = window, reduction, pretrained
        width, near = channels // num_heads, window**2
        self.q = Linear(channels, channels, bias=qkv_bias)
        self.kv = Linear(channels, 2 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        self.reduce = Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.position_in = nn.Linear(2, HIDDEN)
        self.position_out = nn.Linear(HIDDEN, num_heads)
        self.temperature = nn.Parameter(
            torch.full((num_heads, 1, 1), math.log(math.expm1(1 / 0.24)))
        )
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, width))
        self.local_bias = nn.Parameter(torch.empty(num_heads, near))
        self.tokens = nn.Parameter(torch.empty(num_heads, width, near))
        self.token_bias = nn.Parameter(torch.zeros(num_heads, 1, near))
        nn.init.trunc_normal_(self.query_embedding, std=0.02)
        nn.init.trunc_normal_(self.local_bias, std=0.0004)
        nn.init.trunc_normal_(self.tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Mix an image.

        Args:
            x: `[B, H, W, C]`.

        Returns:
            `[B, H, W, C]`.

        Raises:
            ValueError: `x` has another number of dimensions or channels.
        """
        self._check(x)
        grid = (x.shape[1], x.shape[2])
        pooled = self._pool(x)
        plan = plan_of(grid, (pooled.shape[1], pooled.shape[2]), self.window, x.device)
        wide = torch.promote_types(x.dtype, torch.float32)
        q, kv = self._heads(self.q(x).to(wide)), self._heads(self.kv(x).to(wide))
        gain, embedding = F.softplus(self.temperature.to(wide)), self.query_embedding.to(wide)
        far_k, far_v = self._far(pooled)
        tokens = self.tokens.to(wide)
        shared = [tokens.expand(len(x), -1, -1, -1), (far_k * gain).mT]
        parts = Parts(
            gain.flatten(1),
            embedding,
            torch.cat(shared, -1),
            far_v,
            torch.cat([self._local_bias(plan), self._far_bias(plan, grid)], -1).to(wide),
            self.token_bias.to(wide) - embedding @ tokens,
        )
        kv = kv.unflatten(3, (2, self.num_heads))
        cut = plan.cut._replace(log_count=plan.cut.log_count.to(wide))
        return self.proj(near_and_far(q, kv, parts, cut).to(x.dtype))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.channels // self.num_heads))

    def _pool(self, x: Tensor) -> Tensor:
        """The pooled image `[B, Hp, Wp, C]`."""
        cells = (max(1, x.shape[1] // self.reduction), max(1, x.shape[2] // self.reduction))
        reduced = self.reduce(x).to(torch.promote_types(x.dtype, torch.float32))
        pooled = F.adaptive_avg_pool2d(F.gelu(reduced).permute(0, 3, 1, 2), cells)
        return self.norm(pooled.permute(0, 2, 3, 1).to(x.dtype))

    def _far(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        kv = self.kv(pooled.flatten(1, 2))
        kv = kv.to(torch.promote_types(kv.dtype, torch.float32))
        k, v = self._heads(kv).transpose(1, 2).chunk(2, 1)
        return F.normalize(k, dim=-1), v

    def _local_bias(self, plan: Plan) -> Tensor:
        """Bias of the neighbours, -inf outside the grid; `[heads, M * n, window²]`."""
        return self.local_bias[:, None].masked_fill(~plan.in_grid, -math.inf)

    def _far_bias(self, plan: Plan, grid: tuple[int, int]) -> Tensor:
        """Bias of the pooled keys for the queries in block order, `[heads, M * n, P]`."""
        sides = torch.tensor([max(1, (self.pretrained or n) - 1) for n in grid])
        relative = plan.relative / sides.to(plan.relative) * 8
        spaced = relative.sign() * torch.log2(relative.abs() + 1) / 3
        hidden = self.position_in(spaced.to(self.position_in.weight.dtype)).relu_()
        table = self.position_out(hidden).T.contiguous()
        return table.index_select(1, plan.far_offset.flatten()).unflatten(1, plan.far_offset.shape)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 4 or not x.is_floating_point() or x.shape[-1] != self.channels:
            raise ValueError(
                f"aggregated: x is {x.dtype} of shape {list(x.shape)}, "
                f"expected floats [batch, height, width, {self.channels} channels]"
            )

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"window={self.window}, reduction={self.reduction}, num_heads={self.num_heads}"


class Plan(NamedTuple):
    """What depends on the grid only. M blocks of n queries."""

    cut: Cut
    in_grid: Tensor
    """Which neighbours there are, bool `[M * n, window²]`."""
    relative: Tensor
    """Distinct offsets of queries from pooled keys, in pixels, `[U, 2]`."""
    far_offset: Tensor
    """Which of them belongs to each query and pooled key, int64 `[M * n, P]`."""


def plan_of(
    grid: tuple[int, int], cells: tuple[int, int], window: int, device: torch.device
) -> Plan:
    """Work out a plan, or remember it."""
    make = _plan if torch.compiler.is_compiling() else _remembered
    return make(grid, cells, window, device)


def _plan(grid: tuple[int, int], cells: tuple[int, int], window: int, device: torch.device) -> Plan:
    size = _block(grid, window)
    inner, step = torch.arange(size), torch.arange(window)
    along = inner[:, None] + step
    side = size + window - 1
    place = along[:, None, :, None] * side + along[None, :, None, :]
    place = place.flatten(2, 3).flatten(0, 1)
    around = around_blocks(torch.ones(1, *grid, 1), size, window // 2)[0, :, :, 0] > 0
    in_grid = around[:, place].flatten(0, 1)
    log_count = torch.log(in_grid.sum(-1, keepdim=True) + float(math.prod(cells)))
    axes = [_offsets(*axis) for axis in zip(grid, cells, strict=True)]
    (rows, row_of), (columns, column_of) = axes
    relative = torch.cartesian_prod(rows, columns).reshape(-1, 2)
    far = row_of[:, None, :, None] * len(columns) + column_of[None, :, None, :]
    far = blocks(far.flatten(2)[None], size).flatten(0, 2)
    place, log_count, in_grid, relative, far = (
        part.to(device) for part in (place, log_count, in_grid, relative, far)
    )
    return Plan(Cut(grid, size, window, place, log_count), in_grid, relative, far)


def _block(grid: tuple[int, int], window: int) -> int:
    """Side of blocks that cover the grid with least to spare."""
    least = max(4, window - 1)
    return min(
        range(least, max(least, 8) + 1),
        key=lambda size: math.prod(-(-n // size) * size for n in grid),
    )


_remembered = functools.lru_cache(maxsize=32)(torch.inference_mode(False)(_plan))
"""Made outside inference mode, whoever asks first: gradients may need them later."""


def _offsets(size: int, cells: int) -> tuple[Tensor, Tensor]:
    """Distinct offsets from the centres of pooling cells, and which one each pair has."""
    centres = [(i * size // cells) + -(-(i + 1) * size // cells) - 1 for i in range(cells)]
    doubled = [[2 * q - centre for centre in centres] for q in range(size)]
    distinct = sorted({offset for row in doubled for offset in row})
    number = {offset: i for i, offset in enumerate(distinct)}
    index = [[number[offset] for offset in row] for row in doubled]
    return torch.tensor(distinct) / 2, torch.tensor(index)


SPEC = MechanismSpec(
    name="aggregated",
    family="spatial",
    title="Aggregated attention (TransNeXt)",
    paper="Shi, TransNeXt: Robust Foveal Visual Perception for Vision Transformers, CVPR 2024 "
    "(arXiv:2311.17132)",
    equation="out_i = Σ_window (A_ij + q̂_i t_{j-i} + b_{j-i}) v_j + Σ_pooled A_ij v_j, "
    "A = softmax((q̂_i + e) k̂_jᵀ softplus(τ) log n_i + B_ij)",
    complexity="O(N · (window² + P) · C) for N pixels and P pooled keys",
    when_to_use="Image backbones: sharp near each pixel, coarse over the whole image, one layer.",
    correctness="Against a pixel-by-pixel float64 reference and against the official native code.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("num_heads", int, 4, "heads; must divide channels"),
        Option("window", int, 3, "side of the local window, odd"),
        Option("reduction", int, 2, "side of a pooling cell"),
        Option("pretrained", int, None, "side of the grid offsets are measured against"),
        Option("qkv_bias", bool, True, "whether query, key and value projections have biases"),
    ),
    module=AggregatedAttention,
    reference=reference_aggregated,
    dims=(2,),
    example={"num_heads": 2, "reduction": 3},
)
