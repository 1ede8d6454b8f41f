"""A learned season: one value per channel for each phase of the natural cycle.

Source: residual cycle forecasting (Lin et al., CycleNet, NeurIPS 2024, arXiv 2409.18479); here
the phase comes from the calendar, so it survives gaps and new series.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LearnedSeason(nn.Module):
    """Table `[season, C]`, read by the first calendar covariate; zero at the start.

    Args:
        season: levels of the first calendar covariate.
        channels: series C.
    """

    def __init__(self, season: int, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(season, channels))

    def forward(self, time: Tensor) -> Tensor:
        """Return the season `[B, L, C]` at calendar covariates `[B, L, F]` in [-0.5, 0.5]."""
        last = len(self.table) - 1
        phase = ((time[..., 0] + 0.5) * last).round().long().clamp(0, last)
        return self.table[phase]
