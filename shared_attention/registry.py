"""The catalogue of mechanisms: one line to register one."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType

from shared_attention.errors import nearest
from shared_attention.spec import MechanismSpec

ENTRY_POINTS = "shared_attention.mechanisms"
"""Third parties register `name = "package.module:SPEC"` under this group."""

BUILT_IN = (
    "softmax",
    "window",
    "linear",
)
"""Modules of `shared_attention.mechanisms`, each with a `SPEC`, in listing order."""

_specs: dict[str, MechanismSpec] = {}


def catalogue() -> Mapping[str, MechanismSpec]:
    """Return every mechanism by name: the built-in ones first, then installed third parties'.

    Raises:
        ValueError: An installed package registers something that is not a spec, or a name
            that is taken.
    """
    if not _specs:
        _specs.update(_load())
    return MappingProxyType(_specs)


def find(name: str) -> MechanismSpec:
    """Return the spec of a mechanism.

    Raises:
        ValueError: There is no mechanism of that name.
    """
    specs = catalogue()
    if name not in specs:
        raise ValueError(f"no attention mechanism {name!r}{nearest(name, list(specs))}")
    return specs[name]


def _load() -> dict[str, MechanismSpec]:
    specs: dict[str, MechanismSpec] = {}
    for name in BUILT_IN:
        specs[name] = importlib.import_module(f"shared_attention.mechanisms.{name}").SPEC
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        spec = entry.load()
        if not isinstance(spec, MechanismSpec) or spec.name != entry.name:
            raise ValueError(
                f"entry point {entry.name} = {entry.value} of group {ENTRY_POINTS}: "
                f"expected a MechanismSpec named {entry.name!r}, got {spec!r}"
            )
        if entry.name in specs:
            raise ValueError(
                f"entry point {entry.name} = {entry.value} of group {ENTRY_POINTS}: "
                "a mechanism of that name exists already; rename it"
            )
        specs[entry.name] = spec
    return specs
