"""Builds the distributions once, and offers environments to install them in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.environments import PROJECTS, Environment, build, third_party


@dataclass(frozen=True)
class Built:
    """The archives of one distribution."""

    sdist: Path
    wheel: Path
    direct_wheel: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Sdist, wheel built from the sdist, and wheel built from the checkout, by distribution."""
    found = {}
    for name, project in PROJECTS.items():
        packed = tmp_path_factory.mktemp(f"{name}-packed")
        direct = tmp_path_factory.mktemp(f"{name}-direct")
        build(project, packed)
        build(project, direct, "--wheel")
        [sdist], [wheel] = packed.glob("*.tar.gz"), packed.glob("*.whl")
        [direct_wheel] = direct.glob("*.whl")
        found[name] = Built(sdist, wheel, direct_wheel)
    return found


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Environment]:
    """Make an environment for the named distributions, with extra third-party ones."""

    def make(*names: str, extra: Sequence[str] = ()) -> Environment:
        return Environment(tmp_path, [*third_party(*names), *extra])

    return make
