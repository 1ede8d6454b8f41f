"""Random changes of training patches, drawn for every item and applied to whole batches.

The list and its probabilities are nnU-Net's (Isensee et al. 2021, supplement), written from the
description. What differs: blur and low resolution are one matrix product along each axis, noise
comes after them so that they do not remove it, and all channels of a patch change alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from domains.medical.data.plan import Plan
from domains.medical.data.preprocessing import THICK

SMOOTH_LABELS = 8
"""Most classes whose indicators are interpolated; with more, labels take the nearest voxel."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What is done to each of n patches; 1, 0 or False where nothing is.

    Args:
        flips: bool `[n, axes]`.
        angles: radians `[n, 3]` about each axis, or `[n, 1]` in the plane.
        zoom: `[n]`; 1.4 shows things 1.4 times as large.
        blur: `[n]` standard deviation in voxels.
        resolution: `[n]` share of the voxels along each axis that are left.
        noise: `[n]` standard deviation.
        brightness: `[n]` factor.
        contrast: `[n]` factor of the distance to the mean.
        gamma: `[n]` exponent of the intensities between 0 and 1.
        negative_gamma: `[n]` exponent of the negative's.
        seeds: int64 `[n]` of the noise.
    """

    flips: np.ndarray
    angles: np.ndarray
    zoom: np.ndarray
    blur: np.ndarray
    resolution: np.ndarray
    noise: np.ndarray
    brightness: np.ndarray
    contrast: np.ndarray
    gamma: np.ndarray
    negative_gamma: np.ndarray
    seeds: np.ndarray

    def __len__(self) -> int:
        return len(self.zoom)

    @property
    def moved(self) -> np.ndarray:
        """Bool `[n]`: rotated or zoomed."""
        return (self.zoom != 1) | self.angles.any(axis=1)

    def take(self, indices: np.ndarray) -> Changes:
        """Return the changes of some of the patches."""
        return Changes(*(getattr(self, field.name)[indices] for field in fields(self)))


def draw(bits: np.random.Generator, count: int, plan: Plan, level: str, flips: bool) -> Changes:
    """Draw the changes of `count` patches.

    Args:
        bits: where chance comes from.
        count: number of patches.
        plan: thick slices (an axis of more than three times the finest spacing) are rotated in
            their plane only.
        level: "none"; "light": flips, rotation, zoom; "full": intensities too.
        flips: whether patches may be mirrored. Rotations in a plane are by any angle where they
            may, else, as in space, by up to 30 degrees.
    """
    dims = plan.spatial_dims
    some = level != "none"
    full = level == "full"

    def maybe(share: float, low: float, high: float, otherwise: float) -> np.ndarray:
        values = bits.uniform(low, high, count)
        return np.where(bits.random(count) < share, values, otherwise)

    thick = np.array(plan.spacing) > THICK * min(plan.spacing)
    planar = dims == 2 or bool(thick.any())
    widest = math.pi if planar and flips else math.pi / 6
    angles = bits.uniform(-widest, widest, (count, 3 if dims == 3 else 1))
    if dims == 3 and thick.any():
        angles *= thick
    turned = bits.random(count) < 0.2 * some
    return Changes(
        flips=(bits.random((count, dims)) < 0.5) & (some and flips),
        angles=angles * turned[:, None],
        zoom=maybe(0.2 * some, 0.7, 1.4, 1),
        blur=maybe(0.2 * full, 0.5, 1, 0),
        resolution=maybe(0.25 * full, 0.5, 1, 1),
        noise=np.sqrt(maybe(0.1 * full, 0, 0.1, 0)),
        brightness=maybe(0.15 * full, 0.75, 1.25, 1),
        contrast=maybe(0.15 * full, 0.75, 1.25, 1),
        gamma=maybe(0.3 * full, 0.7, 1.5, 1),
        negative_gamma=maybe(0.1 * full, 0.7, 1.5, 1),
        seeds=bits.integers(2**62, size=count),
    )


def movements(changes: Changes, spacing: Sequence[float]) -> np.ndarray:
    """Return where each voxel of a patch comes from: `[n, axes, axes]` float64.

    The matrices act on positions in voxels from the centre, of the changed patch, and give those
    in the original; rotations are in millimetres, so that they are rigid on any spacing.
    """
    count, dims = changes.flips.shape
    turn = np.broadcast_to(np.eye(dims), (count, dims, dims))
    planes = ((0, 1),) if dims == 2 else ((1, 2), (2, 0), (0, 1))
    for number, (a, b) in enumerate(planes):
        one = np.tile(np.eye(dims), (count, 1, 1))
        cos, sin = np.cos(changes.angles[:, number]), np.sin(changes.angles[:, number])
        one[:, a, a], one[:, a, b], one[:, b, a], one[:, b, b] = cos, -sin, sin, cos
        turn = turn @ one
    mm = np.asarray(spacing, float)
    scale = np.where(changes.flips, -1.0, 1.0) / changes.zoom[:, None]
    return turn * mm[None, None, :] / mm[None, :, None] * scale[:, None, :]


def move(
    source: Tensor, matrices: np.ndarray, size: Sequence[int], mode: str = "bilinear"
) -> Tensor:
    """Resample `[n, C, *wide]` to `[n, C, *size]` about the centre; 0 outside.

    Args:
        source: any device.
        matrices: what `movements` gave.
        size: of the patches that are returned.
        mode: "bilinear" (linear along each axis) or "nearest".
    """
    wide = np.array(source.shape[2:], float)
    unit = matrices * (np.array(size) / 2)[None, None, :] * (2 / wide)[None, :, None]
    theta = np.zeros((*unit.shape[:2], unit.shape[2] + 1), np.float32)
    theta[..., :-1] = unit[:, ::-1, ::-1]
    grid = functional.affine_grid(
        torch.from_numpy(theta).to(source.device), [len(source), 1, *size], align_corners=False
    )
    return functional.grid_sample(source, grid, mode=mode, align_corners=False)


def move_with_label(
    image: Tensor, label: Tensor, matrices: np.ndarray, size: Sequence[int], classes: int
) -> tuple[Tensor, Tensor]:
    """Resample images and their labels alike, in one pass.

    Up to eight classes, a voxel takes the class whose linearly interpolated indicator is largest;
    with more, that of the nearest voxel.

    Args:
        image: `[n, C, *wide]` float32.
        label: `[n, *wide]` class indices.
        matrices: what `movements` gave.
        size: of the patches that are returned.
        classes: with the background.

    Returns:
        `[n, C, *size]` float32 and `[n, *size]` int64.
    """
    channels = image.shape[1]
    if classes > SMOOTH_LABELS:
        nearest = move(label[:, None].float(), matrices, size, mode="nearest")
        return move(image, matrices, size), nearest[:, 0].long()
    indicators = torch.stack([label == kind for kind in range(1, classes)], 1)
    moved = move(torch.cat([image, indicators.float()], 1), matrices, size)
    best = 1 - moved[:, channels:].sum(1)
    found = torch.zeros(best.shape, dtype=torch.int64, device=best.device)
    for kind in range(1, classes):
        share = moved[:, channels + kind - 1]
        found.masked_fill_(share > best, kind)
        best = torch.maximum(best, share)
    return moved[:, :channels], found


def change_intensities(image: Tensor, changes: Changes) -> Tensor:
    """Blur, coarsen, brighten and so on, each patch of `[n, C, *patch]` in its own way.

    Args:
        image: float32 on any device; it is changed in place.
        changes: of the n patches.

    Returns:
        `image`; patches without a change stay bit for bit as they were.
    """

    def change(chosen: np.ndarray, how: Callable[[Tensor, np.ndarray], Tensor]) -> None:
        rows = np.flatnonzero(chosen)
        if len(rows):
            image[rows] = how(image[rows], rows)

    def factor(name: str, rows: np.ndarray) -> Tensor:
        values = torch.from_numpy(getattr(changes, name)[rows].astype(np.float32))
        return values.to(image.device).view(-1, *[1] * (image.ndim - 1))

    change(
        (changes.blur > 0) | (changes.resolution < 1),
        lambda x, rows: _smooth(x, changes.blur[rows], changes.resolution[rows]),
    )
    change(
        changes.noise > 0,
        lambda x, rows: x + factor("noise", rows) * _normal(x, changes.seeds[rows]),
    )
    change(changes.brightness != 1, lambda x, rows: x * factor("brightness", rows))
    change(changes.contrast != 1, lambda x, rows: _stretch(x, factor("contrast", rows)))
    change(
        changes.negative_gamma != 1,
        lambda x, rows: -_gamma(-x, factor("negative_gamma", rows)),
    )
    change(changes.gamma != 1, lambda x, rows: _gamma(x, factor("gamma", rows)))
    return image


def _normal(like: Tensor, seeds: np.ndarray) -> Tensor:
    """Return normal noise, each patch from its own seed; the same on every device."""
    noise = torch.empty(like.shape)
    for row, seed in zip(noise, seeds, strict=True):
        row.normal_(generator=torch.Generator().manual_seed(int(seed)))
    return noise.to(like.device)


def _stretch(image: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to the mean of each channel, within its range."""
    axes = tuple(range(2, image.ndim))
    mean = image.mean(axes, keepdim=True)
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    return torch.lerp(mean, image, factor).clamp_(low, high)


def _gamma(image: Tensor, exponent: Tensor) -> Tensor:
    """Raise intensities between 0 and 1 to a power; mean and deviation stay as they were."""
    axes = tuple(range(2, image.ndim))
    low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
    deviation, mean = torch.std_mean(image, axes, correction=0, keepdim=True)
    raised = ((image - low) / (high - low).clamp_min(1e-6)).pow_(exponent)
    now, centre = torch.std_mean(raised, axes, correction=0, keepdim=True)
    return (raised - centre).mul_(deviation / now.clamp_min(1e-6)).add_(mean)


def _smooth(image: Tensor, blur: np.ndarray, resolution: np.ndarray) -> Tensor:
    """Multiply each patch by its own matrix along every axis."""
    count, channels, *patch = image.shape
    out = image
    for axis, size in enumerate(patch):
        matrix = torch.from_numpy(smoothing(size, blur, resolution)).to(image.device)
        before = channels * math.prod(patch[:axis])
        after = math.prod(patch[axis + 1 :])
        if after == 1:
            out = torch.bmm(out.reshape(count, before, size), matrix.transpose(1, 2))
        else:
            out = torch.matmul(matrix[:, None], out.reshape(count, before, size, after))
    return out.reshape(image.shape)


def smoothing(size: int, blur: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """Return `[n, size, size]` float32 that blur, keep some voxels and interpolate the others.

    Rows sum to one. The blur is a Gaussian cut at the patch's faces; of `round(size *
    resolution)` equal cells the voxel at the middle is kept, and voxels between two of those are
    interpolated linearly.
    """
    at = np.arange(size)
    distance = (at[:, None] - at[None, :]) ** 2
    width = np.maximum(blur, 1e-3)[:, None, None]
    gauss = np.exp(-0.5 * distance / width**2)
    gauss /= gauss.sum(axis=2, keepdims=True)
    cells = np.maximum(1, np.round(size * resolution))[:, None]
    place = np.clip((at + 0.5) * cells / size - 0.5, 0, cells - 1)
    low = np.floor(place)
    high = np.minimum(low + 1, cells - 1)
    coarse = np.zeros((len(blur), size, size))
    rows = np.arange(len(blur))[:, None]
    for cell, weight in ((low, 1 - (place - low)), (high, place - low)):
        kept = np.floor((cell + 0.5) * size / cells).astype(np.int64)
        np.add.at(coarse, (rows, at[None, :], kept), weight)
    return (coarse @ gauss).astype(np.float32)
