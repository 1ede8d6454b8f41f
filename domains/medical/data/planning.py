"""From the fingerprint of a training part to a plan: spacing, patch, normalisation, batch.

The rules are those of nnU-Net (Isensee et al. 2021, Nature Methods 18, 203-211), written from the
paper. What differs: the memory of a step is a measured amount for each voxel instead of feature
maps counted for one GPU, and scans are cropped to what is not zero only where that removes a
quarter of the usual scan or more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from domains.medical.data.case import DataSet
from domains.medical.data.config import DataConfig
from domains.medical.data.fingerprint import Fingerprint
from domains.medical.data.plan import Plan
from domains.medical.data.preprocessing import THICK
from shared_runtime.errors import UsageError

LEAST_BATCH = 2
LEAST_MAP = 4
"""Voxels that the coarsest feature map of a U-Net keeps along each axis."""
LEAST_PATCH = 16
MOST_HALVINGS = 5
MOST_SHARE = 0.05
"""Share of the training part's voxels that a batch may hold."""
CROPPED = 0.75
"""Scans are cropped where the usual scan keeps less than this share."""
FIXED_BYTES = 1.5e9
"""Libraries (1.0 GB), and weights, gradients and momentum of 31 million parameters."""
BYTES_PER_VOXEL = {2: 3000, 3: 2300}
"""Activations of each pixel or voxel of a patch at the peak of a step; see `step_bytes`."""


def make_plan(
    fingerprint: Fingerprint, data_set: DataSet, config: DataConfig, batch_size: int = 0
) -> Plan:
    """Decide how scans are prepared and how large patches and batches are.

    What `config` sets (`spacing`, `patch_size`, `normalisation`) is taken as it is; the memory
    that `config.memory_gb` grants bounds the patch first and the batch next.

    Args:
        fingerprint: of the training part.
        data_set: whose fingerprint it is.
        config: the `data:` section.
        batch_size: patches of a step, for which the patch is then planned; 0 plans them.

    Raises:
        UsageError: `config` gives two axes for three or the other way round, or too little
            memory for any training step.
    """
    dims = data_set.spatial_dims
    for name in ("spacing", "patch_size"):
        given = getattr(config, name)
        if given and len(given) != dims:
            raise UsageError(
                f"data.{name}: expected {dims} numbers for these data, got {list(given)}"
            )
    crop = bool(np.median(fingerprint.kept) < CROPPED)
    shapes = fingerprint.boxes if crop else fingerprint.shapes
    spacing = config.spacing or _spacing(fingerprint.spacings, shapes)
    extents = shapes * fingerprint.spacings
    median = np.maximum(np.median(extents / np.array(spacing), axis=0).round(), 1)
    least = batch_size or LEAST_BATCH
    patch = config.patch_size or plan_patch(median, spacing, least, config.memory_gb)
    total = float((extents / np.array(spacing)).prod(axis=1).sum())
    return Plan(
        spatial_dims=dims,
        channels=tuple(data_set.channels),
        labels=dict(data_set.labels),
        values=tuple(data_set.values),
        spacing=tuple(float(value) for value in spacing),
        patch_size=tuple(int(size) for size in patch),
        normalisation=tuple(_normalisation(name, config) for name in data_set.channels),
        intensities=fingerprint.intensities,
        batch_size=batch_size or plan_batch(patch, total, config.memory_gb),
        crop=crop,
    )


def step_bytes(patch: Sequence[int], batch_size: int) -> float:
    """Estimate the memory of a process at the peak of a training step, in bytes.

    Measured on nnU-Net's network (MONAI's `DynUNet`, 32 filters, 31 million parameters) in
    float32 on a processor, with Dice and cross-entropy and SGD with momentum: 2.5, 3.7 and 5.5 GB
    for 2 and 4 patches of 64^3 and 2 of 96^3 voxels; the estimate is 2.7, 3.9 and 5.6. In
    two dimensions 4.3 GB for 4 patches of 512^2 pixels, the estimate is 4.6. Small
    networks take less (MONAI's `UNet` of 1.2 million parameters 600 bytes a voxel, bf16 half of
    it), attention at full resolution more (`SwinUNETR` with 24 features 5100).
    """
    return FIXED_BYTES + BYTES_PER_VOXEL[len(patch)] * math.prod(patch) * batch_size


def plan_patch(
    median: Sequence[float], spacing: Sequence[float], batch_size: int, memory_gb: float
) -> tuple[int, ...]:
    """Return the largest patch whose step fits, up to the whole of the median scan.

    Each axis is a multiple of the power of two by which a U-Net halves it. Where the median scan
    does not fit, the patch covers as many millimetres along one axis as along the others, or
    the whole axis.

    Args:
        median: voxels of the median scan.
        spacing: millimetres between them.
        batch_size: patches of a step.
        memory_gb: memory that the step may take.

    Raises:
        UsageError: not even patches of 16 voxels along each axis fit.
    """
    limit = memory_gb * 1e9
    size = [float(value) for value in median]
    while True:
        patch = _rounded(size, spacing)
        needed = step_bytes(patch, batch_size)
        if needed <= limit:
            return patch
        if max(size) <= LEAST_PATCH:
            raise UsageError(
                f"data.memory_gb: a training step takes at least {needed / 1e9:.1f} GB, "
                f"got {memory_gb:g}"
            )
        width = [n * mm for n, mm in zip(size, spacing, strict=True)]
        widest = max(range(len(size)), key=lambda axis: (size[axis] > LEAST_MAP, width[axis]))
        step = 2 ** halvings(size, spacing)[widest]
        smaller = (math.ceil(size[widest] / step) - 1) * step
        size[widest] = max(float(LEAST_MAP), smaller or size[widest] / 2)


def plan_batch(patch: Sequence[int], voxels: float, memory_gb: float) -> int:
    """Return how many patches a step takes: what fits, but no large share of all voxels."""
    free = memory_gb * 1e9 - FIXED_BYTES
    fits = math.floor(free / (BYTES_PER_VOXEL[len(patch)] * math.prod(patch)))
    share = math.floor(MOST_SHARE * voxels / math.prod(patch) + 0.5)
    return max(LEAST_BATCH, min(fits, share))


def halvings(size: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    """Return how often a U-Net halves each axis.

    The finest axes go first, so that feature maps become isotropic; an axis is halved while four
    voxels remain of it, five times at most.
    """
    size, spacing = list(size), list(spacing)
    count = [0] * len(size)
    while True:
        free = [
            axis
            for axis in range(len(size))
            if size[axis] >= 2 * LEAST_MAP and count[axis] < MOST_HALVINGS
        ]
        if not free:
            return tuple(count)
        finest = min(spacing[axis] for axis in free)
        for axis in free:
            if spacing[axis] < 2 * finest:
                size[axis] /= 2
                spacing[axis] *= 2
                count[axis] += 1


def _rounded(size: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    steps = [2**count for count in halvings(size, spacing)]
    return tuple(
        max(LEAST_MAP, math.ceil(n / step) * step) for n, step in zip(size, steps, strict=True)
    )


def _spacing(spacings: np.ndarray, shapes: np.ndarray) -> tuple[float, ...]:
    """Return the median spacing; for data of thick slices, their finer tenth across slices."""
    target = np.median(spacings, axis=0)
    if len(target) == 3:
        worst = int(target.argmax())
        others = [axis for axis in range(3) if axis != worst]
        size = np.median(shapes, axis=0)
        if (
            target[worst] > THICK * target[others].max()
            and size[worst] * THICK < size[others].min()
        ):
            finer = float(np.percentile(spacings[:, worst], 10))
            target[worst] = max(finer, float(target[others].max()))
    return tuple(float(f"{value:.6g}") for value in target)


def _normalisation(channel: str, config: DataConfig) -> str:
    if config.normalisation != "auto":
        return config.normalisation
    return "ct" if channel.strip().lower() == "ct" else "zscore"
