"""Plain attention with every score in memory: the specification of the fast paths."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from shared_attention.primitives.heads import grouped_product
from shared_attention.primitives.hidden import blank_hidden

Normaliser = Callable[[Tensor], Tensor]
"""Maps scores `[..., S]`, -inf where hidden, to weights `[..., S]`; hidden weights are zero."""


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; a row without a finite score gives zeros."""
    empty = empty_rows(scores)
    on_processor = scores.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_processor and not empty.any():
        return torch.softmax(scores, dim=-1)
    return torch.softmax(scores.masked_fill(empty, 0), dim=-1).masked_fill(empty, 0)


def log_sum_exp(scores: Tensor) -> Tensor:
    """Log-sum-exp over the last dimension; -inf, with zero gradient, for empty rows."""
    empty = empty_rows(scores)
    lse = torch.logsumexp(scores.masked_fill(empty, 0), dim=-1)
    return lse.masked_fill(empty[..., 0], -math.inf)


def empty_rows(scores: Tensor) -> Tensor:
    """Say which rows have nothing to attend to; bool `[..., 1]`."""
    if scores.shape[-1] == 0:
        return torch.ones_like(scores[..., :1], dtype=torch.bool)
    return scores.detach().amax(dim=-1, keepdim=True) == -math.inf


def scores_of(
    q: Tensor, k: Tensor, *, mask: Tensor | None, bias: Tensor | None, scale: float | None
) -> Tensor:
    """Return scale * q k^T + bias `[B, H, L, S]`, -inf where the mask hides.

    Args:
        q: `[B, H, L, D]`.
        k: `[B, Hk, S, D]`, Hk dividing H.
        mask: bool, broadcastable to `[B, H, L, S]`, True = may attend.
        bias: Additive, broadcastable to `[B, H, L, S]`.
        scale: Defaults to 1 / sqrt(D).
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = grouped_product(q * scale, k.transpose(-2, -1))
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return scores if mask is None else scores.masked_fill(~mask, -math.inf)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    normaliser: Normaliser = softmax,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attend with any normaliser, materialising the `[B, H, L, S]` weights.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: bool, broadcastable to `[B, H, L, S]`, True = may attend.
        bias: Additive, broadcastable to `[B, H, L, S]`; gradients flow to it.
        scale: Defaults to 1 / sqrt(Dk).
        normaliser: Turns scores into weights.

    Returns:
        `(out [B, H, L, Dv], weights [B, H, L, S], scores [B, H, L, S])`; `log_sum_exp(scores)`
        gives the log-sum-exp for those who need it.
    """
    if mask is not None:
        k, v = blank_hidden(k, v, mask)
    scores = scores_of(q, k, mask=mask, bias=bias, scale=scale)
    weights = normaliser(scores)
    return grouped_product(weights, v), weights, scores
