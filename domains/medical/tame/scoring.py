"""How well maps explain a model: what their brightest places alone do to its confidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from domains.medical.retrieval.classifier import cam
from domains.medical.tame.explained import Explained
from domains.medical.tame.features import Layer, tapped
from domains.medical.tame.maps import ExplanationMaps, enlarged, masked
from shared_runtime.domain import Batches, Interval
from shared_runtime.errors import DataError
from shared_runtime.intervals import mean_interval

KEPT = (100, 50, 15)
"""Shares of an image, in percent, that a map keeps."""
STEPS = 5
METHODS = ("T-TAME", "Grad-CAM", "random")
_BATCH = 4


@dataclass(frozen=True)
class Explanations:
    """Images, a class the model sees in each, and each method's map of it.

    Args:
        image: `[n, C, *size]`.
        chosen: `[n]` class.
        confidence: `[n]` of the model in it.
        maps: `[n, *size]` in 0 to 1, by method.
    """

    image: Tensor
    chosen: Tensor
    confidence: Tensor
    maps: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.image)


def explain_images(
    explained: Explained,
    maps: ExplanationMaps,
    batches: Batches,
    *,
    most: int,
    seed: int,
    device: torch.device,
) -> Explanations:
    """Return maps of the classes that the model sees in images spread over `batches`.

    Every class of an image counts, up to `most` in all; where the model sees too few, further
    images are looked at. Maps are scaled to 0 to 1. Grad-CAM is of
    the coarsest layer that the maps read; random maps have as many independent values as it has
    places.

    Raises:
        DataError: the model sees no class in any of the images.
    """
    spread = np.unique(np.linspace(0, len(batches) - 1, min(most, len(batches))).astype(np.int64))
    rows = np.concatenate([spread, np.setdiff1d(np.arange(len(batches)), spread)])
    random = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("image", "chosen", "seen", *METHODS)}
    found = 0
    for first in range(0, len(rows), _BATCH):
        image = batches.batch(rows[first : first + _BATCH])["image"].to(device)
        with torch.no_grad(), tapped(explained.model, maps.layers) as features:
            confidence = explained(image).exp()
        at, chosen = explained.chosen(confidence).nonzero(as_tuple=True)
        if len(at) == 0:
            continue
        with torch.no_grad():
            fine = enlarged(maps(features), image.shape[2:])[at, chosen]
        coarse = features[maps.layers[-1].name]
        noise = torch.rand(len(at), 1, *coarse.shape[2:], generator=random).to(device)
        parts["image"].append(image[at].cpu())
        parts["chosen"].append(chosen.cpu())
        parts["seen"].append(confidence[at, chosen].cpu())
        parts["T-TAME"].append(scaled(fine).cpu())
        parts["Grad-CAM"].append(grad_cam(explained, maps.layers[-1], image, at, chosen).cpu())
        parts["random"].append(scaled(enlarged(noise, image.shape[2:])[:, 0]).cpu())
        found += len(at)
        if found >= most:
            break
    if not found:
        raise DataError(
            "the model sees no class in any scored image, so there is nothing to explain; train it "
            "longer"
        )
    joined = {name: torch.cat(found_parts)[:most] for name, found_parts in parts.items()}
    by_method = {name: joined[name] for name in METHODS}
    return Explanations(joined["image"], joined["chosen"], joined["seen"], by_method)


def grad_cam(
    explained: Explained, layer: Layer, image: Tensor, at: Tensor, chosen: Tensor
) -> Tensor:
    """Return Grad-CAM maps `[n, *size]` of class `chosen[i]` in image `at[i]`.

    They are of the log-confidence; a layer that the class does not depend on gives 0.
    """
    image = image.detach().requires_grad_(True)
    with torch.enable_grad(), tapped(explained.model, [layer]) as features:
        score = explained(image)
        grid = features[layer.name]
        found = []
        for row, number in zip(at.tolist(), chosen.tolist(), strict=True):
            (gradient,) = torch.autograd.grad(
                score[row, number], grid, retain_graph=True, materialize_grads=True
            )
            found.append(cam(grid[row : row + 1], gradient[row : row + 1], image.shape[2:]))
    return torch.cat(found)


def scaled(maps: Tensor) -> Tensor:
    """Return maps `[n, *size]` stretched to 0 to 1 each."""
    flat = maps.flatten(1)
    shape = (-1,) + (1,) * (maps.dim() - 1)
    low, high = flat.amin(1).view(shape), flat.amax(1).view(shape)
    return (maps - low) / (high - low).clamp_min(1e-12)


def brightest(maps: Tensor, percent: int) -> Tensor:
    """Return maps with all but the brightest `percent` of their places set to 0."""
    if percent == 100:
        return maps
    count = round(maps[0].numel() * percent / 100)
    return maps * top(maps, count)


def top(maps: Tensor, count: int) -> Tensor:
    """Return 1 at the `count` brightest places of each map, else 0; ties in reading order."""
    flat = maps.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat).scatter(1, order, 1.0).view_as(maps)


def map_scores(
    explained: Explained, found: Explanations, method: str, *, seed: int, device: torch.device
) -> tuple[dict[str, Interval], dict[str, np.ndarray]]:
    """Return the scores of a method, and its insertion and deletion curves `[STEPS + 1]`.

    - `average_drop_P` (%): mean of [y - o]_+ / y, y the confidence in the whole image and o that
      in what the map's brightest P % leave of it, faded by the map; lower is better.
    - `increase_P` (%): how often o is above y; higher is better (Chattopadhyay et al. 2018).
    - `insertion`, `deletion`: mean confidence while places are shown, or hidden, brightest first,
      in fifths of the image; higher and lower are better (Petsiuk et al. 2018).
    """
    maps = found.maps[method]
    before = found.confidence.double()
    per_image: dict[str, np.ndarray] = {}
    for percent in KEPT:
        after = _confidence(explained, found, brightest(maps, percent), device).double()
        drop = (before - after).clamp_min(0) / before
        per_image[f"average_drop_{percent}"] = (100 * drop).numpy()
        per_image[f"increase_{percent}"] = (100.0 * (after > before)).numpy()
    curves: dict[str, list[np.ndarray]] = {}
    places = maps[0].numel()
    nothing = _confidence(explained, found, torch.zeros_like(maps), device).double().numpy()
    ends = {"insertion": (nothing, before.numpy()), "deletion": (before.numpy(), nothing)}
    for name, (start, end) in ends.items():
        curves[name] = [start]
        for step in range(1, STEPS):
            shown = top(maps, round(places * step / STEPS))
            mask = shown if name == "insertion" else 1 - shown
            curves[name].append(_confidence(explained, found, mask, device).double().numpy())
        curves[name].append(end)
    for name, values in curves.items():
        per_image[name] = np.trapezoid(np.stack(values), dx=1 / STEPS, axis=0)
    scores = {name: mean_interval(values, seed=seed) for name, values in per_image.items()}
    return scores, {name: np.stack(values).mean(axis=1) for name, values in curves.items()}


def _confidence(
    explained: Explained, found: Explanations, masks: Tensor, device: torch.device
) -> Tensor:
    parts = []
    with torch.inference_mode():
        for image, mask, chosen in zip(
            found.image.split(_BATCH), masks.split(_BATCH), found.chosen.split(_BATCH), strict=True
        ):
            score = explained(masked(image.to(device), mask.to(device)))
            picked = score.gather(1, chosen[:, None].to(device))[:, 0]
            parts.append(picked.exp().cpu())
    return torch.cat(parts)
