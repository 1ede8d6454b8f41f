"""PyTorch's fused attention, for widths of keys and values that differ too."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from shared_attention.primitives.biased_attention import biased_attention, can_learn_bias


def fused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Call `scaled_dot_product_attention`, so that its fused kernel on processors can serve.

    That kernel needs keys and values of one width; without it every score is kept in memory,
    which takes more than twice as long. Nor does it take a mask that learns: then the backward
    pass is ours. The narrower ones are widened with zeros, which changes
    no result.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hk, S, Dv]`.
        mask: bool or additive, of 4 dimensions.
        causal: Whether each query sees keys up to its own number, counted from the first.
        scale: Defaults to 1 / sqrt(Dk).
        rows: int64 `[B, H, L]`: the mask is additive, `[R, S]`, and these are the queries' rows.

    Returns:
        `[B, H, L, Dv]`.
    """
    width, out_width = q.shape[-1], v.shape[-1]
    if width != out_width and q.device.type == "cpu":
        scale = 1 / math.sqrt(width) if scale is None else scale
        wide = max(width, out_width)
        q, k, v = (
            x if x.shape[-1] == wide else F.pad(x, (0, wide - x.shape[-1])) for x in (q, k, v)
        )
    if mask is not None and can_learn_bias(q, k, mask):
        scale = 1 / math.sqrt(width) if scale is None else scale
        return biased_attention(q, k, v, mask, scale, rows)[..., :out_width]
    if mask is not None and rows is not None:
        mask = mask.index_select(0, rows.flatten()).view(*rows.shape, -1)
    out = F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
        enable_gqa=bool(k.shape[1] != q.shape[1]),  # a SymBool in export
    )
    return out if out.shape[-1] == out_width else out[..., :out_width]
