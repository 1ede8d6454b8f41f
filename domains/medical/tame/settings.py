"""The `tame.*` settings of a command line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from domains.medical.tame.training import TameConfig
from shared_runtime.errors import UsageError

_PREFIX = "tame."


def tame_settings(sets: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the maps that are given, and the pairs of other sections.

    Args:
        sets: `key=value` strings.

    Raises:
        UsageError: a key is unknown, or a value is of another type or out of range.
    """
    defaults = {each.name: each.default for each in fields(TameConfig)}
    values: dict[str, Any] = {}
    others = []
    for pair in sets:
        if not pair.startswith(_PREFIX):
            others.append(pair)
            continue
        key, separator, text = pair.removeprefix(_PREFIX).partition("=")
        if not separator or key not in defaults:
            near = difflib.get_close_matches(key, defaults, n=1)
            hint = f"; did you mean tame.{near[0]}?" if near else f"; known: {', '.join(defaults)}"
            raise UsageError(f"--set {pair}: unknown setting{hint}")
        values[key] = _value(pair, text, defaults[key])
    TameConfig(**values)
    return values, others


def _value(pair: str, text: str, default: object) -> object:
    if isinstance(default, tuple):
        return tuple(name.strip() for name in text.split(",") if name.strip())
    kind = type(default)
    try:
        return kind(text)  # type: ignore[call-arg]
    except ValueError:
        name = "a whole number" if kind is int else "a number"
        raise UsageError(f"--set {pair}: expected {name}, got {text!r}") from None
