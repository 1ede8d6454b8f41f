"""Trained models on disk: weights, what rebuilds the model, and a manifest that proves both whole.

Nothing is pickled. `manifest.json` holds size and sha256 of every file it lists and a digest of
itself, so one changed byte in any of them is noticed before a model is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from torch import nn

from shared_runtime.domain import LoadedModel, ModelSpec
from shared_runtime.errors import HeedError, UsageError
from shared_runtime.files import replacing
from shared_runtime.run_folder import RunFolder, package_versions

WEIGHTS = "model.safetensors"
MODEL = "model.json"
MANIFEST = "manifest.json"


def save_model(
    folder: RunFolder,
    *,
    domain: str,
    name: str,
    arguments: Mapping[str, Any],
    attention: Mapping[str, Any] | None,
    preprocessing: Mapping[str, Any],
    model: nn.Module,
    data_hash: str,
) -> None:
    """Write `model.safetensors`, `model.json` and, last, `manifest.json`.

    Args:
        folder: Run folder.
        domain: Name of the domain.
        name: Name of the model in the domain's catalogue.
        arguments: Keyword arguments of the constructor, except the attention ones.
        attention: `{"name": ..., "options": {...}}` where the mechanism is not the paper's.
        preprocessing: JSON state fitted on training data; numpy values are turned into lists.
        model: Model whose weights are saved; tied weights are stored once.
        data_hash: Hash of the data it was trained on.

    Raises:
        HeedError: Arguments or preprocessing hold what JSON cannot.
    """
    if not folder.writes:
        return
    record = {
        "domain": domain,
        "model": name,
        "arguments": dict(arguments),
        "attention": None if attention is None else dict(attention),
        "preprocessing": dict(preprocessing),
    }
    try:
        text = json.dumps(record, indent=2, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise HeedError(
            f"{folder.path / MODEL}: {name} cannot be saved as JSON: {error}"
        ) from error
    folder.path.mkdir(parents=True, exist_ok=True)
    with replacing(folder.path / WEIGHTS) as partial:
        save_weights(model, str(partial))
    folder.write_text(MODEL, text)
    write_manifest(folder, [WEIGHTS, MODEL], data_hash=data_hash)


def write_manifest(folder: RunFolder, names: list[str], *, data_hash: str) -> None:
    """Write `manifest.json` over the files `names` of the folder."""
    body = {
        "files": {name: _measure((folder.path / name).read_bytes()) for name in names},
        "versions": package_versions(),
        "data_hash": data_hash,
    }
    folder.write_text(MANIFEST, _manifest_text(body))


def verify(folder: Path) -> dict[str, Any]:
    """Check every file the manifest lists, and the manifest itself; return the manifest.

    Raises:
        HeedError: A file is missing or has changed.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise UsageError(f"{folder}: holds no trained model; give the --out folder of a train run")
    text = path.read_bytes()
    try:
        body = json.loads(text)
        body.pop("sha256")
        intact = _manifest_text(body).encode() == text
    except (ValueError, AttributeError, KeyError, TypeError):
        intact = False
    if not intact:
        raise HeedError(_changed(path))
    for name in {WEIGHTS: None, MODEL: None, **body["files"]}:
        file = folder / name
        if not file.is_file():
            raise HeedError(f"{file}: is missing; copy the whole folder again, or train anew")
        if _measure(file.read_bytes()) != body["files"].get(name):
            raise HeedError(_changed(file))
    return body


def load_model(
    folder: Path,
    models: Mapping[str, ModelSpec],
    *,
    domain: str | None = None,
    device: torch.device | str = "cpu",
) -> LoadedModel:
    """Rebuild a saved model in evaluation mode, after checking every byte it is made from.

    Args:
        folder: Run folder.
        models: The domain's catalogue.
        domain: Name of the domain; a model of another one is refused.
        device: Where the weights go.

    Raises:
        UsageError: The folder holds no model, or one this domain does not know.
        HeedError: A file has changed, or the weights do not fit the model.
    """
    verify(folder)
    record = json.loads((folder / MODEL).read_text("utf-8"))
    if domain is not None and record["domain"] != domain:
        raise UsageError(
            f"{folder}: holds a model of {record['domain']}; use heed {record['domain']}"
        )
    name = record["model"]
    if name not in models:
        raise UsageError(
            f"{folder}: holds model {name!r}, unknown here; known: {', '.join(models)}"
        )
    arguments = dict(record["arguments"])
    if record["attention"] is not None:
        arguments["attention"] = record["attention"]["name"]
        arguments["attention_options"] = record["attention"]["options"]
    spec = models[name]
    try:
        model = spec.load()(**arguments)
    except (TypeError, ValueError) as error:
        raise HeedError(
            f"{folder / MODEL}: {name} of this version takes other arguments: {error}; "
            "install the version in manifest.json, or train anew"
        ) from error
    try:
        load_weights(model, folder / WEIGHTS)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise HeedError(
            f"{folder / WEIGHTS}: the weights do not fit {name} of this version: {reason}; "
            "install the version in manifest.json, or train anew"
        ) from error
    model.to(device).eval()
    return LoadedModel(spec, model, arguments, record["preprocessing"], folder)


def _measure(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _manifest_text(body: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=2) + "\n"


def _changed(path: Path) -> str:
    return (
        f"{path}: has changed since the model was saved; "
        "copy the whole folder again from where it was trained, or train anew"
    )


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
