"""Input of a generative decoder: the end of the look-back window, then the horizon."""

from __future__ import annotations

import torch
from torch import Tensor


def tail_and_horizon(past: Tensor, tail: int, filler: Tensor) -> Tensor:
    """Return the last `tail` steps of `[B, L, D]` followed by `filler` `[B, H, D]`."""
    return torch.cat([past[:, past.shape[1] - tail :], filler], dim=1)


def tail_validity(valid: Tensor | None, tail: int, horizon: int) -> Tensor | None:
    """Return which decoder steps hold something, bool `[B, tail + horizon]`, or None if all do."""
    if valid is None:
        return None
    return tail_and_horizon(valid, tail, valid.new_ones(valid.shape[0], horizon))


def label_steps(label: int | None, lookback: int, default: int) -> int:
    """Return how many look-back steps start the decoder; `default` where `label` is None.

    Raises:
        ValueError: `label` is not in `[0, lookback]`.
    """
    label = default if label is None else label
    if not 0 <= label <= lookback:
        raise ValueError(f"label: got {label}, expected between 0 and the look-back {lookback}")
    return label
