"""Softmax attention through FlexAttention, with block masks kept between calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from shared_attention.inputs import Inputs
from shared_attention.masks import Mask
from shared_attention.primitives.heads import match_heads
from shared_attention.primitives.hidden import blank_hidden

_block_masks: WeakKeyDictionary[Mask, dict[tuple[Any, ...], BlockMask]] = WeakKeyDictionary()


def to_flex(
    mask: Mask, batch: int, heads: int, length: int, keys: int, device: torch.device
) -> BlockMask:
    """Lower a mask to a BlockMask.

    The result is kept as long as the mask object lives, so layers that share a mask share it.

    Args:
        mask: Any mask.
        batch: Number of samples.
        heads: Number of query heads.
        length: Number of queries.
        keys: Number of keys.
        device: Where to build it.
    """
    kept = _block_masks.setdefault(mask, {})
    key = (batch, heads, length, keys, device)
    if key not in kept:
        mod = mask.mask_mod(length, keys, device)
        kept[key] = create_block_mask(mod, batch, heads, length, keys, device=str(device))
    return kept[key]


def flex_softmax_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """As `softmax_attention`, compiled by FlexAttention; blocks that see nothing are skipped.

    The first call of each shape compiles for seconds.
    """
    batch, heads, length, _ = q.shape
    count = k.shape[2]
    if k.shape[1] != v.shape[1]:
        k, v = match_heads(k, v)
    block_mask = None
    if mask is not None:
        block_mask = to_flex(mask, batch, heads, length, count, q.device)
        parts_keys = mask.to_dense(length, count, q.device)
        k, v = blank_hidden(k, v, parts_keys)
    score_mod = None if bias is None else _add(bias, (batch, heads, length, count))
    return _compiled()(
        q,
        k,
        v,
        score_mod=score_mod,
        block_mask=block_mask,
        scale=scale,
        enable_gqa=k.shape[1] != heads,
    )


def why_not(inputs: Inputs) -> list[str]:
    """List why FlexAttention cannot serve these inputs."""
    reasons = []
    if inputs.q.device.type not in ("cpu", "cuda"):
        reasons.append(f"no kernel for {inputs.q.device.type}")
    if inputs.q.device.type == "cpu" and inputs.needs_grad and torch.is_grad_enabled():
        reasons.append("no gradients on CPU")
    if inputs.q.dtype == torch.float64:
        reasons.append("no float64")
    if inputs.bias is not None and inputs.bias.requires_grad:
        reasons.append("gradients of a learned bias are not reliable")
    if inputs.q.shape[2] == 0 or inputs.k.shape[2] == 0:
        reasons.append("no empty sequences")
    return reasons


def _add(bias: Tensor, shape: tuple[int, ...]) -> Callable[..., Tensor]:
    full = bias.expand(shape)
    return lambda score, b, h, q, k: score + full[b, h, q, k]


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)
