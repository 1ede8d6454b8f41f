"""What is measured: cells, their settings and the columns of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared_attention import MechanismSpec

PASSES = ("forward", "training")
"""`training` is forward and backward, with gradients of inputs and parameters."""
SDPA = "sdpa"
"""The baseline of mechanisms on q, k, v: `torch.nn.functional.scaled_dot_product_attention`."""
SDPA_LAYER = "sdpa_layer"
"""The baseline of operators on x: a multi-head layer, projections included, on `SDPA`."""
BASELINE = "baseline"
"""The family that the two baselines have in the table."""
COLUMNS = (
    "mechanism", "family", "mask", "length", "pass", "status", "detail", "seconds", "baseline",
    "baseline_seconds", "rounds", "peak_bytes", "error_kind", "error_noise", "error_related",
)  # fmt: skip
"""Columns of the table, a row for each cell and pass.

- `status`: `ok`; `time` or `memory` where a limit was met, or was met at a shorter length, as
  `detail` then says; `failed` where it ended otherwise.
- `seconds`: median of `rounds` calls; `baseline_seconds` that of the baseline's in between, empty
  where the baseline itself does not fit.
- `peak_bytes`: most memory held above inputs and parameters.
- `error_noise`, `error_related`: distance from softmax attention; see `errors`.
"""


@dataclass(frozen=True)
class Settings:
    """What all cells of a table share."""

    batch: int = 1
    heads: int = 4
    head_dim: int = 32
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    rounds: int = 25
    """Timed calls of each pass at most."""
    budget: float = 1.0
    """Seconds after which no further call is timed."""
    limit_seconds: float = 120.0
    """Seconds that the calls of one pass may take in all, by the clock."""
    limit_gib: float = 8.0
    """GiB that a cell may take."""


@dataclass(frozen=True)
class Cell:
    """A mechanism, or a baseline, under a mask at a length."""

    mechanism: str
    family: str
    mask: str
    """`full` or `causal`."""
    length: int

    @property
    def baseline(self) -> str:
        """What it is measured beside."""
        if self.mechanism in (SDPA, SDPA_LAYER):
            return self.mechanism
        return SDPA if self.family in ("attention", "recurrent") else SDPA_LAYER


def plan(specs: Sequence[MechanismSpec], lengths: Sequence[int]) -> list[Cell]:
    """List the cells of some mechanisms, the shortest length first, baselines before the others.

    Each mechanism has a cell for every mask it takes, without one and causal.
    """
    kinds = [(spec.name, spec.family, mask) for spec in specs for mask in masks_of(spec)]
    found = {(Cell(*kind, length=1).baseline, BASELINE, kind[2]) for kind in kinds}
    return [
        Cell(*kind, length=length)
        for length in sorted(set(lengths))
        for kind in [*sorted(found, reverse=True), *kinds]
    ]


def masks_of(spec: MechanismSpec) -> tuple[str, ...]:
    """Return which of `full` and `causal` a mechanism can be called with."""
    causal = spec.capabilities.causal
    if causal == "always" or spec.family == "recurrent":
        return ("causal",)
    return ("full", "causal") if causal == "exact" else ("full",)
