"""Kernel-3 circular convolutions over time, as one matrix product on `[B, L, D]`.

The published models transpose to `[B, D, L]`, pad and convolve. Here narrow inputs are stacked
with their two neighbours before the product, and other outputs are shifted after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared_attention.linear import Linear


def with_neighbours(x: Tensor) -> Tensor:
    """Return `[previous, current, next]` of `[B, L, D]` as `[B, L, 3 D]`; the ends wrap round."""
    return torch.cat([x.roll(1, dims=1), x, x.roll(-1, dims=1)], dim=-1)


class CircularConvolution(nn.Module):
    """Kernel-3 circular convolution without bias, `[B, L, inputs]` to `[B, L, outputs]`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.taps = Linear(inputs, 3 * outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, L, inputs]` to `[B, L, outputs]`."""
        before, here, after = self.taps(x).chunk(3, dim=-1)
        return before.roll(1, dims=1) + here + after.roll(-1, dims=1)
