"""A mechanism without parameters as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.dispatch import functional, run
from shared_attention.errors import unsupported
from shared_attention.inputs import check_inputs
from shared_attention.masks import Mask
from shared_attention.refusal import refuse_inputs


class Attention(nn.Module):
    """A mechanism of the catalogue with its options fixed: `module(q, k, v, mask, bias)`."""

    def __init__(self, mechanism: str = "softmax", **options: Any) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.spec = functional(mechanism)
        self.options = self.spec.resolve(options)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Return `[B, H, L, Dv]`; arguments and errors are those of `attention`."""
        inputs = check_inputs(q, k, v, mask, bias)
        refuse_inputs(self.spec, inputs)
        return run(self.spec, inputs, self.options)

    def init_state(
        self,
        batch: int,
        kv_heads: int,
        key_dim: int,
        value_dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Any:
        """Return the state of no positions, for `prefill` and `step`."""
        start = self._stateful(self.spec.init_state)
        return start(
            batch, kv_heads, key_dim, value_dim, dtype=dtype, device=device, **self.options
        )

    def prefill(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, mask: Mask | None = None
    ) -> tuple[Tensor, Any]:
        """Attend causally from new positions `[B, H, L, D]` to all seen; `(out, state)`."""
        advance = self._stateful(self.spec.prefill)
        return advance(q, k, v, state, mask=mask, **self.options)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, mask: Mask | None = None
    ) -> tuple[Tensor, Any]:
        """As `prefill`, for one position."""
        advance = self._stateful(self.spec.step)
        return advance(q, k, v, state, mask=mask, **self.options)

    def _stateful(self, function: Callable[..., Any] | None) -> Callable[..., Any]:
        if function is None:
            raise unsupported(self.mechanism, "state", "streaming")
        return function

    def extra_repr(self) -> str:
        """Show the mechanism and its options."""
        return ", ".join([self.mechanism, *(f"{k}={v!r}" for k, v in self.options.items())])
