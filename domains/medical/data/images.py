"""Folders of 2-D images with masks, in the usual arrangements, or in one folder per class.

Arrangements that are read, at any depth below the folder given:

- `images/` beside `masks/`, also `images/train` and `masks/train`, or what else they are usually
  called (`Img`, `GT`, `Ground`, `ISIC2018_Task1-2_Training_Input`, `IMD002_Dermoscopic_Image` and
  `IMD002_lesion`, ...);
- masks beside their images, named `name_segmentation.png`, `name_mask.png`, ...;
- without any mask: one folder per class of the whole image.

Folders named as train, val or test give the parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from domains.medical.data.case import Case
from domains.medical.data.files import stem_of
from domains.medical.data.findings import Found
from domains.medical.data.image_names import (
    holds_images,
    holds_masks,
    image_of,
    is_mask_of,
    part_of,
    patient_of,
)
from domains.medical.data.links import inside
from domains.medical.data.names import readable

_VOLUMES = (".nii", ".nii.gz")
_DEPTH = 8


def read_images(root: Path) -> Found:
    """Return the cases of a folder of images and what is wrong with the others.

    Whose image it is is taken from names such as `Subj_12slice_3`, else from the first folder in
    which images differ (`12/images/...`), else every image is taken as a patient of its own.
    """
    found = Found()
    images: dict[Path, list[Path]] = {}
    masks: dict[Path, list[Path]] = {}
    for folder in _folders(root, found):
        files = inside(root, [path for path in readable(folder) if _is_image(path)], found)
        kind, place = _role(root, folder)
        stems = set() if kind == "masks" else {stem_of(path) for path in files}
        for path in files:
            mask = kind == "masks" or _is_mask(stem_of(path), stems)
            (masks if mask else images).setdefault(place, []).append(path)
    if masks:
        for place, files in images.items():
            _pair(root, place, files, masks.pop(place, []), found)
        for place, files in masks.items():
            found.error(
                place, f"{len(files)} masks and no images", "add the images, or remove them"
            )
    elif images:
        _classes(root, images, found)
    if not found.cases and not found.problems:
        remedy = "give images/ and masks/, nnU-Net's folders, or a CSV manifest"
        found.error(root, "no images with masks or classes", remedy)
    _name(root, found)
    return found


def _folders(root: Path, found: Found) -> Iterator[Path]:
    """Give a folder and those below it, sorted; links out of it become errors."""
    for path, below, _ in os.walk(root, followlinks=True):
        folder = Path(path)
        kept = sorted(name for name in below if not name.startswith("."))
        links = {name for name in kept if (folder / name).is_symlink()}
        followed = {link.name for link in inside(root, [folder / name for name in links], found)}
        deep = len(folder.relative_to(root).parts) >= _DEPTH
        below[:] = [name for name in kept if not deep and (name not in links or name in followed)]
        yield folder


def _role(root: Path, folder: Path) -> tuple[str, Path]:
    """Return what a folder holds by the names on its way, and where its counterpart is, too.

    `a/images/b` and `a/masks/b` are both about `a/b`.
    """
    parts = folder.relative_to(root).parts
    for depth in reversed(range(len(parts))):
        for kind, named in (("masks", holds_masks), ("images", holds_images)):
            if named(parts[depth]):
                return kind, root.joinpath(*parts[:depth], *parts[depth + 1 :])
    return "", folder


def _is_image(path: Path) -> bool:
    name = stem_of(path)
    return not path.name.lower().endswith(_VOLUMES) and not name.endswith("_superpixels")


def _is_mask(stem: str, stems: set[str]) -> bool:
    image = image_of(stem)
    return image != stem and image in stems and is_mask_of(stem, image)


def _pair(root: Path, place: Path, images: list[Path], masks: list[Path], found: Found) -> None:
    """Add the images of one place with the masks of the same name."""
    mask_of: dict[str, Path] = {}
    names = {stem_of(path) for path in images}
    for path in masks:
        stem = stem_of(path)
        name = stem if stem in names else image_of(stem)
        if name in mask_of:
            found.error(path, f"a second mask of {name}", f"keep it or {mask_of[name].name}")
        mask_of[name] = path
    seen: dict[str, Path] = {}
    for path in images:
        stem = stem_of(path)
        if stem in seen:
            found.error(path, f"a second image {stem}", f"keep it or {seen[stem].name}")
            continue
        seen[stem] = path
        if stem not in mask_of:
            found.error(path, "no mask of the same name", "add it, or remove the image")
            continue
        name = str(path.relative_to(root).with_name(stem))
        found.cases.append(Case(name, "", (path,), mask_of[stem], _part(root, path)))
    for name in sorted(set(mask_of) - set(seen)):
        found.error(mask_of[name], f"no image {name}", "add it, or remove the mask")


def _classes(root: Path, images: dict[Path, list[Path]], found: Found) -> None:
    """Take the folders that images lie in as their classes."""
    for place, files in images.items():
        parts = [part for part in place.relative_to(root).parts if part_of(part) is None]
        if not parts:
            what = f"{len(files)} images without masks, and in no folder of a class"
            found.error(place, what, "add masks, or sort the images by class")
            continue
        for path in files:
            name = str(path.relative_to(root).with_name(stem_of(path)))
            found.cases.append(
                Case(name, "", (path,), None, _part(root, path), target="/".join(parts))
            )
    found.targets = tuple(sorted({str(case.target) for case in found.cases}))


def _part(root: Path, path: Path) -> str | None:
    named = [part_of(folder) for folder in path.relative_to(root).parts[:-1]]
    return next((part for part in named if part), None)


def _name(root: Path, found: Found) -> None:
    """Give cases their shortest unique ids, and their patients."""
    stems = [stem_of(case.images[0]) for case in found.cases]
    unique = len(set(stems)) == len(stems)
    above = [_above(root, case) for case in found.cases]
    depth = _shared(above)
    cases = []
    for case, folders in zip(found.cases, above, strict=True):
        name = stem_of(case.images[0]) if unique else case.id
        own = folders[depth:]
        patient = patient_of(stem_of(case.images[0])) or (own[0] if own else name)
        cases.append(Case(name, patient, case.images, case.label, case.split, case.target))
    found.cases = cases


def _shared(paths: list[tuple[str, ...]]) -> int:
    """Return how many folders all paths have in common from the start."""
    depth = 0
    while paths and len({path[: depth + 1] for path in paths}) == 1 and len(paths[0]) > depth:
        depth += 1
    return depth


def _above(root: Path, case: Case) -> tuple[str, ...]:
    """Return the folders of an image that name neither a part, images, nor a class."""
    parts = case.images[0].relative_to(root).parts[:-1]
    if case.target is not None:
        return ()
    return tuple(part for part in parts if part_of(part) is None and not holds_images(part))
