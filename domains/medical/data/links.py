"""Links that lead out of a data set: it could not be moved, and its files could change unseen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from domains.medical.data.findings import Found, shown

_REMEDY = "copy it into the folder, or list its real path in a CSV manifest"


def inside(root: Path, paths: Iterable[Path], found: Found) -> list[Path]:
    """Return the paths that lie under `root`, links followed; the others become errors."""
    real = root.resolve()
    return [path for path in paths if _lies_inside(real, path, found)]


def _lies_inside(real: Path, path: Path, found: Found) -> bool:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        if path.is_symlink():
            found.error(path, "a symbolic link to nothing", _REMEDY)
        else:
            found.error(path, "no such file", "add it, or correct the name")
        return False
    if not target.is_relative_to(real):
        what = f"leads out of the folder, to {shown(target)}"
        found.error(path, f"a symbolic link that {what}" if path.is_symlink() else what, _REMEDY)
        return False
    return True
