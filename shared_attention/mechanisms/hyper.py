"""HyperAttention: blocks of similar keys found by hashing, and a sample of the others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.mechanisms.paired import query_padding, same_lengths
from shared_attention.mechanisms.query_sparsity import WORD
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.mechanisms.sorted_lsh import (
    Sketch,
    approximate,
    hash_directions,
    pieces,
    softmax_sums,
)
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.ranks import packed, put_back, real_first, take
from shared_attention.primitives.softmax_scan import SoftmaxSums, combine
from shared_attention.references.hyper import reference_hyper
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option

ROWS = 256
"""Queries of an exact chunk that are computed together: later keys are not read."""


def hyper_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    generator: torch.Generator | None = None,
    block: int = 256,
    samples: int = 256,
    bits: int = 7,
    min_seq_len: int = 1024,
    seed: int = 0,
) -> Tensor:
    """Approximate softmax attention in near-linear time.

    Queries and keys are sorted by the signs of `bits` random projections, in Gray code order;
    a query attends exactly to the block of keys at its place. The other keys are estimated from
    `samples` uniform draws, each counting for S / samples keys and hidden where it lies in the
    query's own block. One softmax runs over both. Up to `min_seq_len` keys it is exact.

    The causal form is exact within chunks of `min_seq_len` positions. Two chunks that are
    neighbours form a pair, then two pairs, and so on: the later half of each pair attends to its
    earlier half as above, and the results are merged by their log-sum-exps.

    What differs from the published code:

    - It sorts queries among each other in the causal form too, so that a query's block depends
      on later queries. There the query goes to the last block that holds keys of its own hash.
    - It halves the length, so that the approximation of early positions depends on the length;
      here the chunks stand fixed.
    - Its single-precision path counts sampled keys of the own block twice, and it pads lengths
      that blocks do not divide by keys of zero that take part.
    - It draws from the global random state. Here draws are a function of (seed, head, place
      among the real keys), the same in every batch slot and whatever the padding.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, S, Dk]`, Hk dividing H.
        v: `[B, Hv, S, Dv]`, Hv dividing H.
        mask: `masks.causal()` (L = S only), `masks.keys(valid)` or both; where L = S padded
            keys are padded queries.
        scale: Defaults to 1 / sqrt(Dk).
        generator: Draws the seed, in place of `seed`.
        block: Keys per block.
        samples: Keys sampled for the remainder.
        bits: Random projections of the hash.
        min_seq_len: Keys up to which attention is exact.
        seed: Seed of the projections and samples.

    Returns:
        `[B, H, L, Dv]`; zero for padded queries and where nothing is visible.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: The mask has other parts, or is causal with L unlike S.

    Source: Han et al., HyperAttention, ICLR 2024, algorithms 1-4.
    """
    parts = accept(SPEC, q, k, v, mask)
    named = {"block": block, "samples": samples, "bits": bits, "min_seq_len": min_seq_len}
    for name, value in named.items():
        if value < 1 or (name == "bits" and value > 16):
            limits = "1 to 16" if name == "bits" else "at least 1"
            raise ValueError(f"hyper: option {name} got {value}, expected {limits}")
    if parts.causal:
        same_lengths("hyper", "a causal mask", q, k)
    queries = query_padding(parts.keys, q, k, None)
    if k.shape[2] <= min_seq_len:
        out = softmax_attention(q, k, v, mask=mask, scale=scale)
        return out if queries is None else out.masked_fill(~queries[:, None, :, None], 0)
    drawn: int | Tensor = seed & WORD
    if generator is not None:
        drawn = torch.randint(WORD, (), generator=generator, device=generator.device).to(q.device)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    sketch = Sketch(block, samples, hash_directions(q.shape[3], bits, drawn, q.device), drawn)
    heads, length = q.shape[1:3]
    valid = parts.keys
    real = torch.full((len(q),), k.shape[2], device=q.device) if valid is None else valid.sum(1)
    asking = torch.full_like(real, length) if queries is None else real
    dtype = q.dtype
    wide = torch.promote_types(dtype, torch.float32)
    if valid is not None:
        k, v = packed(k, valid), packed(v, valid)
    if queries is not None:
        q = take(q, real_first(queries))
    q, k, v = q.to(wide), expand_heads(k, heads).to(wide), expand_heads(v, heads).to(wide)
    if parts.causal:
        out = _causal(q, k, v, real, sketch, min_seq_len, scale)
    else:
        out = _whole(q, k, v, real, asking, sketch, scale)
        if valid is not None:
            few = real <= min_seq_len
            seen = masks.keys(torch.arange(min_seq_len, device=q.device) < real[:, None])
            near = slice(0, min_seq_len)
            exact = softmax_attention(q, k[:, :, near], v[:, :, near], mask=seen, scale=scale)
            out = torch.where(few[:, None, None, None], exact, out)
    out = out.to(dtype)
    if queries is None:
        return out
    return put_back(out, real_first(queries)).masked_fill(~queries[:, None, :, None], 0)


def _whole(
    q: Tensor, k: Tensor, v: Tensor, real: Tensor, asking: Tensor, sketch: Sketch, scale: float
) -> Tensor:
    batch, heads = q.shape[:2]
    rows = torch.arange(heads, device=q.device).repeat(batch)
    real, asking = real.repeat_interleave(heads), asking.repeat_interleave(heads)
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    sums = approximate(q, k, v, sketch, rows=rows, real=real, queries=asking, scale=scale)
    return sums.u.unflatten(0, (batch, heads))


def _causal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    real: Tensor,
    sketch: Sketch,
    chunk: int,
    scale: float,
) -> Tensor:
    """Exact chunks, and pairs of ever larger halves; queries see real keys before them."""
    sums = _chunks(q, k, v, chunk, scale)
    half, level = chunk, 1
    while half < q.shape[2]:
        sums = combine(sums, _halves(q, k, v, real, sketch, half, level, scale))
        half, level = 2 * half, level + 1
    return sums.output()


def _chunks(q: Tensor, k: Tensor, v: Tensor, chunk: int, scale: float) -> SoftmaxSums:
    """Attend causally and exactly within each chunk."""
    batch, heads, length, _ = q.shape
    q, k, v = (_cut(x, chunk).flatten(0, 2) for x in (q * scale, k, v))
    found: list[SoftmaxSums] = []
    for start in range(0, chunk, ROWS):
        rows = slice(start, min(start + ROWS, chunk))
        size = rows.stop - start
        later = torch.full((size, size), -torch.inf, dtype=q.dtype, device=q.device).triu(1)
        some = []
        for at in pieces(len(q), size * rows.stop):
            scores = q[at, rows] @ k[at, : rows.stop].mT
            scores[..., start:].add_(later)
            some.append(softmax_sums(scores, v[at, : rows.stop]))
        found.append(SoftmaxSums(*(torch.cat(x) for x in zip(*some, strict=True))))
    sums = (torch.cat(x, 1).unflatten(0, (batch, heads, -1)) for x in zip(*found, strict=True))
    return SoftmaxSums(*(x.flatten(2, 3)[:, :, :length] for x in sums))


def _halves(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    real: Tensor,
    sketch: Sketch,
    half: int,
    level: int,
    scale: float,
) -> SoftmaxSums:
    """Attend from the later half of each pair of `2 half` positions to the earlier half."""
    batch, heads, length, _ = q.shape
    pairs = -(-length // (2 * half))
    later = q[:, :, None, half:] if pairs == 1 else _cut(q, 2 * half)[..., half:, :]
    k, v = (_cut(x, 2 * half)[..., :half, :].flatten(0, 2) for x in (k, v))
    start = torch.arange(pairs, device=q.device) * 2 * half
    counts = (real[:, None] - start).clamp(0, half)
    counts = counts[:, None].expand(-1, heads, -1).flatten()
    rows = (torch.arange(heads, device=q.device)[:, None] << 20) + start // half + level
    rows = rows.expand(batch, -1, -1).flatten()
    sums = approximate(
        later.flatten(0, 2), k, v, sketch, rows=rows, real=counts, queries=None, scale=scale
    )
    m, w, u = (x.unflatten(0, (batch, heads, pairs)) for x in sums)
    return SoftmaxSums(
        F.pad(m, (half, 0), value=-torch.inf).flatten(2, 3)[:, :, :length],
        F.pad(w, (half, 0)).flatten(2, 3)[:, :, :length],
        F.pad(u, (0, 0, half, 0)).flatten(2, 3)[:, :, :length],
    )


def _cut(x: Tensor, size: int) -> Tensor:
    """Cut `[B, H, S, D]` into `[B, H, N, size, D]`, zeros at the end."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))


SPEC = MechanismSpec(
    name="hyper",
    family="attention",
    title="HyperAttention",
    paper="Han et al., HyperAttention: Long-context Attention in Near-Linear Time, ICLR 2024 "
    "(arXiv:2310.05869)",
    equation="out_i = Σ_{j∈block(i)} e^{s_ij} v_j + S/m Σ_{sampled j∉block(i)} e^{s_ij} v_j, "
    "divided by the same sums without v",
    complexity="O(L · (block + samples) · d); a factor of log L more under a causal mask",
    when_to_use="Long inputs of which few keys matter to each query, where an estimate will do.",
    correctness="Equal to the official code where that is right, for the same hash and samples; "
    "to a query-by-query float64 reference.",
    capabilities=Capabilities(
        causal="exact",
        cross=True,
        key_padding=True,
        grouped_heads=True,
        weights=True,
        stochastic=True,
    ),
    options=(
        Option("block", int, 256, "keys per block of similar keys"),
        Option("samples", int, 256, "keys sampled for the remainder"),
        Option("bits", int, 7, "random projections of the hash"),
        Option("min_seq_len", int, 1024, "keys up to which attention is exact"),
        Option("seed", int, 0, "seed of the projections and samples"),
    ),
    function=hyper_attention,
    reference=reference_hyper,
)
