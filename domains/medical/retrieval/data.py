"""Images of a data set with a class each, ready for metric learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_TURN = 15.0
_ZOOM = 0.1
_MOVE = 0.1
_BRIGHTNESS = 0.15


@dataclass
class RetrievalImages:
    """Images in memory that assemble batches `{"image", "target"}`.

    Args:
        images: float16 `[N, C, *size]`, normalised.
        target: int64 `[N]`.
        ids: of the cases.
        patients: of the cases.
        masks: bool `[N, *size]` what belongs to any label, where all cases have one; else None.
        seed: of the augmentation.
        augment: `none`; `light`: flips, rotation, scale and shift; `full`: also brightness and
            contrast. A pure function of seed, epoch and item.
        flips: whether images are mirrored.
    """

    images: np.ndarray
    target: np.ndarray
    ids: Sequence[str]
    patients: Sequence[str]
    masks: np.ndarray | None = None
    seed: int = 0
    augment: Literal["none", "light", "full"] = "none"
    flips: bool = True
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self.target)

    def start_epoch(self, epoch: int) -> None:
        """Draw the augmentation of `epoch` from here on."""
        self.epoch = epoch

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return `image` float32 `[n, C, *size]` and `target` int64 `[n]`."""
        image = torch.from_numpy(self.images[indices].astype(np.float32))
        if self.augment != "none":
            image = self._augmented(image, indices)
        return {"image": image, "target": torch.from_numpy(self.target[indices])}

    def plain(self) -> RetrievalImages:
        """Return the same images without augmentation."""
        return replace(self, augment="none")

    def _augmented(self, image: Tensor, indices: np.ndarray) -> Tensor:
        dims = image.dim() - 2
        draws = np.stack([self._draw(int(index)) for index in indices])
        theta = torch.from_numpy(_affine(draws, dims, self.flips)).to(image.dtype)
        grid = functional.affine_grid(theta, list(image.shape), align_corners=False)
        image = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
        if self.augment == "light":
            return image
        shape = (-1,) + (1,) * (dims + 1)
        gain, shift = (torch.from_numpy(draws[:, k]).to(image.dtype).view(shape) for k in (0, 1))
        return image * (1 + _BRIGHTNESS * gain) + _BRIGHTNESS * shift

    def _draw(self, index: int) -> np.ndarray:
        """Return twelve numbers in -1 to 1."""
        bits = np.random.Philox(np.random.SeedSequence([self.seed, self.epoch, index]))
        return np.random.Generator(bits).uniform(-1, 1, size=12)


def resized(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return `[C, *grid]` float32 stretched to `[C, *size]`.

    Axes that shrink are averaged over, so that fine detail does not alias; others are
    interpolated linearly.
    """
    image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]
    smaller = [min(before, after) for before, after in zip(image.shape[2:], size, strict=True)]
    if smaller != list(image.shape[2:]):
        image = functional.interpolate(image, smaller, mode="area")
    if smaller != list(size):
        mode = "bilinear" if len(size) == 2 else "trilinear"
        image = functional.interpolate(image, list(size), mode=mode, align_corners=False)
    return image[0].numpy()


def resized_mask(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return bool `[*grid]` at the size of images: where at least half of a place is covered."""
    return resized(mask[None].astype(np.float32), size)[0] >= 0.5


def _affine(draws: np.ndarray, dims: int, flips: bool) -> np.ndarray:
    """Return maps from output to input places, `[n, dims, dims + 1]`."""
    count = len(draws)
    matrix = np.tile(np.eye(dims), (count, 1, 1))
    for plane, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))[: 1 if dims == 2 else 3]):
        angle = np.deg2rad(_TURN) * draws[:, 2 + plane]
        turn = np.tile(np.eye(dims), (count, 1, 1))
        turn[:, a, a] = turn[:, b, b] = np.cos(angle)
        turn[:, a, b], turn[:, b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    scale = np.broadcast_to((1 + _ZOOM * draws[:, 5])[:, None], (count, dims))
    if flips:
        scale = scale * np.where(draws[:, 6 : 6 + dims] < 0, -1, 1)
    moved = _MOVE * draws[:, 9 : 9 + dims]
    return np.concatenate([matrix * scale[:, None], moved[:, :, None]], axis=2)
