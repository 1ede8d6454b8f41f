"""`dataset.json`: of nnU-Net, versions 1 and 2, and of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from domains.medical.data.files import NIFTI
from domains.medical.data.findings import BadFileError, reason
from domains.medical.data.pictures import SUFFIXES as PICTURES

NAME = "dataset.json"
_LARGEST = 65535


@dataclass(frozen=True)
class Declaration:
    """What a `dataset.json` says.

    Args:
        channels: their names, in order.
        labels: name to class index, background 0 first.
        values: raw value of each class index.
        file_ending: of images and labels; "" where it does not say.
        training: image and label of each case, as they are written; empty where it lists none.
        count: cases that it says there are.
    """

    channels: tuple[str, ...]
    labels: Mapping[str, int]
    values: tuple[int, ...]
    file_ending: str = ""
    training: tuple[tuple[str, str], ...] = ()
    count: int | None = None


def read_declaration(path: Path) -> Declaration:
    """Return what a `dataset.json` declares.

    Labels may be `name: value` (nnU-Net 2) or `value: name` (nnU-Net 1, Decathlon). Whatever
    value 0 is called is the background; it is added where it is not named.

    Raises:
        BadFileError: it is no JSON object, or says nothing, too much, or what is not supported.
    """
    content = _load(path)
    channels = _channels(path, content)
    names = _labels(path, content)
    values = tuple(sorted(names))
    return Declaration(
        channels=channels,
        labels={names[value]: index for index, value in enumerate(values)},
        values=values,
        file_ending=_ending(path, content),
        training=_training(path, content),
        count=_count(content),
    )


def _load(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        double = next((key for key in keys if keys.count(key) > 1), None) if pairs else None
        if double is not None:
            raise BadFileError(path, f"{double!r} is there twice", "remove one of the two")
        return dict(pairs)

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except BadFileError:
        raise
    except FileNotFoundError:
        raise BadFileError(path, "no such file", "add it, or correct the path") from None
    except Exception as error:
        raise BadFileError(path, f"is no JSON ({reason(error)})", "correct it") from error
    if not isinstance(content, dict):
        raise BadFileError(path, "is no JSON object", "give channel_names and labels")
    return content


def _channels(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in content else "modality"
    named = content.get(key)
    if isinstance(named, list):
        named = {str(place): name for place, name in enumerate(named)}
    if not isinstance(named, dict) or not named:
        what = f"{key} is no object" if key in content else "channel_names is missing"
        raise BadFileError(path, what, 'name the channels, as {"0": "CT"}')
    numbers = {str(place): str(place) for place in range(len(named))}
    if set(named) != set(numbers) or not all(isinstance(n, str) for n in named.values()):
        what = f"{key} has the keys {', '.join(map(repr, sorted(named)[:6]))}"
        raise BadFileError(path, what, "number the channels from 0, with a name for each")
    return tuple(str(named[place]) for place in numbers)


def _labels(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Return the name of each raw value."""
    given = content.get("labels")
    if not isinstance(given, dict) or not given:
        what = "labels is no object" if "labels" in content else "labels is missing"
        raise BadFileError(path, what, 'name the classes, as {"background": 0, "liver": 1}')
    if content.get("regions_class_order") or any(isinstance(v, list) for v in given.values()):
        what = "labels are regions of several values"
        remedy = "name one value per class; regions that overlap are not supported"
        raise BadFileError(path, what, remedy)
    if "ignore" in given:
        remedy = "give those voxels a class, or leave those cases out"
        raise BadFileError(path, "an ignore label, which is not supported", remedy)
    numbers = {key: _integer(key) for key in given}
    turned = all(number is not None for number in numbers.values()) and all(
        isinstance(name, str) for name in given.values()
    )
    names: dict[int, str] = {}
    for key, value in given.items():
        number = numbers[key] if turned else _integer(value)
        name = str(value) if turned else key
        if number is None or not 0 <= number <= _LARGEST:
            what = f"label {name!r} has the value {number if turned else value!r}"
            raise BadFileError(path, what, f"give an integer from 0 to {_LARGEST}")
        if number in names:
            what = f"labels {names[number]!r} and {name!r} have the same value {number}"
            raise BadFileError(path, what, "give each class its own value")
        if name in names.values():
            raise BadFileError(path, f"label {name!r} is there twice", "name each class once")
        names[number] = name
    if 0 not in names:
        if "background" in names.values():
            raise BadFileError(path, "background is not 0", "give the background the value 0")
        names[0] = "background"
    return names


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _ending(path: Path, content: Mapping[str, Any]) -> str:
    ending = content.get("file_ending", "")
    known = (*NIFTI, *PICTURES)
    if ending and (not isinstance(ending, str) or ending.lower() not in known):
        what = f"file_ending {ending!r} is not supported"
        raise BadFileError(path, what, f"convert the files to one of {', '.join(known)}")
    return str(ending)


def _training(path: Path, content: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    listed = content.get("training", [])
    if not isinstance(listed, list):
        raise BadFileError(path, "training is no list", "list image and label of each case")
    pairs = []
    for place, entry in enumerate(listed):
        image = entry.get("image") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not (isinstance(image, str) and isinstance(label, str)) or "\0" in image + label:
            what = f"training entry {place} has no image and label"
            raise BadFileError(path, what, "give the paths of both")
        pairs.append((image, label))
    return tuple(pairs)


def _count(content: Mapping[str, Any]) -> int | None:
    count = content.get("numTraining")
    return count if isinstance(count, int) and not isinstance(count, bool) else None
