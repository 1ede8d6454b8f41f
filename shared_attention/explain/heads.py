"""What heads are like: entropy and distance, sinks, and heads that lie dormant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Sinks(NamedTuple):
    """Keys that draw attention whatever the query."""

    received: Tensor
    """Mean weight of each key over the queries from the first that sees it on, `[B, H, S]`."""
    first: Tensor
    """Whether the first visible key is a sink, bool `[B, H, S]`, False at every other key."""
    later: Tensor
    """Which later keys are sinks, bool `[B, H, S]`."""


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
    rows, used = _rows(weights)
    position = torch.arange(length, device=weights.device) + count - length
    gap = (position[:, None] - torch.arange(count, device=weights.device)).abs()
    per_row = {
        "entropy": -torch.xlogy(rows, rows).sum(-1),
        "distance": (rows * gap).sum(-1),
    }
    share = used.sum((0, 2)).clamp_min(1)
    return {name: (values * used).sum((0, 2)) / share for name, values in per_row.items()}


def _rows(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of absolute weights that sum to one, and 1 for each row that is not zero, else 0."""
    total = weights.abs().sum(-1, keepdim=True)
    rows = weights.abs() / total.clamp_min(torch.finfo(weights.dtype).tiny)
    return rows, (total[..., 0] > 0).to(weights.dtype)


def find_sinks(weights: Tensor, *, alpha: float = 5.0) -> Sinks:
    """Find keys that get more than `alpha` times their even share, N visible keys of it.

    A key is a sink of a head on one input where the mean of its weight, over the queries from the
    first that sees it on, exceeds alpha / N. So a causal mask does not hide a late sink; a key
    near the end is judged by few queries, the last one by itself alone. The first visible key is
    told apart from later ones. Weights are taken absolute, with rows that sum to one. Visible are
    the queries and keys of a sample that have any weight in any head; with no more than `alpha`
    of these keys there is no sink.

    Args:
        weights: `[B, H, L, S]`.
        alpha: Multiple of the even share.

    Raises:
        ValueError: `alpha` is not positive.

    Source: Yu et al., Unveiling and Harnessing Hidden Attention Sinks, ICML 2024
    (arXiv:2406.15765), section 3; the mean is that of the published code.
    """
    if not alpha > 0:
        raise ValueError(f"find_sinks: alpha got {alpha}, expected more than 0")
    rows, used = _rows(weights)
    begun = (rows > 0).cummax(-2).values & (used > 0)[..., None]
    received = rows.sum(-2) / begun.sum(-2).clamp_min(1)
    seen = begun.flatten(1, 2).any(1)
    found = received > alpha / seen.sum(-1).clamp_min(1)[:, None, None]
    first = seen & (seen.cumsum(-1) == 1)
    return Sinks(received, found & first[:, None], found & ~first[:, None])


def sink_share(weights: Tensor, sinks: Tensor | None = None) -> Tensor:
    """Return how much of its attention each query gives to sinks.

    Args:
        weights: `[B, H, L, S]`.
        sinks: bool `[B, H, S]`; the first visible key of each sample where None.

    Returns:
        `[B, H, L]` from 0 to 1; NaN for queries that see nothing.
    """
    rows, used = _rows(weights)
    if sinks is None:
        seen = (rows > 0).flatten(1, 2).any(1)
        sinks = (seen & (seen.cumsum(-1) == 1))[:, None]
    share = (rows * sinks[..., None, :]).sum(-1)
    return share.masked_fill(used == 0, torch.nan)


def mean_by_context(values: Tensor, context: Tensor) -> Tensor:
    """Average what each head does within each context.

    Args:
        values: `[B, H, L]`, as `sink_share` gives it; NaN is left out.
        context: int `[B, L]`, or `[B, 1]` where all of a sample is of one context, from 0;
            negative: of none.

    Returns:
        `[K, H]`, K contexts; NaN where a context has no query.

    Raises:
        ValueError: `context` does not fit.
    """
    batch, _, length = values.shape
    if context.dim() != 2 or len(context) != batch or context.shape[1] not in (1, length):
        raise ValueError(
            f"mean_by_context: context has shape {list(context.shape)}, "
            f"expected [{batch}, {length}] or [{batch}, 1]"
        )
    context = context.expand(batch, length)
    member = context[..., None] == torch.arange(int(context.max()) + 1, device=context.device)
    shares = member.to(values.dtype)
    known = ~values.isnan()
    total = torch.einsum("bhl,blk->kh", values.nan_to_num(0), shares)
    return total / torch.einsum("bhl,blk->kh", known.to(values.dtype), shares)


def dormant_heads(shares: Tensor, *, threshold: float = 0.5) -> dict[str, Tensor]:
    """Sort heads by whether they rest on sinks: always, in some contexts only, or never.

    A head that puts more than `threshold` of its attention on a sink fetches next to nothing, as
    the values of sinks are small: it is dormant there.

    Args:
        shares: Mean sink share by context `[K, H]`, from `mean_by_context`; NaN is left out.
        threshold: Share above which a head is dormant.

    Returns:
        bool `[H]` each: `dormant` in every context, `active_dormant` in some, `active` in none.

    Source: Guo et al., Active-Dormant Attention Heads, 2024 (arXiv:2410.13835), section 2.
    """
    known = ~shares.isnan()
    rests = (shares > threshold) & known
    always = (rests == known).all(0) & known.any(0)
    some = rests.any(0)
    return {"dormant": always, "active_dormant": some & ~always, "active": ~some}


def norm_ratio(vectors: Tensor, chosen: Tensor) -> Tensor:
    """Return how long the vectors of chosen positions are beside those of the others.

    Of the values of a layer it measures the value-state drain of sinks (far below 1), of the
    input of a layer the residual-state peak (far above 1).

    Args:
        vectors: `[B, S, D]`, or `[B, H, S, D]` with heads.
        chosen: bool `[B, S]` or `[B, H, S]`.

    Returns:
        `[B]` or `[B, H]`: mean norm of the chosen over the mean norm of the others; NaN where
        either are none.

    Source: Guo et al., Active-Dormant Attention Heads, 2024, section 1.
    """
    norms = vectors.norm(dim=-1)
    inside, outside = chosen.to(norms.dtype), (~chosen).to(norms.dtype)
    mine = (norms * inside).sum(-1) / inside.sum(-1)
    return mine / ((norms * outside).sum(-1) / outside.sum(-1))
