"""A decoder layer that leaves out the steps that nobody reads after it."""

from __future__ import annotations

from torch import Tensor

from shared_attention.layers import DecoderLayer
from shared_attention.masks import Mask


class HorizonDecoderLayer(DecoderLayer):
    """Decoder layer (post-norm) that keeps the last `steps` only, after its self-attention.

    The position-wise network, and attention to the memory where it is softmax, treat each step by
    itself, so the steps that are kept come out as from a whole layer.
    """

    def forward_last(
        self,
        x: Tensor,
        memory: Tensor,
        steps: int,
        *,
        mask: Mask | None,
        memory_mask: Mask | None,
    ) -> Tensor:
        """Map `[B, T, d_model]` to its last steps, `[B, steps, d_model]`."""
        attended = self.self_attention(x, mask=mask)[:, -steps:]
        x = self.self_norm(x[:, -steps:] + self.dropout(attended))
        attended = self.cross_attention(x, memory, mask=memory_mask)
        x = self.cross_norm(x + self.dropout(attended))
        return self.network_norm(x + self.dropout(self.network(x)))
