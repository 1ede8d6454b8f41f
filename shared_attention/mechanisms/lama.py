"""LAMA: pooling a sequence with several heads from a low-rank affinity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared_attention.grid import valid_positions
from shared_attention.masks import Mask
from shared_attention.primitives.attend import softmax
from shared_attention.references.lama import reference_lama
from shared_attention.spec import Capabilities, MechanismSpec, Option

NORM_EPS = 1e-12


class LowRankPooling(nn.Module):
    """Pool `[B, L, C]` to `[B, heads, C]`: a summary per head, not an output per token.

    Head h weighs position t by softmax_t(f_ht), f_t = l2norm(tanh(Pᵀc ∘ Qᵀx_t)) over the heads,
    with the context c the mean of the sequence. P cᵀ x Qᵀ is an affinity of rank one per head,
    so a head costs 2 C parameters instead of a matrix. Padding is left out of the mean and of
    the softmax.

    Args:
        channels: Width.
        num_heads: Summaries.

    Raises:
        ValueError: `num_heads` is not positive.

    Source: Mehta et al., Low Rank Factorization for Compact Multi-Head Self-Attention, 2019,
    eq. 3.13, with the mean of the inputs as context ("LAMA + ctx").
    """

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"lama: option num_heads got {num_heads}, expected at least 1")
        self.context = nn.Parameter(torch.randn(channels, num_heads) / channels**0.5)
        self.query = nn.Parameter(torch.randn(channels, num_heads) / channels**0.5)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Summarise `x`.

        Args:
            x: `[B, L, C]`.
            mask: `masks.keys(valid)`, or None.

        Returns:
            `[B, heads, C]`; zero for samples that are all padding.

        Raises:
            ValueError: `x` or the mask has another shape.
            UnsupportedError: The mask is of another kind.
        """
        valid = valid_positions(SPEC, x, len(self.query), mask)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0)
        return self.weights(x, mask) @ x

    def weights(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Return the weights `[B, heads, L]` that `forward` pools with."""
        valid = valid_positions(SPEC, x, len(self.query), mask)
        wide = torch.promote_types(x.dtype, torch.float32)
        inputs = x.to(wide)
        count: Tensor | int = x.shape[1]
        if valid is not None:
            inputs = inputs.masked_fill(~valid[..., None], 0)
            count = valid.sum(1)[:, None].clamp_min(1)
        mean = inputs.sum(1) / count
        affinity = (mean @ self.context.to(wide))[:, None] * (inputs @ self.query.to(wide))
        level = affinity.tanh()
        level = level * (level.square().sum(-1, keepdim=True) + NORM_EPS).rsqrt()
        scores = level.mT
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None], -torch.inf)
        return softmax(scores).to(x.dtype)


SPEC = MechanismSpec(
    name="lama",
    family="pooling",
    title="Low-rank multi-head pooling (LAMA)",
    paper="Mehta et al., Low Rank Factorization for Compact Multi-Head Self-Attention, 2019 "
    "(arXiv:1912.00835)",
    equation="out_h = Σ_t softmax_t(f_ht) x_t, f_t = l2norm(tanh(Pᵀ mean(x) ∘ Qᵀ x_t))",
    complexity="O(L · C · heads)",
    when_to_use="Classifying texts: several summaries of a sequence for few parameters.",
    correctness="Against loops in float64; equal to JohnGiorgi's implementation.",
    capabilities=Capabilities(key_padding=True, scale=False, linear_in_v=False),
    options=(Option("num_heads", int, 8, "number of summaries"),),
    module=LowRankPooling,
    reference=reference_lama,
)
