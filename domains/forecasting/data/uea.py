"""UEA / sktime `.ts` files of multivariate series with class labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared_runtime.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class LabelledSeries:
    """Series of different lengths, padded at the end."""

    values: np.ndarray
    """float32 `[N, L, C]`; NaN where missing, 0 where padded."""
    lengths: np.ndarray
    """int64 `[N]`."""
    labels: np.ndarray
    """str `[N]`."""
    classes: tuple[str, ...]
    """Class names of the header, or the labels found."""


def read_ts(path: Path) -> LabelledSeries:
    """Read a `.ts` file: dimensions separated by `:`, values by `,`, missing values `?` or `NaN`.

    Raises:
        DataError: the file is not one; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").split("\n")
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); give a UEA .ts file") from error
    header, start = _header(path, lines)
    declared = _classes(path, header)
    channels = _declared_dimensions(path, header)
    cases: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(lines[start:], start + 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        case, label = _case(f"{path}: line {number}", text, channels)
        channels = len(case)
        if declared and label not in declared:
            raise DataError(
                f"{path}: line {number}: class {label!r} is not in the header's "
                f"{', '.join(declared)}; correct the label or the header"
            )
        cases.append(case)
        labels.append(label)
    if not cases:
        raise DataError(f"{path}: no series after @data; give a file with data")
    lengths = np.array([case.shape[1] for case in cases])
    values = np.zeros((len(cases), int(lengths.max()), len(cases[0])), dtype=np.float32)
    for row, case in enumerate(cases):
        values[row, : case.shape[1]] = case.T
    return LabelledSeries(values, lengths, np.array(labels), declared or tuple(sorted(set(labels))))


def _header(path: Path, lines: list[str]) -> tuple[dict[str, str], int]:
    """Return the directives before `@data`, names in lower case, and the number of its line."""
    header: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            raise DataError(f"{path}: line {number}: data before @data; add the .ts header")
        name, *rest = text[1:].split(None, 1) or [""]
        if name.lower() == "data":
            return header, number
        header[name.lower()] = rest[0] if rest else ""
    raise DataError(f"{path}: no @data line; give a UEA .ts file")


def _classes(path: Path, header: dict[str, str]) -> tuple[str, ...]:
    if header.get("timestamps", "false").lower() == "true":
        raise DataError(f"{path}: @timeStamps true is not supported; write plain values")
    if header.get("targetlabel", "false").lower().startswith("true"):
        raise DataError(f"{path}: @targetLabel true: numbers to regress; give a file of classes")
    words = header.get("classlabel", "true").split()
    if not words or words[0].lower() != "true":
        raise DataError(f"{path}: @classLabel is not true; give a file whose series have classes")
    return tuple(words[1:])


def _declared_dimensions(path: Path, header: dict[str, str]) -> int | None:
    text = header.get("dimensions", header.get("dimension"))
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise DataError(f"{path}: @dimensions {text!r}: expected a number such as 3")
    return int(text)


def _case(where: str, text: str, channels: int | None) -> tuple[np.ndarray, str]:
    *dimensions, label = text.split(":")
    if not dimensions or not label.strip():
        raise DataError(f"{where}: no class; write dimensions and a class, separated by ':'")
    if channels is not None and len(dimensions) != channels:
        raise DataError(
            f"{where}: {len(dimensions)} dimensions, expected {channels} as in the header and "
            "the lines before; give every series the same channels"
        )
    rows = [_numbers(where, dimension) for dimension in dimensions]
    sizes = sorted({len(row) for row in rows})
    if len(sizes) != 1:
        raise DataError(
            f"{where}: dimensions of {sizes[0]} and {sizes[-1]} values; give all dimensions of a "
            "series the same length"
        )
    return np.array(rows, dtype=np.float32), label.strip()


def _numbers(where: str, text: str) -> np.ndarray:
    cells = text.replace("?", "nan").split(",")
    try:
        if "_" in text:
            raise ValueError("underscore")
        row = np.array([float(cell) for cell in cells])
    except ValueError as error:
        bad = next(cell.strip() for cell in cells if not _is_number(cell))
        raise DataError(
            f"{where}: {bad!r} is not a number; correct it, or write ? for a missing value"
        ) from error
    if (np.abs(row) > _LARGEST).any():
        raise DataError(f"{where}: a value is infinite or beyond 3.4e38; write ? where missing")
    return row


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


@dataclass(frozen=True)
class LabelledSet:
    """Standardised labelled series; satisfies `shared_runtime.domain.Batches`."""

    x: Tensor
    """float32 `[N, L, C]`, zero where padded or missing."""
    valid: Tensor
    """bool `[N, L]`: True where the step exists."""
    label: Tensor
    """int64 `[N]`."""

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return `x [B, L, C]`, `valid [B, L]` and `label [B]`."""
        chosen = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return {"x": self.x[chosen], "valid": self.valid[chosen], "label": self.label[chosen]}


def labelled_set(
    series: LabelledSeries,
    classes: tuple[str, ...],
    mean: np.ndarray,
    std: np.ndarray,
    max_length: int,
) -> LabelledSet:
    """Standardise by `mean` and `std` `[C]` and pad to `max_length`.

    Raises:
        DataError: a class is unknown or a series is longer than the model was built for.
    """
    unknown = sorted(set(series.labels.tolist()) - set(classes))
    if unknown:
        raise DataError(f"class {unknown[0]!r} was not in the training data; remove its series")
    if series.lengths.max() > max_length:
        raise DataError(
            f"a series has {series.lengths.max()} steps, the model takes {max_length}; "
            "cut it or train with longer series"
        )
    steps = np.arange(max_length)
    valid = steps[None, :] < series.lengths[:, None]
    x = np.zeros((len(series.values), max_length, series.values.shape[2]), dtype=np.float32)
    x[:, : series.values.shape[1]] = np.nan_to_num((series.values - mean) / std)
    x[~valid] = 0
    index = {name: number for number, name in enumerate(classes)}
    label = np.array([index[name] for name in series.labels], dtype=np.int64)
    return LabelledSet(torch.from_numpy(x), torch.from_numpy(valid), torch.from_numpy(label))


def fit_channel_scale(series: LabelledSeries) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation per channel over existing steps, float64 `[C]` each.

    Constant and empty channels get unit spread.
    """
    steps = np.arange(series.values.shape[1])
    rows = series.values[steps[None, :] < series.lengths[:, None]].astype(np.float64)
    seen = ~np.isnan(rows)
    count = np.maximum(seen.sum(axis=0), 1)
    mean = np.where(seen, rows, 0.0).sum(axis=0) / count
    std = np.sqrt(np.where(seen, (rows - mean) ** 2, 0.0).sum(axis=0) / count)
    return mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)
