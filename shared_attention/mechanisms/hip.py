"""HiP attention: a tree search finds the key blocks that each block of queries attends to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms import hip_triton
from shared_attention.mechanisms.hip_search import Search, choose_blocks
from shared_attention.mechanisms.hip_state import HipState, advance, empty_hip
from shared_attention.primitives.block_sparse import attend_blocks
from shared_attention.primitives.heads import expand_heads
from shared_attention.primitives.ranks import packed, put_back, real_first, take
from shared_attention.references.hip import reference_hip
from shared_attention.refusal import accept
from shared_attention.spec import Backend, Capabilities, MechanismSpec, Option


def hip_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 32,
    top_k: int = 8,
    sinks: int = 1,
    window: int = 4,
    attend: Callable[..., Tensor] = attend_blocks,
) -> Tensor:
    """Attend exactly to few blocks of keys, found by hierarchical pruning.

    For each block of queries the key blocks between sinks and window are cut into `top_k`
    ranges. Each range is halved, the middle block of each half stands for it, and the `top_k`
    halves whose mean key scores highest are kept, until ranges are single blocks: O(log L)
    rounds of O(top_k) scores. The first `sinks` blocks and the `window` before the own one, and
    after it without a causal mask, are always kept.

    The published code lets all queries of a block, or a stride of them, choose together, so the
    choice for the first depends on later ones. Here the first query of the block chooses under a
    causal mask, and the mean query otherwise. The published versions differ among each other in
    representatives and stages; this is the single-stage search of the paper with blocks for
    tokens. With padding, blocks are counted in real positions.

    Args:
        q: `[B, H, L, Dk]`.
        k: `[B, Hk, L, Dk]`, Hk dividing H.
        v: `[B, Hv, L, Dv]`, Hv dividing H.
        mask: `masks.causal()`, `masks.keys(valid)` or both; padded keys are padded queries.
        scale: Defaults to 1 / sqrt(Dk).
        block: Positions per block of queries and of keys.
        top_k: Blocks found by the search.
        sinks: First blocks that are always seen.
        window: Blocks on each side of the own one that are always seen.
        attend: The block-sparse stage, `attend_blocks` or the Triton kernel.

    Returns:
        `[B, H, L, Dv]`; zero for padded queries.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: The mask has other parts, or the lengths differ.

    Source: Lee et al., HiP Attention, ICLR 2025, section 3, algorithm 1.
    """
    parts = accept(SPEC, q, k, v, mask)
    search = Search(block, top_k, sinks, window).check()
    heads, length = q.shape[1:3]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    valid = parts.keys
    real = torch.full((len(q),), length, device=q.device) if valid is None else valid.sum(1)
    if valid is not None:
        q, k, v = take(q, real_first(valid)), packed(k, valid), packed(v, valid)
    spare = -length % block
    q, k, v = (F.pad(expand_heads(x, heads), (0, 0, 0, spare)) for x in (q, k, v))
    ids, used = choose_blocks(q, k, real, parts.causal, search)
    out = attend(q, k, v, ids, used, real=real, causal=parts.causal, block=block, scale=scale)[
        :, :, :length
    ]
    if valid is None:
        return out
    return put_back(out, real_first(valid)).masked_fill(~valid[:, None, :, None], 0)


def prefill_hip(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: HipState,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    block: int = 32,
    top_k: int = 8,
    sinks: int = 1,
    window: int = 4,
) -> tuple[Tensor, HipState]:
    """Attend causally from new positions to the blocks found among all seen so far.

    Args:
        q: `[B, H, L, Dk]`, the new positions.
        k: `[B, Hk, L, Dk]`.
        v: `[B, Hv, L, Dv]`.
        state: From `empty_hip` or an earlier call.
        mask: `masks.keys` of the new positions, or None.
        scale: Defaults to 1 / sqrt(Dk).
        block: Positions per block of queries and of keys.
        top_k: Blocks found by the search.
        sinks: First blocks that are always seen.
        window: Blocks before the own one that are always seen.

    Returns:
        `(out [B, H, L, Dv], state)`.
    """
    search = Search(block, top_k, sinks, window).check()
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return advance(q, k, v, state, mask, search, scale)


def _triton(q: Tensor, k: Tensor, v: Tensor, **arguments: object) -> Tensor:
    return hip_attention(q, k, v, attend=hip_triton.attend_blocks, **arguments)  # type: ignore[arg-type]


SPEC = MechanismSpec(
    name="hip",
    family="attention",
    title="HiP attention",
    paper="Lee et al., A Training-Free Sub-Quadratic Cost Transformer Model Serving Framework "
    "with Hierarchically Pruned Attention, ICLR 2025 (arXiv:2406.09827)",
    equation="out_i = Σ_j softmax_j(q_i k_jᵀ / √d) v_j over the sinks, the window and the top_k "
    "key blocks that a binary tree search finds",
    complexity="O(L · (top_k + sinks + window) · block · d + L / block · top_k · log L · d)",
    when_to_use="Long inputs to models trained with softmax attention, without training again.",
    correctness="Against a block-by-block float64 reference of the paper's search; equal to "
    "softmax where every block is kept. The published kernels need a GPU.",
    capabilities=Capabilities(
        causal="exact", key_padding=True, grouped_heads=True, state=True, weights=True
    ),
    options=(
        Option("block", int, 32, "positions per block of queries and of keys"),
        Option("top_k", int, 8, "blocks found by the search"),
        Option("sinks", int, 1, "first blocks that are always seen"),
        Option("window", int, 4, "blocks on each side of the own one that are always seen"),
    ),
    function=hip_attention,
    implementations=(
        Backend("eager", hip_attention),
        Backend("triton", _triton, hip_triton.why_not),
    ),
    reference=reference_hip,
    init_state=empty_hip,
    prefill=prefill_hip,
    step=prefill_hip,
)
