"""Where in an image its embedding comes from: one weight for each place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from shared_attention.choice import choose_attention
from shared_attention.registry import catalogue

_HEAD = 16


class AttentionGate(nn.Module):
    """Spatial attention: one weight in (0, 1) for each place of a feature grid.

    The paper's is three 3-wide convolutions, C to C/8 to C/32 to one, with ReLU between and a
    sigmoid at the end. With a mechanism of the core the second convolution is replaced: places
    attend to each other with it (`h + attend(h)`), so that a weight can depend on the whole image.

    Args:
        width: features C.
        spatial_dims: 2 or 3.
        attention: mechanism of family attention, or `position` or `channel`; None is the paper's.
        options: its options.

    Raises:
        UnsupportedError: the mechanism is unknown, of another family, or always causal.

    Source: Adiga et al., Attention-based Dynamic Subspace Learners, IEEE JBHI 2022.
    """

    def __init__(
        self,
        width: int,
        spatial_dims: int,
        attention: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        inner = max(width // 8, 8)
        self.first = conv(width, inner, 3, padding=1)
        last = inner
        if attention is None:
            last = max(inner // 4, 4)
            self.mix: nn.Module = conv(inner, last, 3, padding=1)
        else:
            self.mix = _Mix(inner, attention, options or {})
        self.last = conv(last, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Return weights `[B, 1, *grid]` of `features` `[B, C, *grid]`."""
        hidden = functional.relu(self.mix(functional.relu(self.first(features))))
        return self.last(hidden).sigmoid()


class _Mix(nn.Module):
    """Attend between the places of `[B, C, *grid]`, beside what is there."""

    def __init__(self, width: int, attention: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.spatial = attention in ("position", "channel")
        self.norm = nn.LayerNorm(width)
        self.attend: nn.Module
        if self.spatial:
            self.attend = catalogue()[attention].build(channels=width, **options)
            nn.init.ones_(self.attend.get_parameter("gamma"))
            return
        name = "DynamicSubspaceLearners"
        choice = choose_attention(name, attention, options, default="softmax")
        choice.require_unordered()
        heads = max(1, width // _HEAD)
        self.attend = choice.build(width, heads if width % heads == 0 else 1)

    def forward(self, x: Tensor) -> Tensor:
        places = x.movedim(1, -1)
        if self.spatial:
            return self.attend(self.norm(places)).movedim(-1, 1)
        tokens = places.flatten(1, -2)
        tokens = tokens + self.attend(self.norm(tokens))
        return tokens.view(places.shape).movedim(-1, 1)
