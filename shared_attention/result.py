"""The one shape of a rich result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AttentionOutput:
    """What an attention call can give; fields that were not asked for are None."""

    out: Tensor
    """`[B, H, L, Dv]` from a function or mechanism, `[B, L, d_model]` from a layer."""
    weights: Tensor | None = None
    """Effective attention matrix `[B, H, L, S]`."""
    lse: Tensor | None = None
    """Log of the sum of exponentiated scores `[B, H, L]`; -inf where nothing is visible."""
    state: Any = None
    """Whatever the mechanism's `step` continues from."""
    aux: Mapping[str, Tensor] | None = None
    """Auxiliary losses and diagnostics by name."""
    backend: str = "eager"
    """The backend that ran."""
