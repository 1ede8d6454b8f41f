"""HyperAttention's parts: keys sorted by hash into blocks, and a weighted sample of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.mechanisms.query_sparsity import WORD, random_keys
from shared_attention.primitives.softmax_scan import SoftmaxSums, combine

TILE = 64
"""Queries of one key block that are computed together."""
SCORES_AT_ONCE = 2**18
"""Scores in memory at a time for each core; a float32 megabyte stays in its cache."""


class Sketch(NamedTuple):
    """How the attention matrix is approximated."""

    block: int
    """Keys per block."""
    samples: int
    """Keys sampled for the remainder."""
    projections: Tensor
    """Directions of the hash `[D, bits]`."""
    seed: int | Tensor


def hash_directions(width: int, bits: int, seed: int | Tensor, device: torch.device) -> Tensor:
    """Draw Gaussian directions `[width, bits]` as a function of the seed alone."""
    row = torch.arange(width, device=device)[:, None]
    words = [_word(row, torch.arange(bits, device=device) + at, seed) for at in (0, bits)]
    radius, angle = ((word.double() + 0.5) / 2**32 for word in words)
    normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
    return normal.to(torch.float32)


def _word(row: Tensor, column: Tensor, seed: int | Tensor) -> Tensor:
    """Hash to 32 bits."""
    word = (row * 0x9E3779B1 + column * 0x85EBCA6B + ((seed * 0xC2B2AE35) & WORD) + 1) & WORD
    for _ in range(2):
        word = ((word ^ (word >> 16)) * 0x45D9F3B) & WORD
    return word ^ (word >> 16)


def hash_codes(x: Tensor, projections: Tensor) -> Tensor:
    """Return the place of each vector's bucket in the Gray code, whose neighbours differ by a bit.

    Args:
        x: `[..., D]`.
        projections: `[D, bits]`.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    bits = (x.detach().to(wide) @ projections.to(wide)) > 0
    code = (bits.long() << torch.arange(bits.shape[-1], device=x.device)).sum(-1)
    for shift in (1, 2, 4, 8):
        code = code ^ (code >> shift)
    return code


def approximate(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sketch: Sketch,
    *,
    rows: Tensor,
    real: Tensor,
    queries: Tensor | None,
    scale: float,
) -> SoftmaxSums:
    """Attend to the block of keys of similar hash and to a sample of all other keys.

    Args:
        q: `[N, L, D]`.
        k: `[N, S, D]`, the real keys first.
        v: `[N, S, Dv]`.
        sketch: Sizes and seed of the approximation.
        rows: Number of each of the N problems that their samples are drawn by, int64 `[N]`.
        real: How many keys are real `[N]`.
        queries: How many queries are real `[N]`; each then goes to the block at its own place
            among them, as in the paper. None: to the last block that holds its hash, which
            does not depend on other queries.
        scale: Score scale.

    Returns:
        Sums over the keys, `[N, L]` and `[N, L, Dv]`; with `queries` they are normalised.
    """
    count, size = k.shape[1], sketch.block
    blocks = -(-count // size)
    last = 1 << sketch.projections.shape[1]
    position = torch.arange(max(count, q.shape[1]), device=q.device)
    codes = hash_codes(k, sketch.projections)
    codes = codes.masked_fill(position[:count] >= real[:, None], last)
    codes, order = codes.sort(dim=1, stable=True)
    k, v = _rows(k, order), _rows(v, order)
    wanted = hash_codes(q, sketch.projections)
    if queries is None:
        place = torch.searchsorted(codes, wanted, right=True) - 1
        place = torch.minimum(place, real[:, None] - 1)
    else:
        wanted = wanted.masked_fill(position[: q.shape[1]] >= queries[:, None], last)
        place = wanted.argsort(dim=1, stable=True).argsort(dim=1)
        place = place * real[:, None] // queries[:, None].clamp(min=1)
    home = (place // size).clamp(0, blocks - 1)
    whole = queries is not None and q.shape[1] == count and size % TILE == 0
    slots, owner = _tiles(home, blocks, blocks * size // TILE if whole else None)

    sampled = random_keys(rows[:, None], real[:, None], None, sketch.samples, sketch.seed)[:, 0]
    far = (sampled // size)[:, None] != owner[..., None]
    far = far & (real > 0)[:, None, None]
    weight = real.clamp(min=1).to(k.dtype).log() - math.log(sketch.samples)
    added = torch.where(far, weight[:, None, None], -torch.inf)
    k, v = (F.pad(x, (0, 0, 0, blocks * size - count)).unflatten(1, (blocks, size)) for x in (k, v))
    near = (owner[..., None] * size + torch.arange(size, device=q.device)) < real[:, None, None]

    tiled = _rows(F.pad(q, (0, 0, 0, 1)), slots).unflatten(1, (-1, TILE))
    far_k, far_v = _rows(k.flatten(1, 2), sampled), _rows(v.flatten(1, 2), sampled)
    index = _inverse(slots, q.shape[1])
    hidden = torch.where(near, 0.0, -torch.inf).to(k.dtype)
    if queries is not None:
        near_k, near_v = _fetch(k, owner), _fetch(v, owner)
        mask = torch.cat([hidden, added], dim=-1).flatten(0, 1)[:, None, None]
        near_k, near_v = (
            torch.cat([x, y[:, None].expand(-1, x.shape[1], -1, -1)], dim=2).flatten(0, 1)[:, None]
            for x, y in ((near_k, far_k), (near_v, far_v))
        )
        one = tiled.flatten(0, 1)[:, None]
        mask = mask.expand(-1, -1, TILE, -1)
        out = F.scaled_dot_product_attention(one, near_k, near_v, attn_mask=mask, scale=scale)
        out = _rows(out.reshape(len(q), -1, v.shape[-1]), index)
        return SoftmaxSums(torch.zeros_like(out[..., 0]), torch.ones_like(out[..., 0]), out)
    tiled = tiled * scale
    found = []
    for at in pieces(tiled.shape[1], len(q) * TILE * max(size, sketch.samples)):
        own = owner[:, at]
        near_scores = tiled[:, at] @ _fetch(k, own).mT
        far_scores = tiled[:, at].flatten(1, 2) @ far_k.mT
        far_scores.unflatten(1, (-1, TILE)).add_(added[:, at, None])
        near_sums = softmax_sums(near_scores.add_(hidden[:, at, None]), _fetch(v, own))
        near_sums = SoftmaxSums(*(x.flatten(1, 2) for x in near_sums))
        found.append(combine(near_sums, softmax_sums(far_scores, far_v)))
    m, w, u = (torch.cat(x, 1) for x in zip(*found, strict=True))
    return SoftmaxSums(m.gather(1, index), w.gather(1, index), _rows(u, index))


def pieces(count: int, scores: int) -> Iterator[slice]:
    """Cut a range, each of whose places has so many scores, into parts that stay in the cache."""
    step = max(1, SCORES_AT_ONCE * torch.get_num_threads() // scores)
    for start in range(0, count, step):
        yield slice(start, start + step)


def softmax_sums(scores: Tensor, v: Tensor) -> SoftmaxSums:
    """Return the sums of softmax attention over scores `[..., L, S]` and values `[..., S, D]`.

    The memory of the scores is used for the weights.
    """
    m = scores.detach().amax(dim=-1)
    weights = scores.sub_(m.masked_fill(m == -torch.inf, 0)[..., None]).exp_()
    return SoftmaxSums(m, weights.sum(-1), weights @ v)


def _tiles(home: Tensor, blocks: int, tiles: int | None) -> tuple[Tensor, Tensor]:
    """Lay queries out in tiles of `TILE`, each of queries that go to one key block.

    Args:
        home: Block of each query, int64 `[N, L]`.
        blocks: Number of blocks.
        tiles: How many are enough; None where any number of queries may share a block.

    Returns:
        Query in each slot `[N, T * TILE]`, L in slots that stay empty, and the block of each
        tile `[N, T]`.
    """
    length = home.shape[1]
    tiles = -(-length // TILE) + blocks if tiles is None else tiles
    ids = torch.arange(blocks, device=home.device)
    home, order = home.sort(dim=1, stable=True)
    ends = torch.searchsorted(home, ids.expand(len(home), -1).contiguous(), right=True)
    counts = ends.diff(dim=1, prepend=torch.zeros_like(ends[:, :1]))
    filled = -(-counts // TILE)
    tile_ends = filled.cumsum(1)
    shift = (tile_ends - filled) * TILE - (ends - counts)
    slot = torch.arange(length, device=home.device) + shift.gather(1, home)
    slots = torch.full((len(home), tiles * TILE), length, device=home.device)
    slots = slots.scatter(1, slot, order)
    number = torch.arange(tiles, device=home.device).expand(len(home), -1).contiguous()
    owner = torch.searchsorted(tile_ends, number, right=True).clamp(max=blocks - 1)
    return slots, owner


def _inverse(slots: Tensor, length: int) -> Tensor:
    """Return the slot of each query `[N, L]`."""
    slot = torch.arange(slots.shape[1], device=slots.device).expand_as(slots)
    return slot.new_zeros(len(slots), length + 1).scatter(1, slots, slot)[:, :length]


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Read rows `index [N, n]` of `x [N, S, D]`."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    rows = x.reshape(-1, x.shape[2]).index_select(0, (index + first).flatten())
    return rows.view(*index.shape, -1)


def _fetch(x: Tensor, owner: Tensor) -> Tensor:
    """Read blocks `owner [N, T]` of `x [N, M, b, D]`."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    blocks = x.reshape(len(x) * x.shape[1], -1).index_select(0, (owner + first).flatten())
    return blocks.view(*owner.shape, *x.shape[2:])
