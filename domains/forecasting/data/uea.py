"""UEA / sktime `.ts` files of multivariate series with class labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared_runtime.errors import DataError


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
    """Read a `.ts` file: dimensions separated by `:`, values by `,`, missing values `?`.

    Raises:
        DataError: the file is not one; names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); give a UEA .ts file") from error
    header: dict[str, str] = {}
    start = None
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            raise DataError(f"{path}: line {number}: data before @data; add the .ts header")
        name, _, value = text[1:].partition(" ")
        if name.lower() == "data":
            start = number
            break
        header[name.lower()] = value.strip()
    if start is None:
        raise DataError(f"{path}: no @data line; give a UEA .ts file")
    if header.get("timestamps", "false").lower() == "true":
        raise DataError(f"{path}: timestamps in the data are not supported; write plain values")
    label_words = header.get("classlabel", "true").split()
    if label_words[:1] == ["false"]:
        raise DataError(f"{path}: @classLabel false: there are no classes to learn")
    cases: list[np.ndarray] = []
    labels: list[str] = []
    for number, line in enumerate(lines[start:], start + 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        case, label = _case(path, number, text, len(cases[0]) if cases else None)
        declared = label_words[1:]
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
    classes = tuple(label_words[1:]) or tuple(sorted(set(labels)))
    return LabelledSeries(values, lengths, np.array(labels), classes)


def _case(path: Path, number: int, text: str, channels: int | None) -> tuple[np.ndarray, str]:
    *dimensions, label = text.split(":")
    if not dimensions or not label.strip():
        raise DataError(f"{path}: line {number}: expected dimensions and a class, separated by ':'")
    if channels is not None and len(dimensions) != channels:
        raise DataError(
            f"{path}: line {number}: {len(dimensions)} dimensions, the lines before have "
            f"{channels}; give every series the same channels"
        )
    rows = []
    for dimension in dimensions:
        try:
            row = [np.nan if v.strip() == "?" else float(v) for v in dimension.split(",")]
        except ValueError as error:
            raise DataError(
                f"{path}: line {number}: {str(error).split(':')[-1].strip()} is not a number; "
                "write ? for a missing value"
            ) from error
        if np.isinf(row).any():
            raise DataError(f"{path}: line {number}: an infinite value; write ? where missing")
        rows.append(row)
    if len({len(row) for row in rows}) != 1:
        raise DataError(
            f"{path}: line {number}: dimensions of {sorted({len(row) for row in rows})} values; "
            "give all dimensions of a series the same length"
        )
    return np.array(rows, dtype=np.float32), label.strip()


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
    unknown = sorted(set(series.labels) - set(classes))
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
    """Return mean and standard deviation per channel over existing steps, float64 `[C]` each."""
    steps = np.arange(series.values.shape[1])
    rows = series.values[steps[None, :] < series.lengths[:, None]].astype(np.float64)
    mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
    return mean, np.where(std > 0, std, 1.0)
