"""A model of live books on "Attention as an RNN" (Feng et al. 2024, arXiv 2405.13956)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.finance.models.parts.windows import check_sizes
from shared_attention.dropout import Dropout
from shared_attention.layers.stream_layer import StreamLayer, choose_streaming
from shared_attention.linear import Linear

if TYPE_CHECKING:
    from domains.finance.models.live import LiveBook


class StreamState(NamedTuple):
    """All that is kept of a stream; its size does not grow with the stream."""

    recent: Tensor
    """`[B, recent, F]`, the latest rows, oldest first; zero before the first."""
    layers: tuple[Any, ...]


class StreamingLOB(nn.Module):
    """Takes in one book update at a time in constant time and memory.

    A token is the last `recent` rows; causal attention layers follow, without positions, so a
    stream may be of any length. `forward` over a window gives what `init_state` and a `step` for
    each row give. Nothing is normalised by its window: rows are scaled by training statistics.

    A stream runs on for longer than training windows. `scan` forgets with a half-life of an
    eighth of the look-back and `window` sees a bounded past, so what is older than a training
    window hardly counts or not at all. `linear` averages all that it has read: start it anew
    from time to time.

    Args:
        lookback: rows T of a training window.
        features: columns F.
        classes: number of classes.
        attention: `scan` (Aaren), `linear` or `window`; None is `scan`.
        attention_options: its options; `half_life=None` is the paper's scan.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layers.
        layers: attention layers.
        dropout: probability.
        recent: rows in one token.

    Raises:
        ValueError: Sizes are below 1.
        UnsupportedError: `attention` does not stream with a constant state.
    """

    def __init__(
        self,
        *,
        lookback: int,
        features: int,
        classes: int = 3,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        d_model: int = 64,
        num_heads: int = 4,
        d_ff: int = 128,
        layers: int = 2,
        dropout: float = 0.1,
        recent: int = 4,
    ) -> None:
        super().__init__()
        check_sizes("StreamingLOB", lookback=lookback, features=features, classes=classes)
        if recent < 1:
            raise ValueError(f"StreamingLOB: recent got {recent}, expected at least 1")
        own: dict[str, dict[str, Any]] = {
            "scan": {"half_life": max(1.0, lookback / 8)},
            "window": {"left": max(1, (lookback - recent) // layers)},
        }
        choice = choose_streaming("StreamingLOB", attention, attention_options, own)
        self.features, self.recent = features, recent
        self.embed = Linear(recent * features, d_model)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            StreamLayer(choice, d_model, num_heads, d_ff, dropout) for _ in range(layers)
        )
        self.head = nn.Linear(d_model, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores `[B, classes]` after windows `x` `[B, T, F]` of any length T.

        Raises:
            ValueError: The rows have another width.
        """
        if x.dim() != 3 or x.shape[2] != self.features or not x.shape[1]:
            raise ValueError(
                f"StreamingLOB.forward: got windows of shape {list(x.shape)}, "
                f"expected [batch, at least 1, {self.features}]"
            )
        rows = functional.pad(x, (0, 0, self.recent - 1, 0)).unfold(1, self.recent, 1)
        hidden = self.dropout(self.embed(rows.transpose(2, 3).flatten(2)))
        for layer in self._stream():
            hidden = layer(hidden)
        return self.head(hidden[:, -1])

    def init_state(self, batch: int) -> StreamState:
        """Return the state of `batch` streams of which nothing was seen."""
        like = self.embed.weight
        recent = like.new_zeros(batch, self.recent, self.features)
        return StreamState(recent, tuple(r.init_state(batch, like) for r in self._stream()))

    def step(self, x: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Take in one row and return class scores `[B, classes]` and the state after it.

        Args:
            x: `[B, F]`.
            state: of the streams so far; not changed.
        """
        recent = torch.cat([state.recent[:, 1:], x.unsqueeze(1)], dim=1)
        hidden = self.dropout(self.embed(recent.flatten(1)))
        states = []
        for layer, before in zip(self._stream(), state.layers, strict=True):
            hidden, after = layer.step(hidden, before)
            states.append(after)
        return self.head(hidden), StreamState(recent, tuple(states))

    def live(self) -> LiveBook:
        """Return a fast stream of one book, with the weights as they are now."""
        from domains.finance.models.live import LiveBook

        return LiveBook(self)

    def _stream(self) -> Iterator[StreamLayer]:
        return (layer for layer in self.layers if isinstance(layer, StreamLayer))
