"""The `data:` section of a medical run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which scans, how they are split and prepared, and how masks are predicted and scored.

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
    """

    path: Path
    """nnU-Net or Medical Segmentation Decathlon folder, CSV manifest, or folder of 2-D images."""
    layout: Literal["auto", "nnunet", "decathlon", "manifest", "images"] = "auto"
    folds: int = 5
    """Parts of a shuffle of the patients; one of them is scored."""
    fold: int = 0
    """Which part is scored, where the data name no test part."""
    split_seed: int = 12345
    """Seed of the shuffle; nnU-Net's."""
    validation: float = 0.1
    """Share of the other patients that selects epochs; 0 takes none away from training, and
    needs `training.select=last` and `training.patience=0`."""
    spacing: tuple[float, ...] = ()
    """Millimetres along right, anterior, superior (2-D: both axes) that scans are resampled to;
    empty: planned."""
    patch_size: tuple[int, ...] = ()
    """Voxels of a patch; empty: planned."""
    normalisation: Literal["auto", "ct", "zscore", "rescale"] = "auto"
    """`ct`: clip and standardise with intensities of the training part's foreground; `zscore`:
    each scan by its own mean and deviation; `rescale`: 0 to 1; `auto`: by the channel's name."""
    memory_gb: float = 8.0
    """Memory that the plan may fill while training."""
    patches_per_epoch: int = 500
    foreground: float = 0.33
    """Share of patches with a foreground voxel, each class equally often, at their centre."""
    augment: Literal["none", "light", "full"] = "full"
    """`light`: flips, rotation, scale; `full`: also intensity, noise, blur, low resolution."""
    flips: bool = True
    """Whether training mirrors patches; without it, nothing that tells left from right is lost."""
    cache: Path | None = None
    """Folder for prepared scans where they do not fit into memory; none: memory."""
    overlap: float = 0.5
    """Share by which neighbouring windows overlap in prediction."""
    mirror: bool = False
    """Predict every flip too, and average."""
    keep_largest: bool = False
    """Keep the largest component of each class only."""
    fill_holes: bool = False
    """Fill holes of each class."""
    uncertainty: bool = False
    """Also write an uncertainty map for each case."""
    ensemble: str = ""
    """Further run folders, comma-separated, whose probabilities are averaged with this run's."""
    tolerance: float = 1.0
    """Millimetres that surfaces may differ in the normalised surface Dice."""
    lesions: tuple[str, ...] = ()
    """Labels whose components are also scored one by one, as lesions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        for name, least in (("folds", 2), ("fold", 0), ("patches_per_epoch", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"data.{name}: expected at least {least}, got {getattr(self, name)}"
                )
        if self.fold >= self.folds:
            raise UsageError(
                f"data.fold: expected 0 to {self.folds - 1} with data.folds={self.folds}, "
                f"got {self.fold}"
            )
        for name in ("validation", "overlap"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"data.{name}: expected 0 to below 1, got {getattr(self, name)}")
        if not 0 <= self.foreground <= 1:
            raise UsageError(f"data.foreground: expected 0 to 1, got {self.foreground}")
        for name in ("memory_gb", "tolerance"):
            if not getattr(self, name) > 0:
                raise UsageError(f"data.{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("spacing", "patch_size"):
            values = getattr(self, name)
            if values and (len(values) not in (2, 3) or min(values) <= 0):
                raise UsageError(
                    f"data.{name}: expected two or three positive numbers, got {list(values)}"
                )
