"""Patches of prepared cases as batches: random ones to train on, fixed ones to validate on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from domains.medical.data.augmentation import (
    change_intensities,
    draw,
    move_with_label,
    movements,
)
from domains.medical.data.cache import PreparedCase
from domains.medical.data.config import DataConfig
from domains.medical.data.plan import Plan
from domains.medical.data.preprocessing import mirrored
from shared_runtime.errors import DataError

MOST_FIXED = 8
"""Validation patches of one case."""


class PatchBatches:
    """Random patches, anew in each epoch; satisfies `shared_runtime.domain.Batches`.

    Item i of an epoch depends on the seed, the epoch and i alone. A share of `config.foreground`
    has a voxel of a class at its centre, each class that occurs equally often; the other patches
    go over the cases in turn and lie anywhere. What lies outside of a scan is image 0 (the mean,
    for z-scores) and background; a scan that is smaller than the patch lies in its middle.

    Args:
        cases: the training part.
        plan: patch size.
        config: patches of an epoch, share of foreground, augmentation.
        seed: of everything drawn.
    """

    def __init__(
        self, cases: Sequence[PreparedCase], plan: Plan, config: DataConfig, *, seed: int
    ) -> None:
        if not cases:
            raise DataError("no cases to cut training patches from")
        self.cases = tuple(cases)
        self.plan = plan
        self.config = config
        self.seed = seed
        self._voxels = _by_class(self.cases)
        self.start_epoch(0)

    def __len__(self) -> int:
        return self.config.patches_per_epoch

    def start_epoch(self, epoch: int) -> None:
        """Draw where the patches of an epoch lie and how they are changed."""
        count, patch = len(self), np.array(self.plan.patch_size)
        bits = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch])))
        turns = [bits.permutation(len(self.cases)) for _ in range(-(-count // len(self.cases)))]
        case = np.concatenate(turns)[:count]
        place, dice = bits.random((count, len(patch))), bits.random((count, 4))
        grids = np.array([one.label.shape for one in self.cases])
        start = np.floor(place * (np.maximum(grids[case] - patch, 0) + 1)).astype(np.int64)
        chosen = dice[:, 0] < self.config.foreground if self._voxels else np.zeros(count, bool)
        for item in np.flatnonzero(chosen):
            number, middle = _pick(self._voxels, dice[item, 1:])
            case[item] = number
            start[item] = middle - patch // 2
        self._case, self._start = case, _inside(start, grids[case], patch)
        self._changes = draw(
            bits, count, self.plan, level=self.config.augment, flips=self.config.flips
        )

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return `image` float32 `[B, C, *patch]` and `label` int64 `[B, *patch]`."""
        changes, starts = self._changes.take(indices), self._start[indices]
        cases = [self.cases[number] for number in self._case[indices]]
        patch = np.array(self.plan.patch_size)
        image, label = _buffers(cases, patch, np.int64)
        for item in np.flatnonzero(~changes.moved).tolist():
            flips = changes.flips[item]
            turned, turned_label = mirrored(image[item], flips), mirrored(label[item], flips)
            _copy(cases[item], starts[item], turned, turned_label)
        images, labels = torch.from_numpy(image), torch.from_numpy(label)
        rows = np.flatnonzero(changes.moved)
        if len(rows):
            some = [cases[row] for row in rows]
            matrices = movements(changes.take(rows), self.plan.spacing)
            reach = (np.abs(matrices) @ (patch / 2)).max(axis=0) - patch / 2
            room = np.max([one.label.shape for one in some], axis=0) - patch
            margin = np.clip(np.ceil(reach).astype(int), 0, np.maximum(room, 0))
            wide, wide_label = _buffers(some, patch + 2 * margin, np.int16)
            for item, row in enumerate(rows):
                _copy(cases[row], starts[row] - margin, wide[item], wide_label[item])
            images[rows], labels[rows] = move_with_label(
                torch.from_numpy(wide),
                torch.from_numpy(wide_label),
                matrices,
                self.plan.patch_size,
                self.plan.classes,
            )
        return {"image": change_intensities(images, changes), "label": labels}


class FixedPatches:
    """The same patches in every epoch, unchanged; satisfies `shared_runtime.domain.Batches`.

    Patches lie evenly over each case, an axis having one more than it has room for where that
    leaves out more than a quarter of a patch. Of a case with more than eight, the four with the
    most foreground are taken, and four spread evenly over the others by their foreground.

    Args:
        cases: the validation part; there may be none.
        plan: patch size.
    """

    def __init__(self, cases: Sequence[PreparedCase], plan: Plan) -> None:
        self.cases = tuple(cases)
        self.patch = np.array(plan.patch_size)
        self._items = [
            (case, start) for case in self.cases for start in _fixed_starts(case, self.patch)
        ]

    def __len__(self) -> int:
        return len(self._items)

    def start_epoch(self, epoch: int) -> None:
        """Change nothing: every epoch has the same patches."""

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return `image` float32 `[B, C, *patch]` and `label` int64 `[B, *patch]`."""
        items = [self._items[index] for index in indices]
        image, label = _buffers([case for case, _ in items], self.patch, np.int64)
        for number, (case, start) in enumerate(items):
            _copy(case, start, image[number], label[number])
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


def _by_class(cases: Sequence[PreparedCase]) -> list[list[tuple[int, np.ndarray]]]:
    """Return, for each class that occurs, the cases it occurs in with some of its voxels."""
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, case in enumerate(cases):
        kinds = case.centres[:, 0]
        for kind in np.unique(kinds):
            found.setdefault(int(kind), []).append((number, case.centres[kinds == kind, 1:]))
    return [found[kind] for kind in sorted(found)]


def _pick(voxels: list[list[tuple[int, np.ndarray]]], dice: np.ndarray) -> tuple[int, np.ndarray]:
    """Take a class, one of its cases and one of its voxels there, by three numbers in [0, 1)."""
    owners = voxels[int(dice[0] * len(voxels))]
    case, places = owners[int(dice[1] * len(owners))]
    return case, places[int(dice[2] * len(places))]


def _inside(start: np.ndarray, grid: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Move patches into their scans; a scan that is smaller lies in the patch's middle."""
    return np.where(
        grid >= patch, np.clip(start, 0, np.maximum(grid - patch, 0)), -((patch - grid) // 2)
    )


def _fixed_starts(case: PreparedCase, patch: np.ndarray) -> list[np.ndarray]:
    grid = np.array(case.label.shape)
    counts = np.maximum(np.ceil(grid / patch - 0.25), 1).astype(int)
    axes = [
        np.round(np.linspace(0, size - width, n) if n > 1 else [(size - width) / 2])
        for n, size, width in zip(counts, grid, patch, strict=True)
    ]
    starts = _inside(np.array(list(itertools.product(*axes))).astype(np.int64), grid, patch)
    if len(starts) <= MOST_FIXED:
        return list(starts)
    positions = case.centres[:, 1:]
    inside = [int(((positions >= s) & (positions < s + patch)).all(1).sum()) for s in starts]
    order = np.argsort(-np.array(inside), kind="stable")
    half = MOST_FIXED // 2
    rest = np.linspace(half, len(order) - 1, MOST_FIXED - half).round().astype(int)
    return list(starts[np.sort(order[[*range(half), *rest]])])


def _buffers(
    cases: Sequence[PreparedCase], patch: np.ndarray, kind: type
) -> tuple[np.ndarray, np.ndarray]:
    """Return images `[n, C, *patch]` of zeros and labels `[n, *patch]` of background."""
    channels = cases[0].image.shape[0]
    image = np.zeros((len(cases), channels, *patch), np.float32)
    return image, np.zeros((len(cases), *patch), kind)


def _copy(case: PreparedCase, start: np.ndarray, image: np.ndarray, label: np.ndarray) -> None:
    """Copy what lies inside the scan from `start` on into `[C, *patch]` and `[*patch]`."""
    grid, patch = np.array(case.label.shape), np.array(label.shape)
    first, last = np.maximum(start, 0), np.minimum(start + patch, grid)
    source = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    target = tuple(slice(a, b) for a, b in zip(first - start, last - start, strict=True))
    image[(slice(None), *target)] = case.image[(slice(None), *source)]
    label[target] = case.label[source]
