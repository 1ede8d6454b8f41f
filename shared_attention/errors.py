"""The error for what a mechanism cannot do, and help with misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UnsupportedError(ValueError):
    """A mechanism or backend was asked for something it cannot honour."""


def unsupported(mechanism: str, capability: str, what: str) -> UnsupportedError:
    """Build the error for a missing capability, naming the mechanisms that have it.

    Args:
        mechanism: Name of the mechanism that was asked.
        capability: Capability that is missing, such as `dense_mask`.
        what: What was asked for, in the caller's words, such as "a document mask".
    """
    from shared_attention.registry import catalogue

    able = [spec.name for spec in catalogue().values() if spec.supports(capability)]
    return UnsupportedError(
        f"{mechanism} cannot honour {what}: it lacks the capability {capability}; "
        f"mechanisms that have it: {_listed(able)}"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the end of a sentence that says which of `names` may have been meant."""
    if not names:
        return "; it has none"
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(names)}"
