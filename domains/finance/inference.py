"""Class probabilities of every window of a set."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from domains.finance.data.windows import Windows


def probabilities(
    model: nn.Module, windows: Windows, *, batch_size: int, device: torch.device
) -> np.ndarray:
    """Return float64 `[n, 3]`: up, stationary, down.

    Args:
        model: takes `x` `[B, T, F]`, returns logits.
        windows: what to forecast.
        batch_size: windows at once.
        device: where the model is.
    """
    model.eval()
    parts = [np.zeros((0, 3))]
    with torch.inference_mode():
        for first in range(0, len(windows), batch_size):
            rows = np.arange(first, min(first + batch_size, len(windows)))
            logits = model(windows.batch(rows)["x"].to(device))
            parts.append(logits.double().softmax(-1).cpu().numpy())
    return np.concatenate(parts)
