"""The Transformer's decoder layer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from shared_attention.dropout import Dropout
from shared_attention.layers.cache import KeyValueCache
from shared_attention.layers.feed_forward import check_norm, feed_forward
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.masks import Mask


class DecoderLayer(nn.Module):
    """Self-attention, attention to a memory and a position-wise network, each with a residual.

    The layer is causal where its `mask` is: pass `masks.causal()` for a decoder that writes from
    left to right.

    Args:
        self_attention: Attention among the decoder's positions.
        cross_attention: Attention to the memory.
        d_model: Width of the residual stream.
        d_ff: Hidden width of the network.
        dropout: Applied to what each part adds to the stream, and inside the network.
        activation: "gelu", "relu" or "silu".
        norm: Layer norm after each sum ("post") or before each part ("pre").
    """

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        d_model: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        activation: str = "gelu",
        norm: Literal["post", "pre"] = "post",
    ) -> None:
        super().__init__()
        check_norm(norm)
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.network = feed_forward(d_model, d_ff, activation, dropout)
        self.self_norm = nn.LayerNorm(d_model)
        self.cross_norm = nn.LayerNorm(d_model)
        self.network_norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.norm = norm

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        *,
        mask: Mask | None = None,
        memory_mask: Mask | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Decode.

        Args:
            x: `[B, L, d_model]`.
            memory: `[B, S, d_model]`, such as an encoder's output.
            mask: Mask among the positions of `x`.
            memory_mask: Mask from `x` to `memory`.
            cache: What the self-attention has read before; it is updated.

        Returns:
            `[B, L, d_model]`.
        """
        if self.norm == "pre":
            attended = self.self_attention(self.self_norm(x), mask=mask, cache=cache)
            x = x + self.dropout(attended)
            attended = self.cross_attention(self.cross_norm(x), memory, mask=memory_mask)
            x = x + self.dropout(attended)
            return x + self.dropout(self.network(self.network_norm(x)))
        attended = self.self_attention(x, mask=mask, cache=cache)
        x = self.self_norm(x + self.dropout(attended))
        attended = self.cross_attention(x, memory, mask=memory_mask)
        x = self.cross_norm(x + self.dropout(attended))
        return self.network_norm(x + self.dropout(self.network(x)))
