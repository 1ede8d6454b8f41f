"""Mechanisms that multiply each row of scores by a factor and then are softmax attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from shared_attention.mechanisms import softmax
from shared_attention.result import AttentionOutput
from shared_attention.spec import Backend

Factor = Callable[..., Tensor]
"""`factor(q, k, mask, **options)`: what row scores are multiplied by, `[B, H, L, 1]` or less."""


def rescale(q: Tensor, bias: Tensor | None, factor: Tensor) -> tuple[Tensor, Tensor | None]:
    """Multiply queries and bias, and with them every row of scores, by `factor`.

    A bias of -inf stays what it is, whatever the factor.
    """
    q = q * factor.to(q.dtype)
    if bias is None:
        return q, None
    hidden = bias == -math.inf
    return q, (bias.masked_fill(hidden, 0) * factor).masked_fill(hidden, -math.inf)


def rescaled_backends(factor: Factor) -> tuple[Backend, ...]:
    """Return softmax attention's backends with rescaled scores."""
    return tuple(
        Backend(backend.name, _rescaled(backend.run, factor), backend.why_not)
        for backend in softmax.SPEC.implementations
    )


def rescaled_rich(factor: Factor) -> Callable[..., AttentionOutput]:
    """Return softmax attention's weights and log-sum-exp with rescaled scores."""
    return _rescaled(softmax.rich_softmax_attention, factor)


def _rescaled(run: Callable[..., Any], factor: Factor) -> Callable[..., Any]:
    names = ("mask", "bias", "scale", "need")

    def rescaled(q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Any:
        options = {n: arguments[n] for n in arguments if n not in names}
        passed = {n: arguments[n] for n in names if n in arguments}
        rows = factor(q, k, passed["mask"], **options)
        q, passed["bias"] = rescale(q, passed["bias"], rows)
        return run(q, k, v, **passed)

    return rescaled
