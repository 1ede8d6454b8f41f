"""Names of files: which channel of which case they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from domains.medical.data.files import READABLE, stem_of

MOST_CHANNELS = 16
"""More files than that with one name and four digits are cases, not channels."""
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def readable(folder: Path) -> list[Path]:
    """Return the files of a folder that are named as images, hidden ones left out, sorted."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".") and path.name.lower().endswith(READABLE)
        if not path.is_dir()
    ]


def by_channel(paths: Iterable[Path], ids: Iterable[str] = ()) -> dict[str, list[tuple[int, Path]]]:
    """Return the files of each case by its name, as `(channel, path)`.

    `name_0000`, `name_0001`, ... are the channels of `name`, unless `ids` has their whole names,
    or there is no `name_0000` or there are too many: then, as without four digits, every file is
    a case.

    Args:
        paths: files of one folder.
        ids: cases that are known, as by their labels.
    """
    known = set(ids)
    whole: dict[str, list[tuple[int, Path]]] = {}
    parts: dict[str, list[tuple[int, Path]]] = {}
    for path in paths:
        stem = stem_of(path)
        named = _CHANNEL.fullmatch(stem)
        if named is None or (stem in known and named[1] not in known):
            whole.setdefault(stem, []).append((0, path))
        else:
            parts.setdefault(named[1], []).append((int(named[2]), path))
    for name, channels in parts.items():
        numbers = {channel for channel, _ in channels}
        if name in known or (0 in numbers and len(numbers) <= MOST_CHANNELS):
            whole.setdefault(name, []).extend(channels)
        else:
            for _, path in channels:
                whole.setdefault(stem_of(path), []).append((0, path))
    return dict(sorted(whole.items()))
