"""Multi-head attention with any mechanism of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from shared_attention.errors import UnsupportedError
from shared_attention.layers.cache import KeyValueCache
from shared_attention.layers.positions import RotaryPositions
from shared_attention.layers.streaming import continue_stream
from shared_attention.linear import Linear, linear
from shared_attention.masks import Mask
from shared_attention.module import Attention
from shared_attention.refusal import refuse_needs
from shared_attention.registry import find
from shared_attention.result import AttentionOutput
from shared_attention.spec import MechanismSpec


class MultiHeadAttention(nn.Module):
    """Project to heads, attend, project back.

    Queries, keys and values come from one fused projection, in this order; mechanisms of the
    family `recurrent` have a query of their own, so their projection has keys and values only.

    Args:
        d_model: Width of inputs and outputs.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; must divide `num_heads`, which is the default.
        head_dim: Width of a head; `d_model / num_heads` by default.
        mechanism: Name in the catalogue.
        mechanism_options: Options of the mechanism.
        bias: Whether the projections have biases.
        positions: Rotary positions for queries and keys.
        dropout: Probability of dropping channels of the output, in training. This is the same
            for every mechanism; attention weights are never dropped (`nn.MultiheadAttention`
            drops weights, which only softmax can do exactly).

    Raises:
        ValueError: Sizes do not divide, or an option is unknown or mistyped.
        UnsupportedError: The mechanism has no heads, or cannot have grouped ones.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        mechanism: str = "softmax",
        mechanism_options: Mapping[str, Any] | None = None,
        bias: bool = True,
        positions: RotaryPositions | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if head_dim is None and d_model % num_heads:
            raise ValueError(
                f"MultiHeadAttention: num_heads {num_heads} does not divide d_model {d_model}; "
                "give head_dim"
            )
        self.d_model = d_model
        self.num_heads = num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads % self.num_kv_heads:
            raise ValueError(
                f"MultiHeadAttention: num_kv_heads {num_kv_heads} does not divide "
                f"num_heads {num_heads}"
            )
        self.head_dim = d_model // num_heads if head_dim is None else head_dim
        self.spec: MechanismSpec = find(mechanism)
        self.mechanism = self.build_mechanism(self.spec, mechanism_options or {})
        self.positions = positions
        self.project_in = Linear(d_model, self.query_width + 2 * self.key_width, bias=bias)
        self.project_out = Linear(num_heads * self.head_dim, d_model, bias=bias)
        self.dropout = dropout
        for weight in self.project_in.weight.split(self.head_dim * self.num_kv_heads):
            nn.init.xavier_uniform_(weight)
        if bias:
            nn.init.zeros_(self.project_in.bias)
            nn.init.zeros_(self.project_out.bias)

    @property
    def query_width(self) -> int:
        """Width of all projected queries; 0 where the mechanism has a query of its own."""
        return 0 if self.spec.family == "recurrent" else self.num_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all projected keys, and of all projected values."""
        return self.num_kv_heads * self.head_dim

    def build_mechanism(self, spec: MechanismSpec, options: Mapping[str, Any]) -> nn.Module:
        """Build a mechanism for the heads of this layer.

        Raises:
            ValueError: An option is unknown or mistyped.
            UnsupportedError: The mechanism has no heads, or cannot have grouped ones.
        """
        if spec.family not in ("attention", "recurrent"):
            raise UnsupportedError(
                f"MultiHeadAttention: {spec.name} is of family {spec.family}, "
                "expected attention or recurrent"
            )
        if self.num_kv_heads != self.num_heads and not spec.supports("grouped_heads"):
            raise UnsupportedError(
                f"MultiHeadAttention: {spec.name} lacks the capability grouped_heads; "
                f"leave num_kv_heads at {self.num_heads}"
            )
        return spec.build(num_heads=self.num_heads, head_dim=self.head_dim, **options)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Attend within `x`, or from `x` to `context`.

        Args:
            x: `[B, L, d_model]`.
            context: `[B, S, d_model]`, where keys and values come from; `x` by default.
            mask: From `shared_attention.masks`. With a cache: None or `masks.causal()`, with
                `masks.keys(valid)` of the new positions where some are padding.
            bias: Added to the scores, broadcastable to `[B, H, L, S]`.
            cache: Continue causally from the positions read before; it is updated.

        Returns:
            `[B, L, d_model]`.

        Raises:
            UnsupportedError: The mechanism cannot honour the request.
        """
        q, k, v = self.project(x, context, 0 if cache is None else cache.length)
        if cache is not None:
            if context is not None or bias is not None:
                raise UnsupportedError(
                    "MultiHeadAttention: a cache continues self-attention; "
                    "it takes neither context nor bias"
                )
            out = continue_stream(
                self.spec, self.mechanism, q, k, v, mask, cache, **self._inputs(x)
            )
        elif q is None:
            if bias is not None:
                raise UnsupportedError(f"MultiHeadAttention: {self.spec.name} takes no bias")
            out = self.mechanism(k, v, mask=mask)
        else:
            out = self.mechanism(q, k, v, mask=mask, bias=bias, **self._inputs(x))
        return self._join(out)

    def output(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        need: Iterable[str] = (),
    ) -> AttentionOutput:
        """As `forward`, with what `need` names: see `attention_output`.

        Raises:
            UnsupportedError: The mechanism cannot give it; mechanisms with parameters give what
                their own `output` gives, and weights through `shared_attention.explain.capture`.
        """
        from shared_attention.dispatch import attention_output

        q, k, v = self.project(x, context, 0)
        if q is not None and isinstance(self.mechanism, Attention):
            rich = attention_output(
                q, k, v, self.spec.name, mask, bias, need=need, **self.mechanism.options
            )
        else:
            give: Any = getattr(self.mechanism, "output", None)
            if q is None or give is None:
                raise UnsupportedError(
                    f"MultiHeadAttention: {self.spec.name} has parameters and gives its output "
                    "only; shared_attention.explain.capture records its effective weights"
                )
            refuse_needs(self.spec, frozenset(need))
            rich = give(q, k, v, mask=mask, bias=bias, need=need, **self._inputs(x))
        return AttentionOutput(
            self._join(rich.out), rich.weights, rich.lse, rich.state, rich.aux, rich.backend
        )

    def project(
        self, x: Tensor, context: Tensor | None, offset: int
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return `q [B, H, L, D]` (None for family recurrent), `k` and `v [B, Hk, S, D]`.

        Args:
            x: `[B, L, d_model]`.
            context: `[B, S, d_model]` or None.
            offset: Position of the first step of `x`.
        """
        if context is None:
            q_heads = 0 if self.spec.family == "recurrent" else self.num_heads
            counts = (q_heads, self.num_kv_heads, self.num_kv_heads)
            q, k, v = self._heads(self.project_in(x)).split_with_sizes(counts, dim=1)
        else:
            if self.positions is not None:
                raise UnsupportedError(
                    "MultiHeadAttention: rotary positions relate steps of one sequence; "
                    "leave positions out of layers that attend to a context"
                )
            q, k, v = self._project_across(x, context)
        if self.positions is not None:
            q, k = self.positions(q, offset), self.positions(k, offset)
        return (q if self.query_width else None), k, v

    def _project_across(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.query_width:
            raise UnsupportedError(
                f"MultiHeadAttention: {self.spec.name} has a query of its own "
                "and cannot attend to a context"
            )
        widths = [self.query_width, 2 * self.key_width]
        q_weight, kv_weight = self.project_in.weight.split(widths)
        biases = (
            (None, None) if self.project_in.bias is None else self.project_in.bias.split(widths)
        )
        k, v = linear(context, kv_weight, biases[1]).chunk(2, dim=-1)
        return self._heads(linear(x, q_weight, biases[0])), self._heads(k), self._heads(v)

    def _inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layer's input split by heads for mechanisms that take it and if it fits."""
        fits = self.d_model == self.num_heads * self.head_dim
        return {"inputs": self._heads(x)} if fits and self.spec.supports("input_aware") else {}

    def _heads(self, x: Tensor) -> Tensor:
        """Lay `[B, L, heads * D]` out as `[B, heads, L, D]` without copying."""
        batch, length, width = x.shape
        return x.view(batch, length, width // self.head_dim, self.head_dim).transpose(1, 2)

    def _join(self, out: Tensor) -> Tensor:
        out = self.project_out(out.transpose(1, 2).flatten(2))
        return functional.dropout(out, self.dropout, self.training) if self.dropout else out

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.d_model}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}"
