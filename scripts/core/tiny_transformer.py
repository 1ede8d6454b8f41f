"""A small transformer on tokens, and its training, for the experiments of this folder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_attention import masks
from shared_attention.layers import EncoderLayer, MultiHeadAttention, SinusoidalPositions

Batch = tuple[Tensor, Tensor]
"""Tokens `[B, L]` and targets: `[B]` of sequences, or `[B, L]` of positions, -1 for none."""


class TinyTransformer(nn.Module):
    """Layers of the core with norms before each part; logits at every position."""

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        causal: bool = False,
        mechanism: str = "softmax",
    ) -> None:
        super().__init__()
        self.mask = masks.causal() if causal else None
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = SinusoidalPositions(width)
        self.layers = nn.ModuleList(
            EncoderLayer(
                MultiHeadAttention(width, heads, mechanism=mechanism), width, 4 * width, norm="pre"
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `[B, L, outputs]` for tokens `[B, L]`."""
        x = self.positions(self.embedding(tokens))
        for layer in self.layers:
            x = layer(x, mask=self.mask)
        return self.out(self.norm(x))


def train(
    model: nn.Module,
    draw: Callable[[torch.Generator], Batch],
    *,
    steps: int,
    seed: int,
    rate: float = 2e-3,
    goal: float | None = None,
) -> float:
    """Train on fresh batches until `goal` accuracy on one of them, or for `steps`; return it.

    Targets `[B]` belong to the first position.
    """
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min(1.0, (n + 1) / 100))
    model.train()
    reached = 0.0
    for step in range(steps):
        tokens, target = draw(random)
        logits = model(tokens)
        logits = logits[:, 0] if target.dim() == 1 else logits.flatten(0, 1)
        loss = F.cross_entropy(logits, target.flatten(), ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        warm.step()
        if step % 50 == 49:
            reached = accuracy(model, draw(random))
            if goal is not None and reached >= goal:
                break
    model.eval()
    return reached


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of targets that are predicted."""
    return float(correct(model, batch).float().mean())


@torch.no_grad()
def correct(model: nn.Module, batch: Batch) -> Tensor:
    """Whether each target is predicted, bool `[number of targets]`."""
    tokens, target = batch
    guess = model(tokens).argmax(-1)
    if target.dim() == 1:
        return guess[:, 0] == target
    return (guess == target)[target >= 0]
