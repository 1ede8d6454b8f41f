"""Columns of Arrow as numbers and times."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from domains.finance.data.lobster_csv import unscaled

MISSING = ("", "nan", "NaN", "NA", "null", "None")
_UNITS = ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (np.inf, 1))


def nanoseconds(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return times as nanoseconds since 1970, int64 `[N]`, and which are none, bool `[N]`.

    None where the whole column is of another type.
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _cast_times(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _text_times(pc.utf8_trim_whitespace(column))
    return _numeric_times(column)


def parse(column: pa.ChunkedArray) -> np.ndarray:
    """Return text as float64, NaN where it is no number."""
    trimmed = pc.utf8_trim_whitespace(column)
    known = pc.if_else(pc.is_in(trimmed, pa.array(MISSING)), pa.scalar("nan"), trimmed)
    try:
        return to_float(known)
    except pa.ArrowInvalid:
        return np.concatenate([_slowly(chunk) for chunk in known.chunks])


def _slowly(chunk: pa.Array) -> np.ndarray:
    values = np.full(len(chunk), np.nan)
    for row, cell in enumerate(chunk.to_pylist()):
        try:
            values[row] = np.nan if cell is None or "_" in cell else float(cell)
        except ValueError:
            continue
    return values


def to_float(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as float64 `[N]`, NaN where null, a copy of its own."""
    cast = pc.cast(column, pa.float64(), safe=False)
    return np.array(pc.fill_null(cast, np.nan).to_numpy(), dtype=np.float64)


def _cast_times(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        cast = pc.cast(pc.cast(column, pa.timestamp("ns")), pa.int64())
    except pa.ArrowInvalid:
        return None
    wrong = pc.is_null(cast).to_numpy()
    return np.array(pc.fill_null(cast, 0).to_numpy(), dtype=np.int64), wrong


def _text_times(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    sample = column.slice(0, 1).to_pylist()
    first = (sample[0] or "") if sample else ""
    if first.replace(".", "", 1).replace("-", "", 1).isdigit() and first.count("-") < 2:
        return _decimal_times(column)
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        try:
            cast = pc.cast(pc.cast(column, kind), pa.int64())
            return cast.to_numpy().copy(), np.zeros(len(column), dtype=bool)
        except pa.ArrowInvalid:
            continue
    texts = pd.Series(column.to_pylist(), dtype="object")
    times = pd.to_datetime(texts, utc=True, format="ISO8601", errors="coerce")
    wrong = times.isna().to_numpy()
    return times.to_numpy("datetime64[ns]").astype(np.int64), wrong


def _decimal_times(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs that are text in nanoseconds, exact up to their last decimal."""
    values = parse(column)
    unit = _unit(values)
    if (np.abs(values) * unit < 2.0**63).all():
        try:
            exact = pc.cast(column, pa.decimal128(38, len(str(unit)) - 1))
            return np.concatenate([unscaled(chunk) for chunk in exact.chunks]), np.isnan(values)
        except pa.ArrowInvalid:
            pass
    return _scaled(values)


def _numeric_times(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray] | None:
    if pa.types.is_integer(column.type):
        try:
            whole = pc.cast(column, pa.int64())
        except pa.ArrowInvalid:
            return None
        wrong = pc.is_null(whole).to_numpy()
        values = np.array(pc.fill_null(whole, 0).to_numpy(), dtype=np.int64)
        unit = _unit(values.astype(np.float64))
        wrong |= np.abs(values.astype(np.float64)) * unit >= 2.0**63
        return np.where(wrong, 0, values) * unit, wrong
    try:
        return _scaled(to_float(column))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _scaled(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return epochs in float64, NaN where wrong, in nanoseconds."""
    unit = _unit(values)
    wrong = ~(np.abs(values) * unit < 2.0**63)
    whole = np.floor(np.where(wrong, 0, values))
    rest = np.where(wrong, 0, values) - whole
    return whole.astype(np.int64) * unit + np.rint(rest * unit).astype(np.int64), wrong


def _unit(values: np.ndarray) -> int:
    """Return the nanoseconds of one unit, from the size of the middle value."""
    finite = np.abs(values[np.isfinite(values)])
    middle = float(np.median(finite)) if len(finite) else 0.0
    return next(unit for bound, unit in _UNITS if middle < bound)
