"""Attention entropy maximisation (AEM).

Source: Zhang et al., AEM: Attention Entropy Maximization for Multiple Instance Learning based
Whole Slide Image Classification (arXiv:2406.15303).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared_attention.regularisers.attended import Attended


def entropy_loss(calls: Sequence[Attended]) -> Tensor:
    """Return Σ a log a of attention, the mean over rows, heads and layers: to be minimised.

    Add it to a loss times a factor, the paper's one hyperparameter (0.1 in its code; its third
    version lets it fall to 0 along a cosine, which is up to the caller).

    The paper has one query per bag, and averages over heads; here rows of any number of queries
    are averaged. Hidden keys have no part in it. Rows that see nothing, and queries that are
    padding, are left out of the mean.

    Args:
        calls: From `attended`.

    Returns:
        A scalar in nats, from -log S (even attention) to 0 (all on one key).

    Raises:
        ValueError: There are no calls.
    """
    return -entropy(calls)


def entropy(calls: Sequence[Attended]) -> Tensor:
    """Return the mean entropy of attention in nats; see `entropy_loss`."""
    if not calls:
        raise ValueError("entropy: no attention was recorded; run the model inside attended(model)")
    return torch.stack([_mean(call) for call in calls]).mean()


def row_entropy(weights: Tensor) -> Tensor:
    """Return the entropy of each row of attention matrices, in nats.

    Rows are made of absolute weights and normalised to sum to one, for mechanisms whose weights
    do not. The gradient is finite where weights are zero, and zero for rows of zeros.

    Args:
        weights: `[..., S]`.

    Returns:
        `[...]`, in float32 or wider.
    """
    size = weights.abs().to(torch.promote_types(weights.dtype, torch.float32))
    tiny = torch.finfo(size.dtype).tiny
    total = size.sum(-1, keepdim=True)
    shares = size / torch.where(total > 0, total, 1)
    return -(shares * shares.clamp_min(tiny).log()).sum(-1)


def _mean(call: Attended) -> Tensor:
    counts = call.rows[:, None] & (call.weights != 0).any(-1)
    rows = row_entropy(call.weights)
    return (rows * counts).sum() / counts.sum().clamp_min(1)
