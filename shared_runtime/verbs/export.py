"""`export`: a trained model as ONNX or torch.export, checked against the original."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from shared_runtime.domain import Domain
from shared_runtime.errors import HeedError, UsageError, require
from shared_runtime.files import replacing
from shared_runtime.runs import open_run

EXAMPLE_BATCH = 2
CHECKED_BATCHES = (1, 5)
"""Other sizes than the example's: a size that was silently fixed shows here."""
TOLERANCE = 1e-4
"""Largest difference from the original, relative to its largest output."""

Runner = Callable[[dict[str, Tensor]], np.ndarray]
_log = logging.getLogger("heed.export")


def export(
    domain: Domain,
    run: Path,
    *,
    format: Literal["onnx", "torch"] = "onnx",
    out: Path | None = None,
) -> Path:
    """Export the model of a run with a free batch size and check it at two others.

    Args:
        domain: The domain.
        run: Folder of a finished run.
        format: `onnx` or `torch` (a `.pt2` program of torch.export).
        out: File to write; `model.onnx` or `model.pt2` in the run folder where it is None.

    Raises:
        HeedError: The model cannot be exported, or the file computes something else.
    """
    loaded = open_run(domain, run, device="cpu").loaded
    example = domain.example_inputs(loaded.arguments, EXAMPLE_BATCH)
    path = out or run / ("model.onnx" if format == "onnx" else "model.pt2")
    write, reader = (_write_onnx, _onnx) if format == "onnx" else (_write_torch, _torch)
    with replacing(path) as partial:
        try:
            write(loaded.model, example, partial)
        except (RuntimeError, torch.onnx.OnnxExporterError) as error:
            raise HeedError(
                f"{loaded.spec.name} cannot be exported to {format}: {_reason(error)}"
            ) from error
        exported = reader(partial)
        for size in CHECKED_BATCHES:
            inputs = domain.example_inputs(loaded.arguments, size)
            _compare(loaded.model, exported, inputs, format)
    return path


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["run"] is None:
        raise UsageError("--run is needed: the folder of a trained model")
    path = export(domain, values["run"], format=values["format"], out=values["out"])
    sizes = " and ".join(str(size) for size in CHECKED_BATCHES)
    print(f"{path}: same output as the original at batch sizes {sizes}")


def _reason(error: BaseException) -> str:
    """Return the first line of the error that started it all, without terminal colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _dynamic(example: dict[str, Tensor]) -> dict[str, dict[int, Any]]:
    return {name: {0: torch.export.Dim.DYNAMIC} for name in example}


def _write_onnx(model: torch.nn.Module, example: dict[str, Tensor], path: Path) -> None:
    require("onnxscript", "onnx")
    require("onnxruntime", "onnx")
    # It warns of every package it could serve and does not find, such as torchvision.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        model,
        (),
        kwargs=example,
        dynamo=True,
        dynamic_shapes=_dynamic(example),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.save(path)


def _write_torch(model: torch.nn.Module, example: dict[str, Tensor], path: Path) -> None:
    program = torch.export.export(model, (), example, dynamic_shapes=_dynamic(example))
    with path.open("wb") as file:
        torch.export.save(program, file)


def _onnx(path: Path) -> Runner:
    session = require("onnxruntime", "onnx").InferenceSession(path.read_bytes())
    names = {node.name for node in session.get_inputs()}

    def run(inputs: dict[str, Tensor]) -> np.ndarray:
        arrays = {name: value.numpy() for name, value in inputs.items() if name in names}
        return session.run(None, arrays)[0]

    return run


def _torch(path: Path) -> Runner:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(inputs: dict[str, Tensor]) -> np.ndarray:
        return module(**inputs).detach().numpy()

    return run


def _compare(
    model: torch.nn.Module, exported: Runner, inputs: dict[str, Tensor], format: str
) -> None:
    size = len(next(iter(inputs.values())))
    with torch.inference_mode():
        expected = model(**inputs).numpy()
    try:
        actual = exported(inputs)
    except (RuntimeError, ValueError) as error:
        raise HeedError(
            f"the {format} file does not run at batch size {size}: {_reason(error)}"
        ) from error
    scale = max(1.0, float(np.abs(expected).max()))
    if actual.shape != expected.shape:
        raise HeedError(
            f"the {format} file gives {actual.shape} at batch size {size}, "
            f"expected {expected.shape}"
        )
    difference = float(np.abs(actual - expected).max()) / scale
    if not difference <= TOLERANCE:
        raise HeedError(
            f"the {format} file differs from the model by {difference:.2g} at batch size {size}, "
            f"expected at most {TOLERANCE:g}; it was not written"
        )
    _log.info("batch size %d: largest difference %.2g", size, difference)
