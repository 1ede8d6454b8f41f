"""The growing keys and values that softmax attention continues from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.masks import Mask, new_positions


class KeyValueState(NamedTuple):
    """Keys and values seen so far."""

    k: Tensor
    """`[B, Hk, S, Dk]`."""
    v: Tensor
    """`[B, Hv, S, Dv]`."""
    valid: Tensor | None
    """bool `[B, S]`; None while every key has been valid."""

    def extended(self, k: Tensor, v: Tensor, mask: Mask | None) -> KeyValueState:
        """Append new positions; `mask` is None or `masks.keys` of the new positions.

        Raises:
            ValueError: The mask is of another kind.
        """
        valid = new_positions(mask)
        if valid is not None or self.valid is not None:
            old = self.valid if self.valid is not None else _all_true(self.k)
            valid = torch.cat([old, valid if valid is not None else _all_true(k)], dim=1)
        return KeyValueState(torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2), valid)

    def last(self, count: int) -> KeyValueState:
        """Keep the last `count` positions."""
        start = max(self.k.shape[2] - count, 0)
        valid = None if self.valid is None else self.valid[:, start:]
        return KeyValueState(self.k[:, :, start:], self.v[:, :, start:], valid)


def empty_state(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> KeyValueState:
    """Return a state of no positions."""
    k = torch.empty(batch, kv_heads, 0, key_dim, dtype=dtype, device=device)
    v = torch.empty(batch, kv_heads, 0, value_dim, dtype=dtype, device=device)
    return KeyValueState(k, v, None)


def continue_attention(
    function: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: KeyValueState,
    *,
    mask: Mask | None = None,
    **options: Any,
) -> tuple[Tensor, KeyValueState]:
    """Prefill, and step, of every mechanism whose state is the keys and values seen so far.

    Args:
        function: The mechanism, called causally as `function(q, k, v, mask=, **options)`.
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_state` or an earlier call.
        mask: `masks.keys` of the new positions, or None.
        **options: Passed on.

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    state = state.extended(k, v, mask)
    seen = masks.causal() if state.valid is None else masks.causal() & masks.keys(state.valid)
    return function(q, state.k, state.v, mask=seen, **options), state


class KeyValueModule(nn.Module):
    """A mechanism with parameters that continues from the keys and values seen so far.

    Subclasses are called `module(q, k, v, mask=, **inputs)`; those that keep something else in
    place of keys or values have a `prefill` of their own.
    """

    def init_state(
        self, batch: int, kv_heads: int, key_dim: int, value_dim: int, **place: Any
    ) -> KeyValueState:
        """Return the state of no positions; see `empty_state`."""
        return empty_state(batch, kv_heads, key_dim, value_dim, **place)

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: KeyValueState,
        mask: Mask | None = None,
        **inputs: Tensor | None,
    ) -> tuple[Tensor, KeyValueState]:
        """Continue causally over new positions; see `continue_attention`."""
        return continue_attention(self, q, k, v, state, mask=mask, **inputs)

    def step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: KeyValueState,
        mask: Mask | None = None,
        **inputs: Tensor | None,
    ) -> tuple[Tensor, KeyValueState]:
        """As `prefill`, for one position."""
        return self.prefill(q, k, v, state, mask, **inputs)


def _all_true(x: Tensor) -> Tensor:
    return torch.ones(x.shape[0], x.shape[2], dtype=torch.bool, device=x.device)
