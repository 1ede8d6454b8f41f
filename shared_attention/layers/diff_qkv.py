"""DiffQKV attention: queries, keys and values of different numbers and widths."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.layers.cache import KeyValueCache
from shared_attention.layers.positions import RotaryPositions
from shared_attention.linear import Linear
from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import KeyValueState, continue_attention
from shared_attention.mechanisms.softmax import softmax_attention


class DiffQKVAttention(nn.Module):
    """Attend with many wide queries, few narrow keys, and values in between.

    Models bear the compression of keys better than that of values, and a cache holds both, but no
    queries. So keys get the fewest heads, and may be narrower than queries; values get more
    heads; and queries are augmented: `num_heads * head_dim` may exceed `d_model`.

    Where `key_dim` is less than `head_dim`, a learned map takes keys up to the queries' width,
    as in the paper. q · (k U) is (q Uᵀ) · k, so the map is applied to queries: keys are never
    widened, and scores cost `key_dim` products. Nothing is repeated in the cache, which holds
    `num_key_heads * key_dim + num_value_heads * value_dim` numbers per position.

    Args:
        d_model: Width of inputs and outputs.
        num_heads: Query heads.
        num_key_heads: Key heads; must divide `num_heads`.
        num_value_heads: Value heads; must divide `num_heads`.
        head_dim: Width of a query; `d_model / num_heads` by default.
        key_dim: Width of a key; `head_dim` by default.
        value_dim: Width of a value; `head_dim` by default.
        bias: Whether the projections have biases.
        positions: Rotary positions of keys, and of queries as keys meet them: of width `key_dim`.

    Raises:
        ValueError: Sizes do not divide or fit.

    Source: Lin et al., Sigma, 2025 (arXiv:2501.13629), section 2. Sigma 1.5B has 4 key heads, 16
    value heads, width 64 and queries of 1.5 times `d_model`. There is no public code.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_key_heads: int,
        num_value_heads: int,
        head_dim: int | None = None,
        *,
        key_dim: int | None = None,
        value_dim: int | None = None,
        bias: bool = False,
        positions: RotaryPositions | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None and d_model % num_heads:
            raise ValueError(
                f"DiffQKVAttention: num_heads {num_heads} does not divide d_model {d_model}; "
                "give head_dim"
            )
        for name, count in (("key", num_key_heads), ("value", num_value_heads)):
            if count < 1 or num_heads % count:
                raise ValueError(
                    f"DiffQKVAttention: num_{name}_heads {count} does not divide "
                    f"num_heads {num_heads}"
                )
        self.head_dim = d_model // num_heads if head_dim is None else head_dim
        self.key_dim = self.head_dim if key_dim is None else key_dim
        self.value_dim = self.head_dim if value_dim is None else value_dim
        if not 1 <= self.key_dim <= self.head_dim:
            raise ValueError(
                f"DiffQKVAttention: key_dim got {key_dim}, expected 1 to head_dim {self.head_dim}"
            )
        if positions is not None and positions.head_dim != self.key_dim:
            raise ValueError(
                f"DiffQKVAttention: positions have width {positions.head_dim}, "
                f"expected key_dim {self.key_dim}"
            )
        self.d_model = d_model
        self.num_heads, self.num_key_heads = num_heads, num_key_heads
        self.num_value_heads = num_value_heads
        self.positions = positions
        self.widths = (
            num_heads * self.head_dim,
            num_key_heads * self.key_dim,
            num_value_heads * self.value_dim,
        )
        self.project_in = Linear(d_model, sum(self.widths), bias=bias)
        self.project_out = Linear(num_heads * self.value_dim, d_model, bias=bias)
        self.key_up: nn.Parameter | None = None
        if self.key_dim < self.head_dim:
            spread = 1 / math.sqrt(self.key_dim)
            up = torch.randn(num_key_heads, self.key_dim, self.head_dim) * spread
            self.key_up = nn.Parameter(up)

    def forward(
        self, x: Tensor, *, mask: Mask | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Attend within `x`.

        Args:
            x: `[B, L, d_model]`.
            mask: Any mask. With a cache: None or `masks.causal()`, with `masks.keys(valid)` of
                the new positions where some are padding.
            cache: Continue causally from the positions read before; it is updated.

        Returns:
            `[B, L, d_model]`.

        Raises:
            UnsupportedError: With a cache, the mask is of another kind.
        """
        q, k, v = self.project(x, 0 if cache is None else cache.length)
        scale = 1 / math.sqrt(self.head_dim)
        if cache is None:
            out = softmax_attention(q, k, v, mask=mask, scale=scale)
        else:
            parts = masks.split(mask)
            if parts.window is not None or parts.rest is not None:
                raise UnsupportedError(
                    "DiffQKVAttention: with a cache, mask takes masks.causal() and "
                    "masks.keys(valid) of the new positions only"
                )
            state = cache.state
            if state is None:
                state = KeyValueState(k[:, :, :0], v[:, :, :0], None)
            valid = None if parts.keys is None else masks.keys(parts.keys)
            out, cache.state = continue_attention(
                softmax_attention, q, k, v, state, mask=valid, scale=scale
            )
            cache.length += x.shape[1]
        return self.project_out(out.transpose(1, 2).flatten(2))

    def project(self, x: Tensor, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries as keys meet them, keys and values.

        Args:
            x: `[B, L, d_model]`.
            offset: Position of the first step of `x`.

        Returns:
            `q [B, H, L, key_dim]`, `k [B, Hk, L, key_dim]` and `v [B, Hv, L, value_dim]`.
        """
        fused = self.project_in(x).split(self.widths, dim=-1)
        counts = (self.num_heads, self.num_key_heads, self.num_value_heads)
        q, k, v = (
            part.unflatten(-1, (count, -1)).transpose(1, 2)
            for part, count in zip(fused, counts, strict=True)
        )
        if self.key_up is not None:
            groups = q.unflatten(1, (self.num_key_heads, -1))
            q = (groups @ self.key_up.mT[:, None]).flatten(1, 2)
        if self.positions is not None:
            q, k = self.positions(q, offset), self.positions(k, offset)
        return q, k, v

    def extra_repr(self) -> str:
        """Show the sizes."""
        return (
            f"{self.d_model}, query={self.num_heads}x{self.head_dim}, "
            f"key={self.num_key_heads}x{self.key_dim}, "
            f"value={self.num_value_heads}x{self.value_dim}"
        )
