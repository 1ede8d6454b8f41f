"""What causal ProbSparse attention continues from."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared_attention.errors import UnsupportedError
from shared_attention.masks import Mask, Parts
from shared_attention.mechanisms.kv_state import KeyValueState, empty_state
from shared_attention.mechanisms.query_choice import attend_leading, measure_of, seen_keys
from shared_attention.mechanisms.query_sparsity import WORD


class ProbSparseState(NamedTuple):
    """Keys and values so far, and what the choice of queries depends on."""

    seen: KeyValueState
    total: Tensor
    """Sum of the values `[B, H, 1, Dv]`, in at least float32."""
    best: Tensor
    """Largest measures of the queries so far `[B, H, factor]`."""


def empty_prob_sparse(
    batch: int,
    kv_heads: int,
    key_dim: int,
    value_dim: int,
    *,
    factor: int = 5,
    **arguments: Any,
) -> ProbSparseState:
    """Return the state of no positions; other arguments are those of `empty_state`."""
    seen = empty_state(batch, kv_heads, key_dim, value_dim, **arguments)
    wide = torch.promote_types(seen.v.dtype, torch.float32)
    total = seen.v.new_zeros(batch, kv_heads, 1, value_dim, dtype=wide)
    best = seen.k.new_full((batch, kv_heads, factor), -torch.inf, dtype=wide)
    return ProbSparseState(seen, total, best)


def prefill_prob_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: ProbSparseState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    factor: int = 5,
    seed: int = 0,
    form: str = "corrected",
    self_attention: bool | None = None,
) -> tuple[Tensor, ProbSparseState]:
    """Continue the corrected causal form over new positions; also the step for one position.

    Every query may turn out to attend to all keys, so all are kept; one that does not reads only
    those that it samples.

    Args:
        q: New queries `[B, H, L, D]`.
        k: New keys `[B, H, L, D]`.
        v: New values `[B, H, L, Dv]`.
        state: State of the positions so far, of the same `factor`.
        mask: None, or `masks.keys(valid)` of the new positions.
        scale: Score scale; None is 1 / sqrt(D).
        factor: As for `prob_sparse_attention`, and so on.
        seed: Seed of the sampled keys.
        form: `corrected`; the published form reads the future.
        self_attention: Not used: a stream is self-attention.

    Returns:
        Output `[B, H, L, Dv]` and the state after the last position.

    Raises:
        ValueError: The mask is not of keys.
        UnsupportedError: The form is the published one.
    """
    if form != "corrected":
        raise UnsupportedError(f"prob_sparse: form={form!r} reads the future and has no state")
    seen, length = state.seen.extended(k, v, mask), q.shape[2]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    own, valid = None, seen.valid
    k, v = seen.k, seen.v
    if valid is not None:
        own, hidden = valid[:, -length:], ~valid[:, None, :, None]
        k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
    count = seen_keys(valid, True, length, k.shape[2], q.device)
    rows = (count - 1).clamp(min=0)
    measure = measure_of(q, k, Parts(causal=True, keys=valid), rows, count, factor, seed & WORD)
    if own is not None:
        measure = measure.masked_fill(~own[:, None], -torch.inf)
    sums = v[:, :, -length:].cumsum(2, dtype=state.total.dtype) + state.total
    fallback = (sums / count.clamp(min=1)[:, None, :, None]).to(v.dtype)
    out, best = attend_leading(q, k, v, fallback, measure, count, state.best, valid, scale)
    return out, ProbSparseState(seen, sums[:, :, -1:].clone(), best)
