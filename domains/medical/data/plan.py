"""What a fingerprint of the training part decides; goes with the model as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Intensity:
    """Intensities of one channel over the foreground of the training part."""

    mean: float
    std: float
    low: float
    """0.5th percentile."""
    high: float
    """99.5th percentile."""


@dataclass(frozen=True)
class Plan:
    """How scans become inputs and outputs become masks; goes with the model."""

    spatial_dims: int
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    values: tuple[int, ...]
    spacing: tuple[float, ...]
    """Millimetres along the axes of the canonical (closest to RAS+) array."""
    patch_size: tuple[int, ...]
    normalisation: tuple[str, ...]
    """`ct`, `zscore` or `rescale` for each channel."""
    intensities: tuple[Intensity, ...]
    batch_size: int
    """Patches of a step that fit the memory given."""
    crop: bool = False
    """Whether scans are cropped to what is not zero, and z-scores look at nothing else."""

    @property
    def classes(self) -> int:
        """Classes with the background."""
        return len(self.values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` gave `state` for."""
        tuples = {
            name: tuple(state[name])
            for name in ("channels", "values", "spacing", "patch_size", "normalisation")
        }
        intensities = tuple(Intensity(**each) for each in state["intensities"])
        return cls(**{**state, **tuples, "intensities": intensities})
