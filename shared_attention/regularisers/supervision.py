"""Attention supervised by words that were found to help or to mislead.

Source: Su et al., Enhanced Aspect-Based Sentiment Analysis Models with Progressive Self-supervised
Attention Learning, Artificial Intelligence 2021 (arXiv:2103.03446).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shared_attention.regularisers.attended import Attended


@dataclass(frozen=True)
class Words:
    """Words extracted from samples; see `extract_progressively`."""

    active: Tensor
    """bool `[B, S]`, words that led to right predictions."""
    misleading: Tensor
    """bool `[B, S]`, words that led to wrong ones; none is active too."""

    @classmethod
    def none(cls, valid: Tensor) -> Words:
        """Return no words of samples with the words `valid`, bool `[B, S]`."""
        return cls(torch.zeros_like(valid), torch.zeros_like(valid))

    def visible(self, valid: Tensor) -> Tensor:
        """Return the words of `valid` that were not extracted, bool `[B, S]`.

        Samples of which every word was extracted keep them all: nothing would be left to read.
        """
        rest = valid & ~self.active & ~self.misleading
        return torch.where(rest.any(-1, keepdim=True), rest, valid)

    def __getitem__(self, samples: Tensor | slice) -> Words:
        """Return those of some samples, for a batch."""
        return Words(self.active[samples], self.misleading[samples])


def word_attention(call: Attended) -> Tensor:
    """Return how much each word is attended to: the mean over heads and the queries that count.

    Args:
        call: From `attended`.

    Returns:
        `[B, S]`, differentiable.
    """
    rows = call.rows.to(call.weights.dtype)
    rows = rows / rows.sum(-1, keepdim=True).clamp_min(1)
    return (
        torch.einsum("bhls,bl->bs", call.weights, rows.expand(call.weights.shape[0], -1))
        / (call.weights.shape[1])
    )


def gradient_impact(loss: Tensor, embeddings: Tensor) -> Tensor:
    """Return how much each word moves a loss: the length of the gradient at its embedding.

    Args:
        loss: A scalar; a sum over samples, so that each sample's words have their own gradient.
        embeddings: `[B, S, D]`, the tensor that the model read, part of the loss's graph.

    Returns:
        `[B, S]`, detached; the graph is kept.
    """
    (gradient,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
    return gradient.norm(dim=-1)


def supervision_loss(attention: Tensor, words: Words) -> Tensor:
    """Return how far attention is from what the extracted words ask for.

    Active words should share all attention, 1 / their number each; misleading ones should have
    none. The loss is the squared distance over extracted words, summed over a sample and averaged
    over samples; those without extracted words have none. Where a sample has misleading words
    only, the released code divides 0 by 0; here the target is 0.

    Args:
        attention: `[B, S]`, as from `word_attention`.
        words: The extracted words of the same samples.

    Returns:
        A scalar, to be added to a loss times a factor (0.1 or 0.5 in the paper's code).

    Raises:
        ValueError: The shapes differ.
    """
    if attention.shape != words.active.shape:
        raise ValueError(
            f"supervision_loss: attention has shape {list(attention.shape)}, "
            f"expected that of the words, {list(words.active.shape)}"
        )
    target = words.active / words.active.sum(-1, keepdim=True).clamp_min(1)
    gap = (attention - target.to(attention.dtype)) * (words.active | words.misleading)
    return gap.square().sum(-1).mean()
