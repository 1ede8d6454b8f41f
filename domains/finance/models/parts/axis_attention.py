"""TLOB's block: attention and a network along one axis of the window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domains.finance.models.parts.mixing import MixingNetwork
from shared_attention.choice import AttentionChoice
from shared_attention.dropout import Dropout
from shared_attention.linear import Linear, linear


class AfterLinear(Linear):
    """One linear map after another in each of its blocks of rows, computed as a single one.

    Two linear maps in a row are one, whose weight is the product of theirs. Forming it costs
    little beside applying it to every token, and its gradients reach both.

    Args:
        width: of the input and of each block.
        blocks: maps side by side.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__(width, blocks * width)
        self.before = nn.Linear(width, blocks * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., width]` to `[..., blocks * width]`."""
        rows, width = self.weight.shape
        outer = self.weight.view(-1, width, width)
        inner = self.before.weight[-rows:].view_as(outer)
        inner_bias = self.before.bias[-rows:].view(-1, width, 1)
        bias = torch.baddbmm(self.bias.view(-1, width, 1), outer, inner_bias)
        return linear(x, (outer @ inner).view(rows, width), bias.view(rows))


class AxisAttention(nn.Module):
    """Attend among tokens `[B, tokens, width]`, then MixingNetwork on each.

    The published block projects queries, keys and values by a linear layer each before the
    multi-head layer projects them again, and maps that layer's output once more. These are
    `AfterLinear` here: the same parameters and the same result for half the work.

    Args:
        choice: mechanism.
        width: of a token.
        num_heads: heads, which share the width. (Published code gives each head the whole width;
            with one head, as published, the two are the same.)
        out: width of the result; with another than `width` there is no residual around it.
        dropout: probability.
    """

    def __init__(
        self, choice: AttentionChoice, width: int, num_heads: int, out: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = choice.build(width, num_heads)
        blocks = self.attention.project_in.out_features // width
        self.attention.project_in = AfterLinear(width, blocks)
        for weight in self.attention.project_in.weight.split(width):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.attention.project_in.bias)
        self.attention.project_out = AfterLinear(width, 1)
        nn.init.zeros_(self.attention.project_out.before.bias)
        self.norm = nn.LayerNorm(width)
        self.network = MixingNetwork(width, 4 * width, out, dropout)
        self.dropout = Dropout(dropout)
        self.mask = choice.padding(None)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, tokens, width]` to `[B, tokens, out]`."""
        attended = self.attention(x, mask=self.mask)
        mixed = self.network(self.norm(x + self.dropout(attended)))
        return mixed + x if mixed.shape[-1] == x.shape[-1] else mixed
