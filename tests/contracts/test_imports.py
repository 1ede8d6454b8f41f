"""Imports point one way, and importing a package imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "lightning",
    "pandas",
    "matplotlib",
    "sklearn",
    "scipy",
    "pyarrow",
    "torchmetrics",
    "monai",
    "nibabel",
    "pydicom",
)
DOMAINS = sorted(p.name for p in (ROOT / "domains").iterdir() if any(p.glob("*.py")))
PARTS = ["shared_attention", "shared_runtime", *(f"domains.{name}" for name in DOMAINS)]


def imported_modules(source: str, package: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], base]).strip(".")
            found.update({base, *(f"{base}.{alias.name}" for alias in node.names)})
    return found


def forbidden(part: str, module: str) -> bool:
    names = module.split(".")
    if part == "shared_attention":
        return names[0] in ("shared_runtime", "domains")
    if part == "shared_runtime":
        return names[0] == "domains"
    return names[0] == "domains" and len(names) > 1 and f"domains.{names[1]}" != part


def violations(part: str, source: str, package: str) -> set[str]:
    return {name for name in imported_modules(source, package) if forbidden(part, name)}


@pytest.mark.parametrize("part", PARTS)
def test_imports_point_one_way(part: str) -> None:
    folder = ROOT.joinpath(*part.split("."))
    found = {}
    for file in sorted(folder.rglob("*.py")):
        package = ".".join(file.relative_to(ROOT).parent.parts)
        if bad := violations(part, file.read_text("utf-8"), package):
            found[str(file.relative_to(ROOT))] = sorted(bad)
    assert not found


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("shared_attention", "import shared_runtime.errors"),
        ("shared_attention", "def f():\n    from shared_runtime import fit"),
        ("shared_runtime", "from domains.forecasting import Informer"),
        ("domains.medical", "from domains import forecasting"),
        ("domains.medical", "from ..forecasting import data"),
    ],
)
def test_the_scan_sees_planted_violations(part: str, source: str) -> None:
    assert violations(part, source, part)


def test_the_scan_allows_what_is_allowed() -> None:
    source = "import torch\nfrom shared_runtime.errors import HeedError\nfrom . import models"
    assert not violations("domains.medical", source, "domains.medical")


@pytest.mark.parametrize("part", PARTS)
def test_importing_a_package_imports_nothing_heavy(part: str) -> None:
    code = f"import sys, {part}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_domains_is_a_namespace_package() -> None:
    assert not (ROOT / "domains" / "__init__.py").exists()
