"""What one self-attention layer remembers between calls of a stream."""

from __future__ import annotations

from typing import Any


class KeyValueCache:
    """The state of one `MultiHeadAttention` while it reads a sequence piece by piece.

    Start with an empty one for every layer and every sequence, and pass it to each call. Softmax
    keeps all keys and values, window the last ones, routing the last ones of each cluster, linear
    and scan sums of constant size.
    """

    def __init__(self) -> None:
        self.length = 0
        """Positions read so far."""
        self.state: Any = None
        """The mechanism's own state; None before the first call."""
