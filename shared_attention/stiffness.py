"""How stiff the path of features through a residual network is.

Residual layers x_{t+1} = x_t + f_t(x_t) are steps of the forward Euler method. Huang et al.
(Understanding Self-attention Mechanism via Dynamical System Perspective, ICCV 2023,
arXiv:2308.09939) see attention as what adapts the size of these steps to the stiffness met on the
way, and measure stiffness by features alone. What is here follows from that view and the textbook
definitions of stiffness; the paper's own index and its StepNet layer were not at hand in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.errors import nearest
from shared_attention.layers.decoder import DecoderLayer
from shared_attention.layers.encoder import EncoderLayer


@dataclass(frozen=True)
class Stiffness:
    """Stiffness along a path of T steps, the mean over positions; a name for each column."""

    change: Tensor
    """`[T]`, ‖x_{t+1} - x_t‖ / ‖x_t‖: how far a layer moves features."""
    secant: Tensor
    """`[T - 1]`, ‖Δ_{t+1} - Δ_t‖ / ‖Δ_t‖ with Δ_t = x_{t+1} - x_t: the step size times the rate
    at which the field changes along the path. For x' = λ x with steps of size h it is h |λ|."""
    room: Tensor
    """`[T - 1]`, 2 / secant: by how much the step could grow, or below 1 has to shrink, for
    forward Euler to stay stable on a decaying direction of that rate."""
    ratio: Tensor
    """Scalar, the largest secant over the smallest: 1 on a path of one rate, large where slow and
    fast parts follow each other."""


@contextmanager
def trajectory(model: nn.Module, layers: Iterable[str] | None = None) -> Iterator[list[Tensor]]:
    """Record the features before, between and after residual layers in one forward pass.

    Args:
        model: Any module.
        layers: Names of the layers, called one after the other; None: every `EncoderLayer` and
            `DecoderLayer`.

    Yields:
        The input of the first layer that ran, then the output of each, as the model runs: tensors
        `[B, L, D]` with their gradients.

    Raises:
        ValueError: The model has no such layer.
    """
    modules = dict(model.named_modules())
    if layers is None:
        layers = [n for n, m in modules.items() if isinstance(m, (EncoderLayer, DecoderLayer))]
    chosen = list(layers)
    if not chosen:
        raise ValueError(
            f"trajectory: {type(model).__name__} has no EncoderLayer or DecoderLayer; name layers"
        )
    states: list[Tensor] = []

    def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not states:
            states.append(inputs[0])

    def follow(module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        states.append(out)

    handles: list[Any] = []
    try:
        for name in chosen:
            if name not in modules:
                raise ValueError(f"trajectory: no layer {name!r}{nearest(name, list(modules))}")
            handles.append(modules[name].register_forward_pre_hook(start))
            handles.append(modules[name].register_forward_hook(follow))
        yield states
    finally:
        for handle in handles:
            handle.remove()


def stiffness(states: Sequence[Tensor], valid: Tensor | None = None) -> Stiffness:
    """Measure stiffness along a path of features.

    Each position's features are a point of their own. Positions that do not move at some step
    have no secant there and are left out of its mean.

    Args:
        states: x_0 to x_T, each `[B, L, D]`, at least three, as from `trajectory`.
        valid: bool `[B, L]`, positions that are not padding; None: all.

    Raises:
        ValueError: There are fewer than three states, or their shapes differ.
    """
    if len(states) < 3:
        raise ValueError(f"stiffness: got {len(states)} states, expected at least 3")
    for index, state in enumerate(states):
        if state.shape != states[0].shape:
            raise ValueError(
                f"stiffness: state {index} has shape {list(state.shape)}, "
                f"expected that of the first, {list(states[0].shape)}"
            )
    x = torch.stack(list(states))
    if valid is not None:
        x = x[:, valid]
    x = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1, -2)
    steps = x.diff(dim=0)
    size, turn = steps.norm(dim=-1), steps.diff(dim=0).norm(dim=-1)
    secants = torch.where(size[:-1] > 0, turn / size[:-1], torch.nan)
    secant = secants.nanmean(-1)
    return Stiffness(
        change=(size / x[:-1].norm(dim=-1).clamp_min(torch.finfo(x.dtype).tiny)).mean(-1),
        secant=secant,
        room=2 / secant,
        ratio=secant.max() / secant.min(),
    )
