"""Environments that hold only what a distribution needs, and commands that see no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import distribution as installed
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]
PROJECTS = {
    "heed": CHECKOUT,
    "heed-core": CHECKOUT / "packages" / "core",
    "heed-runtime": CHECKOUT / "packages" / "runtime",
    "heed-finance": CHECKOUT / "packages" / "finance",
    "heed-forecasting": CHECKOUT / "packages" / "forecasting",
    "heed-medical": CHECKOUT / "packages" / "medical",
}


def run(*command: str | Path, cwd: Path, expect: int = 0) -> str:
    """Run a command that sees nothing of the checkout; returns its output, both streams."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == expect, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def build(project: Path, out: Path, *options: str) -> None:
    run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", out, *options, project, cwd=out
    )


def closure(requirements: Sequence[str]) -> set[str]:
    """Names of the installed distributions that these requirements lead to, theirs included."""
    found: set[str] = set()
    open_ends = [Requirement(text) for text in requirements]
    seen: set[str] = set()
    while open_ends:
        need = open_ends.pop()
        if str(need) in seen:
            continue
        seen.add(str(need))
        try:
            needs = installed(need.name).requires or []
        except PackageNotFoundError:
            continue
        found.add(need.name)
        for text in needs:
            candidate = Requirement(text)
            extras = need.extras or {""}
            marker = candidate.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                open_ends.append(candidate)
    return found


def link_distributions(names: set[str], folder: Path) -> None:
    """Link the files of installed distributions into a folder, by their top-level entries."""
    folder.mkdir()
    for name in sorted(names):
        found = installed(name)
        site = Path(str(found.locate_file("")))
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] != ".."}:
            link = folder / top
            if (site / top).exists() and not link.exists():
                link.symlink_to(site / top)


class Environment:
    """A virtual environment with the named third-party distributions and nothing of Heed."""

    def __init__(self, root: Path, requirements: Sequence[str]) -> None:
        venv.create(root / "env", with_pip=False, symlinks=True)
        self.bin = root / "env" / "bin"
        self.elsewhere = root / "elsewhere"
        self.elsewhere.mkdir()
        link_distributions(closure(requirements), root / "third_party")
        [site] = (root / "env" / "lib").glob("python*/site-packages")
        (site / "third_party.pth").write_text(f"{root / 'third_party'}\n")

    def pip(self, *arguments: str | Path) -> str:
        quiet = ("--no-input", "--disable-pip-version-check", "--python", self.bin / "python")
        return run(sys.executable, "-m", "pip", *quiet, *arguments, cwd=self.elsewhere)

    def install(self, *targets: str | Path) -> str:
        return self.pip("install", "--no-index", "--no-build-isolation", *targets)

    def python(self, code: str, expect: int = 0) -> str:
        return run(self.bin / "python", "-c", code, cwd=self.elsewhere, expect=expect)

    def command(self, name: str, *arguments: str | Path, expect: int = 0) -> str:
        return run(self.bin / name, *arguments, cwd=self.elsewhere, expect=expect)


def third_party(*names: str) -> list[str]:
    """What distributions of this repository need from outside it."""
    needs: list[str] = []
    for name in names:
        text = (PROJECTS[name] / "pyproject.toml").read_text(encoding="utf-8")
        declared = tomllib.loads(text)["project"]["dependencies"]
        needs += [need for need in declared if not need.startswith("heed-")]
    return needs
