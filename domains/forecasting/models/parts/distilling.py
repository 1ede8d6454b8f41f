"""Self-attention distilling of Informer: halve a sequence between two encoder layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.forecasting.models.parts.circular import CircularConvolution
from domains.forecasting.models.parts.normalisation import keep_valid


class Distilling(nn.Module):
    """Convolution (kernel 3), batch norm, ELU and max pooling (kernel 3, stride 2) over time.

    The convolution's own bias is left to the batch norm. As in the paper, batch norm couples the
    samples of a training batch through its statistics; evaluation uses the running ones. Length
    L becomes ceil(L / 2): published ports that pad the convolution by two give one step more.
    Padded steps are zero for the convolution and never win the maximum, but count in the
    statistics of the batch norm.

    Source: Informer (Zhou et al. 2021), equation 5.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.convolution = CircularConvolution(d_model, d_model)
        self.norm = nn.BatchNorm2d(d_model)

    def forward(self, x: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Halve `[B, L, d_model]` and, where given, its `valid` `[B, L]`."""
        image = self.convolution(keep_valid(x, valid)).unsqueeze(2).permute(0, 3, 1, 2)
        image = self.norm(image)
        if valid is not None:
            image = image.masked_fill(~valid[:, None, :, None], -torch.inf)
            valid = functional.max_pool1d(valid.to(x.dtype).unsqueeze(1), 3, 2, 1).squeeze(1) > 0
        pooled = functional.max_pool2d(image, (3, 1), (2, 1), (1, 0))
        halved = functional.elu(pooled).permute(0, 2, 3, 1).squeeze(2)
        return keep_valid(halved, valid), valid
