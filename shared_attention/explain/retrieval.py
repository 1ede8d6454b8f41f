"""Retrieval heads: those that look at the very token that the model copies next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def retrieval_scores(
    maps: Mapping[str, Tensor], tokens: Tensor, needle: Tensor, answer: Tensor
) -> dict[str, Tensor]:
    """Score each head by how much of a needle it copies to the answer.

    At the query that gives an answer token, a head copies where the key of its largest weight is
    in the needle and holds that token. Its score is the part of the needle's positions that it
    copied, averaged over samples. The answer is what the model gave, or what it was given.

    Args:
        maps: Causal self-attention `[B, H, L, L]` by name, as `capture` gives them.
        tokens: int `[B, L]`, context and answer; the token at t is given by the query at t - 1.
        needle: bool `[B, L]`, where the needle is in the context.
        answer: bool `[B, L]`, where the answer is; never the first position.

    Returns:
        `[H]` from 0 to 1 by layer.

    Raises:
        ValueError: The tensors do not fit together, or a sample has no needle.

    Source: Wu et al., Retrieval Head Mechanistically Explains Long-Context Factuality, ICLR 2025
    (arXiv:2404.15574), section 2; there g_h holds tokens, here positions, so that a token that
    occurs twice in a needle has to be copied from both.
    """
    for name, tensor in (("needle", needle), ("answer", answer)):
        if tensor.shape != tokens.shape or tensor.dtype != torch.bool:
            raise ValueError(
                f"retrieval_scores: {name} is {tensor.dtype} of shape {list(tensor.shape)}, "
                f"expected bool {list(tokens.shape)}"
            )
    if bool(answer[:, 0].any()):
        raise ValueError("retrieval_scores: answer has the first position, which no query gives")
    if not bool(needle.any(1).all()):
        raise ValueError("retrieval_scores: a sample has no needle, expected at least one position")
    return {name: _score(weights, tokens, needle, answer) for name, weights in maps.items()}


def _score(weights: Tensor, tokens: Tensor, needle: Tensor, answer: Tensor) -> Tensor:
    batch, length = tokens.shape
    if weights.shape[0] != batch or weights.shape[-2:] != (length, length):
        raise ValueError(
            f"retrieval_scores: a matrix has shape {list(weights.shape)}, "
            f"expected [{batch}, H, {length}, {length}]"
        )
    looked = weights[:, :, :-1].argmax(-1)
    sample = torch.arange(batch, device=tokens.device)[:, None, None]
    same = tokens[sample, looked] == tokens[:, None, 1:]
    copied = same & needle[sample, looked] & answer[:, None, 1:]
    positions = torch.zeros(*looked.shape[:2], length, device=weights.device)
    positions.scatter_reduce_(2, looked, copied.to(positions.dtype), "amax")
    return (positions.sum(-1) / needle.sum(1)[:, None]).mean(0)
