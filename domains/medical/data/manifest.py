"""CSV manifests: a row per case, with the paths of its files."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from domains.medical.data.case import Case
from domains.medical.data.files import stem_of
from domains.medical.data.findings import BadFileError, Found, reason
from domains.medical.data.image_names import part_of

_KNOWN = ("image", "label", "patient", "split", "target", "id")


def read_manifest(path: Path) -> Found:
    """Return the cases of a table.

    Columns: `image` (a file, or the folder of a DICOM series), or one `image_<channel>` for each
    channel, which names it; `label`, `patient` (default: each case its own), `split` (train, val
    or test), `target` (class of the whole image), `id` (default: the image's name). Others are
    left alone. Paths are relative to the table or absolute; commas, semicolons or tabs separate.
    """
    found = Found()
    try:
        rows = _rows(path)
    except BadFileError as error:
        found.problems.append(error.problem)
        return found
    header = rows[0][1] if rows else []
    channels = [name for name in header if name == "image" or name.startswith("image_")]
    if not _usable(path, header, channels, found):
        return found
    names: dict[str, int] = {}
    for line, cells in rows[1:]:
        where = f"{path}: line {line}"
        if len(cells) != len(header):
            what = f"{len(cells)} cells, the header has {len(header)}"
            found.error(where, what, "correct the row; quote cells that hold a separator")
            continue
        case = _case(path, where, dict(zip(header, cells, strict=True)), channels, found)
        if case is None:
            continue
        if case.id in names:
            what = f"id {case.id} is in line {names[case.id]} too"
            found.error(where, what, "give each case its own id")
            continue
        names[case.id] = line
        found.cases.append(case)
    if not found.cases and not found.problems:
        found.error(path, "no rows below the header", "add a row per case")
    _require_all(path, found)
    if channels != ["image"]:
        found.channels = tuple(name.removeprefix("image_") for name in channels)
    found.targets = tuple(sorted({case.target for case in found.cases if case.target}))
    return found


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines that are not blank, with their numbers, cells stripped."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            separator = max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=separator, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise BadFileError(path, "no such file", "correct the path") from None
    except (OSError, ValueError, csv.Error) as error:
        what = f"is no CSV table in UTF-8 ({reason(error)})"
        raise BadFileError(path, what, "save it as CSV in UTF-8") from error
    return [(line, cells) for line, cells in rows if any(cells)]


def _usable(path: Path, header: list[str], channels: list[str], found: Found) -> bool:
    if not channels or ("image" in channels and len(channels) > 1) or "image_" in channels:
        named = ", ".join(header[:8]) or "nothing"
        what = f"columns {named}: neither image nor image_<channel> alone"
        found.error(path, what, "name the column of the images image, or one image_<channel> each")
        return False
    double = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
    for name in double:
        found.error(path, f"column {name} is there twice", "rename or remove one")
    for name in set(header) - {*_KNOWN, *channels}:
        near = difflib.get_close_matches(name.lower(), _KNOWN[1:], n=1, cutoff=0.8)
        if near and near[0] not in header:
            found.warning(path, f"column {name} is not used", f"rename it {near[0]} if it is that")
    return not double


def _case(
    path: Path, where: str, row: Mapping[str, str], channels: list[str], found: Found
) -> Case | None:
    wrong = len(found.problems)
    files = {}
    for name in (*channels, "label"):
        value = row.get(name, "")
        if not value:
            if name != "label":
                found.error(where, f"{name} is empty", "give a path")
            continue
        files[name] = path.parent / value
        if "\0" in value or not os.path.exists(files[name]):
            found.error(where, f"{name} {value} does not exist", f"correct it; {_relative(path)}")
        elif name == "label" and files[name].is_dir():
            found.error(where, f"label {value} is a folder", "give a file")
    split = row.get("split", "").lower()
    part = part_of(split) if split else None
    if split and part is None:
        found.error(where, f"split {row['split']}", "expected train, val, test or nothing")
    if {"/", "\\", "\0"} & set(row.get("id", "")) or row.get("id", "").startswith("."):
        found.error(where, f"id {row['id']!r} is no file name", "give plain names: files get them")
    if len(found.problems) > wrong:
        return None
    images = tuple(files[name] for name in channels)
    name = row.get("id") or stem_of(images[0])
    return Case(
        id=name,
        patient=row.get("patient") or name,
        images=images,
        label=files.get("label"),
        split=part,
        target=row.get("target") or None,
    )


def _relative(path: Path) -> str:
    return f"paths are relative to {path.parent.name or 'the table'}"


def _require_all(path: Path, found: Found) -> None:
    """Report cases without what others have: a label, a patient's part, a class."""
    for name in ("label", "target"):
        without = [case.id for case in found.cases if getattr(case, name) is None]
        if without and len(without) < len(found.cases):
            what = f"{len(without)} rows without {name}, such as {without[0]}, others have one"
            found.error(path, what, f"give each row its {name}, or remove it")
    if found.cases and all(case.label is None and case.target is None for case in found.cases):
        found.error(path, "neither label nor target in any row", "add the column of one of them")
