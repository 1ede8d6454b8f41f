from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shared_attention import catalogue
from shared_runtime.task import Task


class Line(nn.Module):
    """A linear regression."""

    def __init__(self, *, features: int, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).squeeze(-1)


class Tokens(nn.Module):
    """Every feature a token, one attention over them."""

    def __init__(
        self,
        *,
        features: int,
        d_model: int = 8,
        num_heads: int = 2,
        pool: Literal["mean", "first"] = "mean",
        dropout: float = 0.0,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if d_model % num_heads:
            raise ValueError(f"d_model ({d_model}) must be divisible by num_heads ({num_heads})")
        self.num_heads, self.pool = num_heads, pool
        self.names = nn.Parameter(torch.randn(features, d_model))
        self.value = nn.Linear(1, d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, 1)
        self.drop = nn.Dropout(dropout)
        self.attention = catalogue()[attention or "softmax"].build(
            num_heads=num_heads, head_dim=d_model // num_heads, **(attention_options or {})
        )

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        tokens = self.value(x.unsqueeze(-1)) + self.names
        split = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.attention(*self.heads(x)).transpose(1, 2).flatten(2)
        pooled = mixed.mean(1) if self.pool == "mean" else mixed[:, 0]
        return self.out(self.drop(pooled)).squeeze(-1)


class Regression(Task):
    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.mse_loss(self.model(batch["x"]), batch["y"])
