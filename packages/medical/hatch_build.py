"""Build one distribution from the sources at the top of the checkout.

Hatchling looks for files below the folder of the `pyproject.toml`; here they lie two folders up.
What the built distribution contains and asks for depends on where and how it is built:

- sdist from the checkout: the sources, and the other Heed distributions named by version;
- wheel from an unpacked sdist (how releases are made): the same files and requirements;
- wheel from the checkout: the sources, and the other Heed distributions named by path, so that
  `pip install ./packages/<name>` needs no index that has them;
- editable: no files (`dev-mode-dirs` puts the checkout on the path), and in place of the other
  Heed distributions, which that path already gives, whatever they themselves ask for.

The same file serves every distribution under `packages/`; a test holds that the copies agree.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

SHIPPED = {".py", ".typed", ".html", ".css"}
OURS = "heed-"


class MonorepoHook(BuildHookInterface[Any]):
    """Adds the folders listed under `sources` and rewrites requirements on sibling packages."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adjust one build: `version` is `standard` or `editable`."""
        package = Path(self.root)
        from_sdist = (package / "PKG-INFO").is_file()
        top = package if from_sdist else package.parents[1]
        already_inside = from_sdist and self.target_name == "sdist"
        if version != "editable" and not already_inside:
            build_data["force_include"].update(shipped_files(top, self.config["sources"]))
        if self.target_name == "wheel" and not from_sdist:
            rewrite = third_party if version == "editable" else by_path
            # Hatchling has no public way to replace a requirement; it reads this list when it
            # writes the metadata, after the hooks.
            requirements = self.metadata.core.dependencies
            requirements[:] = sorted(set(rewrite(requirements, package.parent)))


def shipped_files(top: Path, sources: list[str]) -> dict[str, str]:
    """Map each file to ship to its place in the distribution.

    Listed by suffix: a folder included as a whole brings what `.gitignore` keeps out.
    """
    files = {}
    for source in sources:
        found = [f for f in sorted((top / source).rglob("*")) if f.suffix in SHIPPED]
        if not found:
            raise FileNotFoundError(f"{top / source}: no source files; expected {sorted(SHIPPED)}")
        files |= {str(f): f.relative_to(top).as_posix() for f in found}
    return files


def by_path(requirements: list[str], packages: Path) -> Iterator[str]:
    """Yield the requirements, with those on siblings pointing at their folders."""
    for requirement in map(Requirement, requirements):
        if requirement.name.startswith(OURS):
            requirement.specifier = SpecifierSet()
            requirement.url = (packages / requirement.name.removeprefix(OURS)).as_uri()
        yield str(requirement)


def third_party(requirements: list[str], packages: Path) -> Iterator[str]:
    """Yield the requirements, with those on siblings replaced by what the siblings require."""
    for requirement in map(Requirement, requirements):
        if requirement.name.startswith(OURS):
            folder = packages / requirement.name.removeprefix(OURS)
            project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
            yield from third_party(project["dependencies"], packages)
        else:
            yield str(requirement)
