"""Running a stochastic mechanism again with the random numbers that it had."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def random_state(
    device: torch.device, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Return the state of `generator`, or the global ones that a module on `device` draws from."""
    if generator is not None:
        return {"generator": generator.get_state()}
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(
    state: Mapping[str, Tensor], device: torch.device, generator: torch.Generator | None = None
) -> None:
    """Put back what `random_state` returned for the same device and generator."""
    if generator is not None:
        generator.set_state(state["generator"])
        return
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
