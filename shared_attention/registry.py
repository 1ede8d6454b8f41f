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
    "sink_window",
    "landmark",
    "routing",
    "core_context",
    "hyper",
    "hip",
    "arrow",
    "linear",
    "prob_sparse",
    "auto_correlation",
    "flow",
    "scan",
    "log_n",
    "temp_scale",
    "selective",
    "gated",
    "clipped_softmax",
    "lssar",
    "mixture_of_heads",
    "diff_qkv",
    "based",
    "gated_linear",
    "liger",
    "neural_memory",
    "agent",
    "gn_conv",
    "hyena",
    "ninformer",
    "ponet",
    "lama",
    "plus_window",
    "position",
    "channel",
    "cross_contextual",
    "density_adaptive",
    "histogram",
    "swin_window",
    "aggregated",
    "deformable",
    "deformable_3d",
    "graph_attention",
    "hyper_zzw",
)
"""Modules of `shared_attention.mechanisms`, each with a `SPEC`, in listing order."""

_specs: dict[str, MechanismSpec] = {
    name: importlib.import_module(f"shared_attention.mechanisms.{name}").SPEC for name in BUILT_IN
}
_complete = False


def catalogue() -> Mapping[str, MechanismSpec]:
    """Return every mechanism by name: the built-in ones first, then installed third parties'.

    Raises:
        ValueError: An installed package registers something that is not a spec, or a name
            that is taken.
    """
    global _complete
    if not _complete:
        _specs.update(_third_party())
        _complete = True
    return MappingProxyType(_specs)


def find(name: str) -> MechanismSpec:
    """Return the spec of a mechanism.

    Raises:
        ValueError: There is no mechanism of that name.
    """
    if name not in _specs:
        specs = catalogue()
        if name not in specs:
            raise ValueError(f"no attention mechanism {name!r}{nearest(name, list(specs))}")
    return _specs[name]


def _third_party() -> dict[str, MechanismSpec]:
    found: dict[str, MechanismSpec] = {}
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        where = f"entry point {entry.name} = {entry.value} of group {ENTRY_POINTS}"
        spec = entry.load()
        if not isinstance(spec, MechanismSpec) or spec.name != entry.name:
            raise ValueError(
                f"{where}: expected a MechanismSpec named {entry.name!r}, got {spec!r}"
            )
        if entry.name in _specs or entry.name in found:
            raise ValueError(f"{where}: a mechanism of that name exists already; rename it")
        found[entry.name] = spec
    return found
