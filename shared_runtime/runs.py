"""A finished run, opened again: its configuration, its model and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from shared_runtime.artifact import load_model, verify
from shared_runtime.checks import require_clean
from shared_runtime.devices import resolve_device
from shared_runtime.domain import Domain, LoadedModel, Prepared
from shared_runtime.errors import DataError, UsageError
from shared_runtime.options import RunConfig, resolve

CHANGEABLE = ("data.", "training.eval_batch_size=")
"""What `--set` may change of a finished run."""


@dataclass(frozen=True)
class OpenedRun:
    """A trained model with its configuration, on a device."""

    domain: Domain
    folder: Path
    config: RunConfig
    loaded: LoadedModel
    device: torch.device
    data_hash: str
    """Hash of the data the model was trained on."""

    @property
    def batch_size(self) -> int:
        """Items per batch of evaluation."""
        return self.config.training.eval_batch_size or self.config.training.batch_size


def open_run(
    domain: Domain,
    folder: Path,
    *,
    data: Path | None = None,
    device: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> OpenedRun:
    """Open the folder of a trained model.

    Args:
        domain: The domain it was trained in.
        folder: Run folder.
        data: Other data than it was trained on.
        device: Other device than its configuration names.
        flags: Dotted keys of the `data` section, from the domain's own flags.
        sets: `key=value` strings for the `data` section.

    Raises:
        UsageError: The folder holds no model of this domain, or a key cannot be changed.
        HeedError: A file of the model has changed.
    """
    for pair in sets:
        if not pair.startswith(CHANGEABLE):
            raise UsageError(
                f"--set {pair}: a trained model is fixed; only data.* and "
                "training.eval_batch_size can be set here"
            )
    manifest = verify(folder)
    config = resolve(
        domain,
        config=folder / "config.yaml",
        flags={"data.path": data, "device": device, **(flags or {})},
        sets=sets,
    )
    place = resolve_device(config.device)
    loaded = load_model(folder, domain.models(), domain=domain.NAME, device=place)
    return OpenedRun(domain, folder, config, loaded, place, manifest["data_hash"])


def prepare_again(run: OpenedRun, *, other_data: bool) -> Prepared:
    """Read the data of a run with the preprocessing its model was trained with.

    Args:
        run: The opened run.
        other_data: Whether other data than the model's own were asked for.

    Raises:
        DataError: The data have errors, have changed since training, or do not fit the model.
    """
    require_clean(run.domain, run.config.data)
    prepared = run.domain.prepare(
        run.config.data,
        spec=run.loaded.spec,
        seed=run.config.seed,
        preprocessing=run.loaded.preprocessing,
    )
    if not other_data and prepared.data_hash != run.data_hash:
        raise DataError(
            f"{run.config.data.path} has changed since {run.folder} was trained; "
            "name it with --data to use it all the same"
        )
    for name, value in prepared.model_arguments.items():
        trained = run.loaded.arguments.get(name, value)
        if _plain(trained) != _plain(value):
            raise DataError(
                f"{run.config.data.path}: {name} is {value!r}, but {run.loaded.spec.name} in "
                f"{run.folder} was trained with {trained!r}"
            )
    return prepared


def _plain(value: Any) -> Any:
    """JSON keeps lists only, so a tuple equals the list it was saved as."""
    return list(value) if isinstance(value, tuple) else value
