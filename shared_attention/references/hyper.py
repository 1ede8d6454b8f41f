"""HyperAttention, one query at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention.masks import Mask, split
from shared_attention.mechanisms.paired import same_lengths


def reference_hyper(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 256,
    samples: int = 256,
    bits: int = 7,
    min_seq_len: int = 1024,
    seed: int = 0,
) -> Tensor:
    """Return `[B, H, L, Dv]` in float64, dropping padded positions.

    Raises:
        UnsupportedError: The mask is causal and L unlike S.
    """
    batch, heads, length, width = q.shape
    scale = width**-0.5 if scale is None else scale
    q, k, v = q.double(), k.double(), v.double()
    parts = split(mask)
    count = k.shape[2]
    if parts.causal:
        same_lengths("hyper", "a causal mask", q, k)
    sizes = (block, samples, seed)
    directions = _directions(width, bits, seed)
    rows = []
    for b in range(batch):
        kept = list(range(count))
        if parts.keys is not None:
            kept = [j for j in kept if parts.keys[b, j]]
        asking = kept if length == count else list(range(length))
        for h in range(heads):
            key, value = k[b, h * k.shape[1] // heads][kept], v[b, h * v.shape[1] // heads][kept]
            query = q[b, h][asking]
            codes = [[_code(x, directions) for x in side] for side in (query, key)]
            places = sorted(range(len(asking)), key=lambda i: (codes[0][i], i))
            for i in range(length):
                if i not in asking or not kept:
                    rows.append(v.new_zeros(v.shape[-1]))
                    continue
                at = asking.index(i)
                if parts.causal:
                    terms = _causal_terms(at, codes, h, min_seq_len, *sizes)
                elif len(kept) <= min_seq_len:
                    terms = [(j, 0.0) for j in range(len(kept))]
                else:
                    place = places.index(at) * len(kept) // len(asking)
                    terms = _terms(codes[1], place // block, h, *sizes)
                scores = torch.stack([scale * (query[at] @ key[j]) + add for j, add in terms])
                rows.append(torch.softmax(scores, 0) @ value[[j for j, _ in terms]])
    return torch.stack(rows).view(batch, heads, length, -1)


def _causal_terms(
    at: int, codes: list[list[int]], head: int, chunk: int, block: int, samples: int, seed: int
) -> list[tuple[int, float]]:
    """Keys that the query at place `at` reads, with what is added to their scores."""
    terms = [(j, 0.0) for j in range(at // chunk * chunk, at + 1)]
    half, level = chunk, 1
    while half <= at:
        pair = at // (2 * half)
        start = pair * 2 * half
        if at - start >= half:
            keys = codes[1][start : start + half]
            place = sum(code <= codes[0][at] for code in keys) - 1
            row = head * 2**20 + 2 * pair + level
            found = _terms(keys, max(place, 0) // block, row, block, samples, seed)
            terms += [(start + j, add) for j, add in found]
        half, level = 2 * half, level + 1
    return terms


def _terms(
    codes: list[int], home: int, row: int, block: int, samples: int, seed: int
) -> list[tuple[int, float]]:
    order = sorted(range(len(codes)), key=lambda j: (codes[j], j))
    terms = [(j, 0.0) for j in order[home * block : (home + 1) * block]]
    for u in range(samples):
        rank = _hash(row * 0x9E3779B1 + u * 0x85EBCA6B + seed * 0xC2B2AE35) * len(codes) >> 32
        if rank // block != home:
            terms.append((order[rank], math.log(len(codes) / samples)))
    return terms


def _code(x: Tensor, directions: Tensor) -> int:
    """Place in the Gray code of the signs of the projections."""
    signs = (x.detach() @ directions > 0).tolist()
    word = sum(int(sign) << place for place, sign in enumerate(signs))
    place = 0
    while word:
        place ^= word
        word >>= 1
    return place


def _directions(width: int, bits: int, seed: int) -> Tensor:
    rows = []
    for d in range(width):
        for r in range(bits):
            words = [d * 0x9E3779B1 + c * 0x85EBCA6B + seed * 0xC2B2AE35 + 1 for c in (r, r + bits)]
            radius, angle = ((_hash(word) + 0.5) / 2**32 for word in words)
            rows.append(math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle))
    return torch.tensor(rows, dtype=torch.float64).view(width, bits)


def _hash(word: int) -> int:
    word %= 2**32
    for _ in range(2):
        word = (word ^ (word >> 16)) * 0x45D9F3B % 2**32
    return word ^ (word >> 16)
