"""The growing keys and values that softmax attention continues from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.masks import Mask, new_positions

SMALL = 64
"""Positions up to which keys and values are moved at every step, into no more than they need."""
SPARE = 4
"""Without gradients, keys and values get room for one more of so many when they are moved."""


class Room:
    """Memory that keys and values lie at the start of, so that new ones need not move them.

    States that follow each other share it. Only the last of them, which all that is written
    belongs to, may write what comes next; another continuation of an earlier one moves.
    """

    __slots__ = ("filled", "k", "v")

    def __init__(self, k: Tensor, v: Tensor, capacity: int) -> None:
        self.k, self.v = (x.new_empty(*x.shape[:2], capacity, x.shape[3]) for x in (k, v))
        self.filled = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write new keys and values, and return all."""
        end = self.filled + k.shape[2]
        self.k[:, :, self.filled : end] = k
        self.v[:, :, self.filled : end] = v
        self.filled = end
        return self.k[:, :, :end], self.v[:, :, :end]

    def follows(self, state: KeyValueState, new: Tensor) -> bool:
        """Say whether `new` keys may be written behind those of `state`."""
        return (
            self.filled == state.k.shape[2]
            and self.filled + new.shape[2] <= self.k.shape[2]
            and self.k.data_ptr() == state.k.data_ptr()
            and self.v.data_ptr() == state.v.data_ptr()
            and self.k.shape[:2] == state.k.shape[:2]
            and (self.k.dtype, self.k.device) == (new.dtype, new.device)
            and (torch.is_inference_mode_enabled() or not self.k.is_inference())
        )


class KeyValueState(NamedTuple):
    """Keys and values seen so far."""

    k: Tensor
    """`[B, Hk, S, Dk]`."""
    v: Tensor
    """`[B, Hv, S, Dv]`."""
    valid: Tensor | None
    """bool `[B, S]`; None while every key has been valid."""
    room: Room | None = None
    """Where the keys and values lie, if there may be room behind them."""

    def extended(self, k: Tensor, v: Tensor, mask: Mask | None) -> KeyValueState:
        """Append new positions; `mask` is None or `masks.keys` of the new positions.

        Raises:
            ValueError: The mask is of another kind.
        """
        valid = new_positions(mask)
        if valid is not None or self.valid is not None:
            old = self.valid if self.valid is not None else _all_true(self.k)
            valid = torch.cat([old, valid if valid is not None else _all_true(k)], dim=1)
        moved = self.k.shape[2] < SMALL
        if moved or torch.is_grad_enabled() or torch.compiler.is_compiling():
            both = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
            return KeyValueState(*both, valid)
        room = self.room
        if room is None or not room.follows(self, k):
            total = self.k.shape[2] + k.shape[2]
            room = Room(self.k, self.v, total + total // SPARE)
            room.append(self.k, self.v)
        return KeyValueState(*room.append(k, v), valid, room)

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
