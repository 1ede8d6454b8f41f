"""One small convolutional network per variable."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_KERNEL = 3


class VariableConvolution(nn.Module):
    """Turn each variable's series into one token with a 1-D CNN of its own.

    Two convolutions with ReLU, the first followed by max pooling that halves the length, then a
    linear map per variable.

    Args:
        variables: series N.
        length: steps L of each.
        filters: channels of each convolution.
        d_model: size of a token.
    """

    def __init__(self, variables: int, length: int, filters: int, d_model: int) -> None:
        super().__init__()
        wide = variables * filters
        self.first = nn.Conv1d(variables, wide, _KERNEL, padding=1, groups=variables)
        self.second = nn.Conv1d(wide, wide, _KERNEL, padding=1, groups=variables)
        features = filters * math.ceil(length / 2)
        bound = features**-0.5
        self.weight = nn.Parameter(
            torch.empty(variables, features, d_model).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(variables, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, L, N]` to tokens `[B, N, d_model]`."""
        batch, _, variables = x.shape
        hidden = functional.relu(self.first(x.transpose(1, 2)))
        hidden = functional.max_pool1d(hidden, 2, ceil_mode=True)
        hidden = functional.relu(self.second(hidden)).view(batch, variables, -1)
        tokens = torch.bmm(hidden.transpose(0, 1), self.weight).transpose(0, 1)
        return tokens + self.bias
