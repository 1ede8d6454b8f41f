"""The installed domains, found by entry point and imported when they are used."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from shared_runtime.domain import Domain

GROUP = "heed.domains"


def domains() -> dict[str, EntryPoint]:
    """Return the entry points of the installed domains by name; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP))}


def load_domain(name: str) -> Domain:
    """Import the module that holds the hooks of an installed domain."""
    return cast("Domain", importlib.import_module(domains()[name].load().domain_module))
