"""Finding the words that attention should and should not rest on, one at a time.

Source: Su et al., Enhanced Aspect-Based Sentiment Analysis Models with Progressive Self-supervised
Attention Learning, Artificial Intelligence 2021 (arXiv:2103.03446).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from shared_attention.regularisers.entropy import row_entropy
from shared_attention.regularisers.supervision import Words

MAX_ENTROPY = 4 * math.log(2)
"""Entropy in nats above which no word stands out: 4 bits in the released code."""


def extract(
    impact: Tensor,
    correct: Tensor,
    visible: Tensor,
    words: Words,
    *,
    max_entropy: float = MAX_ENTROPY,
) -> Words:
    """Add to `words` the visible word with the highest impact of each sample.

    Args:
        impact: `[B, S]`, not negative, as from `word_attention` or `gradient_impact`.
        correct: bool `[B]`, whether the sample was predicted right: its word is then active, and
            misleading otherwise.
        visible: bool `[B, S]`, words that may be chosen.
        words: Those extracted before; they are not chosen again.
        max_entropy: Samples whose impacts, normalised to sum to one over the visible words, have
            an entropy above this give no word, in nats.

    Returns:
        The words extracted before and now.

    Raises:
        ValueError: The shapes differ.
    """
    if not impact.shape == visible.shape == words.active.shape or correct.shape != impact.shape[:1]:
        raise ValueError(
            f"extract: impact {list(impact.shape)}, visible {list(visible.shape)}, words "
            f"{list(words.active.shape)} and correct {list(correct.shape)} do not fit together; "
            "expected [B, S] three times and [B]"
        )
    free = visible & ~words.active & ~words.misleading
    shown = impact.detach().masked_fill(~free, 0)
    chosen = torch.zeros_like(free)
    chosen.scatter_(-1, impact.detach().masked_fill(~free, -1).argmax(-1, keepdim=True), True)
    clear = (row_entropy(shown) < max_entropy) & (shown.sum(-1) > 0)
    chosen = chosen & free & clear[:, None]
    right = correct[:, None]
    return Words(words.active | chosen & right, words.misleading | chosen & ~right)


def extract_progressively(
    valid: Tensor,
    fit: Callable[[Tensor], None],
    examine: Callable[[Tensor], tuple[Tensor, Tensor]],
    *,
    rounds: int = 5,
    max_entropy: float = MAX_ENTROPY,
) -> Words:
    """Train, extract the word with the highest impact of each sample, hide it, and begin again.

    Each round sees samples without the words found so far, so that it has to find others.
    Whether a prediction is right is judged by `examine`. The released code judges samples that
    the model was fitted to, most of which are then right; predictions by a model that has not
    seen the sample (by cross-validation) find more misleading words.

    Args:
        valid: bool `[B, S]`, the words of all training samples, padding excluded.
        fit: Trains a fresh model that reads the words `visible`, bool `[B, S]`, only: hide the
            others by `masks.keys(visible)` or replace them by a token without meaning.
        examine: Returns `(impact [B, S], correct [B])` of that model; see `extract`.
        rounds: How many words of a sample are extracted at most; 5 in the released code.
        max_entropy: As for `extract`.

    Returns:
        The words, for `supervision_loss` when a model is trained on whole samples at last.
    """
    words = Words.none(valid)
    for _ in range(rounds):
        visible = words.visible(valid)
        fit(visible)
        impact, correct = examine(visible)
        words = extract(impact, correct, visible, words, max_entropy=max_entropy)
    return words
