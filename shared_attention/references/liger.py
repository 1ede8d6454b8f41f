"""Liger attention as a recurrence beside masked softmax."""

from __future__ import annotations

from torch import Tensor

from shared_attention.masks import Mask, split
from shared_attention.primitives.heads import expand_heads
from shared_attention.references.gated_linear import recurrence
from shared_attention.references.softmax import reference_window


def reference_liger(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    window: int = 64,
    gate_normaliser: float = 16.0,
) -> Tensor:
    """Return Liger attention `[B, H, L, Dv]` in float64."""
    near = reference_window(q, k, v, mask=mask, scale=scale, left=window, right=0)
    q, k, v = (expand_heads(x.double(), q.shape[1]) for x in (q, k, v))
    gates = k.sigmoid() ** (1 / gate_normaliser)
    far = recurrence(q.softmax(-1), k.softmax(-1), v, gates, split(mask).keys)
    return (near + far) / 2
