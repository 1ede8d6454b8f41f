"""A mechanism without parameters as a module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from shared_attention.dispatch import attention
from shared_attention.masks import Mask
from shared_attention.registry import find


class Attention(nn.Module):
    """A mechanism of the catalogue with its options fixed: `module(q, k, v, mask, bias)`."""

    def __init__(self, mechanism: str = "softmax", **options: Any) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.options = find(mechanism).resolve(options)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Return `[B, H, L, Dv]`; arguments and errors are those of `attention`."""
        return attention(q, k, v, self.mechanism, mask, bias, **self.options)

    def extra_repr(self) -> str:
        """Show the mechanism and its options."""
        return ", ".join([self.mechanism, *(f"{k}={v!r}" for k, v in self.options.items())])
