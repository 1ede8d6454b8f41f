"""The Transformer's encoder layer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from shared_attention.dropout import Dropout
from shared_attention.layers.cache import KeyValueCache
from shared_attention.layers.feed_forward import check_norm, feed_forward
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.masks import Mask


class EncoderLayer(nn.Module):
    """Self-attention and a position-wise network, each with a residual connection.

    Args:
        attention: The self-attention, with any mechanism.
        d_model: Width of the residual stream.
        d_ff: Hidden width of the network.
        dropout: Applied to what either part adds to the stream, and inside the network.
        activation: "gelu", "relu" or "silu".
        norm: Layer norm after each sum ("post", Vaswani et al. 2017) or before each part ("pre").
    """

    def __init__(
        self,
        attention: MultiHeadAttention,
        d_model: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        activation: str = "gelu",
        norm: Literal["post", "pre"] = "post",
    ) -> None:
        super().__init__()
        check_norm(norm)
        self.attention = attention
        self.network = feed_forward(d_model, d_ff, activation, dropout)
        self.attention_norm = nn.LayerNorm(d_model)
        self.network_norm = nn.LayerNorm(d_model)
        self.dropout = Dropout(dropout)
        self.norm = norm

    def forward(
        self,
        x: Tensor,
        *,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Return `[B, L, d_model]`; arguments as for `MultiHeadAttention`."""
        if self.norm == "pre":
            attended = self.attention(self.attention_norm(x), mask=mask, bias=bias, cache=cache)
            x = x + self.dropout(attended)
            return x + self.dropout(self.network(self.network_norm(x)))
        attended = self.attention(x, mask=mask, bias=bias, cache=cache)
        x = self.attention_norm(x + self.dropout(attended))
        return self.network_norm(x + self.dropout(self.network(x)))
