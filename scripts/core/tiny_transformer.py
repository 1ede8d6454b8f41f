"""A small transformer on tokens, and its training, for the experiments of this folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_attention import masks
from shared_attention.layers import EncoderLayer, MultiHeadAttention, RotaryPositions

Batch = tuple[Tensor, Tensor]
"""Tokens `[B, L]` and targets: a class `[B]`, or `[B, L]` of positions, -1 for none."""


class TinyTransformer(nn.Module):
    """Layers of the core with norms before each part; logits at every position."""

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        *,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        causal: bool = False,
        mechanism: str = "softmax",
    ) -> None:
        super().__init__()
        self.mask = masks.causal() if causal else None
        self.embedding = nn.Embedding(vocabulary, width)
        positions = RotaryPositions(width // heads)
        self.layers = nn.ModuleList(
            EncoderLayer(
                MultiHeadAttention(width, heads, mechanism=mechanism, positions=positions),
                width,
                4 * width,
                norm="pre",
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits `[B, L, outputs]` for tokens `[B, L]`."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, mask=self.mask)
        return self.out(self.norm(x))


Measure = Callable[[Tensor, Tensor], tuple[Tensor, float]]
"""Loss and accuracy of tokens and targets."""


def train(
    model: nn.Module,
    draw: Callable[[torch.Generator], Batch],
    *,
    steps: int,
    seed: int,
    rate: float = 4e-3,
    goal: float | None = None,
    measure: Measure | None = None,
) -> None:
    """Train on fresh batches for `steps`, or until the mean accuracy of 20 batches is `goal`."""
    random = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: min(1.0, (n + 1) / 100))
    measure = partial(next_token, model) if measure is None else measure
    recent: deque[float] = deque(maxlen=20)
    model.train()
    for _ in range(steps):
        loss, right = measure(*draw(random))
        recent.append(right)
        if goal is not None and len(recent) == 20 and sum(recent) / 20 >= goal:
            break
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        warm.step()
    model.eval()


def next_token(model: nn.Module, tokens: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """Return loss and accuracy of the targets that are there."""
    logits = model(tokens)
    there = target >= 0
    loss = F.cross_entropy(logits[there], target[there])
    return loss, float((logits.detach().argmax(-1) == target)[there].float().mean())


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    """Share of targets that are predicted."""
    return float(correct(model, batch).float().mean())


@torch.no_grad()
def correct(model: nn.Module, batch: Batch) -> Tensor:
    """Whether each target is predicted, bool `[number of targets]`."""
    tokens, target = batch
    return (model(tokens).argmax(-1) == target)[target >= 0]
