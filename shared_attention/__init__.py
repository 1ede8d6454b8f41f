"""Attention mechanisms that never drop a mask, fall back in silence or leak the future."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared_attention import explain, masks
    from shared_attention.dispatch import attention, attention_output, explain_dispatch
    from shared_attention.errors import UnsupportedError
    from shared_attention.registry import catalogue
    from shared_attention.result import AttentionOutput
    from shared_attention.spec import Backend, Capabilities, MechanismSpec, Option
    from shared_attention.swapping import swap

__all__ = [
    "AttentionOutput",
    "Backend",
    "Capabilities",
    "MechanismSpec",
    "Option",
    "UnsupportedError",
    "attention",
    "attention_output",
    "catalogue",
    "explain",
    "explain_dispatch",
    "masks",
    "swap",
]

_HOMES = {
    "AttentionOutput": "result",
    "Backend": "spec",
    "Capabilities": "spec",
    "MechanismSpec": "spec",
    "Option": "spec",
    "UnsupportedError": "errors",
    "attention": "dispatch",
    "attention_output": "dispatch",
    "catalogue": "registry",
    "explain": "",
    "explain_dispatch": "dispatch",
    "masks": "",
    "swap": "swapping",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'shared_attention' has no attribute {name!r}")
    value = importlib.import_module(f"shared_attention.{home or name}")
    if home:
        value = getattr(value, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
