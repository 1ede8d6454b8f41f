"""What transformers knows about masks, as the core's masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.foreign_masks import recognise, split_additive
from shared_attention.masks import Mask

EVERYTHING = masks.window(None, None)
"""Says that every key may be seen, where None would leave it to the layer."""


def build_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    **others: Any,
) -> Mask | Tensor:
    """Build the mask of a model's layers; transformers calls this once for all of them.

    Causal masks, sliding windows, padding and no mask keep their structure, so that mechanisms
    without arbitrary masks can honour them; everything else (packed sequences, blocks, a static
    cache longer than what was read) is a bool tensor `[B, 1, L, S]`, which transformers, that
    may hand it back here, knows as finished.

    Args:
        batch_size: Number of samples.
        q_length: Number of queries.
        kv_length: Number of keys, those in the cache included.
        q_offset: Position of the first query, an int, or a tensor with a static cache.
        kv_offset: Position of the first key.
        mask_function: Pattern of the model: `(batch, head, query, key) -> may attend`.
        attention_mask: bool `[B, positions]`, True = real token.
        local_size: Width of the model's window or chunk.
        **others: What transformers' own mask functions take besides.
    """
    from transformers import masking_utils as theirs

    pattern = theirs.causal_mask_function if mask_function is None else mask_function
    valid = _valid(attention_mask, kv_length, kv_offset)
    padding = EVERYTHING if valid is None else masks.keys(valid)
    if pattern is theirs.bidirectional_mask_function:
        return padding
    aligned = not isinstance(q_offset, Tensor) and q_offset + q_length == kv_offset + kv_length
    if aligned and pattern is theirs.causal_mask_function:
        return masks.causal() if valid is None else masks.causal() & padding
    dense: Any = theirs.sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        pattern,
        attention_mask,
        **{**others, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False},
    )
    if aligned and local_size is not None and not torch.compiler.is_compiling():
        window = masks.window(local_size - 1, 0)
        expected = (window & padding).to_dense(q_length, kv_length, dense.device)
        if bool((dense == expected).all()):
            return window if valid is None else window & padding
    return dense


def read_mask(
    mask: Any, causal: bool, query: Tensor, key: Tensor
) -> tuple[Mask | None, Tensor | None]:
    """Return the mask and the bias that a layer was given.

    Args:
        mask: From `build_mask`, or a 4-D tensor of the user's, or None.
        causal: Whether None means a causal mask.
        query: `[B, H, L, D]`.
        key: `[B, Hk, S, D]`.

    Raises:
        UnsupportedError: The mask is of another kind.
    """
    if mask is None:
        return (masks.causal() if causal else None), None
    if isinstance(mask, Mask):
        return mask, None
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        found = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise UnsupportedError(
            f"attention: the model gives a mask {found}, expected one made by build_mask or a "
            "tensor [batch, heads, queries, keys]"
        )
    bias = None
    if mask.dtype == torch.bool:
        allowed = mask
    elif mask.is_floating_point():
        allowed, bias = split_additive(mask)
    else:
        raise UnsupportedError(
            f"attention: the model gives a mask of {mask.dtype}, expected bool or float"
        )
    allowed = allowed.expand(query.shape[0], -1, query.shape[2], key.shape[2])
    return recognise(allowed), None if bias is None else bias.to(query.dtype)


def _valid(attention_mask: Tensor | None, count: int, offset: int) -> Tensor | None:
    """Return which keys are real, or None where all are."""
    if attention_mask is None:
        return None
    missing = count + offset - attention_mask.shape[-1]
    valid = functional.pad(attention_mask.bool(), (0, max(missing, 0)))[:, offset : offset + count]
    if not torch.compiler.is_compiling() and bool(valid.all()):
        return None
    return valid
