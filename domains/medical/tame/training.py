"""Train explanation maps: what they keep must be enough for the frozen model, and little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domains.medical.tame.explained import Explained
from domains.medical.tame.features import Layer, tapped
from domains.medical.tame.maps import ExplanationMaps, enlarged, masked
from shared_runtime.domain import Batches
from shared_runtime.errors import DataError, UsageError

_PLACES = 56 * 56
"""Places of the grid that the published weight of the variation belongs to."""


@dataclass(frozen=True, kw_only=True)
class TameConfig:
    """How maps are trained and scored; `--set tame.KEY=VALUE`.

    Raises:
        UsageError: a value is out of range.
    """

    layers: tuple[str, ...] = ()
    """Modules whose features are read; empty: the last block of the three coarsest resolutions."""
    steps: int = 300
    batch_size: int = 8
    learning_rate: float = 0.003
    """Peak of one cycle."""
    cross_entropy: float = 1.5
    area: float = 2.0
    area_power: float = 0.3
    variation: float = 0.01
    """Weights of the loss; the published ones."""
    images: int = 64
    """Images or patches that maps are scored on."""
    side: int = 0
    """Longest side, in voxels, of the pieces that are trained and scored on; 0: whole images."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "images"):
            if getattr(self, name) < 1:
                raise UsageError(f"tame.{name}: expected at least 1, got {getattr(self, name)}")
        if self.side != 0 and self.side < 8:
            raise UsageError(f"tame.side: expected 0 or at least 8, got {self.side}")
        for name in ("learning_rate", "area_power"):
            if not getattr(self, name) > 0:
                raise UsageError(f"tame.{name}: expected more than 0, got {getattr(self, name)}")
        for name in ("cross_entropy", "area", "variation"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"tame.{name}: expected at least 0, got {getattr(self, name)}")

    @classmethod
    def of(cls, spatial_dims: int, values: Mapping[str, Any]) -> TameConfig:
        """Return the settings for images or volumes, of which `values` were chosen."""
        return replace(VOLUMES if spatial_dims == 3 else cls(), **values)


VOLUMES = TameConfig(steps=50, batch_size=4, learning_rate=0.01, images=12, side=24)
"""What is chosen for volumes: a masked patch of 56 x 48 x 48 voxels costs a hundred images."""


class Pieces:
    """Batches of pieces: around a labelled place of each image, from the middle where none is.

    Args:
        batches: with `image` `[B, C, *size]`, and `label` `[B, *size]` where there are labels.
        side: the most places along each axis that are kept; 0: all.
        each: pieces of each image, around places spread over what is labelled; 1 without a side.
    """

    def __init__(self, batches: Batches, side: int, each: int = 1) -> None:
        self._batches, self._side, self._each = batches, side, each if side else 1

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._batches) * self._each

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return the images alone, cut."""
        batch = self._batches.batch(indices // self._each)
        if not self._side:
            return {"image": batch["image"]}
        labels = batch.get("label", batch["image"].new_zeros(len(batch["image"]), 1))
        shares = (indices % self._each + 0.5) / self._each
        pieces = [
            _piece(image, label, self._side, float(share))
            for image, label, share in zip(batch["image"], labels, shares, strict=True)
        ]
        return {"image": torch.stack(pieces)}


def train_maps(
    explained: Explained,
    layers: list[Layer],
    batches: Batches,
    config: TameConfig,
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[int, float], object] | None = None,
) -> tuple[ExplanationMaps, list[dict[str, float]]]:
    """Return trained maps and the losses of each step.

    In each step one class that the model sees is drawn for every image; images with none are left
    out. All draws come from `seed`.

    Args:
        explained: the frozen model.
        layers: of `find_layers`.
        batches: training images.
        config: steps and weights.
        seed: of the weights, the order and the classes.
        device: where the model is.
        on_step: told the number of each step and its loss.

    Raises:
        DataError: the model sees no class in any image it was shown.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maps = ExplanationMaps(layers, len(explained.names)).to(device)
    optimizer = torch.optim.AdamW(maps.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps
    )
    random = torch.Generator().manual_seed(seed)
    order = _order(len(batches), config, seed)
    history: list[dict[str, float]] = []
    for step, rows in enumerate(order):
        image = batches.batch(rows)["image"].to(device)
        with torch.no_grad(), tapped(explained.model, layers) as features:
            seen = explained.chosen(explained(image).exp())
        rows_kept = seen.any(1).nonzero()[:, 0]
        terms: dict[str, Tensor] = {}
        if len(rows_kept):
            chosen = torch.multinomial(seen[rows_kept].float().cpu(), 1, generator=random)
            kept = {name: grid[rows_kept] for name, grid in features.items()}
            mask = maps(kept)[torch.arange(len(rows_kept)), chosen[:, 0].to(device)]
            terms = loss_terms(explained, image[rows_kept], mask, chosen[:, 0].to(device), config)
            loss = torch.stack(list(terms.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            values = {name: float(value.detach()) for name, value in terms.items()}
            history.append({"step": step + 1, "loss": float(loss.detach()), **values})
            if on_step is not None:
                on_step(step + 1, float(loss.detach()))
    if not history:
        raise DataError(
            "the model sees no class in any training image, so there is nothing to explain; "
            "train it longer"
        )
    return maps.eval(), history


def loss_terms(
    explained: Explained, image: Tensor, mask: Tensor, chosen: Tensor, config: TameConfig
) -> dict[str, Tensor]:
    """Return the weighted terms of the loss, scalars.

    - `cross_entropy`: minus the log-confidence in the chosen class of the masked image;
    - `area`: the mean of the map to a power below one, which charges faint values too;
    - `variation`: the mean squared difference between neighbours, over two, times the 3136 places
      of the published grid, so that its weight does not depend on the grid. The published code
      sums, and charges the border of the map besides.

    Args:
        explained: the frozen model.
        image: `[B, C, *size]`.
        mask: `[B, *grid]` maps of the chosen classes.
        chosen: `[B]`.
        config: weights.
    """
    fine = enlarged(mask[:, None], image.shape[2:])[:, 0]
    score = explained(masked(image, fine)).gather(1, chosen[:, None])
    steps = [mask.diff(dim=axis).square().mean() for axis in range(1, mask.dim())]
    variation = torch.stack(steps).sum() * _PLACES / 2
    return {
        "cross_entropy": -config.cross_entropy * score.mean(),
        "area": config.area * (mask + 5e-4).pow(config.area_power).mean(),
        "variation": config.variation * variation,
    }


def _piece(image: Tensor, label: Tensor, side: int, share: float) -> Tensor:
    places = label.nonzero()
    centre = [length // 2 for length in image.shape[1:]]
    if len(places):
        centre = places[int(len(places) * share)].tolist()
    for axis, (length, place) in enumerate(zip(image.shape[1:], centre, strict=True), start=1):
        kept = min(side, length)
        image = image.narrow(axis, min(max(place - kept // 2, 0), length - kept), kept)
    return image


def _order(count: int, config: TameConfig, seed: int) -> list[np.ndarray]:
    """Return the images of each step, each once before any comes again."""
    random = np.random.default_rng(seed)
    needed = config.steps * config.batch_size
    turns = [random.permutation(count) for _ in range(-(-needed // count))]
    return np.array_split(np.concatenate(turns)[:needed], config.steps)
