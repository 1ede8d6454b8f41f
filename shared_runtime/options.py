"""The configuration of a run: one typed tree from defaults, a YAML file, flags and `--set`."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from shared_runtime.errors import HeedError, UsageError
from shared_runtime.training_config import TrainingConfig

if TYPE_CHECKING:
    from shared_runtime.domain import Domain, ModelSpec

Device = Literal["auto", "cpu", "cuda"]
SECTIONS = ("data", "model", "attention", "training")
TOP: Mapping[str, Any] = {"domain": str, "seed": int, "device": Device}
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


@dataclass(frozen=True)
class Setting:
    """One key with the place it was written, for error messages and relative paths."""

    section: str
    key: str
    value: Any
    source: str
    folder: Path | None = None

    @property
    def dotted(self) -> str:
        """The key as a user writes it."""
        return f"{self.section}.{self.key}" if self.section else self.key


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
    settings = _gather(domain, config, flags, sets)
    top = {s.key: _typed(TOP[s.key], s) for s in settings if not s.section}
    for setting in settings:
        if setting.dotted == "domain" and setting.value != domain.NAME:
            message = f"is for the domain {setting.value}, not {domain.NAME}"
            raise UsageError(f"{setting.source}: {message}")
    spec = find_model(domain, _name(settings, "model") or domain.DEFAULT_MODEL)
    mechanism = _name(settings, "attention")
    if mechanism is not None:
        mechanism = find_mechanism(mechanism)
    training = _dataclass(domain.Training, "training", settings, spec.training)
    return RunConfig(
        domain=domain.NAME,
        seed=top.get("seed", 0),
        device=top.get("device", "auto"),
        data=_dataclass(domain.DataConfig, "data", settings, {}),
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
    return _dataclass(domain.DataConfig, "data", _gather(domain, config, flags, sets), {})


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


def unknown(what: str, given: str, valid: Iterable[str]) -> str:
    """Say that a name is unknown, what is nearest and what there is."""
    names = list(valid)
    lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), list(lower), n=1, cutoff=0.5)
    hint = f"; did you mean {lower[near[0]]}?" if near else ";"
    return f"unknown {what} {given!r}{hint} valid: {', '.join(names) or 'none'}"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping without tags.

    Raises:
        UsageError: The file is missing, is not YAML or does not hold a mapping.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: expected a mapping of sections, got {type(tree).__name__}")
    return tree


def _gather(
    domain: Domain,
    config: Path | None,
    flags: Mapping[str, Any] | None,
    sets: Sequence[str],
) -> list[Setting]:
    from_file = list(_from_tree(read_yaml(config), config)) if config else []
    from_flags = [
        _setting(key, value, f"--{key.rpartition('.')[2]}" if "." in key else f"--{key}")
        for key, value in (flags or {}).items()
        if value is not None
    ]
    settings: list[Setting] = []
    for source in (from_file, from_flags, [_from_pair(pair) for pair in sets]):
        for section in ("model", "attention"):
            before, now = _name(settings, section), _name(source, section)
            if now is not None and before is not None and now.lower() != before.lower():
                settings = [s for s in settings if s.section != section]
        settings += source
    return settings


def _from_tree(tree: Mapping[str, Any], path: Path) -> Iterable[Setting]:
    folder = path.resolve().parent
    for key, value in tree.items():
        if key in SECTIONS and isinstance(value, dict):
            for name, item in value.items():
                yield Setting(key, str(name), item, str(path), folder)
        elif key in SECTIONS and value is not None:
            raise UsageError(f"{path}: {key}: expected a mapping, got {value!r}")
        elif key not in SECTIONS:
            yield _setting(str(key), value, str(path))


def _from_pair(pair: str) -> Setting:
    key, equals, text = pair.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {pair}: expected key=value, such as training.epochs=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {pair}: {text!r} is not a YAML value") from error
    return _setting(key.strip(), value, f"--set {pair}")


def _setting(dotted: str, value: Any, source: str) -> Setting:
    section, dot, key = dotted.partition(".")
    if dot and section in SECTIONS:
        return Setting(section, key, value, source)
    if not dot and section in TOP:
        return Setting("", section, value, source)
    valid = [*TOP, *(f"{name}.KEY" for name in SECTIONS)]
    raise UsageError(f"{source}: {unknown('key', dotted, valid)}")


def _name(settings: Sequence[Setting], section: str) -> str | None:
    found = [s for s in settings if s.section == section and s.key == "name"]
    if not found or found[-1].value is None:
        return None
    return str(_typed(str, found[-1]))


def _section(
    settings: Sequence[Setting], section: str, types: Mapping[str, Any], what: str
) -> dict[str, Any]:
    values = {}
    for setting in settings:
        if setting.section != section or (setting.key == "name" and "name" not in types):
            continue
        if setting.key not in types:
            message = unknown(f"key of {what}", setting.dotted, [f"{section}.{n}" for n in types])
            raise UsageError(f"{setting.source}: {message}")
        values[setting.key] = _typed(types[setting.key], setting)
    return values


def _dataclass(
    cls: type, section: str, settings: Sequence[Setting], defaults: Mapping[str, Any]
) -> Any:
    types = {f.name: hint for f, hint in _fields(cls)}
    values = {**defaults, **_section(settings, section, types, section)}
    for f, _ in _fields(cls):
        optional = f.default is not dataclasses.MISSING or (
            f.default_factory is not dataclasses.MISSING
        )
        if not optional and f.name not in values:
            flag = " or --data PATH" if (section, f.name) == ("data", "path") else ""
            raise UsageError(
                f"{section}.{f.name} is needed: give --set {section}.{f.name}=...{flag}"
            )
    try:
        return cls(**values)
    except HeedError:
        raise
    except ValueError as error:
        raise UsageError(f"{section}: {error}") from error


def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls) if f.init]


def _model_options(spec: ModelSpec, settings: Sequence[Setting]) -> dict[str, Any]:
    types = {name: argument.type for name, argument in model_arguments(spec).items()}
    return _section(settings, "model", types, spec.name)


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
    known = {option.name: option for option in catalogue()[name].options}
    types = {n: o.type if o.default is not None else o.type | None for n, o in known.items()}
    values = _section(settings, "attention", types, f"the mechanism {name}")
    try:
        return {key: known[key].check(name, value) for key, value in values.items()}
    except ValueError as error:
        raise UsageError(f"attention: {error}") from error


def _typed(kind: Any, setting: Setting) -> Any:
    """Convert strictly, as JSON would: 3 is a float, "abc" and true are no integers."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
    except PydanticSchemaGenerationError as error:
        raise UsageError(f"{setting.source}: {setting.dotted} cannot be set by name") from error
    try:
        value = adapter.validate_json(json.dumps(setting.value, default=str), strict=True)
    except ValidationError as strict:
        # YAML 1.1 reads 1e-4 as text; text that is a number is taken as one.
        if not isinstance(setting.value, str):
            raise _wrong(kind, setting, strict) from strict
        try:
            value = adapter.validate_strings(setting.value)
        except ValidationError as error:
            raise _wrong(kind, setting, error) from error
    if isinstance(value, Path) and setting.folder is not None:
        return setting.folder / value
    return value


def _wrong(kind: Any, setting: Setting, error: ValidationError) -> UsageError:
    expected = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
    detail = error.errors(include_url=False)[0]["msg"]
    return UsageError(
        f"{setting.source}: {setting.dotted}: expected {expected}, got {setting.value!r} ({detail})"
    )


def _plain(section: Any) -> dict[str, Any]:
    values = {}
    for f, hint in _fields(type(section)):
        value = getattr(section, f.name)
        values[f.name] = (
            str(value.absolute())
            if isinstance(value, Path)
            else TypeAdapter(hint).dump_python(value, mode="json")
        )
    return values
