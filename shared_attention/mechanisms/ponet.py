"""PoNet: pooling over everything, over segments and over neighbours in place of attention."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import valid_positions
from shared_attention.linear import Linear, linear
from shared_attention.masks import Mask
from shared_attention.primitives.segment_pool import segment_pool
from shared_attention.references.ponet import reference_ponet
from shared_attention.spec import Capabilities, MechanismSpec, Option


class PoNet(nn.Module):
    """Mix tokens by pooling: out = (global + segment max) ∘ O + local max, linear in the length.

    Five projections of the input: global pools K by softmax of mean(Q) · K over the sequence, in
    heads; segment takes the largest of each segment of K_s, local of each three neighbours of
    K_l; O gates what was pooled. Segments are ⌊L / segments⌋ + 1 long, L being the number of the
    sample's own positions. The official code segments the padded length, so padding moves its
    segments, writes into its inputs where there is a mask, and divides by zero where a sample is
    all padding. Padding here has no influence and gives zero.

    Args:
        channels: Width.
        num_heads: Heads of the global pooling; divides `channels`.
        segments: Number of segments.

    Raises:
        ValueError: The sizes do not divide, or `segments` is not positive.

    Source: Tan et al., PoNet, ICLR 2022, eq. 1-7.
    """

    def __init__(self, channels: int, num_heads: int = 8, segments: int = 32) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(f"ponet: num_heads {num_heads} does not divide channels {channels}")
        if segments < 1:
            raise ValueError(f"ponet: option segments got {segments}, expected at least 1")
        self.num_heads = num_heads
        self.segments = segments
        self.project = Linear(channels, 5 * channels)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix `x [B, L, channels]`.

        Args:
            x: `[B, L, channels]`.
            mask: `masks.keys(valid)`, or None.

        Returns:
            `[B, L, channels]`; zero at padded positions.

        Raises:
            ValueError: `x` or the mask has another shape.
            UnsupportedError: The mask is of another kind.
        """
        valid = valid_positions(SPEC, x, self.project.in_features, mask)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0)
        sizes = [2 * x.shape[-1], 3 * x.shape[-1]]
        pooling, rest = zip(
            self.project.weight.split(sizes), self.project.bias.split(sizes), strict=True
        )
        overall = _global_pool(x, *pooling, self.num_heads, valid)
        o, segment, local = linear(x, *rest).chunk(3, dim=-1)
        fused = (overall + _segment_max(segment, self.segments, valid)) * o
        out = fused + _local_max(local, valid)
        return out if valid is None else out.masked_fill(~valid[..., None], 0)


def _global_pool(
    x: Tensor, weight: Tensor, bias: Tensor, heads: int, valid: Tensor | None
) -> Tensor:
    """Softmax pooling of K by the mean of Q, `[B, 1, C]`, forming neither Q nor K.

    Both are linear in x `[B, L, C]`, zero where it is padded: the mean of Q is that of x
    projected, q · k_t is x_t · (W_kᵀ q) but for what softmax cancels, and K is pooled as x is.
    """
    (q_weight, k_weight), (q_bias, k_bias) = weight.chunk(2), bias.chunk(2)
    wide = torch.promote_types(x.dtype, torch.float32)
    count = x.shape[1] if valid is None else valid.sum(1)[:, None].clamp_min(1)
    mean = x.sum(1, dtype=wide) / count
    query = linear(mean.to(x.dtype), q_weight, q_bias).unflatten(-1, (heads, -1))
    keys = k_weight.unflatten(0, (heads, -1))
    towards = torch.einsum("bhd,hdc->bhc", query, keys) / math.sqrt(keys.shape[1])
    scores = (x @ towards.mT).mT
    if valid is not None:
        scores = scores.masked_fill(~valid[:, None], torch.finfo(scores.dtype).min)
    pooled = torch.einsum("bhc,hdc->bhd", scores.softmax(-1) @ x, keys)
    return (pooled.flatten(1) + k_bias)[:, None]


def _segment_max(x: Tensor, segments: int, valid: Tensor | None) -> Tensor:
    """Largest of each position's segment, `[B, L, C]`."""
    length = x.shape[1]
    if valid is None:
        own = length // segments + 1
        padded = F.pad(x, (0, 0, 0, -length % own), value=-math.inf)
        largest = padded.unflatten(1, (-1, own)).amax(2)
        return largest.repeat_interleave(own, 1)[:, :length]
    size = valid.sum(1, keepdim=True) // segments + 1
    segment = torch.where(valid, (valid.cumsum(1) - 1) // size, -1)
    pooled = segment_pool(x[:, None], segment, segments, reduce="amax")[:, 0]
    return pooled.take_along_dim(segment.clamp_min(0)[..., None], 1)


def _local_max(x: Tensor, valid: Tensor | None) -> Tensor:
    """Largest of each position and its two neighbours, `[B, L, C]`."""
    if valid is not None:
        x = x.masked_fill(~valid[..., None], -math.inf)
    around = F.pad(x, (0, 0, 1, 1), value=-math.inf)
    return torch.maximum(torch.maximum(around[:, :-2], x), around[:, 2:])


SPEC = MechanismSpec(
    name="ponet",
    family="mixer",
    title="Pooling network (PoNet)",
    paper="Tan et al., PoNet: Pooling Network for Efficient Token Mixing in Long Sequences, "
    "ICLR 2022 (arXiv:2110.02442)",
    equation="out = (Σ_j softmax_j(mean(Q)·K_j) K_j + segment max) ∘ O + local max",
    complexity="O(L · C) beside the projections",
    when_to_use="Long texts read at once, where attention is too slow.",
    correctness="Against loops in float64; equal to the official code without padding.",
    capabilities=Capabilities(key_padding=True, scale=False, linear_in_v=False),
    options=(
        Option("num_heads", int, 8, "heads of the global pooling"),
        Option("segments", int, 32, "number of segments"),
    ),
    module=PoNet,
    reference=reference_ponet,
)
