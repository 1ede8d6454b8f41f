"""From a data set with a class for each image to arrays that a model is trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np

from domains.medical.data.case import Case, DataSet, Scan
from domains.medical.data.config import DataConfig
from domains.medical.data.splits import Parts
from domains.medical.retrieval.data import RetrievalImages, resized, resized_mask
from shared_runtime.domain import Prepared
from shared_runtime.errors import DataError

_SIZES = {2: (128, 128), 3: (48, 48, 48)}
_PARTS = ("train", "val", "test")

ReadScan = Callable[[Case], Scan]
ReadLabel = Callable[[Case], np.ndarray]


def prepare(
    data_set: DataSet,
    parts: Parts,
    config: DataConfig,
    preprocessing: Mapping[str, Any] | None = None,
    *,
    read: ReadScan,
    read_label: ReadLabel | None = None,
    seed: int = 0,
) -> Prepared:
    """Read, resize and normalise every image; hold them in memory.

    Images are stretched to `data.patch_size`, 128 x 128 or 48 x 48 x 48 where it is empty; volumes
    are turned to right, anterior, superior first. Each channel is standardised with its mean and
    deviation over the training images. Masks, where every case of validation and test has one,
    only score the attention maps.

    Args:
        data_set: whose cases have a `target`.
        parts: its split.
        config: the `data:` section.
        preprocessing: state of a trained model, used as it is.
        read: reads a case.
        read_label: reads the classes of its voxels; None where there are none.
        seed: of the augmentation.

    Raises:
        DataError: cases without target, fewer than two classes to train on, or classes that the
            trained model does not know.
    """
    names = tuple(preprocessing["targets"]) if preprocessing else data_set.targets
    size = tuple(preprocessing["size"]) if preprocessing else _size(data_set, config)
    cases = {name: getattr(parts, name) for name in _PARTS}
    targets = {name: _targets(part, names, config) for name, part in cases.items()}
    if preprocessing is None and len(np.unique(targets["train"])) < 2:
        raise DataError(
            f"{config.path}: the training part has one class of images; metric learning needs two"
        )
    arrays = {
        name: _stack((image_array(read(case), size) for case in part), data_set, size)
        for name, part in cases.items()
    }
    if preprocessing is None:
        mean, std = _statistics(arrays["train"])
    else:
        mean, std = np.asarray(preprocessing["mean"]), np.asarray(preprocessing["std"])
    state = {
        "kind": "retrieval",
        "size": list(size),
        "mean": mean.tolist(),
        "std": std.tolist(),
        "targets": list(names),
        "channels": list(data_set.channels),
        "spatial_dims": data_set.spatial_dims,
    }
    digest = hashlib.sha256()
    made = {}
    for name in _PARTS:
        images = normalised(arrays.pop(name), state)
        for content in (images.tobytes(), targets[name].tobytes()):
            digest.update(content)
        made[name] = RetrievalImages(
            images,
            targets[name],
            tuple(case.id for case in cases[name]),
            tuple(case.patient for case in cases[name]),
            masks=None if name == "train" else _masks(cases[name], read, read_label, size),
            seed=seed,
            augment=config.augment if name == "train" else "none",
            flips=config.flips,
        )
    return Prepared(
        **made,
        model_arguments={
            "channels": len(data_set.channels),
            "targets": len(names),
            "spatial_dims": data_set.spatial_dims,
            "size": size,
        },
        preprocessing=state,
        data_hash=digest.hexdigest(),
        summary={
            "images": {name: len(part) for name, part in cases.items()},
            "classes": _counts(names, targets["train"]),
            "size": " x ".join(map(str, size)),
            "masks": "yes" if made["test"].masks is not None else "no",
        },
    )


def image_array(scan: Scan, size: Sequence[int]) -> np.ndarray:
    """Return a scan `[C, *size]` float32, volumes turned to right, anterior, superior."""
    return resized(_turned(scan.array, scan), size)


def normalised(array: np.ndarray, state: Mapping[str, Any]) -> np.ndarray:
    """Return images `[n, C, *size]` standardised with the training part's statistics, float16."""
    shape = (1, -1) + (1,) * (array.ndim - 2)
    mean, std = (np.asarray(state[name], np.float32).reshape(shape) for name in ("mean", "std"))
    return ((array - mean) / std).clip(-1e3, 1e3).astype(np.float16)


def orientation(scan: Scan) -> np.ndarray:
    """Return nibabel's orientation `[axes, 2]` of a volume's array."""
    return nibabel.orientations.io_orientation(scan.grid.affine)


def _turned(array: np.ndarray, scan: Scan) -> np.ndarray:
    if len(scan.grid.shape) == 2:
        return array
    axes = orientation(scan)
    return np.stack([nibabel.orientations.apply_orientation(one, axes) for one in array])


def _size(data_set: DataSet, config: DataConfig) -> tuple[int, ...]:
    size = config.patch_size or _SIZES[data_set.spatial_dims]
    if len(size) != data_set.spatial_dims:
        raise DataError(
            f"data.patch_size: got {list(size)} for images with {data_set.spatial_dims} axes; "
            "give one number for each axis"
        )
    return tuple(size)


def _targets(part: Sequence[Case], names: Sequence[str], config: DataConfig) -> np.ndarray:
    for case in part:
        if case.target is None:
            raise DataError(
                f"{config.path}: case {case.id} has no target; metric learning needs the class of "
                "every image: add it, or leave the case out"
            )
        if case.target not in names:
            raise DataError(
                f"{config.path}: case {case.id} has target {case.target!r}, which the model does "
                f"not know; it knows {', '.join(names)}"
            )
    return np.array([names.index(str(case.target)) for case in part], dtype=np.int64)


def _stack(arrays: Iterator[np.ndarray], data_set: DataSet, size: Sequence[int]) -> np.ndarray:
    found = list(arrays)
    if not found:
        return np.zeros((0, len(data_set.channels), *size), dtype=np.float32)
    return np.stack(found)


def _statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = (0, *range(2, images.ndim))
    mean, std = images.mean(axis=axes, dtype=np.float64), images.std(axis=axes, dtype=np.float64)
    return mean, np.where(std > 0, std, 1.0)


def _masks(
    part: Sequence[Case], read: ReadScan, read_label: ReadLabel | None, size: Sequence[int]
) -> np.ndarray | None:
    if read_label is None or not part or any(case.label is None for case in part):
        return None
    found = []
    for case in part:
        mask = read_label(case)[None] > 0
        turned = mask if mask.ndim == 3 else _turned(mask, read(case))
        found.append(resized_mask(turned[0], size))
    return np.stack(found)


def _counts(names: Sequence[str], target: np.ndarray) -> dict[str, int]:
    return {name: int((target == number).sum()) for number, name in enumerate(names)}
