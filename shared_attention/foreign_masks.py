"""Mask tensors of other people's models, as the core's masks and biases.

Other libraries write "must not attend" as True, as -inf, or as the most negative number of the
type, and mix it with additive biases in one float tensor. Here the two are told apart, and a
tensor that holds a causal mask or a padding mask becomes `masks.causal()` or `masks.keys(valid)`,
so that mechanisms which take only those can honour it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask


def split_additive(values: Tensor) -> tuple[Tensor, Tensor | None]:
    """Take a float mask apart into what is hidden and what is added to the scores.

    Args:
        values: Float, any shape. -inf and the most negative number of its type hide a key;
            everything else is a bias. Compiled programs cannot look at values, so what they get
            has the bias always.

    Returns:
        Bool of the same shape, True = may attend, and the bias, or None where it is zero.
    """
    hidden = values <= torch.finfo(values.dtype).min
    bias = values.masked_fill(hidden, 0)
    if torch.compiler.is_compiling() or bias.requires_grad or bool(bias.any()):
        return ~hidden, bias
    return ~hidden, None


def recognise(allowed: Tensor) -> Mask | None:
    """Return the simplest mask that allows the same, or None where everything is allowed.

    Args:
        allowed: bool `[B, H or 1, L or 1, S]`, True = may attend. Its values are read, except in
            compiled programs, where the mask stays dense.
    """
    if torch.compiler.is_compiling():
        return masks.dense(allowed)
    if bool(allowed.all()):
        return None
    last = allowed[:, :1, -1:]
    if bool((allowed == last).all()):
        return masks.keys(last[:, 0, 0])
    length, count = allowed.shape[-2:]
    causal = masks.causal()
    if bool((allowed == (causal.to_dense(length, count, allowed.device) & last)).all()):
        return causal if bool(last.all()) else causal & masks.keys(last[:, 0, 0])
    return masks.dense(allowed)


def join(first: Mask | None, second: Mask | None) -> Mask | None:
    """Return the mask under which both must allow; None allows everything."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def add(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Return the sum of two biases; None is zero."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
