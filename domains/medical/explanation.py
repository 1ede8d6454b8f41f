"""What a segmentation model looks at: pictures and tables for places in some test cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor, nn

from domains.medical.attention_figures import attention_figure
from domains.medical.attention_layers import AttentionMaps, attention_maps, has_attention
from domains.medical.data.plan import Plan
from domains.medical.data.preprocessing import preprocess, preprocess_label
from shared_runtime.domain import Figure, LoadedModel, Prepared

_CASES = 2


@dataclass(frozen=True)
class Explained:
    """One patch with the places asked about.

    Args:
        case: its id.
        image: `[1, C, *patch]`.
        predicted: `[*patch]` class of each voxel.
        places: voxel of `centre`, `border` and `background`, see `query_places`.
        maps: of the attention layers.
        sensitivity: `[Q, *patch]`, how the predicted class of each place changes with the image.
    """

    case: str
    image: Tensor
    predicted: np.ndarray
    places: Mapping[str, tuple[int, ...]]
    maps: Sequence[AttentionMaps]
    sensitivity: np.ndarray


def explain_run(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return what places of test cases draw on in every attention layer, and in the image.

    A patch around the labelled structures of two cases; three places: deepest inside the predicted
    structure, on its border, and far from it. Attention weights are shown where a layer has them,
    derivatives of the layer where it has none, and the derivative of the prediction by the image
    always: models without attention have only that, and the caption says so.

    Args:
        loaded: segmentation model.
        prepared: whose test part reads whole cases.
        device: where the model is.
    """
    plan = Plan.from_dict(loaded.preprocessing["plan"])
    part: Any = prepared.test
    cases = part.cases
    chosen = [cases[k] for k in sorted({0, len(cases) // 2})][:_CASES]
    found = []
    for case in chosen:
        scan, label = part.source.read(case)
        ready = preprocess(scan, plan)
        truth = preprocess_label(label, ready.placement)
        image = patch_around(ready.array, truth, plan.patch_size)
        found.append(explain_patch(loaded.model, case.id, image.to(device)))
    figures = [attention_figure(each, plan, has_attention(loaded.model)) for each in found]
    tables = {"Reach": reach_table(found, plan)}
    heads = heads_table(found)
    if len(heads):
        tables["Attention heads"] = heads
    return figures, tables


def explain_patch(model: nn.Module, case: str, image: Tensor) -> Explained:
    """Return what places of one patch `[1, C, *patch]` draw on."""
    model.eval()
    with torch.no_grad():
        predicted = model(image)[0].float().argmax(0).cpu().numpy()
    places = query_places(predicted)
    points = list(places.values())
    return Explained(
        case=case,
        image=image.cpu(),
        predicted=predicted,
        places=places,
        maps=attention_maps(model, image, points),
        sensitivity=sensitivity(model, image, points),
    )


def query_places(predicted: np.ndarray) -> dict[str, tuple[int, ...]]:
    """Return the voxels asked about: deepest inside what is predicted, at its border, far from it.

    The border voxel is the one nearest to the centre along the last axis' slice, so that both are
    seen in one picture; the background voxel is in that slice too. Without a predicted structure
    the middle of the patch is background.
    """
    inside = predicted > 0
    if not inside.any():
        return {"background": tuple(n // 2 for n in predicted.shape)}
    centre = np.unravel_index(_depth(inside).argmax(), inside.shape)
    places = {"centre": tuple(int(x) for x in centre)}
    flat = inside if inside.ndim == 2 else inside[..., centre[-1]]
    own = predicted == predicted[centre]
    own = own if own.ndim == 2 else own[..., centre[-1]]
    edge = np.argwhere(own & ~ndimage.binary_erosion(own))
    away = np.argwhere(~flat)
    tail = () if inside.ndim == 2 else (int(centre[-1]),)
    middle = np.array(centre[:2])
    near = edge[np.abs(edge - middle).sum(axis=1).argmin()]
    places["border"] = (*(int(x) for x in near), *tail)
    if len(away):
        outside = _depth(~flat)
        places["background"] = (
            *(int(x) for x in np.unravel_index(outside.argmax(), flat.shape)),
            *tail,
        )
    return places


def sensitivity(model: nn.Module, image: Tensor, places: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return the size of the derivative of each place's class score by the image, `[Q, *patch]`.

    The score is the predicted class's logit less the log-sum-exp of the others; the derivatives of
    the channels are added up as squares, and each map adds up to one.
    """
    image = image.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = model(image)[0].float()
        rows = []
        for place in places:
            at = logits[(slice(None), *place)]
            best = int(at.argmax())
            others = torch.cat([at[:best], at[best + 1 :]]).logsumexp(0)
            (gradient,) = torch.autograd.grad(at[best] - others, image, retain_graph=True)
            size = gradient[0].square().sum(0).sqrt()
            rows.append((size / size.sum().clamp_min(1e-30)).cpu().numpy())
    return np.stack(rows)


def patch_around(array: np.ndarray, truth: np.ndarray, patch: Sequence[int]) -> Tensor:
    """Return the patch `[1, C, *patch]` around what is labelled, or the middle; 0 outside."""
    labelled = np.argwhere(truth > 0)
    middle = labelled.mean(axis=0) if len(labelled) else np.array(truth.shape) / 2
    result = np.zeros((array.shape[0], *patch), dtype=np.float32)
    source, target = [slice(None)], [slice(None)]
    for at, length, side in zip(middle, truth.shape, patch, strict=True):
        start = int(np.clip(round(at - side / 2), min(0, length - side), max(0, length - side)))
        if length < side:
            start = -((side - length) // 2)
        first, last = max(start, 0), min(start + side, length)
        source.append(slice(first, last))
        target.append(slice(first - start, last - start))
    result[tuple(target)] = array[tuple(source)]
    return torch.from_numpy(result)[None]


def reach_table(found: Sequence[Explained], plan: Plan) -> pd.DataFrame:
    """Return how far each place looks in each layer: mean distance in mm, and the share inside."""
    rows = []
    for each in found:
        inside = each.predicted > 0
        layers = [(maps.layer, _kind(maps), maps.maps.numpy()) for maps in each.maps]
        for name, kind, maps in [*layers, ("input", "sensitivity", each.sensitivity)]:
            centres = _centres(maps.shape[1:], inside.shape)
            covered = inside[tuple(np.ix_(*(axis.astype(int) for axis in centres)))]
            for (query, place), weights in zip(each.places.items(), maps, strict=True):
                gaps = [
                    (axis - at) * step
                    for axis, at, step in zip(centres, place, plan.spacing, strict=True)
                ]
                squares = np.meshgrid(*(gap**2 for gap in gaps), indexing="ij")
                distance = np.sqrt(np.sum(squares, axis=0))
                rows.append(
                    {
                        "case": each.case,
                        "place": query,
                        "layer": name,
                        "kind": kind,
                        "mean distance mm": float((weights * distance).sum()),
                        "share inside": float((weights * covered).sum()),
                    }
                )
    return pd.DataFrame(rows)


def heads_table(found: Sequence[Explained]) -> pd.DataFrame:
    """Return the entropy of every head of layers with weights, and its share of the largest."""
    return pd.DataFrame(
        {
            "case": each.case,
            "layer": maps.layer,
            "head": head,
            "entropy": float(entropy),
            "share of the largest": float(entropy) / float(np.log(maps.maps[0].numel())),
        }
        for each in found
        for maps in each.maps
        for head, entropy in enumerate(maps.heads.get("entropy", ()))
    )


def _kind(maps: AttentionMaps) -> str:
    return "attention" if maps.exact else "influence"


def _centres(grid: Sequence[int], size: Sequence[int]) -> list[np.ndarray]:
    """Return the voxel at the middle of each place of a grid, along each axis."""
    return [(np.arange(g) + 0.5) * s / g - 0.5 for g, s in zip(grid, size, strict=True)]


def _depth(mask: np.ndarray) -> np.ndarray:
    """Return how deep inside a mask each place is; the edge of the array counts as outside."""
    padded = ndimage.distance_transform_edt(np.pad(mask, 1))
    return padded[(slice(1, -1),) * mask.ndim]
