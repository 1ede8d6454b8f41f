"""The hooks of the domain for models of task `retrieve`; see `shared_runtime.domain.Domain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domains.medical.data.case import Scan
from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
from domains.medical.retrieval.baselines import baseline_scores
from domains.medical.retrieval.data import RetrievalImages, resized
from domains.medical.retrieval.figures import (
    attention_figure,
    embedding_figure,
    neighbour_figure,
)
from domains.medical.retrieval.inference import Embedded, Gallery, embed
from domains.medical.retrieval.preparation import image_array, normalised, orientation
from domains.medical.retrieval.scoring import mean_over_patients, ranked, scores
from domains.medical.retrieval.task import RetrievalTask
from domains.medical.retrieval.weak import dice, weak_masks
from shared_runtime.domain import Evaluation, Figure, LoadedModel, Prepared
from shared_runtime.errors import DataError
from shared_runtime.task import Task
from shared_runtime.training_config import TrainingConfig

NEAREST = 5
"""Training cases that are shown for an image, and vote on its class."""
LOOKED_UP = 512
"""Training images at most, evenly spaced, that validation images are looked up in each epoch."""
SHOWN = ("nmi", "recall_1", "recall_4", "weak_dice", "attention_dice")


def make_task(model: nn.Module, prepared: Prepared, training: TrainingConfig) -> Task:
    """Return the Lightning module that trains `model`."""
    assert isinstance(model, DynamicSubspaceLearners)
    train, val = _part(prepared, "train"), _part(prepared, "val")
    apart = set(train.patients).isdisjoint(val.patients)
    gallery = (
        np.linspace(0, len(train) - 1, min(len(train), LOOKED_UP) * apart).astype(int).tolist()
    )
    return RetrievalTask(model, training, train.plain(), gallery=gallery)


def calibrate(
    model: nn.Module, prepared: Prepared, *, batch_size: int, device: torch.device
) -> dict[str, Any]:
    """Return the embedded training images, in which new ones are looked up."""
    train = _part(prepared, "train").plain()
    assert isinstance(model, DynamicSubspaceLearners)
    embedding = embed(model, train, batch_size=batch_size, device=device).embedding
    gallery = Gallery(embedding, train.target, train.ids, train.patients)
    return {"gallery": gallery.to_json()}


def evaluate(
    loaded: LoadedModel,
    prepared: Prepared,
    split: str,
    *,
    batch_size: int,
    device: torch.device,
    seed: int,
) -> Evaluation:
    """Score clustering and retrieval within a part, and attention maps as masks where there are.

    Raises:
        DataError: the part has no images.
    """
    items = _part(prepared, split)
    if not len(items):
        raise DataError(f"the {split} part has no images; use more data")
    seen = _embed(loaded, items, batch_size=batch_size, device=device)
    embedding, maps = seen.embedding, seen.contribution
    found = scores(embedding, items.target, items.patients, seed=seed)
    table = lookup(embedding, loaded, items.ids)
    names = prepared.preprocessing["targets"]
    table.insert(1, "patient", list(items.patients))
    table.insert(2, "target", [names[number] for number in items.target])
    if items.masks is not None:
        for name, values in (("weak_dice", maps), ("attention_dice", seen.attention)):
            table[name] = dice(weak_masks(values), items.masks)
            found[name] = mean_over_patients(table[name].to_numpy(), items.patients, seed=seed)
    gallery = Gallery.from_json(loaded.preprocessing["gallery"])
    figures = [
        neighbour_figure(items, embedding, _part(prepared, "train"), gallery, prepared),
        attention_figure(items, maps, prepared),
        embedding_figure(embedding, items.target, names),
    ]
    return Evaluation(
        metrics=found,
        n_scored=len(items),
        predictions=table,
        figures=figures,
        tables={"Learners": learners_table(loaded.model)},
        shown=[name for name in SHOWN if name in found],
    )


def baselines(prepared: Prepared, split: str, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Score pixels, colours, a plain classifier and chance on the same images."""
    return baseline_scores(
        _part(prepared, "train"), _part(prepared, split), seed=seed, device=torch.device("cpu")
    )


def predict(
    loaded: LoadedModel,
    scans: Sequence[tuple[str, Scan]],
    *,
    batch_size: int,
    device: torch.device,
) -> pd.DataFrame:
    """Return the nearest training cases, the class they vote for and the embedding of each scan.

    Args:
        loaded: a trained model with its gallery.
        scans: name and content of each.
        batch_size: scans at once.
        device: where the model is.
    """
    images = _images(loaded, scans)
    embedding = _embed(loaded, images, batch_size=batch_size, device=device).embedding
    table = lookup(embedding, loaded, images.ids)
    values = pd.DataFrame(embedding, columns=[f"e{n}" for n in range(embedding.shape[1])])
    return pd.concat([table, values], axis=1)


def weak_mask(loaded: LoadedModel, scan: Scan, *, device: torch.device) -> np.ndarray:
    """Return where the embedding comes from, uint8 0 or 1 on the scan's own grid.

    The map of contributions is interpolated to the grid, turned as the scan is and cut at its
    Otsu threshold.
    """
    images = _images(loaded, [("scan", scan)])
    maps = _embed(loaded, images, batch_size=1, device=device).contribution
    shape = scan.grid.shape
    if len(shape) == 2:
        return weak_masks(resized(maps, shape))[0].astype(np.uint8)
    axes = orientation(scan)
    turned = tuple(shape[int(np.flatnonzero(axes[:, 0] == k)[0])] for k in range(3))
    mask = weak_masks(resized(maps, turned))[0].astype(np.uint8)
    straight = np.stack([np.arange(3), np.ones(3)], axis=1)
    back = nibabel.orientations.ornt_transform(straight, axes)
    return nibabel.orientations.apply_orientation(mask, back)


def explain(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return maps of contributions over test images, and what each learner holds."""
    items = _part(prepared, "test")
    maps = _embed(loaded, items, batch_size=16, device=device).contribution
    figures = [attention_figure(items, maps, prepared, most=12)]
    inside = pd.DataFrame(
        {
            "case": list(items.ids),
            "mean contribution": maps.mean(axis=(1, 2))
            if maps.ndim == 3
            else maps.mean(axis=(1, 2, 3)),
        }
    )
    if items.masks is not None:
        axes = tuple(range(1, maps.ndim))
        share = (maps * items.masks).sum(axis=axes) / maps.sum(axis=axes).clip(1e-12)
        inside["share inside the mask"] = share
        inside["share of the image in the mask"] = items.masks.mean(axis=axes)
    return figures, {"Learners": learners_table(loaded.model), "Attention": inside}


def example_inputs(arguments: Mapping[str, Any], batch_size: int) -> dict[str, Tensor]:
    """Return images of a model built with `arguments`, for export."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, arguments["channels"], *arguments["size"])
    return {"image": torch.randn(shape, generator=generator)}


def lookup(embedding: np.ndarray, loaded: LoadedModel, ids: Sequence[str]) -> pd.DataFrame:
    """Return the nearest training cases of each embedding and the class most of them have.

    Where as many vote for several classes, the nearest of those decides.
    """
    gallery = Gallery.from_json(loaded.preprocessing["gallery"])
    names = np.asarray(loaded.preprocessing["targets"])
    order, distance = ranked(embedding, gallery.embedding, most=NEAREST)
    near = gallery.target[order]
    votes = (near[:, :, None] == near[:, None]).sum(axis=2)
    chosen = near[np.arange(len(near)), votes.argmax(axis=1)]
    table = pd.DataFrame({"case": list(ids), "predicted": names[chosen]})
    for rank in range(order.shape[1]):
        table[f"nearest_{rank + 1}"] = np.asarray(gallery.ids)[order[:, rank]]
        table[f"target_{rank + 1}"] = names[near[:, rank]]
        table[f"distance_{rank + 1}"] = distance[:, rank]
    return table


def learners_table(model: nn.Module) -> pd.DataFrame:
    """Return how many values of the embedding each learner has."""
    assert isinstance(model, DynamicSubspaceLearners)
    count = np.bincount(model.owner.cpu().numpy(), minlength=int(model.learners))
    return pd.DataFrame({"learner": np.arange(1, len(count) + 1), "values": count})


def _embed(
    loaded: LoadedModel, images: RetrievalImages, *, batch_size: int, device: torch.device
) -> Embedded:
    assert isinstance(loaded.model, DynamicSubspaceLearners)
    return embed(loaded.model, images, batch_size=batch_size, device=device)


def _images(loaded: LoadedModel, scans: Sequence[tuple[str, Scan]]) -> RetrievalImages:
    state = loaded.preprocessing
    for name, scan in scans:
        if len(scan.array) != len(state["channels"]):
            raise DataError(
                f"{scan.source}: {name} has {len(scan.array)} channels, the model was trained with "
                f"{len(state['channels'])}: {', '.join(state['channels'])}"
            )
    arrays = np.stack([image_array(scan, state["size"]) for _, scan in scans])
    names = [name for name, _ in scans]
    return RetrievalImages(normalised(arrays, state), np.zeros(len(scans), np.int64), names, names)


def _part(prepared: Prepared, name: str) -> RetrievalImages:
    items = getattr(prepared, name)
    assert isinstance(items, RetrievalImages)
    return items
