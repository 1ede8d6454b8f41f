"""`tame`: train maps that explain a trained model, score them, and draw them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from domains.medical.retrieval.inference import Gallery
from domains.medical.tame.explained import ClassCentres, Explained, Presence
from domains.medical.tame.features import Layer, find_layers
from domains.medical.tame.figures import curves_figure, losses_figure, maps_figure
from domains.medical.tame.maps import ExplanationMaps
from domains.medical.tame.scoring import METHODS, explain_images, map_scores
from domains.medical.tame.settings import tame_settings
from domains.medical.tame.training import Pieces, TameConfig, train_maps
from shared_runtime import charts
from shared_runtime.artifact import WEIGHTS as MODEL_WEIGHTS
from shared_runtime.artifact import write_manifest
from shared_runtime.domain import Batches, Domain, LoadedModel, Prepared
from shared_runtime.errors import DataError, HeedError, UsageError
from shared_runtime.files import replacing
from shared_runtime.report import Report, render
from shared_runtime.results import table_text, written
from shared_runtime.run_folder import RunFolder
from shared_runtime.runs import open_run, prepare_again

WEIGHTS, RECORD, PAGE = "tame.safetensors", "tame.json", "tame.html"
SHOWN = ("average_drop_50", "average_drop_15", "increase_50", "increase_15", "insertion")
_EVERY = 25
_log = logging.getLogger("heed.tame")


def run_tame(
    domain: Domain,
    run: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    device: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> tuple[dict[str, Any], list[Path]]:
    """Train explanation maps of a run's model on its training part; score them on held-out images.

    Scored are the test images of a retrieval model and the fixed validation patches of a
    segmentation model. Writes `tame.safetensors`, `tame.json`, `manifest.json`, `metrics.json`,
    `losses.csv`, `tame.html` and one PNG per figure.

    Args:
        domain: the medical domain.
        run: folder of a finished run.
        data: other data than the run's.
        out: folder to write to; `tame` inside the run folder where it is None.
        device: other device than the run's.
        flags: dotted keys of the `data` section.
        sets: `key=value` strings; `tame.*` are keys of `TameConfig`, such as `tame.steps=100`.

    Returns:
        A `metrics.json` document and the files.

    Raises:
        DataError: the model sees no class in any image.
        UsageError: a setting is unknown, or `out` holds something else.
    """
    _require_free(out)
    chosen, sets = tame_settings(sets)
    opened = open_run(domain, run, data=data, device=device, flags=flags, sets=sets)
    prepared = prepare_again(opened, other_data=data is not None)
    explained = explained_model(opened.loaded).to(opened.device)
    config = TameConfig.of(opened.loaded.arguments["spatial_dims"], chosen)
    split, scored = scored_images(opened.loaded, prepared)
    items = Pieces(scored, config.side, each=-(-config.images // len(scored)))
    first = items.batch(np.arange(1))["image"].to(opened.device)
    layers = find_layers(explained.model, first, config.layers)
    _log.info("reading %s", ", ".join(each.name for each in layers))
    seed = opened.config.seed
    maps, history = train_maps(
        explained,
        layers,
        Pieces(prepared.train, config.side),
        config,
        seed=seed,
        device=opened.device,
        on_step=_tell,
    )
    found = explain_images(
        explained, maps, items, most=config.images, seed=seed, device=opened.device
    )
    scores, curves = {}, {}
    for method in METHODS:
        scores[method], curves[method] = map_scores(
            explained, found, method, seed=seed, device=opened.device
        )
    document = {
        "model": "T-TAME",
        "split": split,
        "n_scored": len(found),
        "seed": seed,
        "metrics": {name: asdict(value) for name, value in scores["T-TAME"].items()},
        "baselines": {
            method: {name: value.value for name, value in scores[method].items()}
            for method in METHODS[1:]
        },
        "tame": asdict(config) | {"layers": [asdict(each) for each in layers]},
        "shown": list(SHOWN),
    }
    figures = [
        maps_figure(found, explained.names, spacing_of(opened.loaded)),
        curves_figure(curves),
        losses_figure(history),
    ]
    folder = RunFolder(out or run / "tame")
    page = Report(
        domain=domain.NAME,
        model=f"{opened.loaded.spec.name}, explained",
        summary=f"Maps trained for {config.steps} steps from {len(layers)} layers of the model",
        paper="Ntrougkas, Gkalelis and Mezaris, T-TAME, IEEE Access 2024 (arXiv 2403.04523)",
        disclaimer=domain.DISCLAIMER,
        metrics=document,
        figures=figures,
        data=prepared.summary,
    )
    files = [
        *save_maps(folder, maps, explained.names, run, opened.data_hash),
        folder.write_frame("losses.csv", pd.DataFrame(history)),
        folder.write_json("metrics.json", written(document)),
        folder.write_text(PAGE, render(page)),
    ]
    for figure in figures:
        name = figure.title.lower().replace(" ", "-")
        files.append(folder.write_bytes(f"{name}.png", charts.png(figure.figure)))
    return document, files


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["run"] is None:
        raise UsageError("--run is needed: the folder of a trained model")
    document, files = run_tame(
        domain,
        values["run"],
        data=values["data"],
        out=values["out"],
        device=values["device"],
        flags=values["flags"],
        sets=values["set"] or [],
    )
    print(table_text(document))
    for path in files:
        print(path)
    print(domain.DISCLAIMER)


def explained_model(loaded: LoadedModel) -> Explained:
    """Return a trained model as one with a confidence for each class."""
    state = loaded.preprocessing
    if loaded.spec.task == "retrieve":
        gallery = Gallery.from_json(state["gallery"])
        classes = np.unique(gallery.target)
        means = [gallery.embedding[gallery.target == number].mean(axis=0) for number in classes]
        names = [state["targets"][number] for number in classes]
        return ClassCentres(loaded.model, names, torch.from_numpy(np.stack(means)))
    labels = sorted(state["plan"]["labels"].items(), key=lambda each: each[1])
    return Presence(loaded.model, [name for name, number in labels if number > 0])


def scored_images(loaded: LoadedModel, prepared: Prepared) -> tuple[str, Batches]:
    """Return the part whose images or patches are held out: its name and its batches.

    Raises:
        DataError: it has none.
    """
    split = "test" if loaded.spec.task == "retrieve" else "val"
    items = getattr(prepared, split)
    if not len(items):
        raise DataError(f"the {split} part has no images to score maps on; use more data")
    return split, items


def spacing_of(loaded: LoadedModel) -> tuple[float, ...]:
    """Return the millimetres between voxels of what a model sees; 1 where it is not known."""
    plan = loaded.preprocessing.get("plan")
    if plan is None:
        return (1.0,) * loaded.arguments["spatial_dims"]
    return tuple(plan["spacing"])


def save_maps(
    folder: RunFolder, maps: ExplanationMaps, names: Sequence[str], run: Path, data_hash: str
) -> list[Path]:
    """Write the weights, what rebuilds the module, and a manifest over both."""
    from safetensors.torch import save_model

    weights = json.loads((run / "manifest.json").read_text("utf-8"))["files"][MODEL_WEIGHTS]
    record = {
        "layers": [asdict(each) for each in maps.layers],
        "classes": list(names),
        "explains": weights["sha256"],
    }
    folder.path.mkdir(parents=True, exist_ok=True)
    with replacing(folder.path / WEIGHTS) as partial:
        save_model(maps, str(partial))
    files = [folder.path / WEIGHTS, folder.write_json(RECORD, record)]
    write_manifest(folder, [WEIGHTS, RECORD], data_hash=data_hash)
    return [*files, folder.path / "manifest.json"]


def load_maps(folder: Path, run: Path) -> tuple[ExplanationMaps, tuple[str, ...]]:
    """Return trained maps and the names of their classes.

    Args:
        folder: that `tame` wrote.
        run: of the model that is to be explained.

    Raises:
        HeedError: a file is missing or damaged, or the maps explain another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        layers = [Layer(e["name"], e["channels"], tuple(e["grid"])) for e in record["layers"]]
        maps = ExplanationMaps(layers, len(record["classes"]))
        load_model(maps, folder / WEIGHTS)
        model = json.loads((run / "manifest.json").read_text("utf-8"))["files"][MODEL_WEIGHTS]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise HeedError(f"{folder}: holds no whole maps: {error}; run heed medical tame") from error
    if record["explains"] != model["sha256"]:
        raise HeedError(f"{folder}: its maps explain another model than {run}; train them for it")
    return maps.eval(), tuple(record["classes"])


def _tell(step: int, loss: float) -> None:
    if step % _EVERY == 0:
        _log.info("step %d: loss %.4g", step, loss)


def _require_free(out: Path | None) -> None:
    """Refuse a folder that holds anything but earlier maps, which may be replaced."""
    if out is None or not out.exists() or (out / PAGE).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError(f"--out {out}: exists and is not an empty folder; choose another")
