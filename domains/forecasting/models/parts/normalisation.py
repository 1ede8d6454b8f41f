"""Level and spread of a look-back window: taken off before a model, put back after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Normalisation = Literal["instance", "last", "none"]
_VARIANCE_FLOOR = 1e-5


@dataclass(frozen=True)
class WindowScale:
    """Level and spread per series and channel, each `[B, 1, C]`."""

    level: Tensor
    spread: Tensor

    def remove(self, x: Tensor) -> Tensor:
        """Normalise `[B, L, C]`."""
        return (x - self.level) / self.spread

    def restore(self, forecast: Tensor) -> Tensor:
        """Bring `[B, H, C, outputs]` back to the units of the window."""
        return forecast * self.spread.unsqueeze(-1) + self.level.unsqueeze(-1)


def keep_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return `[B, L, D]` with exact zeros, NaN included, where `valid` `[B, L]` is False."""
    return x if valid is None else torch.where(valid.unsqueeze(-1), x, 0.0)


def last_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the last valid step of `[B, L, C]` as `[B, 1, C]`; zeros where none is valid."""
    if valid is None:
        return x[:, -1:]
    steps = torch.arange(1, x.shape[1] + 1, device=x.device)
    index = (valid * steps).amax(dim=1) - 1
    found = x.gather(1, index.clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2]))
    return torch.where((index >= 0)[:, None, None], found, 0.0)


def carry_valid(x: Tensor, valid: Tensor | None) -> Tensor:
    """Fill invalid steps of `[B, L, C]` with the last valid one, or the first valid one before it.

    A window without any valid step becomes zero.
    """
    if valid is None:
        return x
    steps = torch.arange(x.shape[1], device=x.device)
    source = torch.where(valid, steps, -1).cummax(dim=1).values
    first = valid.to(torch.uint8).argmax(dim=1, keepdim=True)
    source = torch.where(source < 0, first, source)
    return keep_valid(x, valid).gather(1, source.unsqueeze(-1).expand_as(x))


def valid_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean over the valid steps of `[B, L, C]` as `[B, 1, C]`; zero where none is."""
    if valid is None:
        return x.mean(dim=1, keepdim=True)
    count = valid.sum(dim=1).clamp(min=1)[:, None, None]
    return keep_valid(x, valid).sum(dim=1, keepdim=True) / count


def normalise_window(
    past: Tensor, valid: Tensor | None, kind: Normalisation
) -> tuple[Tensor, WindowScale]:
    """Normalise a window by its own valid steps.

    Args:
        past: `[B, L, C]`.
        valid: bool `[B, L]` or None; invalid steps are never read and come out as zero.
        kind: `instance` (mean and standard deviation), `last` (last valid value, spread 1)
            or `none`.

    Source: reversible instance normalisation without affine parameters (Kim et al. 2022);
    last-value subtraction as NLinear (Zeng et al. 2023).
    """
    clean = keep_valid(past, valid)
    if kind == "none":
        level, spread = torch.zeros_like(clean[:, :1]), torch.ones_like(clean[:, :1])
    elif kind == "last":
        level = last_valid(clean, valid)
        spread = torch.ones_like(level)
    elif kind == "instance":
        level, spread = _moments(clean, valid)
    else:
        raise ValueError(f"normalise must be 'instance', 'last' or 'none', got {kind!r}")
    scale = WindowScale(level, spread)
    return keep_valid(scale.remove(clean), valid), scale


def _moments(clean: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    level = valid_mean(clean, valid)
    variance = valid_mean((clean - level).square(), valid)
    return level, torch.sqrt(variance + _VARIANCE_FLOOR)
