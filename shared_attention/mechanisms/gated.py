"""Gated attention: heads that can do nothing without large scores."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from shared_attention.inputs import layer_input
from shared_attention.masks import Mask
from shared_attention.mechanisms.kv_state import KeyValueModule
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.references.gated import reference_gated
from shared_attention.refusal import accept
from shared_attention.spec import EVERY_SCORE, MechanismSpec, Option

GATES = ("linear", "mlp", "all_heads")


class GatedAttention(KeyValueModule):
    """Attend with σ(G_h(x_i)) · softmax(q_i kᵀ / √D + bias) v, a gate per token and head.

    The gate reads the layer's input x split by heads, `linear`: w_h·x_h + b_h; `mlp`: two layers
    with ReLU for each head; `all_heads`: a linear map of all heads' input. The official code runs
    the heads' gates one after another; here they are one product.

    Args:
        num_heads: Query heads.
        head_dim: Width of queries and keys.
        gate: Form of the gate.
        hidden: Width of the gate's hidden layer for `mlp`; a quarter of `head_dim` by default.
        initial: Probability that biases start the gate at, the paper's π_init.

    Raises:
        ValueError: A size or probability is out of range.

    Source: Bondarenko et al., Quantizable Transformers, NeurIPS 2023 (arXiv:2306.12929), eq. 5-6
    and table of gates.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        gate: str = "linear",
        hidden: int | None = None,
        initial: float = 0.5,
    ) -> None:
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gated: gate got {gate!r}, expected one of {', '.join(GATES)}")
        if not 0 < initial < 1:
            raise ValueError(f"gated: initial got {initial}, expected between 0 and 1")
        hidden = max(head_dim // 4, 1) if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"gated: hidden got {hidden}, expected at least 1")
        self.gate = gate
        self.hidden_weight = self.hidden_bias = None
        width = head_dim * num_heads if gate == "all_heads" else head_dim
        if gate == "mlp":
            self.hidden_weight = _uniform(num_heads, head_dim, hidden, fan_in=head_dim)
            self.hidden_bias = _uniform(num_heads, hidden, fan_in=head_dim)
            width = hidden
        self.weight = _uniform(num_heads, width, fan_in=width)
        self.bias = nn.Parameter(torch.full((num_heads,), math.log(initial / (1 - initial))))

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
        out = softmax_attention(q, k, v, mask=mask, bias=bias)
        return out * self.probability(layer_input("gated", inputs, q))

    def probability(self, inputs: Tensor) -> Tensor:
        """Return the gate `[B, H, L, 1]` for the layer's input split by heads."""
        x = inputs
        if self.hidden_weight is not None and self.hidden_bias is not None:
            x = torch.relu(x @ self.hidden_weight + self.hidden_bias[:, None])
        if self.gate == "all_heads":
            logits = (x.transpose(1, 2).flatten(2) @ self.weight.T).mT[..., None]
        else:
            logits = x @ self.weight[..., None]
        return torch.sigmoid(logits + self.bias[:, None, None])


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return a parameter as `nn.Linear` starts it."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


SPEC = MechanismSpec(
    name="gated",
    family="attention",
    title="Gated attention",
    paper="Bondarenko et al., Quantizable Transformers: Removing Outliers by Helping Attention "
    "Heads Do Nothing, NeurIPS 2023 (arXiv:2306.12929)",
    equation="out_i = σ(G_h(x_i)) · softmax(q_i kᵀ / √d + bias) v",
    complexity="That of softmax attention, which runs it, and O(L · d) for the gates",
    when_to_use="Models to be quantised: heads switch themselves off without outliers.",
    correctness="Equal to the official code with its weights; against float64 rows.",
    capabilities=replace(EVERY_SCORE, scale=False, input_aware=True),
    options=(
        Option("gate", str, "linear", "what the gate is", choices=GATES),
        Option("hidden", int, None, "hidden width of gate mlp; None: a quarter of the head"),
        Option("initial", float, 0.5, "probability that the gate starts at"),
    ),
    module=GatedAttention,
    reference=reference_gated,
)
