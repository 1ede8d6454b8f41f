"""From which length on a mechanism pays: where its time stays below the baseline's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared_runtime.attention_benchmark.cells import BASELINE, PASSES

MARGIN = 1.05
"""How many times the baseline's speed counts as faster; below it is noise."""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Crossover:
    """Where a mechanism starts to pay under a mask, in one pass.

    `first` is the first measured length from which on it is faster at every length measured,
    None where there is none; `below` the longest length measured before it, if any.
    """

    mechanism: str
    family: str
    mask: str
    pass_: str
    first: int | None
    below: int | None
    longest: int
    """The longest length at which it and the baseline could be compared, 0 if at none."""
    sometimes: tuple[int, ...]
    """Lengths at which it was faster though it was not at a longer one."""

    @property
    def text(self) -> str:
        """The crossover in words."""
        if self.longest == 0:
            return "not measured"
        if self.first is not None:
            if self.below is None:
                return f"{self.first:,} or less"
            return f"{self.below:,} to {self.first:,}"
        if self.sometimes:
            return f"none that lasts (faster at {', '.join(f'{n:,}' for n in self.sometimes)})"
        return f"none up to {self.longest:,}"


def crossovers(rows: Iterable[Row]) -> list[Crossover]:
    """Find the crossover of every mechanism, mask and pass of a table, in its order.

    A length counts against a mechanism that did not fit where the baseline did, and for one that
    fitted where the baseline did not. Cells that failed for other reasons do not count.
    """
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        if row["family"] != BASELINE:
            key = (row["mechanism"], row["family"], row["mask"], row["pass"])
            groups.setdefault(key, []).append(row)
    baselines = {
        (row["mechanism"], row["mask"], row["pass"], row["length"]): row["status"] == "ok"
        for row in rows
        if row["family"] == BASELINE
    }
    return [_crossover(key, group, baselines) for key, group in groups.items()]


def speed(row: Row) -> float | None:
    """Return how many times as fast as the baseline a mechanism is; None if not compared."""
    if row["status"] != "ok" or not row.get("baseline_seconds"):
        return None
    return float(row["baseline_seconds"]) / float(row["seconds"])


def _crossover(
    key: tuple[str, str, str, str], rows: Sequence[Row], baselines: Mapping[Any, bool]
) -> Crossover:
    faster: dict[int, bool] = {}
    for row in sorted(rows, key=lambda row: row["length"]):
        ratio = speed(row)
        fits = baselines.get((row["baseline"], row["mask"], row["pass"], row["length"]), False)
        if ratio is not None:
            faster[row["length"]] = ratio >= MARGIN
        elif row["status"] == "ok":
            faster[row["length"]] = True
        elif row["status"] in ("time", "memory") and fits:
            faster[row["length"]] = False
    lengths = list(faster)
    start = len(lengths)
    while start > 0 and faster[lengths[start - 1]]:
        start -= 1
    return Crossover(
        *key,
        first=lengths[start] if start < len(lengths) else None,
        below=lengths[start - 1] if start > 0 else None,
        longest=max(lengths, default=0),
        sometimes=tuple(n for n in lengths[:start] if faster[n]),
    )


def summary(rows: Sequence[Row]) -> list[list[str]]:
    """Return a table of text: crossovers of both passes, and the cost at the longest length."""
    found = {(c.mechanism, c.mask, c.pass_): c for c in crossovers(rows)}
    by_cell = {(r["mechanism"], r["mask"], r["pass"], r["length"]): r for r in rows}
    longest = max((row["length"] for row in rows), default=0)
    lines = [
        [
            "NAME", "MASK", "FASTER FORWARD FROM", "FASTER IN TRAINING FROM",
            f"SPEED AT {longest:,}", "TRAINING", "MEMORY OF TRAINING", "ERROR, NOISE / RELATED",
        ]
    ]  # fmt: skip
    for name, mask in dict.fromkeys((c.mechanism, c.mask) for c in found.values()):
        last = {p: by_cell.get((name, mask, p, longest)) for p in PASSES}
        froms = [found[name, mask, p].text if (name, mask, p) in found else "" for p in PASSES]
        speeds = [speed_text(last[p]) for p in PASSES]
        line = [name, mask, *froms, *speeds, memory_text(last["training"])]
        lines.append([*line, error_text(last["forward"])])
    return lines


def speed_text(row: Row | None) -> str:
    """How many times as fast as the baseline, or what went wrong."""
    if row is None:
        return ""
    ratio = speed(row)
    if ratio is None:
        return "fits, baseline does not" if row["status"] == "ok" else f"no ({row['status']})"
    return f"{ratio:.2f}"


def memory_text(row: Row | None) -> str:
    """The peak of memory in MiB."""
    if row is None or not row.get("peak_bytes"):
        return ""
    return f"{float(row['peak_bytes']) / 2**20:,.0f} MiB"


def error_text(row: Row | None) -> str:
    """The two errors, or the kind of a mechanism that has none."""
    if row is None:
        return ""
    if row.get("error_noise") is None:
        return f"none: {row['error_kind']}"
    return f"{row['error_noise']:.2g} / {row['error_related']:.2g}"
