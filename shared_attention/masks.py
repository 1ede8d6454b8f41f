"""Masks as small symbolic values that compose with `&` and `|`.

True means "may attend". Positions are aligned bottom-right: with L queries and S keys, query i
stands at key position i + S - L, so the last query always sees the last key under `causal()`.
Shape letters: B batch, H heads, L query length, S key length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shared_attention.mask_types import And as And
from shared_attention.mask_types import Arrow as Arrow
from shared_attention.mask_types import Causal as Causal
from shared_attention.mask_types import Dense as Dense
from shared_attention.mask_types import Document as Document
from shared_attention.mask_types import Keys as Keys
from shared_attention.mask_types import Mask as Mask
from shared_attention.mask_types import MaskMod as MaskMod
from shared_attention.mask_types import Or as Or
from shared_attention.mask_types import Prefix as Prefix
from shared_attention.mask_types import Window as Window


def causal() -> Mask:
    """Let each query see the keys up to its own position, aligned bottom-right."""
    return Causal()


def window(left: int | None, right: int | None) -> Mask:
    """Let each query see `left` keys before its position to `right` after it, itself included.

    Args:
        left: Number of earlier keys, or None for all of them.
        right: Number of later keys, or None for all of them.

    Raises:
        ValueError: A side is negative.
    """
    for name, side in (("left", left), ("right", right)):
        if side is not None and side < 0:
            raise ValueError(f"masks.window: {name} got {side}, expected None or at least 0")
    return Window(left, right)


def keys(valid: Tensor) -> Mask:
    """Hide the keys that are not valid, such as padding.

    Args:
        valid: bool `[B, S]`, True where the key is real. `nn.MultiheadAttention`'s
            `key_padding_mask` has the opposite sense: pass its negation.

    Raises:
        ValueError: `valid` is not a boolean matrix.
    """
    _check_tensor("masks.keys", valid, "bool [batch, keys]", dims=(2,), boolean=True)
    return Keys(valid)


def document(ids: Tensor | tuple[Tensor, Tensor]) -> Mask:
    """Let each query see the keys of its own document only.

    Args:
        ids: int `[B, L]` for queries and keys alike, or `(query_ids [B, L], key_ids [B, S])`.

    Raises:
        ValueError: The ids are not integer matrices.
    """
    query_ids, key_ids = ids if isinstance(ids, tuple) else (ids, ids)
    for tensor in (query_ids, key_ids):
        _check_tensor("masks.document", tensor, "integer [batch, length]", dims=(2,))
    return Document(query_ids, key_ids)


def prefix(n: int | Tensor) -> Mask:
    """Let every query see the first keys.

    Together with `causal()`, joined by `|`, it is the mask of prefix language models.

    Args:
        n: Number of first keys, or int `[B]` with one number per sample.

    Raises:
        ValueError: `n` is negative, or not an integer vector.
    """
    if isinstance(n, int):
        if n < 0:
            raise ValueError(f"masks.prefix: n got {n}, expected at least 0")
        return Prefix(torch.tensor([n]))
    _check_tensor("masks.prefix", n, "an int, or integer [batch]", dims=(1,))
    return Prefix(n)


def arrow(n: int) -> Mask:
    """Let every query see the first `n` keys, and the first `n` queries see every key.

    Joined by `|` with `window(w, w)` it is SeNER's arrow attention, whose first position is
    [CLS]; with `document(ids)` it is Uni-Encoder's, where `n` positions of context are read
    together with several candidates that do not see each other.

    Raises:
        ValueError: `n` is negative.
    """
    if n < 0:
        raise ValueError(f"masks.arrow: n got {n}, expected at least 0")
    return Arrow(n)


def dense(allowed: Tensor) -> Mask:
    """Use an explicit boolean tensor.

    Args:
        allowed: bool, True = may attend, of 2 to 4 dimensions, broadcastable to [B, H, L, S].

    Raises:
        ValueError: `allowed` is not boolean or has another number of dimensions.
    """
    expected = "bool, True = may attend, broadcastable to [B, H, L, S]"
    _check_tensor("masks.dense", allowed, expected, dims=(2, 3, 4), boolean=True)
    return Dense(allowed[(None,) * (4 - allowed.dim())])


@dataclass(frozen=True)
class Parts:
    """A mask taken apart: all parts must allow."""

    causal: bool = False
    window: tuple[int | None, int | None] | None = None
    keys: Tensor | None = None
    """bool `[B, S]`."""
    rest: Mask | None = None
    """What has no structure that backends use."""


_NOTHING = Parts()


def split(mask: Mask | None) -> Parts:
    """Take a mask apart for backends that use structure.

    A window that ends at the query sets `causal` as well; an unbounded one leaves no trace.
    """
    if mask is None:
        return _NOTHING
    if isinstance(mask, And):
        return _join(split(mask.first), split(mask.second))
    if isinstance(mask, Causal):
        return Parts(causal=True)
    if isinstance(mask, Window):
        bounded = mask.left is not None or mask.right not in (None, 0)
        sides = (mask.left, mask.right) if bounded else None
        return Parts(causal=mask.right == 0, window=sides)
    if isinstance(mask, Keys):
        return Parts(keys=mask.valid)
    return Parts(rest=mask)


def _join(a: Parts, b: Parts) -> Parts:
    window = a.window or b.window
    if a.window is not None and b.window is not None:
        window = (_least(a.window[0], b.window[0]), _least(a.window[1], b.window[1]))
    valid = a.keys if b.keys is None else b.keys if a.keys is None else a.keys & b.keys
    rest = a.rest if b.rest is None else b.rest if a.rest is None else a.rest & b.rest
    return Parts(a.causal or b.causal, window, valid, rest)


def onwards(mask: Mask | None) -> Mask:
    """Return the mask under which a stream continues: causal, and `mask` of the new keys.

    Raises:
        ValueError: `mask` is not None or `masks.keys(valid)`.
    """
    valid = new_positions(mask)
    return causal() if valid is None else causal() & Keys(valid)


def new_positions(mask: Mask | None) -> Tensor | None:
    """Return which of the positions that a stream takes in are real, bool `[B, L]`; None: all.

    Raises:
        ValueError: `mask` is not None or `masks.keys(valid)`.
    """
    if mask is None:
        return None
    if not isinstance(mask, Keys):
        raise ValueError(
            f"prefill: mask got {type(mask).__name__}, expected masks.keys(valid) of the new "
            "positions; causality is implied"
        )
    return mask.valid


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _check_tensor(
    where: str, tensor: Tensor, expected: str, dims: tuple[int, ...], boolean: bool = False
) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{where}: got a {type(tensor).__name__}, expected a tensor: {expected}")
    right_type = tensor.dtype == torch.bool if boolean else not tensor.is_floating_point()
    if not right_type or tensor.dim() not in dims:
        raise ValueError(
            f"{where}: got {tensor.dtype} of shape {list(tensor.shape)}, expected {expected}"
        )
