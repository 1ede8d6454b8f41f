"""The configuration of a run: one typed tree from defaults, a YAML file, flags and `--set`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from shared_runtime.errors import UsageError
from shared_runtime.settings import (
    TOP,
    Device,
    Setting,
    chosen_name,
    dataclass_from,
    gather,
    section_values,
    typed,
    typed_fields,
    unknown,
)

if TYPE_CHECKING:
    from shared_runtime.domain import Domain, ModelSpec
    from shared_runtime.training_config import TrainingConfig

ATTENTION_ARGUMENTS = ("attention", "attention_options")


@dataclass(frozen=True)
class Named:
    """A model or a mechanism: its name and the options given for it."""

    name: str | None
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; `to_dict` is the `config.yaml` that repeats it."""

    domain: str
    seed: int
    device: Device
    data: Any
    model: Named
    attention: Named
    training: TrainingConfig

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML; paths are absolute, so the file can be moved."""
        return {
            "domain": self.domain,
            "seed": self.seed,
            "device": self.device,
            "data": _plain(self.data),
            "model": {"name": self.model.name, **self.model.options},
            "attention": {"name": self.attention.name, **self.attention.options},
            "training": _plain(self.training),
        }


@dataclass(frozen=True)
class Argument:
    """One option of a model, as its constructor declares it."""

    name: str
    type: Any
    default: Any
    """`inspect.Parameter.empty` where the data or the user must give it."""


def resolve(
    domain: Domain,
    *,
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> RunConfig:
    """Resolve a run: defaults, then the file, then flags, then `--set`; the last one wins.

    Where a later source names another model (or mechanism), the options an earlier source
    gave for the previous one no longer apply.

    Args:
        domain: The domain whose data, models and defaults are meant.
        config: YAML file; relative paths in it are relative to its folder.
        flags: Dotted key to value; None values are skipped.
        sets: `key=value` strings with dotted keys and YAML values.

    Raises:
        UsageError: A key is unknown, a value has the wrong type, or one is missing.
    """
    settings = gather(config, flags, sets)
    top = {s.key: typed(TOP[s.key], s) for s in settings if not s.section}
    for setting in settings:
        if setting.dotted == "domain" and setting.value != domain.NAME:
            message = f"is for the domain {setting.value}, not {domain.NAME}"
            raise UsageError(f"{setting.source}: {message}")
    spec = find_model(domain, chosen_name(settings, "model") or domain.DEFAULT_MODEL)
    mechanism = chosen_name(settings, "attention")
    if mechanism is not None:
        mechanism = find_mechanism(mechanism)
    training = dataclass_from(domain.Training, "training", settings, spec.training)
    return RunConfig(
        domain=domain.NAME,
        seed=top.get("seed", 0),
        device=top.get("device", "auto"),
        data=dataclass_from(domain.DataConfig, "data", settings, {}),
        model=Named(spec.name, _model_options(spec, settings)),
        attention=Named(mechanism, _attention_options(spec, mechanism, settings)),
        training=training,
    )


def resolve_data(
    domain: Domain,
    *,
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> Any:
    """Resolve the `data` section alone; see :func:`resolve`."""
    return dataclass_from(domain.DataConfig, "data", gather(config, flags, sets), {})


def find_model(domain: Domain, name: str) -> ModelSpec:
    """Return the model called `name` in any case, or name the nearest one."""
    models = {spec.name.lower(): spec for spec in domain.models().values()}
    if name.lower() not in models:
        names = [spec.name for spec in models.values()]
        raise UsageError(unknown(f"{domain.NAME} model", name, names))
    return models[name.lower()]


def find_mechanism(name: str) -> str:
    """Return the catalogue's spelling of a mechanism, or name the nearest one."""
    from shared_attention import catalogue

    names = list(catalogue())
    found = {known.lower(): known for known in names}.get(name.lower().replace("-", "_"))
    if found is None:
        raise UsageError(unknown("attention mechanism", name, names))
    return found


def model_arguments(spec: ModelSpec) -> dict[str, Argument]:
    """Return the constructor options of a model, without those that carry its attention."""
    built = spec.load()
    hints = typing.get_type_hints(built.__init__)
    return {
        name: Argument(name, hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(built).parameters.items()
        if name not in ATTENTION_ARGUMENTS
    }


def _model_options(spec: ModelSpec, settings: Sequence[Setting]) -> dict[str, Any]:
    types = {name: argument.type for name, argument in model_arguments(spec).items()}
    return section_values(settings, "model", types, spec.name)


def _attention_options(
    spec: ModelSpec, mechanism: str | None, settings: Sequence[Setting]
) -> dict[str, Any]:
    given = [s for s in settings if s.section == "attention" and s.value is not None]
    if spec.attention is None:
        if given:
            raise UsageError(f"{given[-1].source}: {spec.name} has no attention to replace")
        return {}
    if not any(s.key != "name" for s in given):
        return {}
    from shared_attention import catalogue

    name = mechanism or spec.attention
    if name not in catalogue():
        raise UsageError(
            f"{given[-1].source}: {spec.name} uses its own {name}, which have no options; "
            "name a mechanism with --attention"
        )
    known = {option.name: option for option in catalogue()[name].options}
    types = {n: o.type if o.default is not None else o.type | None for n, o in known.items()}
    values = section_values(settings, "attention", types, f"the mechanism {name}")
    try:
        return {key: known[key].check(name, value) for key, value in values.items()}
    except ValueError as error:
        raise UsageError(f"attention: {error}") from error


def _plain(section: Any) -> dict[str, Any]:
    values = {}
    for f, hint in typed_fields(type(section)):
        value = getattr(section, f.name)
        values[f.name] = (
            str(value.absolute())
            if isinstance(value, Path)
            else TypeAdapter(hint).dump_python(value, mode="json")
        )
    return values
