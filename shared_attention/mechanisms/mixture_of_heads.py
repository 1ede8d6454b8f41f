"""Mixture of heads: each token takes the heads that it needs, and only those are computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.inputs import layer_input
from shared_attention.masks import Mask, split
from shared_attention.mechanisms.kv_state import KeyValueState, continue_attention, empty_state
from shared_attention.mechanisms.paired import query_padding
from shared_attention.mechanisms.softmax import softmax_attention
from shared_attention.primitives.attend_rows import attend_rows
from shared_attention.primitives.heads import expand_heads
from shared_attention.references.mixture_of_heads import reference_mixture_of_heads
from shared_attention.refusal import accept, refuse_needs
from shared_attention.result import AttentionOutput
from shared_attention.spec import Capabilities, MechanismSpec, Option

WORTHWHILE = 96
"""Keys that a row must skip, on average over routed heads, for gathering rows to pay."""


class Routing(NamedTuple):
    """What the router says of each token."""

    gates: Tensor
    """`[B, H, L]`, what each head's output is multiplied by; zero for heads not taken."""
    chosen: Tensor
    """bool `[B, Hr, L]`: which routed heads are taken."""
    probabilities: Tensor
    """Softmax over routed heads `[B, L, Hr]`, float32 or wider."""


class MixtureOfHeads(nn.Module):
    """Attend with g_ih · softmax(q_i kᵀ / √D + bias) v, where most g of most tokens are zero.

    The first heads are shared by all tokens; of the others, each token takes the `active` heads
    of highest probability softmax(W_r x). With β = 2 softmax(W_h x), a shared head's gate is
    β_1 · shared · softmax(W_s x), and a routed head's, if taken, β_2 · active · p_h / Σ_taken p.
    These are the official code's: the paper neither divides by the sum of what was taken nor
    multiplies by the counts, so that a fresh layer there starts away from plain attention.

    The official code computes every head for every token and multiplies by zero afterwards. Here
    a routed head computes only the rows of the tokens that took it. With few keys, where that is
    slower, in single steps, and in compiled graphs, whose sizes may not depend on data, all heads
    are computed as well.

    Args:
        num_heads: Query heads.
        head_dim: Width of queries and keys.
        shared: Heads that all tokens take; a quarter of all, and at least one, by default.
        active: Routed heads that each token takes; half of them by default.

    Raises:
        ValueError: A number of heads is out of range.

    Source: Jin et al., MoH: Multi-Head Attention as Mixture-of-Head Attention, ICML 2025
    (arXiv:2410.11842), eq. 5-8.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        shared: int | None = None,
        active: int | None = None,
    ) -> None:
        super().__init__()
        shared = max(num_heads // 4, 1) if shared is None else shared
        if not 0 <= shared <= num_heads:
            raise ValueError(f"mixture_of_heads: shared got {shared}, expected 0 to {num_heads}")
        routed = num_heads - shared
        active = -(-routed // 2) if active is None else active
        if not min(routed, 1) <= active <= routed:
            raise ValueError(
                f"mixture_of_heads: active got {active}, expected {min(routed, 1)} to {routed}"
            )
        self.num_heads, self.shared, self.routed, self.active = num_heads, shared, routed, active
        sizes = {
            "routed_weight": routed,
            "shared_weight": shared if shared > 1 else 0,
            "balance_weight": 2 if shared and routed else 0,
        }
        for name, size in sizes.items():
            weight = torch.randn(size, num_heads * head_dim) * 0.02 if size else None
            self.register_parameter(name, None if weight is None else nn.Parameter(weight))

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
            v: `[B, Hv, S, Dv]`, Hv dividing H.
            mask: Any mask.
            bias: Additive, broadcastable to `[B, H, L, S]`; may require gradients.
            inputs: The layer's input split by heads, `[B, H, L, Dk]`; the queries by default.

        Returns:
            `[B, H, L, Dv]`; zero in heads that a token does not take, and where it sees no key.

        Raises:
            ValueError: The tensors do not fit together.
        """
        accept(SPEC, q, k, v, mask)
        return self._attend(q, k, v, mask, bias, self.route(layer_input(SPEC.name, inputs, q)))

    def output(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        *,
        need: Iterable[str] = (),
        inputs: Tensor | None = None,
    ) -> AttentionOutput:
        """As `forward`, with what `need` names: "weights" and "aux".

        `aux` has `load_balance`, Hr Σ_h f_h P_h over the routed heads, which is `active` where
        they are taken alike, and `load`, f `[Hr]`: f_h is the share of tokens that take head h,
        P_h its mean probability. In self-attention padding is not counted.

        Raises:
            UnsupportedError: Something else is needed.
        """
        wanted = frozenset(need)
        refuse_needs(SPEC, wanted)
        if "state" in wanted:
            raise UnsupportedError(f"{SPEC.name}: output gives no state; prefill does")
        accept(SPEC, q, k, v, mask)
        routing = self.route(layer_input(SPEC.name, inputs, q))
        weights = None
        if "weights" in wanted:
            from shared_attention.explain import attention_matrix

            weights = attention_matrix(self, q, k, mask=mask, bias=bias, inputs=inputs)
        real = query_padding(split(mask).keys, q, k, None)
        return AttentionOutput(
            self._attend(q, k, v, mask, bias, routing),
            weights=weights,
            aux=_load(routing, real) if "aux" in wanted else None,
        )

    def route(self, inputs: Tensor) -> Routing:
        """Choose heads for the layer's input split by heads, `[B, H, L, D]`."""
        wide = torch.promote_types(inputs.dtype, torch.float32)
        x = inputs.transpose(1, 2).flatten(2).to(wide)
        names = ("routed_weight", "shared_weight", "balance_weight")
        parts: list[Tensor | None] = [getattr(self, name) for name in names]
        present = [x.new_zeros(0, x.shape[-1]) if w is None else w.to(wide) for w in parts]
        logits = (x @ torch.cat(present).T).split([len(w) for w in present], dim=-1)
        probabilities, share = logits[0].softmax(-1), logits[1].softmax(-1) * self.shared
        if self.shared_weight is None:
            share = x.new_ones(*x.shape[:2], self.shared)
        taken = probabilities.detach().topk(self.active, dim=-1).indices
        chosen = torch.zeros_like(probabilities, dtype=torch.bool).scatter(-1, taken, True)
        kept = probabilities * chosen
        kept = kept * (self.active / kept.sum(-1, keepdim=True)) if self.active else kept
        if self.balance_weight is not None:
            balance = logits[2].softmax(-1) * 2
            share, kept = share * balance[..., :1], kept * balance[..., 1:]
        gates = torch.cat([share, kept], dim=-1).transpose(1, 2)
        return Routing(gates, chosen.transpose(1, 2), probabilities)

    def init_state(
        self, batch: int, kv_heads: int, key_dim: int, value_dim: int, **place: Any
    ) -> KeyValueState:
        """Return the state of no positions; see `empty_state`."""
        return empty_state(batch, kv_heads, key_dim, value_dim, **place)

    def prefill(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: KeyValueState,
        mask: Mask | None = None,
        *,
        inputs: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueState]:
        """Continue causally over new positions; see `continue_attention`."""
        return continue_attention(self, q, k, v, state, mask=mask, inputs=inputs)

    step = prefill

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None,
        bias: Tensor | None,
        routing: Routing,
    ) -> Tensor:
        skipped = k.shape[2] * (self.routed - self.active)
        few = skipped < WORTHWHILE * self.routed or q.shape[2] == 1
        if few or self.active == self.routed or torch.compiler.is_compiling():
            out = softmax_attention(q, k, v, mask=mask, bias=bias)
            gates = routing.gates.transpose(1, 2)[..., None].to(out.dtype)
            return (out.transpose(1, 2) * gates).transpose(1, 2)
        if k.shape[1] != q.shape[1] or v.shape[1] != q.shape[1]:
            k, v = expand_heads(k, q.shape[1]), expand_heads(v, q.shape[1])
        first, rest = slice(0, self.shared), slice(self.shared, None)
        gates = routing.gates.to(q.dtype)
        # one split has one gradient; two slices would each fill a tensor of all heads
        sizes = [self.shared, self.routed]
        (q, q_rest), (k, k_rest), (v, v_rest) = (x.split(sizes, 1) for x in (q, k, v))
        mask, mask_rest = (_of_heads(mask, part, q, k) for part in (first, rest))
        bias_rest = bias
        if bias is not None and bias.dim() > 2 and bias.shape[-3] > 1:
            bias, bias_rest = bias.split(sizes, -3)
        out = attend_rows(
            q_rest,
            k_rest,
            v_rest,
            routing.chosen,
            mask=mask_rest,
            bias=bias_rest,
            gain=gates[:, rest],
        )
        if not self.shared:
            return out
        every = softmax_attention(q, k, v, mask=mask, bias=bias) * gates[:, first, :, None]
        return torch.cat([every.transpose(1, 2), out.transpose(1, 2)], dim=2).transpose(1, 2)


def _of_heads(mask: Mask | None, heads: slice, q: Tensor, k: Tensor) -> Mask | None:
    if mask is None or split(mask).rest is None:
        return mask
    allowed = mask.to_dense(q.shape[2], k.shape[2], q.device)
    return masks.dense(allowed[:, heads]) if allowed.shape[1] > 1 else mask


def _load(routing: Routing, real: Tensor | None) -> dict[str, Tensor]:
    probabilities, chosen = routing.probabilities, routing.chosen.transpose(1, 2)
    weight = probabilities.new_ones(probabilities.shape[:2]) if real is None else real
    weight = weight.to(probabilities.dtype)[..., None]
    count = weight.sum().clamp(min=1)
    load = (chosen * weight).sum((0, 1)) / count
    mean = (probabilities * weight).sum((0, 1)) / count
    return {"load_balance": (load * mean).sum() * len(load), "load": load}


SPEC = MechanismSpec(
    name="mixture_of_heads",
    family="attention",
    title="Mixture-of-head attention (MoH)",
    paper="Jin et al., MoH: Multi-Head Attention as Mixture-of-Head Attention, ICML 2025 "
    "(arXiv:2410.11842)",
    equation="out_ih = g_ih · softmax(q_i kᵀ / √d + bias) v, g_ih = 0 unless head h is shared or "
    "among the top routed heads of token i",
    complexity="(shared + active) / heads of softmax attention's",
    when_to_use="Many heads, of which each token needs a few.",
    correctness="Equal to the official code with its weights; against float64 rows.",
    capabilities=Capabilities(
        causal="exact",
        cross=True,
        key_padding=True,
        window=True,
        dense_mask=True,
        bias=True,
        bias_grad=True,
        grouped_heads=True,
        scale=False,
        state=True,
        weights=True,
        aux=True,
        input_aware=True,
    ),
    options=(
        Option("shared", int, None, "heads that all tokens take; None: a quarter"),
        Option("active", int, None, "routed heads that each token takes; None: half of them"),
    ),
    module=MixtureOfHeads,
    reference=reference_mixture_of_heads,
)
