"""Weights files that users bring: safetensors, or PyTorch checkpoints without code."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shared_runtime.errors import DataError

_log = logging.getLogger("heed.medical.weights")
_NESTS = ("state_dict", "model_state_dict", "model", "network_weights")
_SHOWN = 5


@dataclass(frozen=True)
class Fit:
    """How a weights file fitted a module.

    Args:
        loaded: names in the module that were filled.
        unused: names in the file without a place in the module.
        reshaped: names whose tensors have another shape in the file; these were left out.
        missing: names in the module that the file did not fill, `reshaped` included.
    """

    loaded: tuple[str, ...]
    unused: tuple[str, ...]
    reshaped: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing)
        parts = [f"{len(self.loaded)} of {total} tensors loaded"]
        for label in ("reshaped", "missing", "unused"):
            names = getattr(self, label)
            if names:
                more = "" if len(names) <= _SHOWN else f", and {len(names) - _SHOWN} more"
                parts.append(f"{label}: {', '.join(names[:_SHOWN])}{more}")
        return "; ".join(parts)


def load_weights(module: nn.Module, path: str | Path) -> Fit:
    """Fill `module` with the tensors of a file whose names and shapes fit; say which did not.

    Args:
        module: changed in place.
        path: `.safetensors`, or what `torch.save` wrote of a mapping of tensors (read with
            `weights_only=True`, so no code in it runs), by itself or under `state_dict` or
            `model`. A prefix `module.` of every name is dropped.

    Returns:
        What fitted, also in the log.

    Raises:
        DataError: The file cannot be read, holds no tensors, or none of them fits.
    """
    tensors = read_tensors(Path(path))
    own = module.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and v.shape == own[k].shape}
    fit = Fit(
        loaded=tuple(fitting),
        unused=tuple(k for k in tensors if k not in own),
        reshaped=tuple(k for k in tensors if k in own and k not in fitting),
        missing=tuple(k for k in own if k not in fitting),
    )
    if not fitting:
        raise DataError(
            f"{path}: no tensor fits {type(module).__name__}, which has "
            f"{', '.join(list(own)[:3])}, ...; the file has {', '.join(list(tensors)[:3])}, ...: "
            "give weights of this backbone"
        )
    module.load_state_dict(fitting, strict=False)
    log = _log.warning if fit.missing or fit.unused else _log.info
    log("%s: %s", path, fit)
    return fit


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name.

    Raises:
        DataError: The file is missing, is no weights file, holds code, or has no tensors.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such weights file")
    try:
        content: object
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # garbage makes the unpickler fail in every way
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
        raise DataError(
            f"{path}: cannot be read as weights ({reason}); give a .safetensors file, or a "
            "checkpoint that holds tensors only"
        ) from error
    for name in _NESTS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
            break
    tensors = (
        {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if isinstance(content, dict)
        else {}
    )
    if not tensors:
        raise DataError(f"{path}: holds no tensors by name; save model.state_dict()")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors
