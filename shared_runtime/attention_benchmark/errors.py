"""How far a mechanism is from the softmax attention that it stands for, where it stands for one.

The error is ‖out - exact‖ / ‖exact‖ over a sample of rows, on two kinds of inputs: `noise`, where
every key weighs about alike, and `related`, where each query has a topic that its keys of the
same topic share. Real layers lie between the two.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared_attention import MechanismSpec
from shared_runtime.attention_benchmark.cells import Settings

ROWS = 64
TOPICS = 64
RUN = 32
"""Positions in a row that share a topic."""
SHARPNESS = 6.0
"""Score of a key of the query's topic, above others."""
KINDS = {
    "softmax": "exact",
    "window": "restricts",
    "sink_window": "restricts",
    "arrow": "restricts",
    "hyper": "approximates",
    "hip": "approximates",
    "prob_sparse": "approximates",
    "core_context": "approximates",
    "based": "approximates",
}
"""`exact` computes softmax attention, `restricts` does so over fewer keys, `approximates` estimates
it from the same q, k and v without training. The others have no error: `other` is another function
of q, k and v, on purpose; `learned` has parameters that only training sets; `operator` has no
q, k and v."""


def kind(spec: MechanismSpec) -> str:
    """Return the kind of a mechanism in `KINDS`, or why it has none."""
    if spec.family not in ("attention", "recurrent"):
        return "operator"
    if spec.function is None:
        return "learned"
    return KINDS.get(spec.name, "other")


def related(settings: Settings, length: int) -> dict[str, Tensor]:
    """Draw q, k, v in which positions have topics, in runs; same topic, large score.

    A key of the query's topic scores `SHARPNESS`, give or take noise, another about zero.
    """
    width = settings.head_dim
    shape = (settings.batch, settings.heads, length, width)
    topics = torch.nn.functional.normalize(torch.randn(TOPICS, width), dim=-1)
    contents = torch.randn(TOPICS, width)
    runs = torch.randint(TOPICS, (settings.batch, 1, math.ceil(length / RUN)))
    chosen = runs.repeat_interleave(RUN, -1)[..., :length].expand(shape[:3])
    size = math.sqrt(SHARPNESS * math.sqrt(width))
    made = {
        "q": size * topics[chosen] + 0.5 * torch.randn(shape),
        "k": size * topics[chosen] + 0.5 * torch.randn(shape),
        "v": contents[chosen] + 0.5 * torch.randn(shape),
    }
    dtype = getattr(torch, settings.dtype)
    return {name: x.to(settings.device, dtype) for name, x in made.items()}


def relative_error(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> float:
    """Compare some rows of an output with softmax attention in float64.

    Args:
        out: `[B, H, L, D]`.
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, L, D]`.
        v: Values `[B, H, L, D]`.
        causal: Whether queries see no later key.
    """
    length = q.shape[2]
    rows = torch.linspace(0, length - 1, min(ROWS, length), device=q.device).round().long()
    apart = size = 0.0
    for head in range(q.shape[1]):
        q_h, k_h, v_h = (x[:, head].detach().double() for x in (q[:, :, rows], k, v))
        scores = q_h @ k_h.mT / math.sqrt(q.shape[3])
        if causal:
            later = torch.arange(length, device=q.device) > rows[:, None]
            scores = scores.masked_fill(later, -torch.inf)
        exact = scores.softmax(-1) @ v_h
        apart += float((out[:, head, rows].double() - exact).square().sum())
        size += float(exact.square().sum())
    return math.sqrt(apart / size)
