"""HiP attention: a tree search finds the key blocks that each block of queries attends to."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.mechanisms import hip_triton
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
    sizes = {"block": (block, 1), "top_k": (top_k, 1), "sinks": (sinks, 0), "window": (window, 0)}
    for name, (value, least) in sizes.items():
        if value < least:
            raise ValueError(f"hip: option {name} got {value}, expected at least {least}")
    heads, length = q.shape[1:3]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    valid = parts.keys
    real = torch.full((len(q),), length, device=q.device) if valid is None else valid.sum(1)
    if valid is not None:
        q, k, v = take(q, real_first(valid)), packed(k, valid), packed(v, valid)
    spare = -length % block
    q, k, v = (F.pad(expand_heads(x, heads), (0, 0, 0, spare)) for x in (q, k, v))
    ids, used = choose_blocks(q, k, real, parts.causal, block, top_k, sinks, window)
    out = attend(q, k, v, ids, used, real=real, causal=parts.causal, block=block, scale=scale)[
        :, :, :length
    ]
    if valid is None:
        return out
    return put_back(out, real_first(valid)).masked_fill(~valid[:, None, :, None], 0)


@torch.no_grad()
def choose_blocks(
    q: Tensor,
    k: Tensor,
    real: Tensor,
    causal: bool,
    block: int,
    top_k: int,
    sinks: int,
    window: int,
) -> tuple[Tensor, Tensor]:
    """Return the key blocks of each query block, `[B, H, M, n]`, and which of them count.

    Args:
        q: `[B, H, L, D]`, L a multiple of `block`.
        k: `[B, H, L, D]`, the real keys first.
        real: How many keys are real `[B]`.
        causal: Whether blocks after the own one are hidden.
        block: Positions per block.
        top_k: Blocks found by the search.
        sinks: First blocks that are always seen.
        window: Blocks on each side that are always seen.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    q, k = (x.unflatten(2, (-1, block)).to(wide) for x in (q, k))
    (batch, heads, blocks), device = q.shape[:3], q.device
    own = torch.arange(blocks, device=device)[:, None]
    inside = (own * block + torch.arange(block, device=device)) < real[:, None, None]
    share = inside / inside.sum(-1, keepdim=True).clamp(min=1)
    mean_key = (k * share[:, None, ..., None].to(wide)).sum(3)
    leader = q[:, :, :, 0] if causal else (q * share[:, None, ..., None].to(wide)).sum(3)
    filled = (-(-real // block))[:, None, None, None]
    before = (own - window - sinks).clamp(min=0)
    resume = torch.maximum(own + window + 1, torch.full_like(own, sinks))
    after = torch.zeros_like(filled) if causal else (filled - resume).clamp(min=0)

    def at(candidate: Tensor) -> Tensor:
        """The block that a candidate is: those before the window, then those after it."""
        later = candidate - before + resume
        return torch.where(candidate < before, candidate + sinks, later).clamp(0, blocks - 1)

    count = before + after
    part = torch.arange(top_k, device=device)
    low, high = count * part // top_k, count * (part + 1) // top_k
    low, high = (x.expand(batch, heads, blocks, top_k) for x in (low, high))
    for _ in range(math.ceil(math.log2(max(1, -(-blocks // top_k))))):
        middle = (low + high + 1) // 2
        low, high = torch.cat([low, middle], -1), torch.cat([middle, high], -1)
        standing = at((low + high) // 2)
        keys = torch.take_along_dim(mean_key, standing.flatten(2)[..., None], dim=2)
        scores = (keys.unflatten(2, (blocks, -1)) @ leader[..., None]).squeeze(-1)
        best = scores.masked_fill(low >= high, -torch.inf).topk(top_k, dim=-1).indices
        low, high = low.gather(-1, best), high.gather(-1, best)

    span = torch.arange(-window, 1 if causal else window + 1, device=device)
    near = own + span
    first = torch.arange(sinks, device=device).expand(blocks, -1)
    apart = first < (own - window).clamp(min=0)
    if not causal:
        apart = apart | (first > own + window)
    fixed = torch.cat([first, near], dim=-1)
    counts = torch.cat([apart, near >= 0], dim=-1) & (fixed < filled)
    fixed = fixed.clamp(0, blocks - 1).expand(batch, heads, -1, -1)
    counts = counts.expand(batch, heads, -1, -1)
    return torch.cat([at(low), fixed], -1), torch.cat([low < high, counts], -1)


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
    capabilities=Capabilities(causal="exact", key_padding=True, grouped_heads=True, weights=True),
    options=(
        Option("block", int, 32, "positions per block of queries and of keys"),
        Option("top_k", int, 8, "blocks found by the search"),
        Option("sinks", int, 1, "first blocks that are always seen"),
        Option("window", int, 4, "blocks on each side of the own one that are always seen"),
    ),
    function=hip_attention,
    implementations=(
        Backend("triton", _triton, hip_triton.why_not),
        Backend("eager", hip_attention),
    ),
    reference=reference_hip,
)
