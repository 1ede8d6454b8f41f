"""A causal layer that reads a sequence whole, or one step at a time with a constant state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from shared_attention import masks
from shared_attention.choice import AttentionChoice
from shared_attention.errors import UnsupportedError
from shared_attention.layers.cache import KeyValueCache
from shared_attention.layers.encoder import EncoderLayer
from shared_attention.registry import catalogue

CONSTANT_STATE = ("scan", "linear", "window")
"""Mechanisms whose state does not grow with what they have read; that of `window` grows up to the
window's length."""


def choose_streaming(
    model: str,
    attention: str | None,
    options: Mapping[str, Any] | None,
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> AttentionChoice:
    """Return the mechanism asked for, `scan` where it is None.

    Args:
        model: name of the model, for messages.
        attention: name in the catalogue, or None.
        options: options of the mechanism.
        defaults: the model's own options by mechanism, over which `options` are laid.

    Raises:
        UnsupportedError: It does not stream with a constant state.
    """
    name = "scan" if attention is None else attention
    if name not in CONSTANT_STATE:
        raise UnsupportedError(
            f"{model} cannot use attention {name!r}: it takes in one step at a time with a state "
            f"of constant size; choose one of {', '.join(CONSTANT_STATE)}"
        )
    return AttentionChoice(model, name, {**(defaults or {}).get(name, {}), **(options or {})})


class StreamLayer(nn.Module):
    """Causal encoder layer; `forward` over a sequence and `step` by step agree.

    Args:
        choice: mechanism with a constant state.
        d_model: width.
        num_heads: heads.
        d_ff: width of the feed-forward layer.
        dropout: probability.
    """

    def __init__(
        self, choice: AttentionChoice, d_model: int, num_heads: int, d_ff: int, dropout: float
    ) -> None:
        super().__init__()
        self.layer = EncoderLayer(choice.build(d_model, num_heads), d_model, d_ff, dropout=dropout)
        self.causal = None if catalogue()[choice.name].family == "recurrent" else masks.causal()

    def init_state(self, batch: int, like: Tensor) -> Any:
        """Return the state before the first step, of the type and on the device of `like`."""
        attention = self.layer.attention
        mechanism: Any = attention.mechanism
        kind = {"dtype": like.dtype, "device": like.device}
        if attention.spec.family == "recurrent":
            return mechanism.init_state(batch, **kind)
        width = attention.head_dim
        return mechanism.init_state(batch, attention.num_kv_heads, width, width, **kind)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Map `[B, L, d_model]`; steps where `valid` `[B, L]` is False are not attended to."""
        mask = None if valid is None else masks.keys(valid)
        if self.causal is not None:
            mask = self.causal if mask is None else self.causal & mask
        return self.layer(x, mask=mask)

    def step(self, x: Tensor, state: Any, valid: Tensor | None = None) -> tuple[Tensor, Any]:
        """Map one step `[B, d_model]` after `state`.

        Args:
            x: `[B, d_model]`.
            state: not changed.
            valid: bool `[B]`; where False the step is not attended to, now or later. None where
                every step is.
        """
        cache = KeyValueCache()
        cache.state = state
        mask = None if valid is None else masks.keys(valid.unsqueeze(1))
        out = self.layer(x.unsqueeze(1), mask=mask, cache=cache)
        return out.squeeze(1), cache.state
