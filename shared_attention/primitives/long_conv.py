"""Convolutions with filters as long as the input."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECT = 64
"""Up to this length one matrix product per channel is fastest."""
PARTS = 8
"""Blocks into which longer inputs are cut."""


def causal_conv(x: Tensor, filters: Tensor) -> Tensor:
    """Return out_i = Σ_{j <= i} filters_{i-j} x_j for every channel.

    A Fourier transform of the whole input would let rounding errors of large later values reach
    earlier outputs. Here blocks of the input meet later blocks in the Fourier domain and are
    convolved within by the same method, down to a product with a triangular matrix, so no
    operation joins an output with a later input. O(L log L) time for the lengths in use.

    Args:
        x: `[C, N, L]`, in at least float32; N any number of series per channel.
        filters: `[C, L]`.

    Returns:
        `[C, N, L]`.
    """
    return _Causal.apply(x, filters)


def grid_conv(x: Tensor, filters: Tensor) -> Tensor:
    """As `causal_conv` along every axis of a grid at once, by Fourier transform.

    Rounding errors, relative to the largest input, reach every position.

    Args:
        x: `[B, C, *grid]`, in at least float32.
        filters: `[C, *grid]`.

    Returns:
        `[B, C, *grid]`.
    """
    grid = filters.shape[1:]
    axes = tuple(range(-len(grid), 0))
    size = [2 * length for length in grid]
    spectrum = torch.fft.rfftn(x, s=size, dim=axes) * torch.fft.rfftn(filters, s=size, dim=axes)
    out = torch.fft.irfftn(spectrum, s=size, dim=axes)
    return out[(..., *(slice(length) for length in grid))]


class _Causal(torch.autograd.Function):
    """Causal convolution; its gradients are causal convolution and correlation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(x, filters)
        return _convolve(x, filters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x, filters = ctx.saved_tensors
        to_x = to_filters = None
        if ctx.needs_input_grad[0]:
            to_x = _Causal.apply(gradient.flip(-1), filters).flip(-1)
        if ctx.needs_input_grad[1]:
            size = 2 * x.shape[-1]
            spectrum = torch.fft.rfft(gradient, n=size) * torch.fft.rfft(x, n=size).conj()
            to_filters = torch.fft.irfft(spectrum.sum(1), n=size)[..., : x.shape[-1]]
        return to_x, to_filters


def _convolve(x: Tensor, filters: Tensor) -> Tensor:
    """`x [C, N, L]`, `filters [C, L]`."""
    length = x.shape[-1]
    if length <= DIRECT:
        reversed_rows = F.pad(filters, (length - 1, 0)).unfold(-1, length, 1)
        return x @ reversed_rows.flip(1)
    block = max(DIRECT, -(-length // PARTS))
    count = -(-length // block)
    x, filters = (F.pad(y, (0, count * block - length)) for y in (x, filters))
    blocks, lags = x.unflatten(-1, (count, block)), filters.unflatten(-1, (count, block))
    out = _convolve(blocks.flatten(1, 2), lags[:, 0]).view(blocks.shape)
    out[:, :, 1:] += _between(blocks[:, :, :-1], lags)
    return out.flatten(2)[..., :length]


def _between(blocks: Tensor, lags: Tensor) -> Tensor:
    """Contributions of earlier blocks to the second block and each that follows.

    Input j of a block reaches output i of the block m later with lag m · block + i - j: on a
    circle of two blocks, lags of block m come first and those of block m - 1 before them.
    """
    block = blocks.shape[-1]
    spectra = torch.fft.rfft(blocks, n=2 * block)
    around = torch.fft.rfft(torch.cat([lags[:, 1:], lags[:, :-1]], -1))[:, None]
    total = spectra * around[:, :, :1]
    for later in range(1, around.shape[2]):
        total[:, :, later:] += spectra[:, :, :-later] * around[:, :, later : later + 1]
    return torch.fft.irfft(total, n=2 * block)[..., :block]
