"""The folder of a Medical Segmentation Decathlon task: `dataset.json` lists images and labels."""

from __future__ import annotations

from pathlib import Path

from domains.medical.data.case import Case
from domains.medical.data.declaration import NAME, read_declaration
from domains.medical.data.files import stem_of
from domains.medical.data.findings import BadFileError, Found
from domains.medical.data.links import inside


def read_decathlon(root: Path) -> Found:
    """Return the cases that `training` lists; several channels are in the last axis of an image.

    Images under `test` have no labels and are left out.
    """
    found = Found()
    path = root / NAME
    try:
        declared = read_declaration(path)
    except BadFileError as error:
        found.problems.append(error.problem)
        return found
    found.channels, found.labels = declared.channels, declared.labels
    found.values = declared.values
    if not declared.training:
        found.error(path, "training lists no case", "list image and label of each case")
    names: set[str] = set()
    for image, label in declared.training:
        pair = [root / image, root / label]
        name = stem_of(pair[0])
        if name in names:
            found.error(pair[0], f"{name} is listed twice", "list each case once")
        elif len(inside(root, pair, found)) == 2:
            found.cases.append(Case(name, name, (pair[0],), pair[1]))
        names.add(name)
    return found


def lists_files(root: Path) -> bool:
    """Say whether the images that `dataset.json` lists are there under the names it gives.

    nnU-Net 1 lists `case.nii.gz` where the file is `case_0000.nii.gz`.
    """
    try:
        declared = read_declaration(root / NAME)
    except BadFileError:
        return False
    return any((root / image).is_file() for image, _ in declared.training[:20])
