"""Attention calibration (ACT): less weight for later sinks, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.errors import UnsupportedError
from shared_attention.explain.ablation import Heads, check_heads, quietly
from shared_attention.explain.capture import attention_layers
from shared_attention.explain.heads import find_sinks
from shared_attention.explain.matrix import attention_matrix
from shared_attention.layers.multihead import MultiHeadAttention


def calibrate(weights: Tensor, *, alpha: float = 5.0, beta: float = 0.4) -> Tensor:
    """Scale the weights of later sinks by `beta` and give the rest to other keys.

    What they lose goes to the other keys of the row in proportion to their weights, so that rows
    keep their sum. The first visible key, sink or not, is among those others; a row that sees
    later sinks only stays as it is.

    Args:
        weights: `[B, H, L, S]`, not negative.
        alpha: Multiple of its even share above which a key is a sink, see `find_sinks`.
        beta: Factor from 0 to 1.

    Returns:
        `[B, H, L, S]`. Sinks are found on these weights, so each input has its own.

    Raises:
        ValueError: `beta` is not from 0 to 1.
        UnsupportedError: A weight is negative.

    Source: Yu et al., Unveiling and Harnessing Hidden Attention Sinks, ICML 2024
    (arXiv:2406.15765), section 4. As in the published code the first key gets its share; there
    whichever sink comes first is spared, here the first visible key only.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"calibrate: beta got {beta}, expected 0 to 1")
    if bool((weights < -1e-6).any()):
        raise UnsupportedError(
            "calibrate: some weights are negative, so rows are not shares of attention; "
            "use a mechanism whose weights are not negative, such as softmax"
        )
    found = find_sinks(weights, alpha=alpha)
    sinks = found.later[:, :, None]
    freed = (1 - beta) * (weights * sinks).sum(-1, keepdim=True)
    rest = (weights * ~sinks).sum(-1, keepdim=True)
    least = torch.finfo(weights.dtype).eps
    scale = 1 + freed / rest.clamp_min(least)
    changed = torch.where(sinks, beta * weights, scale * weights)
    return torch.where(rest > least, changed, weights)


@contextmanager
def calibrated(
    model: nn.Module, heads: Heads, *, alpha: float = 5.0, beta: float = 0.4
) -> Iterator[None]:
    """Run a model with calibrated heads inside the block, for any mechanism linear in v.

    A calibrated layer forms its effective matrix in every pass, so it costs time and memory
    quadratic in the length whatever its mechanism.

    Args:
        model: Any module.
        heads: Heads by name of their `MultiHeadAttention`, from `heads_to_calibrate`.
        alpha: As for `calibrate`.
        beta: As for `calibrate`.

    Raises:
        ValueError: There is no such layer or head, or `beta` is not from 0 to 1.
        UnsupportedError: A layer's mechanism is not linear in v; in the block, a weight is
            negative or a layer is called with a cache, which would not be calibrated.
    """
    layers = attention_layers(model, "calibration")
    check_heads("calibrated", layers, heads)
    handles: list[Any] = []
    try:
        for name, which in heads.items():
            handles += _calibrate_layer(layers[name], list(which), alpha, beta)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _calibrate_layer(
    layer: MultiHeadAttention, heads: list[int], alpha: float, beta: float
) -> list[Any]:
    running = False

    def enter(module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any]) -> None:
        if arguments.get("cache") is not None:
            raise UnsupportedError(
                "calibrated: a layer was called with a cache, whose sinks of the past are not "
                "known; run the whole sequence without a cache"
            )

    def change(
        module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any], out: Tensor
    ) -> Tensor:
        nonlocal running
        if running:
            return out
        *query, k, v = inputs
        running = True
        try:
            weights = attention_matrix(module, query[0] if query else None, k, **arguments)
        finally:
            running = False
        own = calibrate(weights[:, heads], alpha=alpha, beta=beta)
        values = v.repeat_interleave(out.shape[1] // v.shape[1], 1)
        index = torch.tensor(heads, device=out.device)
        return out.index_copy(1, index, (own @ values[:, heads]).to(out.dtype))

    return [
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.mechanism.register_forward_hook(change, with_kwargs=True),
    ]


def heads_to_calibrate(
    model: nn.Module,
    score: Callable[[], float],
    *,
    alpha: float = 5.0,
    beta: float = 0.4,
    least: float = 0.0,
) -> dict[str, list[int]]:
    """Find the heads whose calibration, of one alone, raises the score.

    Args:
        model: Any module.
        score: Runs the model on held-out examples and says how good it is, called without
            gradients; not the examples that calibration is judged on.
        alpha: As for `calibrate`.
        beta: As for `calibrate`.
        least: A head is kept where the score rises by more.

    Returns:
        Heads by layer for `calibrated`; layers without any are left out.

    Raises:
        UnsupportedError: A layer's mechanism is not linear in v or has negative weights.
    """
    plain = quietly(score)
    found: dict[str, list[int]] = {}
    for name, layer in attention_layers(model, "calibration").items():
        for head in range(layer.num_heads):
            with calibrated(model, {name: [head]}, alpha=alpha, beta=beta):
                gain = quietly(score) - plain
            if gain > least:
                found.setdefault(name, []).append(head)
    return found
