"""Depthwise convolution of grids with channels last."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FEW_TAPS = 9
"""Kernels of at most this many taps have fast gradients in PyTorch."""


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Convolve each channel of a grid with its own kernel; beyond the edge there are zeros.

    The grid is not transposed: channels last is the layout in which these convolutions are
    fastest. On CPU the gradients of large kernels are computed as convolutions themselves, which
    is several times faster than PyTorch's own.

    Args:
        x: `[B, *grid, C]`, 1 to 3 grid dimensions.
        weight: `[C, 1, *kernel]`, odd sizes.
        bias: `[C]`.
        causal: For one grid dimension: the kernel ends at each position instead of being
            centred on it.

    Returns:
        `[B, *grid, C]`.
    """
    dims = x.dim() - 2
    length = x.shape[1]
    y = x.movedim(-1, 1)
    if dims == 1:
        y, weight = y.unsqueeze(2), weight.unsqueeze(2)
    y = y.contiguous(memory_format=torch.channels_last_3d if dims == 3 else torch.channels_last)
    padding = [size - 1 if causal else size // 2 for size in weight.shape[2:]]
    slow = x.device.type == "cpu" and weight[0].numel() > FEW_TAPS
    if slow and (x.requires_grad or weight.requires_grad):
        y = _Depthwise.apply(y, weight, padding)
        y = y if bias is None else y + bias.view(-1, *[1] * (y.dim() - 2))
    else:
        y = _conv(y, weight, bias, padding)
    if dims == 1:
        y = y.squeeze(2)[..., :length]
    return y.movedim(1, -1)


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    convolve = F.conv3d if x.dim() == 5 else F.conv2d
    return convolve(x, weight, bias, padding=padding, groups=len(weight))


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution whose gradients are depthwise convolutions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _conv(x, weight, None, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            rest = [n - 1 - p for n, p in zip(weight.shape[2:], ctx.padding, strict=True)]
            to_x = _conv(gradient, weight.flip(tuple(range(2, x.dim()))), None, rest)
        if ctx.needs_input_grad[1]:
            each = [
                _conv(one, own[:, None], None, ctx.padding)
                for one, own in zip(x.split(1), gradient.unbind(0), strict=True)
            ]
            to_weight = torch.cat(each).sum(0)[:, None]
        return to_x, to_weight, None
