"""The root project and the packages say the same things about the same source."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent for path in CHECKOUT.glob("packages/*/pyproject.toml"))
DOMAINS = [package for package in PACKAGES if package.name not in ("core", "runtime")]
SIBLING = "heed-"
FIRST_PARTY = {"shared_attention", "shared_runtime", "domains"}


def pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def project(folder: Path) -> dict[str, Any]:
    return pyproject(folder)["project"]


def third_party(package: Path) -> set[str]:
    return {need for need in project(package)["dependencies"] if not need.startswith(SIBLING)}


SHARED_NEEDS = {
    need for name in ("core", "runtime") for need in third_party(CHECKOUT / "packages" / name)
}


def distribution(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def flat(extras: dict[str, list[str]]) -> list[str]:
    return [need for needs in extras.values() for need in needs]


def imported_distributions(source: Path) -> set[str]:
    """Distributions that the modules under `source` import, those for type checkers left out."""
    modules: set[str] = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    owners = packages_distributions()
    outside = modules - sys.stdlib_module_names - FIRST_PARTY
    return {owners.get(module, [module])[0].lower().replace("_", "-") for module in outside}


def test_there_are_packages_to_check():
    assert {"core", "runtime", "forecasting"} <= {package.name for package in PACKAGES}


def test_domains_is_a_namespace():
    found = CHECKOUT / "domains" / "__init__.py"
    assert not found.exists(), f"{found} would hide every domain installed elsewhere"


def test_every_package_builds_with_the_same_hook():
    hooks = {(package / "hatch_build.py").read_bytes() for package in PACKAGES}
    assert len(hooks) == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_versions_move_in_lock_step(package):
    version = project(CHECKOUT)["version"]
    assert project(package)["version"] == version
    siblings = [need for need in project(package)["dependencies"] if need.startswith(SIBLING)]
    names = {f"{SIBLING}{other.name}=={version}" for other in PACKAGES}
    assert set(siblings) <= names


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_licence_and_python_are_those_of_the_project(package):
    assert (package / "LICENSE").read_bytes() == (CHECKOUT / "LICENSE").read_bytes()
    for key in ("license", "license-files", "requires-python"):
        assert project(package)[key] == project(CHECKOUT)[key], key


def test_the_project_needs_what_the_core_and_the_runtime_need():
    assert set(project(CHECKOUT)["dependencies"]) == SHARED_NEEDS


@pytest.mark.parametrize("package", DOMAINS, ids=lambda path: path.name)
def test_a_domain_has_an_extra_with_the_needs_of_its_package(package):
    extras = project(CHECKOUT)["optional-dependencies"]
    assert set(extras[package.name]) == third_party(package) - SHARED_NEEDS
    assert package.name in re.split(r"[\[\],]", extras["all"][0])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_an_extra_of_a_package_is_that_of_the_project(package):
    extras = project(CHECKOUT)["optional-dependencies"]
    for name, needs in project(package).get("optional-dependencies", {}).items():
        assert needs == extras[name], name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_commands_and_entry_points_are_those_of_the_project(package):
    root, own = project(CHECKOUT), project(package)
    assert own.get("scripts", {}).items() <= root["scripts"].items()
    for group, points in own.get("entry-points", {}).items():
        assert points.items() <= root["entry-points"][group].items()


def test_every_command_of_the_project_belongs_to_a_package():
    owned = {name for package in PACKAGES for name in project(package).get("scripts", {})}
    assert owned == set(project(CHECKOUT)["scripts"])


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_names_what_its_source_imports(package):
    own = project(package)
    declared = [*own["dependencies"], *flat(own.get("optional-dependencies", {}))]
    [source] = pyproject(package)["tool"]["hatch"]["build"]["hooks"]["custom"]["sources"]
    assert imported_distributions(CHECKOUT / source) <= set(map(distribution, declared))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_is_typed_and_tells_what_it_is(package):
    [source] = pyproject(package)["tool"]["hatch"]["build"]["hooks"]["custom"]["sources"]
    assert (CHECKOUT / source / "py.typed").is_file()
    assert (package / "README.md").read_text(encoding="utf-8").startswith(f"# heed-{package.name}")


def test_constraints_name_versions_only():
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {distribution(line) for line in lines}
    root = project(CHECKOUT)
    wanted = [*root["dependencies"], *flat(root["optional-dependencies"])]
    assert set(map(distribution, wanted)) - {"heed"} <= pinned
