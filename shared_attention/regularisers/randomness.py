"""Passes of a model that draw the same random numbers, so that dropout masks agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def random_state() -> tuple[Tensor, ...]:
    """Return the state of PyTorch's generators: the processor's, then those of CUDA devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (torch.get_rng_state(), *cuda)


@contextmanager
def replayed(state: tuple[Tensor, ...]) -> Iterator[None]:
    """Draw from `state` onwards inside; the generators are as before afterwards."""
    before = random_state()
    _restore(state)
    try:
        yield
    finally:
        _restore(before)


def _restore(state: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(state[0])
    for device, device_state in enumerate(state[1:]):
        torch.cuda.set_rng_state(device_state, device)
