"""What a model attended to: exact effective attention matrices and statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.dispatch import attention
from shared_attention.errors import unsupported
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.masks import Mask
from shared_attention.registry import find


def attention_matrix(
    mechanism: str | nn.Module,
    q: Tensor | None,
    k: Tensor,
    *,
    mask: Mask | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Return the matrix A with out = A v, for any mechanism linear in v.

    It is exact: the mechanism is applied to the identity in place of v, some columns at a time,
    with the same random numbers for each.

    Args:
        mechanism: Name in the catalogue, or a module called `module(q, k, v, mask, bias)`.
        q: `[B, H, L, D]`; None for modules of family recurrent, called `module(k, v, mask)`.
        k: `[B, Hk, S, D]`.
        mask: As for `attention`.
        bias: As for `attention`.
        scale: As for `attention`.
        generator: As for `attention`.
        **options: Options of the mechanism; of a module, further arguments of its call.

    Returns:
        `[B, H, L, S]`; differentiable.

    Raises:
        UnsupportedError: The mechanism is not linear in v.
    """
    arguments: dict[str, Any] = {"mask": mask, **options}
    if isinstance(mechanism, str):
        if not find(mechanism).supports("linear_in_v"):
            raise unsupported(mechanism, "linear_in_v", "an effective attention matrix")
        arguments |= {"mechanism": mechanism, "scale": scale, "generator": generator}
    call: Callable[..., Tensor] = attention if isinstance(mechanism, str) else mechanism
    if q is not None:
        arguments["bias"] = bias
    inputs = (k,) if q is None else (q, k)
    batch, heads, count, width = k.shape
    identity = torch.eye(count, -(-count // width) * width, dtype=k.dtype, device=k.device)
    columns = []
    random = _random_state(k.device, generator)
    for part in identity.split(width, dim=1):
        _restore(random, k.device, generator)
        columns.append(call(*inputs, part.expand(batch, heads, -1, -1), **arguments))
    return torch.cat(columns, dim=-1)[..., :count]


@contextmanager
def capture(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the effective attention matrix of each `MultiHeadAttention` during forward passes.

    Calls with a cache are not recorded. Each forward pass costs as many extra calls of the
    mechanism as there are keys per head width.

    Args:
        model: Any module.

    Yields:
        Matrices `[B, H, L, S]` of the latest pass by module name, filled as the model runs.

    Raises:
        UnsupportedError: A layer's mechanism is not linear in v.
    """
    maps: dict[str, Tensor] = {}
    handles = []
    layers = {n: m for n, m in model.named_modules() if isinstance(m, MultiHeadAttention)}
    for name, layer in layers.items():
        if not layer.spec.supports("linear_in_v"):
            raise unsupported(layer.spec.name, "linear_in_v", f"capture of layer {name!r}")
    try:
        for name, layer in layers.items():
            handles += _watch(name, layer, maps)
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _watch(name: str, layer: MultiHeadAttention, maps: dict[str, Tensor]) -> list[Any]:
    before: dict[str, Tensor] = {}
    replaying = False

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not replaying:
            before.update(_random_state(inputs[0].device, None))

    def record(
        module: nn.Module, inputs: tuple[Tensor, ...], arguments: Mapping[str, Any], out: Tensor
    ) -> None:
        nonlocal replaying
        if replaying:
            return
        *query, k, _ = inputs
        after = _random_state(k.device, None)
        replaying = True
        try:
            _restore(before, k.device, None)
            with torch.no_grad():
                maps[name] = attention_matrix(module, query[0] if query else None, k, **arguments)
        finally:
            replaying = False
            _restore(after, k.device, None)

    return [
        layer.mechanism.register_forward_pre_hook(remember),
        layer.mechanism.register_forward_hook(record, with_kwargs=True),
    ]


def _random_state(device: torch.device, generator: torch.Generator | None) -> dict[str, Tensor]:
    if generator is not None:
        return {"generator": generator.get_state()}
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore(
    state: Mapping[str, Tensor], device: torch.device, generator: torch.Generator | None
) -> None:
    if generator is not None:
        generator.set_state(state["generator"])
        return
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """Follow attention through layers (Abnar and Zuidema, ACL 2020, arXiv:2005.00928).

    Each layer's matrix is averaged over heads, mixed half and half with the identity of the
    residual connection, its rows are normalised to sum to one, and the layers are multiplied.

    Args:
        maps: Self-attention matrices `[B, H, L, L]`, first layer first.

    Returns:
        `[B, L, L]`: how much each output position draws on each input position.

    Raises:
        ValueError: There are no matrices, or one is not square or of another size.
    """
    if not maps:
        raise ValueError("rollout: got no matrices, expected one per layer")
    length = maps[0].shape[-1]
    total = torch.eye(length, dtype=maps[0].dtype, device=maps[0].device)
    for index, weights in enumerate(maps):
        if weights.shape[-2:] != (length, length):
            raise ValueError(
                f"rollout: matrix {index} has shape {list(weights.shape)}, "
                f"expected [B, H, {length}, {length}]"
            )
        mixed = weights.abs().mean(dim=1) + torch.eye(
            length, dtype=weights.dtype, device=weights.device
        )
        total = (mixed / mixed.sum(-1, keepdim=True)) @ total
    return total


def head_statistics(maps: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Describe each head by how widely and how far it attends.

    Rows are made of absolute weights, normalised to sum to one; rows of zeros are left out.

    Args:
        maps: Matrices `[B, H, L, S]` by name, as `capture` gives them.

    Returns:
        By name: `entropy [H]` in nats, from 0 (one key) to log S (all alike), and `distance
        [H]`, the mean distance between query and key in positions, aligned bottom-right.
    """
    return {name: _statistics(weights) for name, weights in maps.items()}


def _statistics(weights: Tensor) -> dict[str, Tensor]:
    length, count = weights.shape[-2:]
    total = weights.abs().sum(-1, keepdim=True)
    rows = weights.abs() / total.clamp_min(torch.finfo(weights.dtype).tiny)
    used = (total[..., 0] > 0).to(weights.dtype)
    position = torch.arange(length, device=weights.device) + count - length
    gap = (position[:, None] - torch.arange(count, device=weights.device)).abs()
    per_row = {
        "entropy": -torch.xlogy(rows, rows).sum(-1),
        "distance": (rows * gap).sum(-1),
    }
    share = used.sum((0, 2)).clamp_min(1)
    return {name: (values * used).sum((0, 2)) / share for name, values in per_row.items()}
