"""The position-wise network of encoder and decoder layers."""

from __future__ import annotations

from torch import nn

from shared_attention.dropout import Dropout
from shared_attention.linear import Linear

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def feed_forward(d_model: int, d_ff: int, activation: str, dropout: float) -> nn.Sequential:
    """Build `d_model -> d_ff -> d_model`.

    Raises:
        ValueError: The activation is not known.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation got {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    unread = activation in ("gelu", "silu")  # their gradients need the input only
    return nn.Sequential(
        Linear(d_model, d_ff),
        ACTIVATIONS[activation](),
        Dropout(dropout, inplace=unread),
        Linear(d_ff, d_model),
    )


def check_norm(norm: str) -> None:
    """Raise ValueError unless `norm` is "post" or "pre"."""
    if norm not in ("post", "pre"):
        raise ValueError(f"norm got {norm!r}, expected 'post' or 'pre'")
