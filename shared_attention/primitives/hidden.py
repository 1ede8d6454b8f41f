"""Keys that no query may read are blanked, so that NaN in padding cannot spread."""

from __future__ import annotations

from torch import Tensor

from shared_attention.masks import Mask, split


def blank_hidden(k: Tensor, v: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """Set keys and values that no query sees to zero.

    A weight of zero is not enough: 0 * NaN is NaN, in the output and in the gradients.

    Args:
        k: `[B, Hk, S, Dk]`.
        v: `[B, Hv, S, Dv]`.
        visible: bool `[B or 1, H or 1, L or 1, S]`, H a multiple of Hk and Hv.
    """
    seen = visible.any(dim=-2)
    return _blank(k, seen), _blank(v, seen)


def blank_masked(k: Tensor, v: Tensor, mask: Mask | None, length: int) -> tuple[Tensor, Tensor]:
    """Set keys and values to zero that `mask` hides from all of `length` queries as padding.

    For mechanisms that compute with keys before they attend. Keys that only causality or a
    window hides are left: they are part of the sequence.
    """
    parts = split(mask)
    if mask is not None and parts.rest is not None:
        return blank_hidden(k, v, mask.to_dense(length, k.shape[2], k.device))
    if parts.keys is not None:
        return blank_hidden(k, v, parts.keys[:, None, None, :])
    return k, v


def _blank(x: Tensor, seen: Tensor) -> Tensor:
    if seen.shape[1] not in (1, x.shape[1]):
        seen = seen.unflatten(1, (x.shape[1], -1)).any(dim=2)
    return x.masked_fill(~seen[..., None], 0)
