"""Selective self-attention: learned temperatures of queries and values."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from shared_attention.inputs import layer_input
from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import KeyValueModule, KeyValueState, continue_attention
from shared_attention.mechanisms.rescaled import rescale
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.hidden import blank_masked
from shared_attention.primitives.visible import visible_keys
from shared_attention.references.selective import reference_selective
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option

POSITION_LOGIT = -7.388
"""Start of the position weight: σ gives e^{-e²}, where the official code starts."""


class SelectiveAttention(KeyValueModule):
    """Attend with softmax(τ_i (q_i kᵀ / √D + bias)) (τᵛ v), inverse temperatures τ learned.

    τ_i = 1 + tanh(w·x_i + c) + σ(a) log n_i: token-aware by the layer's input x_i of each head,
    position-aware by the number n_i of keys that the query sees. Under a causal mask that is its
    position, as in the paper; without one it is the size of the context, which is what dilutes
    attention; padding is not counted. τᵛ_j = 1 + tanh(u·k_j + e) scales each value by a vector u
    that heads share. It reads the token through its key, so that values enter linearly, a cache
    holds scaled values, and attention to another sequence works.

    The official code has the position term only, as 1 + e^{-e^β} log i, which is `query=False,
    value=False`: e^{-e^β} and σ(a) are two ways to write a number between 0 and 1.

    Args:
        num_heads: Query heads.
        head_dim: Width of queries and keys.
        query: Whether queries have a token-aware temperature.
        position: Whether they have a position-aware one.
        value: Whether values have a token-aware one.

    Source: Zhang et al., Selective Attention, NeurIPS 2024 (arXiv:2411.12892), section 3.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        query: bool = True,
        position: bool = True,
        value: bool = True,
    ) -> None:
        super().__init__()
        self.query_weight = self.query_bias = self.position_logit = None
        self.value_weight = self.value_bias = None
        if query:
            self.query_weight = nn.Parameter(torch.randn(num_heads, head_dim) * 0.02)
            self.query_bias = nn.Parameter(torch.zeros(num_heads))
        if position:
            self.position_logit = nn.Parameter(torch.full((num_heads,), POSITION_LOGIT))
        if value:
            self.value_weight = nn.Parameter(torch.randn(head_dim) * 0.02)
            self.value_bias = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        *,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            q: `[B, H, L, Dk]`.
            k: `[B, Hk, S, Dk]`, Hk dividing H.
            v: `[B, Hk, S, Dv]`.
            mask: Any mask.
            bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.
            inputs: The layer's input split by heads, `[B, H, L, Dk]`; the queries by default.

        Returns:
            `[B, H, L, Dv]`; zero for queries that see no key.

        Raises:
            ValueError: The tensors do not fit together.
        """
        accept(SPEC, q, k, v, mask)
        k, v = blank_masked(k, v, mask, q.shape[2])
        return self._attend(q, k, self._scaled(k, v), mask, bias, inputs)

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: KeyValueState,
        mask: Mask | None = None,
        **inputs: Tensor | None,
    ) -> tuple[Tensor, KeyValueState]:
        """Continue causally over new positions; see `continue_attention`."""
        k, v = blank_masked(k, v, mask, q.shape[2])
        scaled = self._scaled(k, v)
        return continue_attention(self._attend, q, k, scaled, state, mask=mask, **inputs)

    def _scaled(self, k: Tensor, v: Tensor) -> Tensor:
        if self.value_weight is None or self.value_bias is None:
            return v
        inverse = 1 + torch.tanh(k @ self.value_weight + self.value_bias)
        return v * inverse[..., None]

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        inverse = self._inverse_temperature(layer_input("selective", inputs, q), q, k, mask)
        q, bias = rescale(q, bias, inverse)
        return softmax_attention(q, k, v, mask=mask, bias=bias)

    def _inverse_temperature(self, x: Tensor, q: Tensor, k: Tensor, mask: Mask | None) -> Tensor:
        """Return τ `[B, H, L, 1]`."""
        inverse = torch.ones((), dtype=q.dtype, device=q.device)
        if self.query_weight is not None and self.query_bias is not None:
            token = x @ self.query_weight[..., None] + self.query_bias[:, None, None]
            inverse = inverse + torch.tanh(token)
        if self.position_logit is not None:
            wide = torch.promote_types(q.dtype, torch.float32)
            seen = visible_keys(mask, q, k).clamp(min=1)[..., None].to(wide).log()
            inverse = inverse + torch.sigmoid(self.position_logit.to(wide))[:, None, None] * seen
        return inverse


SPEC = MechanismSpec(
    name="selective",
    family="attention",
    title="Selective self-attention",
    paper="Zhang et al., Selective Attention: Enhancing Transformer through Principled Context "
    "Control, NeurIPS 2024 (arXiv:2411.12892)",
    equation="out_i = softmax(τ_i q_i kᵀ / √d) (τᵛ v), τ_i = 1 + tanh(w·x_i + c) + σ(a) log n_i, "
    "τᵛ_j = 1 + tanh(u·k_j + e)",
    complexity="That of softmax attention, which runs it, and O(L · d) for the temperatures",
    when_to_use="Contexts of mixed length, where some tokens should attend sharply and some not.",
    correctness="Position term equal to the official code; all against float64 rows.",
    capabilities=replace(EVERY_SCORE, scale=False, input_aware=True),
    options=(
        Option("query", bool, True, "token-aware temperature of queries"),
        Option("position", bool, True, "position-aware temperature of queries"),
        Option("value", bool, True, "token-aware temperature of values"),
    ),
    module=SelectiveAttention,
    reference=reference_selective,
)
