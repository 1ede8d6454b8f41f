"""The inputs of one attention call, checked once and shown to every backend."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from shared_attention.masks import Mask, Parts, split


class Inputs(NamedTuple):
    """Inputs of one call: `q [B, Hq, L, Dk]`, `k [B, Hk, S, Dk]`, `v [B, Hv, S, Dv]`."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Mask | None
    bias: Tensor | None
    parts: Parts

    @property
    def needs_grad(self) -> bool:
        """Whether gradients are to flow to q, k, v or the bias."""
        tensors = [self.q, self.k, self.v]
        if self.bias is not None:
            tensors.append(self.bias)
        return any(t.requires_grad for t in tensors)

    def dense_mask(self) -> Tensor | None:
        """Lower the whole mask to bool `[B or 1, H or 1, L or 1, S]`."""
        if self.mask is None:
            return None
        return self.mask.to_dense(self.q.shape[2], self.k.shape[2], self.q.device)


def check_inputs(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
) -> Inputs:
    """Check shapes, dtypes and devices.

    Raises:
        ValueError: The tensors do not fit together.
    """
    if not _fit(q, k, v):
        _explain(q, k, v)
    if mask is not None and not isinstance(mask, Mask):
        raise ValueError(
            f"attention: mask is a {type(mask).__name__}; "
            "wrap a boolean tensor (True = may attend) in masks.dense(...)"
        )
    if mask is not None:
        mask.check(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if bias is not None:
        _check_bias(bias, (q.shape[0], q.shape[1], q.shape[2], k.shape[2]))
    return Inputs(q, k, v, mask, bias, split(mask))


def _fit(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Say whether q, k and v fit together; one expression, since every call pays for it."""
    if not (q.dim() == k.dim() == v.dim() == 4):
        return False
    batch, heads, _, width = q.shape
    k_batch, k_heads, k_length, k_width = k.shape
    v_batch, v_heads, v_length, _ = v.shape
    return (
        batch == k_batch == v_batch
        and width == k_width
        and k_length == v_length
        and (heads == k_heads or heads % k_heads == 0)
        and (heads == v_heads or heads % v_heads == 0)
        and q.dtype == k.dtype == v.dtype
        and q.device == k.device == v.device
        and q.is_floating_point()
    )


def _explain(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError naming the first thing that does not fit."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dim() != 4:
            raise ValueError(
                f"attention: {name} has shape {list(tensor.shape)}, "
                "expected [batch, heads, length, dim]"
            )
    batch, heads, _, width = q.shape
    if not q.is_floating_point():
        raise ValueError(f"attention: q has dtype {q.dtype}, expected a float type")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.dtype != q.dtype:
            raise ValueError(f"attention: {name} is {tensor.dtype} but q is {q.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"attention: {name} is on {tensor.device} but q is on {q.device}")
        if tensor.shape[0] != batch:
            raise ValueError(f"attention: {name} has batch {tensor.shape[0]}, q has {batch}")
        if heads % tensor.shape[1]:
            raise ValueError(
                f"attention: {name} has {tensor.shape[1]} heads, "
                f"which do not divide the {heads} of q"
            )
    count = k.shape[2]
    if width != k.shape[3]:
        raise ValueError(f"attention: q has width {width} but k has {k.shape[3]}")
    if count != v.shape[2]:
        raise ValueError(f"attention: k has length {count} but v has {v.shape[2]}")


def layer_input(mechanism: str, inputs: Tensor | None, q: Tensor) -> Tensor:
    """Return the layer's input split by heads, `[B, H, L, D]`; the queries where it is None.

    Raises:
        ValueError: It has another shape than the queries.
    """
    if inputs is None:
        return q
    if inputs.shape != q.shape:
        raise ValueError(
            f"{mechanism}: inputs has shape {list(inputs.shape)}, "
            f"expected that of q, {list(q.shape)}"
        )
    return inputs


def _check_bias(bias: Tensor, shape: tuple[int, int, int, int]) -> None:
    if not bias.is_floating_point():
        raise ValueError(
            f"attention: bias has dtype {bias.dtype}, expected a float type; "
            "boolean masks go to mask=masks.dense(...)"
        )
    trailing = shape[4 - bias.dim() :] if bias.dim() <= 4 else ()
    if not trailing or any(b not in (1, s) for b, s in zip(bias.shape, trailing, strict=True)):
        raise ValueError(
            f"attention: bias has shape {list(bias.shape)}, "
            f"expected one that broadcasts to {list(shape)}"
        )
