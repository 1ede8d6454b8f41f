"""What is predicted one at a time: cases of a folder, and the files that belong to one."""

from __future__ import annotations

from pathlib import Path

from domains.medical.data.case import Case
from domains.medical.data.dicom_headers import SUFFIX, dicom_files
from domains.medical.data.files import is_picture, stem_of
from domains.medical.data.findings import BadFileError
from domains.medical.data.image_names import is_mask_of
from domains.medical.data.names import by_channel, readable

_DEPTH = 6
"""Folders below the one given in which series are looked for."""


def items(folder: Path, pattern: str) -> list[Path]:
    """Return one path per case of a folder whose name matches `pattern`, sorted.

    - Files `name_0000.nii.gz`, `name_0001.nii.gz`, ... are one case, its first channel stands for
      it; other NIfTI files and pictures are a case each. Masks beside pictures are left out.
    - A folder with DICOM files, at any depth, is one case. Where the files of the folder itself
      are all of different series, each is a case.
    """
    found: list[Path] = []
    files = [path for path in readable(folder) if path.suffix.lower() != SUFFIX]
    pictures = {stem_of(path) for path in files if is_picture(path)}
    for channels in by_channel(files).values():
        path = min(channels)[1]
        mask = is_picture(path) and any(is_mask_of(stem_of(path), stem) for stem in pictures)
        if path.match(pattern) and not mask:
            found.append(path)
    series = _series(folder, 0)
    if folder in series:
        series.remove(folder)
        found += _whole_or_each(folder)
    return found + [path for path in series if path.match(pattern)]


def case_of(path: Path, channels: int) -> Case:
    """Return the case that a path of `items` stands for, with its further channels.

    Args:
        path: a file, or the folder of a DICOM series.
        channels: how many the model takes.

    Raises:
        DataError: there is no such file, a channel is missing, or there are more.
    """
    if not path.exists():
        raise BadFileError(path, "no such file or folder", "correct the path")
    if path.is_dir():
        name = path.resolve().name
        return Case(name, name, (path,))
    stem = stem_of(path)
    first = stem.endswith("_0000")
    name = stem.removesuffix("_0000")
    beside = dict(by_channel(readable(path.parent)).get(name, [])) if first else {}
    if len(beside) <= 1 and (channels == 1 or not first or is_picture(path)):
        return Case(name if beside else stem, name if beside else stem, (path,))
    for channel in range(channels):
        if channel not in beside:
            missing = path.name.replace("_0000", f"_{channel:04}")
            what = f"channel {channel} of {channels} is missing"
            raise BadFileError(path.with_name(missing), what, "add the file")
    if len(beside) > channels:
        more = beside[max(beside)]
        what = f"is channel {max(beside)} of {name}, the model takes {channels}"
        raise BadFileError(more, what, "move it away, or rename files that are cases of their own")
    return Case(name, name, tuple(beside[channel] for channel in range(channels)))


def item_files(path: Path) -> list[Path]:
    """Return the files that the case of a path of `items` is read from, sorted.

    They are the channels beside a first one, and the DICOM files of a series.
    """
    if path.is_dir():
        return dicom_files(path)
    stem = stem_of(path)
    if not stem.endswith("_0000"):
        return [path]
    beside = by_channel(readable(path.parent)).get(stem.removesuffix("_0000"), [])
    return sorted(file for _, file in beside) or [path]


def _series(folder: Path, depth: int) -> list[Path]:
    """Return the folders with DICOM files, from `folder` down."""
    found = [folder] if dicom_files(folder) else []
    if depth < _DEPTH:
        for below in sorted(folder.iterdir()):
            if below.is_dir() and not below.is_symlink() and not below.name.startswith("."):
                found += _series(below, depth + 1)
    return found


def _whole_or_each(folder: Path) -> list[Path]:
    from pydicom import dcmread

    from domains.medical.data.quiet import quiet

    files = dicom_files(folder)
    try:
        with quiet():
            series = {
                str(
                    dcmread(path, specific_tags=["SeriesInstanceUID"], force=True).get(
                        "SeriesInstanceUID", ""
                    )
                )
                for path in files
            }
    except Exception:
        return [folder]
    return files if len(series) == len(files) > 1 else [folder]
