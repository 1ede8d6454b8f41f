"""NiNformer block: a gate made by an inner MLP-mixer network, instead of attention."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import accept_grid
from shared_attention.masks import Mask
from shared_attention.references.ninformer import reference_ninformer
from shared_attention.spec import REQUIRED, Capabilities, MechanismSpec, Option


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        return self.down(F.gelu(self.up(x)))

    def along_tokens(self, x: Tensor) -> Tensor:
        """Apply to the tokens of `x [B, L, C]`: one product for all samples and channels."""
        batch, length, channels = x.shape
        flat = x.transpose(0, 1).reshape(length, -1)
        flat = torch.addmm(self.up.bias[:, None], self.up.weight, flat)
        flat = torch.addmm(self.down.bias[:, None], self.down.weight, F.gelu(flat))
        return flat.view(length, batch, channels).transpose(0, 1)


class MixerGate(nn.Module):
    """The gating unit: x -> (W x + b) · Mixer(x), with Mixer an MLP-mixer block.

    Mixer(x) = y + FF_channels(norm(y)), y = x + FF_tokens(norm(x)). The weights that mix tokens
    are static: they depend on positions, not on content.

    Args:
        channels: C.
        length: L.
        hidden: Width inside both feed-forward networks.
    """

    def __init__(self, channels: int, length: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, channels)
        self.token_norm = nn.LayerNorm(channels)
        self.tokens = FeedForward(length, hidden)
        self.channel_norm = nn.LayerNorm(channels)
        self.channels = FeedForward(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x [B, L, C]`."""
        y = x + self.tokens.along_tokens(self.token_norm(x))
        return self.proj(x) * (y + self.channels(self.channel_norm(y)))


class NinBlock(nn.Module):
    """NiNformer block on `[B, L, C]` of one fixed length.

    y = x + Gate(norm_1(x)); out = y + FF(norm_2(y)).

    The published code applies one and the same LayerNorm before the gate and before the
    feed-forward network, so that both share scale and shift. Here each has its own, as in the
    transformer block that it replaces; `form="published"` shares them.

    Args:
        channels: C.
        length: L; sequences of another length are refused, since tokens are mixed by a matrix.
        hidden: Width inside every feed-forward network; 4 C where None.
        form: "corrected" or "published".

    Raises:
        ValueError: A size is out of range or the form unknown.

    Source: Abdullah and Aydin, NiNformer, 2024, section 3.
    """

    def __init__(
        self,
        channels: int,
        *,
        length: int,
        hidden: int | None = None,
        form: Literal["corrected", "published"] = "corrected",
    ) -> None:
        super().__init__()
        hidden = 4 * channels if hidden is None else hidden
        if length < 1 or hidden < 1:
            name, value = ("length", length) if length < 1 else ("hidden", hidden)
            raise ValueError(f"ninformer: {name} got {value}, expected at least 1")
        if form not in ("corrected", "published"):
            raise ValueError(f"ninformer: form got {form!r}, expected 'corrected' or 'published'")
        self.channels, self.length = channels, length
        self.norm = nn.LayerNorm(channels)
        self.gate = MixerGate(channels, length, hidden)
        self.second_norm = nn.LayerNorm(channels) if form == "corrected" else None
        self.feed_forward = FeedForward(channels, hidden)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix `x [B, L, C]`.

        Args:
            x: `[B, L, C]`.
            mask: None.

        Raises:
            ValueError: Inputs of another shape or type.
            UnsupportedError: There is a mask.
        """
        accept_grid(SPEC, x, self.channels, mask)
        if x.shape[1] != self.length:
            raise ValueError(
                f"ninformer: x has length {x.shape[1]}, expected {self.length}, "
                "for which it was built"
            )
        x = x + self.gate(self.norm(x))
        second = self.norm if self.second_norm is None else self.second_norm
        return x + self.feed_forward(second(x))


SPEC = MechanismSpec(
    name="ninformer",
    family="mixer",
    title="NiNformer block",
    paper="Abdullah and Aydin, NiNformer: A Network in Network Transformer with Token Mixing "
    "Generated Gating Function, 2024 (arXiv 2403.02411)",
    equation="y = x + (W n) · Mixer(n), n = norm_1(x); out = y + FF(norm_2(y))",
    complexity="O(L · C · hidden)",
    when_to_use="Images cut into a fixed number of patches.",
    correctness="Equal to the official code with the same weights in its published form; to a "
    "float64 reference that computes sample by sample.",
    capabilities=Capabilities(fixed_size=True, linear_in_v=False),
    options=(
        Option("length", int, REQUIRED, "number of tokens"),
        Option("hidden", int, None, "width inside the feed-forward networks; 4 C by default"),
        Option(
            "form",
            str,
            "corrected",
            "published: one LayerNorm shared by both sublayers",
            ("corrected", "published"),
        ),
    ),
    module=NinBlock,
    reference=reference_ninformer,
    example={"length": 37, "hidden": 12},
)
