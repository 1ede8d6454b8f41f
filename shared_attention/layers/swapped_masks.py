"""The masks of `nn.MultiheadAttention` as the core's mask and bias."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention import masks
from shared_attention.foreign_masks import add, join, recognise, split_additive
from shared_attention.masks import Mask
from shared_attention.spec import MechanismSpec


def read_masks(
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    is_causal: bool,
    sizes: tuple[int, int, int, int],
    spec: MechanismSpec,
    dtype: torch.dtype,
) -> tuple[Mask | None, Tensor | None]:
    """Return what PyTorch's two masks hide, and what they add to the scores.

    Encoders of PyTorch turn every boolean mask into a float one of 0 and -inf, which is turned
    back here. A mechanism without bias gets none in a compiled program, which then stops where
    the mask holds anything else.

    Args:
        key_padding_mask: `[B, S]`, bool with True = padding, or float.
        attn_mask: `[L, S]` or `[B * H, L, S]`, bool with True = must not attend, or float.
        is_causal: The caller's word that `attn_mask` is causal.
        sizes: B, H, L and S.
        spec: The mechanism.
        dtype: Type of the bias.

    Raises:
        ValueError: A mask has another shape or type, or `is_causal` comes without a mask.
    """
    batch, heads, length, count = sizes
    mask: Mask | None = None
    bias: Tensor | None = None
    if key_padding_mask is not None:
        _check("key_padding_mask", key_padding_mask, [(batch, count)])
        valid, extra = _split(key_padding_mask, spec)
        if torch.compiler.is_compiling() or not bool(valid.all()):
            mask = masks.keys(valid)
        bias = None if extra is None else extra[:, None, None, :]
    if attn_mask is not None:
        _check("attn_mask", attn_mask, [(length, count), (batch * heads, length, count)])
        allowed, extra = _split(attn_mask, spec)
        if is_causal and torch.compiler.is_compiling():
            causal = masks.causal().to_dense(length, count, allowed.device)
            torch._assert_async((allowed == causal).all(), "attn_mask is not causal")
            mask = join(masks.causal(), mask)
        else:
            mask = join(recognise(_by_head(allowed, sizes).expand(batch, -1, -1, -1)), mask)
        bias = add(bias, None if extra is None else _by_head(extra, sizes))
    elif is_causal:
        raise ValueError("attention: is_causal says that attn_mask is causal, but there is none")
    return mask, None if bias is None else bias.to(dtype)


def _split(mask: Tensor, spec: MechanismSpec) -> tuple[Tensor, Tensor | None]:
    if mask.dtype == torch.bool:
        return ~mask, None
    allowed, bias = split_additive(mask)
    if bias is not None and torch.compiler.is_compiling() and not spec.supports("bias"):
        message = f"{spec.name} takes no bias, so a float mask may hold 0 and -inf only"
        torch._assert_async((bias == 0).all(), message)
        return allowed, None
    return allowed, bias


def _by_head(mask: Tensor, sizes: tuple[int, int, int, int]) -> Tensor:
    return mask[None, None] if mask.dim() == 2 else mask.view(sizes[0], sizes[1], *mask.shape[1:])


def _check(name: str, mask: Tensor, shapes: list[tuple[int, ...]]) -> None:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"attention: {name} has dtype {mask.dtype}, expected bool or float")
    if tuple(mask.shape) not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"attention: {name} has shape {list(mask.shape)}, expected {expected}")
