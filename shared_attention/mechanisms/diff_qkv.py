"""DiffQKV in the form of a mechanism: keys that are scored and cached in fewer dimensions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import (
    KeyValueModule,
    KeyValueState,
    continue_attention,
    empty_state,
)
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.hidden import blank_masked
from shared_attention.references.diff_qkv import reference_diff_qkv
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option


class DiffQKVCore(KeyValueModule):
    """Attend with softmax(q (k W U)ᵀ / √D + bias) v, W: D → key_dim, U: key_dim → D.

    Only k W is kept in a cache. q (k W U)ᵀ is (q Uᵀ)(k W)ᵀ, so keys are never widened again.
    Keys and values may have different numbers of heads. A layer that projects to narrow keys to
    begin with, and augments queries, is `shared_attention.layers.DiffQKVAttention`; this form
    serves layers whose projections are given.

    Args:
        num_heads: Query heads.
        head_dim: Width of queries and keys.
        key_dim: Width of the keys that are scored and cached; half of `head_dim` by default.

    Raises:
        ValueError: `key_dim` is out of range.

    Source: Lin et al., Sigma, 2025 (arXiv:2501.13629), section 2. There is no public code.
    """

    def __init__(self, num_heads: int, head_dim: int, key_dim: int | None = None) -> None:
        super().__init__()
        key_dim = max(head_dim // 2, 1) if key_dim is None else key_dim
        if not 1 <= key_dim <= head_dim:
            raise ValueError(f"diff_qkv: key_dim got {key_dim}, expected 1 to {head_dim}")
        self.head_dim, self.key_dim = head_dim, key_dim
        self.down = nn.Parameter(torch.randn(head_dim, key_dim) / math.sqrt(head_dim))
        self.up = nn.Parameter(torch.randn(key_dim, head_dim) / math.sqrt(key_dim))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            q: `[B, H, L, D]`.
            k: `[B, Hk, S, D]`, Hk dividing H.
            v: `[B, Hv, S, Dv]`, Hv dividing H.
            mask: Any mask.
            bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.

        Returns:
            `[B, H, L, Dv]`; zero for queries that see no key.

        Raises:
            ValueError: The tensors do not fit together.
        """
        accept(SPEC, q, k, v, mask)
        k, v = blank_masked(k, v, mask, q.shape[2])
        return self._attend(q, k @ self.down, v, mask, bias)

    def init_state(
        self, batch: int, kv_heads: int, key_dim: int, value_dim: int, **place: Any
    ) -> KeyValueState:
        """Return the state of no positions, whose keys have the narrow width."""
        return empty_state(batch, kv_heads, self.key_dim, value_dim, **place)

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
        k, v = blank_masked(k, v, mask, q.shape[2])
        return continue_attention(self._attend, q, k @ self.down, v, state, mask=mask, **inputs)

    def _attend(
        self,
        q: Tensor,
        narrow: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        scale = 1 / math.sqrt(self.head_dim)
        return softmax_attention(q @ self.up.T, narrow, v, mask=mask, bias=bias, scale=scale)


SPEC = MechanismSpec(
    name="diff_qkv",
    family="attention",
    title="DiffQKV attention",
    paper="Lin et al., Sigma: Differential Rescaling of Query, Key and Value for Efficient "
    "Language Models, 2025 (arXiv:2501.13629)",
    equation="out = softmax(q (k W U)ᵀ / √d + bias) v, W: d → r, U: r → d",
    complexity="O(L · S · (r + d)) time; a cache of r numbers per key instead of d",
    when_to_use="Long streams, where the cache of keys is what costs.",
    correctness="Against float64 rows of explicitly widened keys; there is no official code.",
    capabilities=replace(EVERY_SCORE, scale=False),
    options=(Option("key_dim", int, None, "width of cached keys; None: half of the head's"),),
    module=DiffQKVCore,
    reference=reference_diff_qkv,
)
