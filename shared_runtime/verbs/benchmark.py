"""`benchmark`: time training steps and inference of the models against the default one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared_runtime.building import build
from shared_runtime.devices import resolve_device
from shared_runtime.domain import Domain, ModelSpec
from shared_runtime.errors import UsageError
from shared_runtime.options import find_model, resolve
from shared_runtime.results import aligned
from shared_runtime.samples import sample_path, temporary_sample
from shared_runtime.task import Task
from shared_runtime.timing import interleaved


@dataclass(frozen=True)
class _Contender:
    parameters: int
    task: Task
    batch: dict[str, Tensor]
    inputs: dict[str, Tensor]


def benchmark(
    domain: Domain,
    *,
    names: Sequence[str] = (),
    data: Path | None = None,
    rounds: int = 5,
    seed: int = 0,
    device: str = "auto",
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Time models of one task in turns, in one process.

    Args:
        domain: The domain.
        names: Models to time; every model of the default one's task where it is empty. The
            first of them is what the others are compared with.
        data: Data that size the models; the domain's sample where it is None.
        rounds: Timed turns; medians are reported.
        seed: Seed of weights and data.
        device: `auto`, `cpu` or `cuda`.
        flags: Dotted keys of the `data` section.
        sets: `key=value` strings of the `data` and `training` sections.

    Returns:
        One row per model: `name`, `parameters`, and for `train` and `inference` the `_seconds`
        of one batch and the `_ratio` to the first model.

    Raises:
        UsageError: The models are of different tasks.
    """
    specs = _chosen(domain, names)
    place = resolve_device(device)
    with temporary_sample(domain, seed=seed) if data is None else nullcontext(data) as source:
        contenders = {}
        for spec in specs:
            path = sample_path(domain, spec, source) if data is None else data
            given = {"data.path": path, "model.name": spec.name, "seed": seed, **(flags or {})}
            contenders[spec.name] = _contender(domain, spec, given, sets, place)
    train = _timed(contenders, _train_step, rounds, place)
    with torch.inference_mode():
        for contender in contenders.values():
            contender.task.eval()
        inference = _timed(contenders, _infer, rounds, place)
    first = specs[0].name
    return [
        {
            "name": name,
            "parameters": contender.parameters,
            "train_seconds": train[name],
            "train_ratio": train[name] / train[first],
            "inference_seconds": inference[name],
            "inference_ratio": inference[name] / inference[first],
        }
        for name, contender in contenders.items()
    ]


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["rounds"] < 1:
        raise UsageError(f"--rounds: expected at least 1, got {values['rounds']}")
    rows = benchmark(
        domain,
        names=values["models"] or (),
        data=values["data"],
        rounds=values["rounds"],
        seed=values["seed"] or 0,
        device=values["device"] or "auto",
        flags=values["flags"],
        sets=values["set"] or [],
    )
    if values["json"]:
        print(json.dumps(rows, indent=2))
        return
    lines = [["NAME", "PARAMETERS", "TRAIN STEP", "RATIO", "INFERENCE", "RATIO"]]
    for row in rows:
        train, inference = row["train_seconds"], row["inference_seconds"]
        lines.append(
            [
                row["name"],
                f"{row['parameters']:,}",
                f"{1000 * train:.1f} ms",
                f"{row['train_ratio']:.2f}",
                f"{1000 * inference:.1f} ms",
                f"{row['inference_ratio']:.2f}",
            ]
        )
    print(aligned(lines))


def _chosen(domain: Domain, names: Sequence[str]) -> list[ModelSpec]:
    first = find_model(domain, domain.DEFAULT_MODEL)
    if not names:
        others = [s for s in domain.models().values() if s.task == first.task and s != first]
        return [first, *others]
    specs = list({spec.name: spec for spec in (find_model(domain, n) for n in names)}.values())
    tasks = {spec.task for spec in specs}
    if len(tasks) > 1:
        raise UsageError(f"--model: these are of different tasks ({', '.join(sorted(tasks))})")
    return specs


def _contender(
    domain: Domain,
    spec: ModelSpec,
    flags: Mapping[str, Any],
    sets: Sequence[str],
    device: torch.device,
) -> _Contender:
    config = resolve(domain, flags=flags, sets=sets)
    prepared = domain.prepare(config.data, spec=spec, seed=config.seed)
    built = build(spec, config, prepared.model_arguments)
    size = min(config.training.batch_size, len(prepared.train))
    return _Contender(
        built.parameters,
        domain.make_task(built.model, prepared, config.training).to(device),
        _on(prepared.train.batch(np.arange(size, dtype=np.int64)), device),
        _on(domain.example_inputs(built.arguments, size), device),
    )


def _on(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tensors.items()}


def _timed(
    contenders: Mapping[str, _Contender],
    call: Callable[[_Contender], object],
    rounds: int,
    device: torch.device,
) -> dict[str, float]:
    calls = {name: partial(call, contender) for name, contender in contenders.items()}
    return interleaved(calls, rounds=rounds, device=device)


def _train_step(contender: _Contender) -> None:
    contender.task.zero_grad(set_to_none=True)
    contender.task.loss(contender.batch).backward()


def _infer(contender: _Contender) -> object:
    model: nn.Module = contender.task.model
    return model(**contender.inputs)
