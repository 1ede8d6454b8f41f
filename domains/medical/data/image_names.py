"""Usual names of folders with 2-D images, with masks, and of the masks in them."""

from __future__ import annotations

import re

_IMAGES = {"images", "image", "imgs", "img", "input", "inputs", "data", "scans", "photos"}
_IMAGES |= {"pictures", "dicomanon"}
_MASKS = {"masks", "mask", "labels", "label", "gt", "gts", "ground", "groundtruth", "manual"}
_MASKS |= {"groundtruths", "seg", "segs", "segmentation", "segmentations", "annotation", "lesion"}
_MASKS |= {"annotations", "lesions"}
_PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing", "ts"), "test"),
}
_MASK_ENDING = re.compile(
    r"[ _\-.]+(segmentation|mask|labels?|gt|seg|lesion|ground_?truth|annotation|anno|manual1?)",
    re.IGNORECASE,
)
_SLICE = re.compile(r"(.+?)[ _\-]*(?:slice|slc)[ _\-]*\d+", re.IGNORECASE)


def holds_images(folder: str) -> bool:
    """Say whether a folder is named as one of images."""
    return _named(folder, _IMAGES)


def holds_masks(folder: str) -> bool:
    """Say whether a folder is named as one of masks."""
    return _named(folder, _MASKS)


def part_of(name: str) -> str | None:
    """Return the part that the name of a folder speaks of: `train`, `val` or `test`."""
    named = {_PARTS[word] for word in _words(name) if word in _PARTS}
    return named.pop() if len(named) == 1 else None


def is_mask_of(name: str, image: str) -> bool:
    """Say whether a file without its ending is named as the mask of an image: more than its name.

    `ISIC_0000000_segmentation` is one of `ISIC_0000000`.
    """
    return name.startswith(image) and _MASK_ENDING.fullmatch(name[len(image) :]) is not None


def image_of(mask: str) -> str:
    """Return the name of a mask without what says that it is one."""
    found = re.search(rf"{_MASK_ENDING.pattern}$", mask, re.IGNORECASE)
    return mask[: found.start()] if found and found.start() else mask


def patient_of(name: str) -> str | None:
    """Return whose slice an image is by its name, such as `Subj_12` of `Subj_12slice_3`."""
    found = _SLICE.fullmatch(name)
    return found[1] if found else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word]


def _named(folder: str, names: set[str]) -> bool:
    words = _words(folder)
    return bool(words) and (words[-1] in names or "".join(words) in names)
