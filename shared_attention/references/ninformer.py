"""The NiNformer block, one sample at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def reference_ninformer(
    x: Tensor,
    *,
    parameters: Mapping[str, Tensor],
    length: int,
    hidden: int | None = None,
    form: str = "corrected",
) -> Tensor:
    """Write out norms, GELU and products of matrices.

    Args:
        x: `[B, L, C]`.
        parameters: Those of `NinBlock`, in float64.
        length: L; that of `x` counts.
        hidden: Width of the feed-forward networks; that of the parameters counts.
        form: "corrected" or "published".

    Returns:
        float64 `[B, L, C]`.
    """
    second = "norm" if form == "published" else "second_norm"
    samples = []
    for one in x:
        n = _norm(one, parameters, "norm")
        y = (
            n
            + _feed_forward(_norm(n, parameters, "gate.token_norm").T, parameters, "gate.tokens").T
        )
        z = y + _feed_forward(
            _norm(y, parameters, "gate.channel_norm"), parameters, "gate.channels"
        )
        one = one + _linear(n, parameters, "gate.proj") * z
        samples.append(
            one + _feed_forward(_norm(one, parameters, second), parameters, "feed_forward")
        )
    return torch.stack(samples)


def _norm(x: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    spread = centred.square().mean(-1, keepdim=True)
    return (
        centred / (spread + 1e-5).sqrt() * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]
    )


def _linear(x: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"]


def _feed_forward(x: Tensor, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    inner = _linear(x, parameters, f"{name}.up")
    return _linear(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2, parameters, f"{name}.down")
