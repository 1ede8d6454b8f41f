"""Landmark attention: blocks of keys are reached through the attention that their landmark gets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.errors import UnsupportedError
from shared_attention.inputs import Inputs
from shared_attention.kernels import blocks as kernels
from shared_attention.kernels import support
from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import KeyValueState, empty_state
from shared_attention.primitives.attend import softmax
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.ranks import packed, ranks
from shared_attention.references.landmark import reference_landmark
from shared_attention.refusal import accept
from shared_attention.spec import Backend, Capabilities, MechanismSpec, Option

ROWS = 256
"""Queries that attend to all blocks at a time."""
RETRIEVING_ROWS = 32
"""Queries that fetch blocks of their own at a time."""


def landmark_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 64,
    top_k: int | None = None,
) -> Tensor:
    """Attend within the own block, and to other blocks as much as their landmark attracts.

    The last position of every `block` positions is a landmark: the caller inserts landmark
    tokens into the input there, as the paper does, or lets these tokens play the part. With
    local scores s_ij in the own block and s_in of the landmarks of earlier blocks n,

        a = softmax over own positions and landmarks together,
        out_i = Σ_own a_ij v_j + Σ_n a_in Σ_{j in n} softmax_{j in n}(s_ij) v_j.

    Values of landmarks are not read, and the landmark of the own block is hidden, from itself
    too. Both softmaxes are one: adding s_in - log Σ_{j in n} exp s_ij to the scores of block n
    gives its positions together the weight of its landmark. The published code scatters scores
    to groups instead, over the whole matrix.

    Without a causal mask later blocks are reached in the same way; an incomplete last block,
    which has no landmark, is seen by its own queries only. With padding, blocks are counted in
    real positions.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, L, Dk]`, Hk dividing H.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        mask: `masks.causal()`, `masks.keys(valid)` or both.
        scale: Defaults to 1 / sqrt(Dk).
        block: Positions per block, its landmark included.
        top_k: Blocks that each query and head retrieves, those whose landmarks score highest;
            None uses all, as in training.

    Returns:
        `[B, H, L, Dv]`; zero for queries that see no key.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: The mask has other parts, or the lengths differ.

    Source: Mohtashami and Jaggi, Landmark Attention, NeurIPS 2023, section 3.
    """
    parts = accept(SPEC, q, k, v, mask)
    return _attend(q, k, v, parts.keys, parts.causal, scale, block, top_k)


def prefill_landmark(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: KeyValueState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 64,
    top_k: int | None = None,
) -> tuple[Tensor, KeyValueState]:
    """Attend causally from new positions to all seen so far.

    With `top_k` a step reads the landmarks, `top_k` blocks and its own.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_state` or an earlier call.
        mask: `masks.keys` of the new positions, or None.
        scale: Defaults to 1 / sqrt(Dk).
        block: Positions per block, its landmark included.
        top_k: Blocks that each query retrieves.

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    state = state.extended(k, v, mask)
    return _attend(q, state.k, state.v, state.valid, True, scale, block, top_k), state


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    causal: bool,
    scale: float | None,
    block: int,
    top_k: int | None,
) -> Tensor:
    _check(block, top_k)
    (heads, length), count = q.shape[1:3], k.shape[2]
    place = ranks(valid, length, count, q.device)
    real = torch.full((1,), count, device=q.device) if valid is None else valid.sum(1)
    if valid is not None:
        k, v = packed(k, valid), packed(v, valid)
    wide = torch.promote_types(q.dtype, torch.float32)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    k, v = (_blocks(expand_heads(x, heads).to(wide), block) for x in (k, v))
    reach = ROWS if top_k is None else RETRIEVING_ROWS
    outs = []
    for at in range(0, length, reach):
        rows = slice(at, min(at + reach, length))
        blocks = k.shape[2]
        if causal:
            blocks = max(1, -(-(rows.stop + count - length) // block))
        query = q[:, :, rows].to(wide) * scale
        own = place[:, rows]
        view = _View(own, real, causal, block)
        near, far = k[:, :, :blocks], v[:, :, :blocks]
        if top_k is None or top_k >= blocks:
            outs.append(view.attend_all(query, near, far))
        else:
            outs.append(view.attend_retrieved(query, near, far, top_k))
    return torch.cat(outs, dim=2).to(q.dtype)


def _triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 64,
    top_k: int | None = None,
) -> Tensor:
    parts = accept(SPEC, q, k, v, mask)
    _check(block, top_k)
    if top_k is not None:
        raise UnsupportedError("landmark: triton: it reads all blocks, give top_k=None")
    if block > support.WIDEST:
        raise UnsupportedError(f"landmark: triton: block {block} is more than {support.WIDEST}")
    heads, length = q.shape[1:3]
    valid, causal = parts.keys, parts.causal
    place = ranks(valid, length, length, q.device).expand(len(q), -1)
    real = torch.full((len(q),), length, device=q.device) if valid is None else valid.sum(1)
    if valid is not None:
        k, v = packed(k, valid), packed(v, valid)
    own = (place if causal else place.clamp(min=0)).div(block, rounding_mode="floor")
    last = place if causal else (real - 1)[:, None].expand_as(place)
    seen = (x.to(torch.int32) for x in (own, last, real))
    reach = kernels.Reach(0, 0, block, causal, *seen)
    k, v = (expand_heads(x, heads) for x in (k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return kernels.landmarks(q, k, v, reach=reach, scale=scale)


def _why_not_triton(inputs: Inputs) -> list[str]:
    return support.why_not(inputs)


def _check(block: int, top_k: int | None) -> None:
    for name, value, least in (("block", block, 2), ("top_k", top_k, 1)):
        if value is not None and value < least:
            raise ValueError(f"landmark: option {name} got {value}, expected at least {least}")


class _View:
    """What some queries see: their own block up to a limit, and other complete blocks."""

    def __init__(self, place: Tensor, real: Tensor, causal: bool, block: int) -> None:
        self.block = block
        self.causal = causal
        self.real = real[:, None, None, None]
        self.own = (place if causal else place.clamp(min=0))[:, None, :, None] // block
        last = place if causal else (real - 1)[:, None].expand_as(place)
        self.last = last[:, None, :, None, None]

    def others(self, ids: Tensor) -> Tensor:
        """Say which of the blocks `ids` are reached through their landmark."""
        if self.causal:
            return ids < self.own
        return (ids != self.own) & ((ids + 1) * self.block <= self.real)

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from `q [B, H, C, D]` to all blocks `[B, H, N, b, D]`."""
        scores = (q @ k.flatten(2, 3).mT).unflatten(-1, k.shape[2:4])
        ids = torch.arange(k.shape[2], device=q.device)
        weights = self.weigh(scores, ids, ids == self.own, self.others(ids))
        return weights.flatten(-2) @ v[..., :-1, :].flatten(2, 3)

    def attend_retrieved(self, q: Tensor, k: Tensor, v: Tensor, top_k: int) -> Tensor:
        """Attend to the own block and the `top_k` whose landmarks score highest."""
        ids = torch.arange(k.shape[2], device=q.device)
        landmarks = (q @ k[..., -1, :].mT).masked_fill(~self.others(ids), -torch.inf)
        best, ids = landmarks.detach().topk(top_k, dim=-1)
        own = self.own.clamp(min=0).expand(*ids.shape[:3], 1)
        ids = torch.cat([ids, own], dim=-1)
        mine = F.pad(torch.zeros_like(best, dtype=torch.bool), (0, 1), value=True)
        others = F.pad(best > -torch.inf, (0, 1), value=False)
        k, v = (_fetch(x, ids) for x in (k, v))
        scores = (k @ q[..., None, :, None]).squeeze(-1)
        weights = self.weigh(scores, ids, mine, others)
        return torch.einsum("bhcnj,bhcnjd->bhcd", weights, v[..., :-1, :])

    def weigh(self, scores: Tensor, ids: Tensor, mine: Tensor, others: Tensor) -> Tensor:
        """Turn scores `[B, H, C, N, b]` of blocks `ids` into weights `[B, H, C, N, b - 1]`."""
        tokens, landmarks = scores[..., :-1], scores[..., -1]
        gate = landmarks - torch.logsumexp(tokens, dim=-1)
        gate = gate.masked_fill(mine, 0).masked_fill(~(mine | others), -torch.inf)
        position = ids[..., None] * self.block + torch.arange(self.block - 1, device=ids.device)
        hidden = position > self.last
        logits = (tokens + gate[..., None]).masked_fill(hidden, -torch.inf)
        return softmax(logits.flatten(-2)).view_as(logits)


def _blocks(x: Tensor, block: int) -> Tensor:
    """Cut `[B, H, S, D]` into `[B, H, N, block, D]`, zeros at the end."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % block)).unflatten(2, (-1, block))


def _fetch(x: Tensor, ids: Tensor) -> Tensor:
    """Read blocks `ids [B, H, C, n]` of `x [B, H, N, b, D]`; returns `[B, H, C, n, b, D]`."""
    index = ids.flatten(2)[..., None, None]
    return torch.take_along_dim(x, index, dim=2).unflatten(2, ids.shape[2:])


SPEC = MechanismSpec(
    name="landmark",
    family="attention",
    title="Landmark attention",
    paper="Mohtashami and Jaggi, Landmark Attention: Random-Access Infinite Context Length for "
    "Transformers, NeurIPS 2023 (arXiv:2305.16300)",
    equation="out_i = Σ_own a_ij v_j + Σ_n a_in Σ_{j∈n} softmax_{j∈n}(s_ij) v_j, "
    "a = softmax(own scores, landmark scores)",
    complexity="O(L²) in training; O(L · (L / block + top_k · block)) with top_k",
    when_to_use="Long contexts of which each query needs a few blocks, retrieved by attention.",
    correctness="Equal to the official code, gradients included; to a query-by-query float64 "
    "reference with padding.",
    capabilities=Capabilities(
        causal="exact", key_padding=True, grouped_heads=True, state=True, weights=True
    ),
    options=(
        Option("block", int, 64, "positions per block, of which the last is its landmark"),
        Option("top_k", int, None, "blocks that each query retrieves; None: all, as in training"),
    ),
    function=landmark_attention,
    implementations=(
        Backend("eager", landmark_attention),
        Backend("triton", _triton, _why_not_triton),
    ),
    reference=reference_landmark,
    init_state=empty_state,
    prefill=prefill_landmark,
    step=prefill_landmark,
)
