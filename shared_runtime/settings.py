"""Single settings of a configuration: where each was written, and its value with its type."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from shared_runtime.errors import HeedError, UsageError

Device = Literal["auto", "cpu", "cuda"]
SECTIONS = ("data", "model", "attention", "training")
TOP: Mapping[str, Any] = {"domain": str, "seed": int, "device": Device}

_log = logging.getLogger("heed.options")


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


def gather(
    config: Path | None,
    flags: Mapping[str, Any] | None,
    sets: Sequence[str],
) -> list[Setting]:
    """Return the settings of a file, of flags and of `--set`, later ones after earlier ones.

    Raises:
        UsageError: The file cannot be read, or a key is in no section.
    """
    from_file = list(_from_tree(read_yaml(config), config)) if config else []
    from_flags = [
        _setting(key, value, f"--{key.removesuffix('.name').rpartition('.')[2]}")
        for key, value in (flags or {}).items()
        if value is not None
    ]
    settings: list[Setting] = []
    for source in (from_file, from_flags, [_from_pair(pair) for pair in sets]):
        for section in ("model", "attention"):
            before, now = chosen_name(settings, section), chosen_name(source, section)
            if now is not None and before is not None and now.lower() != before.lower():
                settings = _without_options(settings, section, now)
        settings += source
    return settings


def dataclass_from(
    cls: type, section: str, settings: Sequence[Setting], defaults: Mapping[str, Any]
) -> Any:
    """Build the dataclass of a section from its settings over `defaults`.

    Raises:
        UsageError: A key is unknown, missing or of another type, or the dataclass refuses it.
    """
    types = {f.name: hint for f, hint in typed_fields(cls)}
    values = {**defaults, **section_values(settings, section, types, section)}
    for f, _ in typed_fields(cls):
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


def typed_fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Return the fields a dataclass is built from, each with its type."""
    hints = typing.get_type_hints(cls)
    return [(f, hints[f.name]) for f in dataclasses.fields(cls) if f.init]


def _without_options(settings: list[Setting], section: str, now: str) -> list[Setting]:
    options = [s for s in settings if s.section == section and s.key != "name"]
    for option in options:
        _log.warning("%s is now %s: %s no longer applies", section, now, option.dotted)
    return [s for s in settings if s.section != section]


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


def chosen_name(settings: Sequence[Setting], section: str) -> str | None:
    """Return the model or mechanism that the last setting of its section names."""
    found = [s for s in settings if s.section == section and s.key == "name"]
    if not found or found[-1].value is None:
        return None
    return str(typed(str, found[-1]))


def section_values(
    settings: Sequence[Setting], section: str, types: Mapping[str, Any], what: str
) -> dict[str, Any]:
    """Return the values of a section by key, each of its type.

    Raises:
        UsageError: A key is not in `types`, or a value has another type.
    """
    values = {}
    for setting in settings:
        if setting.section != section or (setting.key == "name" and "name" not in types):
            continue
        if setting.key not in types:
            message = unknown(f"key of {what}", setting.dotted, [f"{section}.{n}" for n in types])
            raise UsageError(f"{setting.source}: {message}")
        values[setting.key] = typed(types[setting.key], setting)
    return values


def typed(kind: Any, setting: Setting) -> Any:
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
    if typing.get_origin(kind) in (tuple, list) and not isinstance(setting.value, list):
        detail = f"write a list in brackets, such as [{setting.value}]"
    return UsageError(
        f"{setting.source}: {setting.dotted}: expected {expected}, got {setting.value!r} ({detail})"
    )


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
