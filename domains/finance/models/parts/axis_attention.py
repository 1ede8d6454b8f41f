"""TLOB's block: attention and a network along one axis of the window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from domains.finance.models.parts.mixing import MixingNetwork
from shared_attention.choice import AttentionChoice
from shared_attention.dropout import Dropout
from shared_attention.errors import UnsupportedError
from shared_attention.layers import MultiHeadAttention
from shared_attention.linear import linear


class TwiceProjectedAttention(MultiHeadAttention):
    """Multi-head attention with one more linear layer before each projection and after the last.

    Nothing nonlinear lies between two maps in a row, so each pair is applied as one map whose
    weight is their product; forming it costs little beside applying it to every token. With one
    head, whose mechanism mixes values linearly, the maps after it join those of the values too, and
    with softmax those of the keys join those of the queries: (A x + a) · (B y + b) differs from
    Bᵀ(A x + a) · y by what all keys share, which softmax does not see. Parameters and results are
    those of the maps one after another.

    Arguments are those of `MultiHeadAttention`; it attends within one sequence only.
    """

    def __init__(self, d_model: int, num_heads: int, **options: Any) -> None:
        super().__init__(d_model, num_heads, **options)
        self.before = nn.Linear(d_model, self.project_in.out_features)
        self.after = nn.Linear(d_model, d_model)

    def project(
        self, x: Tensor, context: Tensor | None, offset: int
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """As for `MultiHeadAttention`, without a context.

        Raises:
            UnsupportedError: There is a context.
        """
        if context is not None:
            raise UnsupportedError("TwiceProjectedAttention: attends within one sequence only")
        rows, width = self.project_in.weight.shape
        outer = self.project_in.weight.view(-1, width, width)
        weight = outer @ self.before.weight[-rows:].view_as(outer)
        bias = outer @ self.before.bias[-rows:].view(-1, width, 1)
        bias = bias + self.project_in.bias.view_as(bias)
        if self._values_are_joined():
            out = self.after.weight @ self.project_out.weight
            weight = torch.cat([weight[:-1], out @ weight[-1:]])
            bias = torch.cat([bias[:-1], out @ bias[-1:]])
        joined = self.num_heads == 1 and self.spec.name == "softmax"
        if joined:
            to_keys = weight[1].T
            weight = torch.stack([to_keys @ weight[0], weight[2]])
            bias = torch.stack([to_keys @ bias[0], bias[2]])
        heads = self._heads(linear(x, weight.flatten(0, 1), bias.flatten()))
        if joined:
            q, v = heads.chunk(2, dim=1)
            return q, self._heads(x), v
        count = self.num_heads
        q, k, v = heads.split_with_sizes((heads.shape[1] - 2 * count, count, count), dim=1)
        return (q if self.query_width else None), k, v

    def _join(self, out: Tensor) -> Tensor:
        out = out.transpose(1, 2).flatten(2)
        bias = torch.addmv(self.after.bias, self.after.weight, self.project_out.bias)
        if self._values_are_joined():
            return out + bias
        return linear(out, self.after.weight @ self.project_out.weight, bias)

    def _values_are_joined(self) -> bool:
        return self.num_heads == 1 and self.spec.supports("linear_in_v")


class AxisAttention(nn.Module):
    """Attend among tokens `[B, tokens, width]`, then MixingNetwork on each.

    The published block projects queries, keys and values by a linear layer each before the
    multi-head layer projects them again, and maps that layer's output once more; see
    `TwiceProjectedAttention`.

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
        self.attention = choice.build(width, num_heads, layer=TwiceProjectedAttention)
        self.norm = nn.LayerNorm(width)
        self.network = MixingNetwork(width, 4 * width, out, dropout)
        self.dropout = Dropout(dropout)
        self.mask = choice.padding(None)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, tokens, width]` to `[B, tokens, out]`."""
        attended = self.attention(x, mask=self.mask)
        mixed = self.network(self.norm(x + self.dropout(attended)))
        return mixed + x if mixed.shape[-1] == x.shape[-1] else mixed
