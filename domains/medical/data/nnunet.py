"""The folder of nnU-Net: `imagesTr`, `labelsTr`, `imagesTs`, `labelsTs`, `dataset.json`.

Read from the format's documentation. What differs: `dataset.json` may be missing (classes and
channels are then taken from the files), names may lack `_0000` where there is one channel, and
label values need not be consecutive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from domains.medical.data.case import Case
from domains.medical.data.declaration import NAME, Declaration, read_declaration
from domains.medical.data.files import is_picture, stem_of
from domains.medical.data.findings import BadFileError, Found
from domains.medical.data.links import inside
from domains.medical.data.names import by_channel, readable

SPLITS = "splits_final.json"


def read_nnunet(root: Path, fold: int) -> Found:
    """Return the cases of a folder and what is wrong with the others.

    Images in `imagesTs` are the test part where `labelsTs` has their labels; the others are left
    out. Where the folder has a `splits_final.json`, its `val` cases of `fold` are the test part,
    as in nnU-Net they score it, and cases that it does not name are left out.
    """
    found = Found()
    declared = None
    if (root / NAME).exists():
        try:
            declared = read_declaration(root / NAME)
        except BadFileError as error:
            found.problems.append(error.problem)
            return found
        found.channels, found.labels = declared.channels, declared.labels
        found.values = declared.values
    _part(root, "Tr", declared, found)
    counted = declared.count if declared and not found.problems else None
    if counted is not None and len(found.cases) != counted:
        what = f"numTraining is {counted}, there are {len(found.cases)} cases"
        found.warning(root / NAME, what, "add the missing files, or correct the number")
    if (root / SPLITS).exists():
        _given(root / SPLITS, fold, found)
    _part(root, "Ts", declared, found)
    if not found.cases and not found.problems:
        found.error(root / "imagesTr", "no images", "put case_0000.nii.gz and the like there")
    return found


def _part(root: Path, part: str, declared: Declaration | None, found: Found) -> None:
    """Add the cases of `imagesTr` or `imagesTs`."""
    test = part == "Ts"
    images, labels = (
        _files(root, root / f"{kind}{part}", declared, found) for kind in ("images", "labels")
    )
    label_of: dict[str, Path] = {}
    for path in labels:
        if stem_of(path) in label_of:
            found.error(path, f"a second label of {stem_of(path)}", "keep one of the two")
        label_of[stem_of(path)] = path
    grouped = by_channel(images, label_of)
    if test:
        grouped = {name: files for name, files in grouped.items() if name in label_of}
    channels = len(declared.channels) if declared else _usual(grouped)
    names = {case.id for case in found.cases}
    for name, files in grouped.items():
        if name not in label_of:
            remedy = f"add labels{part}/{name} with the image's ending, or remove the image"
            found.error(files[0][1], f"no label for {name}", remedy)
        elif name in names:
            found.error(files[0][1], f"{name} is in imagesTr too", "keep one, or rename one")
        elif paths := _complete(root, name, files, channels, found):
            split = "test" if test else None
            found.cases.append(Case(name, name, paths, label_of[name], split))
    for name in sorted(set(label_of) - set(grouped)):
        found.error(label_of[name], f"no image for {name}", f"add it to images{part}")


def _files(root: Path, folder: Path, declared: Declaration | None, found: Found) -> Sequence[Path]:
    if not folder.is_dir():
        if folder.is_symlink():
            inside(root, [folder], found)
        elif folder.name == "imagesTr":
            found.error(folder, "no such folder", "put the images of training there")
        elif folder.name == "labelsTr":
            found.error(folder, "no such folder", "put the labels of training there")
        return ()
    if not inside(root, [folder], found):
        return ()
    paths = readable(folder)
    if declared and declared.file_ending:
        ending = declared.file_ending.lower()
        others = [path for path in paths if not path.name.lower().endswith(ending)]
        if others:
            what = f"{len(others)} of {len(paths)} files do not end in {ending}"
            what += f", such as {others[0].name}"
            found.warning(folder, what, "convert them, or correct file_ending")
        paths = [path for path in paths if path.name.lower().endswith(ending)]
    return inside(root, paths, found)


def _complete(
    root: Path, name: str, files: list[tuple[int, Path]], channels: int, found: Found
) -> tuple[Path, ...]:
    """Return one path per channel, or one with all of them; nothing where one is wrong."""
    each: dict[int, Path] = {}
    for channel, path in files:
        if channel in each:
            found.error(path, f"a second file of {name}, beside {each[channel].name}", "keep one")
            return ()
        each[channel] = path
    if set(each) == {0} and is_picture(each[0]):
        return (each[0],)
    if missing := [channel for channel in range(channels) if channel not in each]:
        what = f"channel {', '.join(map(str, missing))} of {name} is missing"
        found.error(each[min(each)], what, f"add {name}_{missing[0]:04} beside it")
        return ()
    if max(each) >= channels:
        what = f"channel {max(each)} of {name}, {channels} are declared"
        found.error(each[max(each)], what, "name it in channel_names, or remove the file")
        return ()
    return tuple(each[channel] for channel in range(channels))


def _usual(grouped: Mapping[str, list[tuple[int, Path]]]) -> int:
    return max((channel + 1 for files in grouped.values() for channel, _ in files), default=1)


def _given(path: Path, fold: int, found: Found) -> None:
    """Take the parts of one fold of `splits_final.json`."""
    try:
        folds = json.loads(path.read_text(encoding="utf-8-sig"))
        chosen = folds[fold]
        train, test = set(chosen["train"]), set(chosen["val"])
    except (ValueError, KeyError, IndexError, TypeError, OSError, RecursionError):
        what = f"has no fold {fold} with train and val"
        found.error(path, what, "set data.fold to one it has, or remove the file")
        return
    known = {case.id for case in found.cases}
    if both := sorted(train & test):
        found.error(path, f"{both[0]} is in train and val of fold {fold}", "take it out of one")
        return
    if unknown := sorted(str(name) for name in (train | test) - known):
        what = f"{len(unknown)} of its cases are not there, such as {unknown[0]}"
        found.warning(path, what, "add them")
    if left := sorted(known - train - test):
        what = f"{len(left)} of {len(known)} cases are in no part of fold {fold}"
        found.warning(
            path, f"{what}, such as {left[0]}: left out", "add them to a part, or remove the file"
        )
    found.cases = [
        Case(case.id, case.patient, case.images, case.label, "test" if case.id in test else None)
        for case in found.cases
        if case.id in train | test
    ]
