"""Timestamps of a table: text, day and month order, time zones and clock changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from domains.forecasting.data.table import one_line, place
from shared_runtime.domain import Problem

_REMEDY = "write times as 2024-01-31 or 2024-01-31 13:00"
_OFFSET = r"\d:\d{2}\S*\s*(Z|[+-]\d{2}(?::?\d{2})?)$"
_SHORT = r"^(\d{1,2})[/.\-](\d{1,2})[/.\-]\d{2,4}(?:\D|$)"


def time_column(
    frame: pd.DataFrame, column: str, path: Path, timezone: str, series: np.ndarray
) -> tuple[pd.DatetimeIndex, str | None, list[Problem]]:
    """Return a column as times, in UTC where they have a zone, with that zone's name.

    Naive times stay naive unless `timezone` is given; then clock changes are resolved by it: the
    repeated hour of autumn is taken in the order of the file, an hour that spring leaves out is
    an error. Times with offsets are in `timezone`, else in their own zone or constant offset.
    Where something is wrong every time is NaT.

    Args:
        frame: table whose index is the row number in the file.
        column: name of the time column.
        path: file, for messages.
        timezone: name such as `Europe/Berlin`, or empty.
        series: int64 `[T]`, number of the series of each row.
    """
    problems: list[Problem] = []
    try:
        parsed, own = _parse(frame[column], timezone, path, problems)
        if parsed is None:
            return _none(frame), None, problems
        index = pd.DatetimeIndex(parsed).as_unit("ns")
        if index.tz is not None:
            zone = timezone or own
            index.tz_convert(zone)
            return index.tz_convert("UTC").tz_localize(None), zone, problems
        if not timezone:
            return index, None, problems
        utc, gone = _localise(index, timezone, series)
    except (KeyError, ValueError) as error:
        what = f"times cannot be used ({one_line(error)})"
        if isinstance(error, KeyError):
            what = f"data.timezone={timezone} is not a known zone"
        remedy = "use a name such as UTC or Europe/Berlin, and times between 1678 and 2261"
        return _none(frame), None, [Problem("error", f"{path}: column {column!r}", what, remedy)]
    if len(gone):
        problems.append(
            Problem(
                "error",
                place(path, frame.index[gone[0]], column),
                f"{index[gone[0]]} does not exist in {timezone}: clocks go forward then "
                f"({len(gone)} such cells)",
                "correct data.timezone, or write times with their offset",
            )
        )
        return _none(frame), None, problems
    return utc, timezone, problems


def _none(frame: pd.DataFrame) -> pd.DatetimeIndex:
    return pd.DatetimeIndex([pd.NaT] * len(frame))


def _parse(
    raw: pd.Series, timezone: str, path: Path, problems: list[Problem]
) -> tuple[pd.Series | None, str]:
    """Return times, and the zone they are written in; None where some cannot be read."""
    where = f"{path}: column {raw.name!r}"
    if pd.api.types.is_datetime64_any_dtype(raw):
        parsed, own = raw, str(raw.dt.tz)
    elif pd.api.types.is_numeric_dtype(raw):
        problems.append(Problem("error", where, "numbers where times are expected", _REMEDY))
        return None, ""
    else:
        text = raw.astype("string").str.strip()
        offsets = text.str.extract(_OFFSET, expand=False)
        aware, filled = offsets.notna(), text.notna()
        if aware.any() and (filled & ~aware).any():
            row = int(np.flatnonzero(filled & ~aware)[0])
            what = f"{raw.iloc[row]!r} has no offset from UTC, other times have one"
            remedy = "write all times with their offset, or none"
            problems.append(
                Problem("error", place(path, raw.index[row], str(raw.name)), what, remedy)
            )
            return None, ""
        own = _own_zone(offsets, timezone, where, problems) if aware.any() else ""
        ordered = _day_first(text)
        if ordered is None:
            what = "day and month cannot be told apart, such as 03/04/2024"
            problems.append(Problem("error", where, what, _REMEDY))
            return None, ""
        parsed = _read_text(text, utc=bool(aware.any()), day_first=ordered)
    bad = np.flatnonzero(parsed.isna().to_numpy())
    if len(bad):
        cell = raw.iloc[bad[0]]
        what = "no time" if pd.isna(cell) else f"{cell!r} is not a time"
        where = place(path, raw.index[bad[0]], str(raw.name))
        problems.append(Problem("error", where, f"{what} ({len(bad)} such cells)", _REMEDY))
        return None, ""
    return parsed, own


def _own_zone(offsets: pd.Series, timezone: str, where: str, problems: list[Problem]) -> str:
    """Return the zone that one constant offset gives; UTC, with a warning, for several."""
    written = sorted(set(offsets.dropna()) - {"Z", "+00:00", "+0000", "+00"})
    if len(set(offsets.dropna())) > 1 and not timezone:
        problems.append(
            Problem(
                "warning",
                where,
                f"times have several offsets from UTC ({', '.join(written[:3])}); hours and days "
                "are counted in UTC",
                "set data.timezone, such as Europe/Berlin, to count them in local time",
            )
        )
        return "UTC"
    if not written:
        return "UTC"
    digits = written[0][1:].replace(":", "").ljust(4, "0")
    return f"UTC{written[0][0]}{digits[:2]}:{digits[2:]}"


def _day_first(text: pd.Series) -> bool | None:
    """Return whether dates such as 31/01/2024 put the day first; None where it is not clear."""
    parts = text.str.extract(_SHORT).dropna().astype(int)
    if parts.empty:
        return False
    day_first, month_first = bool((parts[0] > 12).any()), bool((parts[1] > 12).any())
    return None if day_first == month_first else day_first


def _read_text(text: pd.Series, *, utc: bool, day_first: bool) -> pd.Series:
    parsed = pd.to_datetime(text, errors="coerce", utc=utc, format="ISO8601")
    dated = text.str.contains(r"\d{4}", na=False) | text.str.match(_SHORT, na=False)
    rest = (parsed.isna() & dated).to_numpy()
    if rest.any():
        parsed[rest] = pd.to_datetime(
            text[rest], errors="coerce", utc=utc, format="mixed", dayfirst=day_first
        )
    return parsed


def _localise(
    index: pd.DatetimeIndex, timezone: str, series: np.ndarray
) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Return UTC times, and the rows whose local time does not exist.

    Of a repeated local time within one series the first is summer, the second winter time.
    """
    again = pd.DataFrame({"series": series, "time": index}).duplicated().to_numpy()
    local = index.tz_localize(timezone, ambiguous=~again, nonexistent="NaT")
    return local.tz_convert("UTC").tz_localize(None), np.flatnonzero(local.isna())
