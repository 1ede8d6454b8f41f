"""From the path of a configuration to the cases of a data set, whatever the layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from domains.medical.data.case import Case, DataSet
from domains.medical.data.config import DataConfig
from domains.medical.data.decathlon import lists_files, read_decathlon
from domains.medical.data.declaration import NAME
from domains.medical.data.files import grid_of, is_picture
from domains.medical.data.findings import Found, problem, problem_of
from domains.medical.data.images import read_images
from domains.medical.data.label_values import infer_labels
from domains.medical.data.manifest import read_manifest
from domains.medical.data.nnunet import read_nnunet
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError

MANIFEST = "manifest.csv"


def read_data_set(config: DataConfig) -> tuple[DataSet, list[Problem]]:
    """Return the cases that `config.path` holds, and everything wrong with how they are listed.

    Nothing is raised for bad data: a case with an error is left out, and a path that holds
    nothing gives a data set without cases. Voxels are only read where classes are not declared:
    then label files are, for their values. `check` looks into the files.
    """
    path = config.path
    try:
        layout = layout_of(path) if config.layout == "auto" else config.layout
        found = _read(path, layout, config.fold)
        return _complete(found), found.problems
    except (DataError, OSError) as error:
        if isinstance(error, OSError):
            return _empty(), [problem_of(error, path)]
        what, _, remedy = str(error).removeprefix(f"{path}: ").partition("; ")
        return _empty(), [problem("error", path, what, remedy)]


def layout_of(path: Path) -> str:
    """Return the layout of a path: `nnunet`, `decathlon`, `manifest` or `images`.

    Raises:
        DataError: there is nothing, or nothing of the kind.
    """
    if path.name == NAME and path.is_file():
        path = path.parent
    if path.is_file():
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return "manifest"
        raise DataError(f"{path}: is one file; give a folder, or a CSV manifest")
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; give the path of a data set")
    if (path / NAME).exists():
        return "decathlon" if lists_files(path) else "nnunet"
    if (path / "imagesTr").exists() or (path / "imagesTs").exists():
        return "nnunet"
    return "manifest" if (path / MANIFEST).is_file() else "images"


def _read(path: Path, layout: str, fold: int) -> Found:
    if layout == "manifest":
        return read_manifest(path / MANIFEST if path.is_dir() else path)
    root = path.parent if path.is_file() else path
    if not root.is_dir():
        raise DataError(f"{path}: no such folder; give the folder of a data set")
    if layout == "nnunet":
        return read_nnunet(root, fold)
    return read_decathlon(root) if layout == "decathlon" else read_images(root)


def _complete(found: Found) -> DataSet:
    """Return the data set, with what nothing declared taken from the files."""
    found.cases.sort(key=lambda case: case.id)
    labelled = any(case.label is not None for case in found.cases)
    if found.values is None and labelled:
        infer_labels(found.cases, found)
    dims, channels = _of_files(found.cases)
    return DataSet(
        cases=tuple(found.cases),
        channels=found.channels or channels,
        labels=found.labels or {"background": 0},
        values=found.values or (0,),
        spatial_dims=dims,
        targets=found.targets,
    )


def _of_files(cases: Sequence[Case]) -> tuple[int, tuple[str, ...]]:
    """Return the axes, and the names of the channels by what the first images hold."""
    pictures = [case.images[0] for case in cases if is_picture(case.images[0])]
    if pictures:
        return 2, ("red", "green", "blue") if any(map(_colour, pictures)) else ("grey",)
    for case in cases:
        try:
            grid, channels, modality = grid_of(case.images[0])
        except (DataError, OSError):
            continue
        slices = len(grid.shape) == 3 and grid.shape.count(1) == 1
        if len(case.images) > 1:
            channels = len(case.images)
        names = tuple(f"channel_{place}" for place in range(channels))
        return 2 if slices else len(grid.shape), names if channels > 1 else (modality or "image",)
    return 3, ("image",)


def _colour(path: Path) -> bool:
    try:
        return grid_of(path)[1] == 3
    except (DataError, OSError):
        return False


def _empty() -> DataSet:
    return DataSet((), (), {"background": 0}, (0,), 3)
