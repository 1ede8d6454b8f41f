"""A linear layer that takes the faster of two matrix products on processors.

On processors other than Intel's, the BLAS that PyTorch ships uses narrower vector instructions
than its convolution library (oneDNN): a 1x1 convolution over channels-last memory is the same
product, needs no copy, and was measured at twice the speed of `functional.linear`, forward and
backward, on one AMD EPYC with AVX-512 (single precision, batch 32, length 96, widths 512 to 2048)
and at 1.0 to 1.3 times on another, where both run at one rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_WORTHWHILE = 2**23
"""Multiplications below which starting a convolution costs more than it saves."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x weight^T + bias`, as `functional.linear` does.

    Args:
        x: `[..., in]`.
        weight: `[out, in]`.
        bias: `[out]` or None.
    """
    if not _convolves(x, weight):
        return functional.linear(x, weight, bias)
    image = x.reshape(x.shape[0], -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    out = functional.conv2d(image, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def _convolves(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: what follows would limit an exported batch
        and x.numel() * weight.shape[0] >= _WORTHWHILE
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() > 2
        and x.shape[0] > 1
        and torch.backends.mkldnn.is_available()
    )


class Linear(nn.Linear):
    """`nn.Linear` computed by `linear`: same parameters, same initialisation."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., in_features]` to `[..., out_features]`."""
        return linear(x, self.weight, self.bias)
