"""Running softmax sums: the associative operator (m, w, u) and its parallel scan."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 16
"""Positions combined at once; each level of the scan shortens the sequence by this factor."""


class SoftmaxSums(NamedTuple):
    """Softmax sums over a set of positions with scores s and values v; `...` are any axes."""

    m: Tensor
    """Largest score `[...]`; -inf for no positions."""
    w: Tensor
    """Σ exp(s - m) `[...]`."""
    u: Tensor
    """Σ exp(s - m) v `[..., Dv]`."""

    def output(self) -> Tensor:
        """Return the attention output u / w `[..., Dv]`; zero for no positions."""
        return self.u / torch.where(self.w > 0, self.w, 1)[..., None]


def combine(a: SoftmaxSums, b: SoftmaxSums) -> SoftmaxSums:
    """Return the sums over the positions of both; associative.

    `m` of the result carries no gradient: the output u / w does not depend on its choice.
    """
    m = torch.maximum(a.m, b.m).detach()
    top = _finite(m)
    from_a, from_b = (a.m - top).exp(), (b.m - top).exp()
    u = a.u * from_a[..., None] + b.u * from_b[..., None]
    return SoftmaxSums(m, a.w * from_a + b.w * from_b, u)


def scan_sums(parts: SoftmaxSums) -> SoftmaxSums:
    """Return the sums over every prefix of `parts`, each position included.

    Within a chunk all prefixes are formed at once from exp(m_j - max of the prefix) <= 1, which
    neither overflows nor cancels however the scores grow or shrink. Chunk totals are scanned the
    same way: O(L) memory, depth log L.

    Args:
        parts: `m [N, L]`, `w [N, L]`, `u [N, L, Dv]`, in at least float32.

    Returns:
        Sums of the same shapes.
    """
    count, length = parts.m.shape
    if length <= CHUNK:
        return _prefixes(parts)
    short = -length % CHUNK
    chunks = SoftmaxSums(
        F.pad(parts.m, (0, short), value=-torch.inf).reshape(-1, CHUNK),
        F.pad(parts.w, (0, short)).reshape(-1, CHUNK),
        F.pad(parts.u, (0, 0, 0, short)).reshape(-1, CHUNK, parts.u.shape[-1]),
    )
    inside = SoftmaxSums(*(x.unflatten(0, (count, -1)) for x in _prefixes(chunks)))
    totals = scan_sums(SoftmaxSums(*(x[:, :, -1] for x in inside)))
    before = SoftmaxSums(
        F.pad(totals.m[:, :-1], (1, 0), value=-torch.inf)[:, :, None],
        F.pad(totals.w[:, :-1], (1, 0))[:, :, None],
        F.pad(totals.u[:, :-1], (0, 0, 1, 0))[:, :, None],
    )
    return SoftmaxSums(*(x.flatten(1, 2)[:, :length] for x in combine(before, inside)))


def _prefixes(parts: SoftmaxSums) -> SoftmaxSums:
    """All prefixes at once by an L x L matrix of weights."""
    length = parts.m.shape[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=parts.m.device).triu(1)
    scores = parts.m[:, None, :].masked_fill(later, -torch.inf)
    m = scores.detach().amax(-1)
    weights = (scores - _finite(m)[:, :, None]).exp()
    return SoftmaxSums(m, (weights @ parts.w[..., None]).squeeze(-1), weights @ parts.u)


def _finite(m: Tensor) -> Tensor:
    """The score to subtract: 0 where there is none, since -inf - -inf is NaN."""
    return torch.where(m == -torch.inf, 0, m)
