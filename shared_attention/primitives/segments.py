"""Long inputs some positions at a time, so that what is computed on the way stays small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SEGMENT = 4096


def in_segments(
    advance: Callable[..., tuple[Tensor, Any]],
    inputs: tuple[Tensor, ...],
    state: Any,
    segment: int = SEGMENT,
) -> tuple[Tensor, Any]:
    """Carry a state through long inputs: the same result with less memory in use at once.

    On processors it is also faster: buffers of many megabytes are asked of the system anew in
    every operation, and zeroed.

    Args:
        advance: `advance(*inputs, state) -> (out, state)`, which may be cut anywhere.
        inputs: Tensors `[B, H, L, D]`.
        state: Any of earlier positions.
        segment: Positions at a time.

    Returns:
        `(out [B, H, L, D], state)`.
    """
    if inputs[0].shape[2] <= segment:
        return advance(*inputs, state)
    outs = []
    for part in zip(*(x.split(segment, 2) for x in inputs), strict=True):
        out, state = advance(*part, state)
        outs.append(out)
    return torch.cat(outs, 2), state
