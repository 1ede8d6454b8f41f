"""A model from a configuration and what the data decide."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shared_runtime.domain import ModelSpec
from shared_runtime.errors import HeedError, UsageError
from shared_runtime.options import RunConfig, model_arguments


@dataclass(frozen=True)
class Built:
    """A new model with all it was built from."""

    model: nn.Module
    arguments: Mapping[str, Any]
    """Every constructor argument except the attention ones, defaults included."""
    attention: Mapping[str, Any] | None
    """Name and options of the mechanism; None where it is the paper's own."""
    config: RunConfig
    """The configuration with the model's defaults written out."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def build(spec: ModelSpec, config: RunConfig, inferred: Mapping[str, Any]) -> Built:
    """Build a model with weights that depend on the seed alone.

    Args:
        spec: The model.
        config: Configuration with the user's options.
        inferred: Constructor arguments that the data decide; `Prepared.model_arguments`.

    Raises:
        UsageError: An option contradicts the data, is missing, or the model refuses it.
    """
    for name, value in config.model.options.items():
        if name in inferred and inferred[name] != value:
            raise UsageError(
                f"model.{name}: got {value!r}, but the data make it {inferred[name]!r}; "
                f"leave model.{name} out, or change the data section"
            )
    defaults = {
        name: argument.default
        for name, argument in model_arguments(spec).items()
        if argument.default is not inspect.Parameter.empty and name not in inferred
    }
    options = {**defaults, **config.model.options}
    arguments = {**options, **inferred}
    attention = _attention(config)
    model = _construct(spec, arguments, attention, config.seed)
    own = {name: value for name, value in options.items() if name not in inferred}
    written = dataclasses.replace(config.model, options=own)
    return Built(model, arguments, attention, dataclasses.replace(config, model=written))


def _attention(config: RunConfig) -> dict[str, Any] | None:
    if config.attention.name is None and not config.attention.options:
        return None
    return {"name": config.attention.name, "options": dict(config.attention.options)}


def _construct(
    spec: ModelSpec,
    arguments: Mapping[str, Any],
    attention: Mapping[str, Any] | None,
    seed: int,
) -> nn.Module:
    swapped = (
        {}
        if attention is None
        else {"attention": attention["name"], "attention_options": attention["options"]}
    )
    missing = [
        name
        for name, argument in model_arguments(spec).items()
        if argument.default is inspect.Parameter.empty and name not in arguments
    ]
    if missing:
        raise UsageError(f"{spec.name} needs {', '.join(f'model.{name}' for name in missing)}")
    torch.manual_seed(seed)
    try:
        return spec.load()(**arguments, **swapped)
    except HeedError:
        raise
    except ValueError as error:
        told = str(error).startswith(spec.name)
        raise UsageError(str(error) if told else f"{spec.name}: {error}") from error
