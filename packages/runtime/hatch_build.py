"""Builds a distribution from source that lies at the top of the checkout.

The same file serves every package of this folder. `sources` in the package's pyproject.toml names
what the distribution holds. Sdists, and wheels built from them, ask for the sibling packages by
version; a wheel built straight from the checkout asks for them by path, so that no index is
needed; an editable install puts the checkout on the path and asks for what the siblings need.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SIBLING = "heed-"
SUFFIXES = {".py", ".html", ".css", ".json", ".typed"}


class CheckoutHook(BuildHookInterface):
    """Adds the source files, and names siblings by what the build starts from."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before a build; `version` is `standard` or `editable`."""
        package = Path(self.root)
        unpacked = (package / "PKG-INFO").is_file()
        editable = version == "editable"
        if self.target_name == "wheel" and not editable:
            base = package if unpacked else package.parents[1]
            build_data["force_include"].update(source_files(base, self.config["sources"]))
        elif self.target_name == "sdist" and not unpacked:
            build_data["force_include"].update(
                source_files(package.parents[1], self.config["sources"])
            )
        if self.target_name == "wheel" and not unpacked:
            resolve = third_party_of if editable else by_path
            needs = self.metadata.core.dependencies
            needs[:] = dict.fromkeys(new for old in needs for new in resolve(old, package))


def source_files(base: Path, sources: list[str]) -> dict[str, str]:
    """Map each file to ship to its place in the archive.

    Raises:
        FileNotFoundError: A source folder holds nothing to ship.
    """
    found: dict[str, str] = {}
    for source in sources:
        files = [path for path in sorted((base / source).rglob("*")) if path.suffix in SUFFIXES]
        if not files:
            raise FileNotFoundError(f"no source under {base / source}: build from a whole checkout")
        found |= {str(path): path.relative_to(base).as_posix() for path in files}
    return found


def by_path(requirement: str, package: Path) -> list[str]:
    """Name a sibling by its folder; leave other requirements as they are."""
    if not requirement.startswith(SIBLING):
        return [requirement]
    name = requirement.split("==")[0]
    return [f"{name} @ {sibling_of(package, name).as_uri()}"]


def third_party_of(requirement: str, package: Path) -> list[str]:
    """Replace a sibling by what it needs from outside this repository."""
    if not requirement.startswith(SIBLING):
        return [requirement]
    folder = sibling_of(package, requirement.split("==")[0])
    needs = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [need for need in needs["dependencies"] if not need.startswith(SIBLING)]


def sibling_of(package: Path, name: str) -> Path:
    """Folder of a sibling distribution."""
    return package.parent / name.removeprefix(SIBLING)
