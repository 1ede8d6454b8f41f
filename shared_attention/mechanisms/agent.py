"""Agent attention: a few agent tokens gather for the queries and hand on to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask
from shared_attention.primitives.attend import attend
from shared_attention.primitives.hidden import blank_hidden
from shared_attention.references.agent import reference_agent
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option

COARSE = 7
"""Side of the grid on which the paper learns each agent's bias before enlarging it."""


class AgentAttention(nn.Module):
    """Chain two softmax attentions: out = softmax(q Aᵀ) softmax(A kᵀ) v + DWC(v).

    The agents A are means of the queries over equal parts of the sequence, or of the grid whose
    positions the sequence lists. DWC is the paper's depthwise convolution of width 3 that gives
    back the variety of the values. Padded positions are neither pooled, attended to nor
    convolved: each sample's agents are spread over its own positions. The official code has no
    masks and no form for sequences.

    Args:
        num_heads: Heads.
        head_dim: Width of a head.
        agents: Number of agents; on a grid of n axes, a whole number to the power n.
        grid: Sizes of the axes, such as (14, 14); None for a sequence of any length.
        conv: Whether to add DWC(v).
        position_bias: Whether both attentions learn a bias, as the sum of a coarse map, a row
            and a column; needs a grid of two axes.

    Raises:
        ValueError: The options do not fit together.

    Source: Han et al., Agent Attention, ECCV 2024, eq. 3-6.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        agents: int = 49,
        grid: tuple[int, ...] | None = None,
        conv: bool = True,
        position_bias: bool = False,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.pooled = _pooled_sizes(agents, grid)
        axes = len(self.pooled)
        width = num_heads * head_dim
        self.conv_weight = self.conv_bias = None
        if conv:
            self.conv_weight = nn.Parameter(torch.empty(width, 1, *(3,) * axes))
            self.conv_bias = nn.Parameter(torch.zeros(width))
            nn.init.normal_(self.conv_weight, std=3 ** (-axes / 2))
        self.gather_bias = self.hand_bias = None
        if position_bias:
            if grid is None or axes != 2:
                raise ValueError(f"agent: position_bias needs a grid of two axes, got grid {grid}")
            self.gather_bias = _PositionBias(num_heads, agents, *grid)
            self.hand_bias = _PositionBias(num_heads, agents, *grid)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            q: `[B, H, L, D]`.
            k: `[B, H, L, D]`.
            v: `[B, H, L, D]`.
            mask: `masks.keys(valid)` on sequences, or None.
            bias: Not supported.

        Returns:
            `[B, H, L, D]`; zero where a sample has no valid position.

        Raises:
            ValueError: The tensors do not fit together, or not the grid.
            UnsupportedError: The mask is of another kind, or comes with a grid.
        """
        valid = accept(SPEC, q, k, v, mask, bias).keys
        if self.grid is not None and valid is not None:
            raise UnsupportedError("agent: a grid has no padding; leave grid out, or mask")
        if self.grid is not None and math.prod(self.grid) != q.shape[2]:
            raise ValueError(f"agent: grid {self.grid} got a sequence of length {q.shape[2]}")
        visible = None if valid is None else valid[:, None, None]
        if visible is not None:
            k, v = blank_hidden(k, v, visible)
        agents = self._agents(q, valid)
        if self.gather_bias is None or self.hand_bias is None:
            gathered = F.scaled_dot_product_attention(agents, k, v, attn_mask=visible)
            out = F.scaled_dot_product_attention(q, agents, gathered)
        else:
            softmax = partial(torch.softmax, dim=-1)
            gathered = attend(agents, k, v, bias=self.gather_bias(), normaliser=softmax)[0]
            out = attend(q, agents, gathered, bias=self.hand_bias().mT, normaliser=softmax)[0]
        if self.conv_weight is not None:
            out = out + self._convolved(v)
        if valid is not None:
            out = out.masked_fill(~valid.any(1)[:, None, None, None], 0)
        return out

    def _agents(self, q: Tensor, valid: Tensor | None) -> Tensor:
        """Mean of the queries over each part, `[B, H, agents, D]`."""
        if valid is not None:
            return _part_means(q, self.pooled[0], valid)
        pools: tuple[Callable[..., Tensor], ...] = (
            F.adaptive_avg_pool1d,
            F.adaptive_avg_pool2d,
            F.adaptive_avg_pool3d,
        )
        agents = pools[len(self.pooled) - 1](self._channels(q), self.pooled)
        return agents.flatten(2).unflatten(1, (q.shape[1], -1)).mT

    def _channels(self, x: Tensor) -> Tensor:
        """`[B, H, L, D]` as maps `[B, H D, *grid]`."""
        return x.mT.flatten(1, 2).unflatten(-1, self.grid or (x.shape[2],))

    def _convolved(self, v: Tensor) -> Tensor:
        assert self.conv_weight is not None
        channels = self._channels(v)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(self.pooled) - 1]
        out = convolve(
            channels, self.conv_weight, self.conv_bias, padding=1, groups=channels.shape[1]
        )
        return out.flatten(2).unflatten(1, (v.shape[1], -1)).mT


class _PositionBias(nn.Module):
    """A bias between agents and the positions of a grid, `[H, agents, rows * columns]`."""

    def __init__(self, num_heads: int, agents: int, rows: int, columns: int) -> None:
        super().__init__()
        self.size = (rows, columns)
        self.coarse = nn.Parameter(0.02 * torch.randn(num_heads, agents, COARSE, COARSE))
        self.row = nn.Parameter(0.02 * torch.randn(num_heads, agents, rows, 1))
        self.column = nn.Parameter(0.02 * torch.randn(num_heads, agents, 1, columns))

    def forward(self) -> Tensor:
        enlarged = F.interpolate(self.coarse, size=self.size, mode="bilinear")
        return (enlarged + self.row + self.column).flatten(2)


def _part_means(x: Tensor, parts: int, valid: Tensor) -> Tensor:
    """Means of `[B, H, L, D]` over parts n from ⌊n L / parts⌋ to ⌈(n + 1) L / parts⌉.

    Positions and L count what is valid only, as `adaptive_avg_pool1d` of each sample alone does.
    """
    x = x.masked_fill(~valid[:, None, :, None], 0)
    part = torch.arange(parts, device=x.device)[:, None]
    rank, total = (valid.cumsum(1) - 1)[:, None], valid.sum(1)[:, None, None]
    member = (rank >= part * total // parts) & (rank < -((-(part + 1) * total) // parts))
    weights = (member & valid[:, None])[:, None].to(torch.promote_types(x.dtype, torch.float32))
    means = weights @ x.to(weights.dtype) / weights.sum(-1, keepdim=True).clamp_min(1)
    return means.to(x.dtype)


def _pooled_sizes(agents: int, grid: tuple[int, ...] | None) -> tuple[int, ...]:
    if agents < 1:
        raise ValueError(f"agent: option agents got {agents}, expected at least 1")
    if grid is None:
        return (agents,)
    if not 1 <= len(grid) <= 3 or min(grid) < 1:
        raise ValueError(f"agent: option grid got {grid}, expected one to three positive sizes")
    side = round(agents ** (1 / len(grid)))
    if side ** len(grid) != agents:
        raise ValueError(
            f"agent: option agents got {agents}, expected a whole number to the power {len(grid)} "
            f"for grid {grid}"
        )
    return (side,) * len(grid)


SPEC = MechanismSpec(
    name="agent",
    family="attention",
    title="Agent attention",
    paper="Han et al., Agent Attention: On the Integration of Softmax and Linear Attention, "
    "ECCV 2024 (arXiv:2312.08874)",
    equation="out = softmax(q Aᵀ / √d) softmax(A kᵀ / √d) v + DWC(v), A = pool(q)",
    complexity="O(L · agents · d) time and memory",
    when_to_use="Images and long sequences seen at once: global context at linear cost.",
    correctness="Against explicit matrices in float64; equal to the official code with its biases.",
    capabilities=Capabilities(key_padding=True, value_dim=False, scale=False, linear_in_v=False),
    options=(
        Option("agents", int, 49, "number of agent tokens"),
        Option("grid", tuple, None, "sizes of the grid that the positions list; None: a sequence"),
        Option("conv", bool, True, "add a depthwise convolution of the values"),
        Option("position_bias", bool, False, "learn a bias for both attentions; needs a 2-D grid"),
    ),
    module=AgentAttention,
    reference=reference_agent,
)
