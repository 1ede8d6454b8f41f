"""Arrow attention: a few global positions, and a window for all others."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.mechanisms.sink_window import sink_window_attention
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.ranks import packed, put_back, real_first, take
from shared_attention.references.arrow import reference_arrow
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


def arrow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    prefix: int = 1,
    left: int = 64,
    right: int = 64,
) -> Tensor:
    """Attend to the first positions and to a window; the first positions attend to all.

    Equal to softmax with `masks.arrow(prefix) | masks.window(left, right)`, at linear cost.
    Uni-Encoder's arrow has candidates in place of windows: softmax with `masks.arrow(n) |
    masks.document(ids)`. SeNER's LogN scaling of the [CLS] scores is a matter of the caller's
    q. With padding the first real positions are global.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, L, Dk]`, Hk dividing H.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        mask: `masks.keys(valid)` or None; padded keys are padded queries.
        scale: Defaults to 1 / sqrt(Dk).
        prefix: First positions, which see all and are seen by all.
        left: Earlier keys that the others see.
        right: Later keys that the others see.

    Returns:
        `[B, H, L, Dv]`; zero for padded queries.

    Raises:
        ValueError: The tensors do not fit together, or an option is negative.
        UnsupportedError: The mask has other parts, or the lengths differ.

    Source: Ding et al., SeNER, AAAI 2025, section 3.1; Song et al., Uni-Encoder, 2023.
    """
    parts = accept(SPEC, q, k, v, mask)
    for name, value in (("prefix", prefix), ("left", left), ("right", right)):
        if value < 0:
            raise ValueError(f"arrow: option {name} got {value}, expected at least 0")
    valid, seen = parts.keys, None
    if valid is not None:
        q, k, v = take(q, real_first(valid)), packed(k, valid), packed(v, valid)
        seen = masks.keys(torch.arange(k.shape[2], device=q.device) < valid.sum(1, keepdim=True))
    options = {"sinks": prefix, "left": left, "right": right}
    out = sink_window_attention(q, k, v, mask=seen, scale=scale, **options)
    first = softmax_attention(q[:, :, :prefix], k, v, mask=seen, scale=scale)
    out = torch.cat([first, out[:, :, prefix:]], dim=2)
    if valid is None:
        return out
    return put_back(out, real_first(valid)).masked_fill(~valid[:, None, :, None], 0)


SPEC = MechanismSpec(
    name="arrow",
    family="attention",
    title="Arrow attention",
    paper="Ding et al., Small Language Model Makes an Effective Long Text Extractor (SeNER), "
    "AAAI 2025 (arXiv:2502.07286); Song et al., Uni-Encoder, Findings of ACL 2023",
    equation="out_i = Σ_j softmax_j(q_i k_jᵀ / √d) v_j over all j if i < n, "
    "else over j < n and i-left <= j <= i+right",
    complexity="O(L · (prefix + left + right) · d)",
    when_to_use="Encoders of long texts with a [CLS] token or another short global context.",
    correctness="Against softmax attention with the same dense mask in float64.",
    capabilities=Capabilities(key_padding=True, grouped_heads=True, weights=True),
    options=(
        Option("prefix", int, 1, "first positions, which see all and are seen by all"),
        Option("left", int, 64, "earlier keys that the others see"),
        Option("right", int, 64, "later keys that the others see"),
    ),
    function=arrow_attention,
    reference=reference_arrow,
)
