"""Whether intensities suit how they are going to be normalised."""

from __future__ import annotations

from collections.abc import Sequence

from domains.medical.data.case import DataSet
from domains.medical.data.case_checks import CaseReport
from domains.medical.data.config import DataConfig
from domains.medical.data.findings import Found

AIR = -100.0
"""Every CT holds air or fat below this."""
DENSEST = 33_000.0
"""Extended Hounsfield scales of metal end below this."""
_SCALES = 20.0


def check_modalities(
    config: DataConfig, data_set: DataSet, reports: Sequence[CaseReport], found: Found
) -> None:
    """Warn of CT that is not in Hounsfield units, and of scales that differ where they matter."""
    known = [report for report in reports if report.ranges]
    for place, name in enumerate(data_set.channels):
        ct = name.lower() == "ct"
        if ct and config.normalisation in ("auto", "ct"):
            _check_hounsfield(place, name, known, found)
        elif config.normalisation == "ct":
            _check_scales(place, name, known, found)


def _check_hounsfield(place: int, name: str, reports: Sequence[CaseReport], found: Found) -> None:
    odd = [
        report
        for report in reports
        if not (report.ranges[place][0] < AIR and report.ranges[place][1] < DENSEST)
    ]
    if odd:
        low, high = odd[0].ranges[place]
        found.warning(
            odd[0].case.images[place if len(odd[0].case.images) > 1 else 0],
            f"channel {name} goes from {low:g} to {high:g}, which are no Hounsfield units "
            f"(so in {len(odd)} of {len(reports)} cases)",
            "convert to Hounsfield units, or set data.normalisation=zscore",
        )


def _check_scales(place: int, name: str, reports: Sequence[CaseReport], found: Found) -> None:
    widths = sorted(
        (high - low, report.case.id) for report in reports for low, high in [report.ranges[place]]
    )
    if widths and widths[-1][0] > _SCALES * max(widths[0][0], 1e-12):
        (least, one), (most, other) = widths[0], widths[-1]
        found.warning(
            next(r.case.images[0] for r in reports if r.case.id == other),
            f"channel {name} spans {most:g} in {other} and {least:g} in {one}, which one "
            "normalisation for all cases cannot suit",
            "set data.normalisation=zscore",
        )
