"""Orientation, aspect and letters of slices, and what pictures of cases and scores hold."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from domains.medical.calibration import reliability_table, risk_coverage
from domains.medical.data.case import Grid
from domains.medical.figures import CaseView, error_figure, overlay_figure
from domains.medical.metrics import score_case
from domains.medical.planes import planes
from domains.medical.score_figures import (
    calibration_figure,
    dice_figure,
    typical_cases,
    volume_figure,
)
from shared_runtime.charts import png

LABELS = {"background": 0, "organ": 1, "tumour": 2}
CODES = [
    "".join(pair[sign] for pair, sign in zip(axes, signs, strict=True))
    for axes in permutations(("RL", "AP", "SI"))
    for signs in product((0, 1), repeat=3)
]


def ras() -> tuple[np.ndarray, np.ndarray]:
    """A volume in RAS with a mark at each side of the patient, and its affine."""
    volume = np.zeros((12, 14, 16), dtype=np.int64)
    volume[4:8, 5:9, 6:10] = 9
    volume[11, 7, 8], volume[0, 7, 8] = 1, 2
    volume[6, 13, 8], volume[6, 0, 8] = 3, 4
    volume[6, 7, 15], volume[6, 7, 0] = 5, 6
    return volume, np.diag([2.0, 1.0, 4.0, 1.0])


@pytest.mark.parametrize("code", CODES)
def test_slices_are_radiological_whatever_the_orientation_of_the_file(code: str) -> None:
    volume, affine = ras()
    image = nib.nifti1.Nifti1Image(volume.astype(np.int32), affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(code))
    )
    turned = image.as_reoriented(turn)
    array = np.asarray(turned.dataobj)
    marks = {"R": 1, "L": 2, "A": 3, "P": 4, "S": 5, "I": 6}
    axial, coronal, sagittal = planes(array == 9, Grid(array.shape, turned.affine))
    assert [plane.name for plane in (axial, coronal, sagittal)] == ["axial", "coronal", "sagittal"]
    assert (axial.aspect, coronal.aspect, sagittal.aspect) == (0.5, 2.0, 4.0)
    for plane, index in ((axial, 8), (coronal, 7), (sagittal, 6)):
        shown = type(plane)(plane.name, index, plane.aspect, plane.edges, plane.orientation)
        picture = shown.take(array)
        left, right, top, bottom = (marks[letter] for letter in plane.edges)
        assert left in picture[:, 0] and right in picture[:, -1]
        assert top in picture[0] and bottom in picture[-1]
    assert axial.edges == ("R", "L", "A", "P") and sagittal.edges == ("A", "P", "S", "I")


def test_planes_go_through_the_most_foreground() -> None:
    mask = np.zeros((9, 10, 11), dtype=bool)
    mask[2:5, 3:9, 4] = mask[3, 2:9, 4:8] = True
    axial, coronal, sagittal = planes(mask, Grid(mask.shape, np.eye(4)))
    for plane, axis in ((axial, 2), (coronal, 1), (sagittal, 0)):
        area = [np.take(mask, i, axis).sum() for i in range(mask.shape[axis])]
        assert plane.take(mask).sum() == max(area)
    empty = planes(np.zeros((9, 10, 11)), Grid((9, 10, 11), np.eye(4)))
    assert [plane.index for plane in empty] == [5, 5, 4]


def test_a_picture_is_its_own_plane() -> None:
    (plane,) = planes(np.zeros((4, 6)), Grid((4, 6), np.diag([2.0, 0.5, 1.0])))
    array = np.arange(24).reshape(4, 6)
    assert (plane.take(array) == array).all() and plane.aspect == 4.0 and plane.edges == ()


def view(dims: int, channels: int = 1, *, empty: bool = False, unsure: bool = False) -> CaseView:
    rng = np.random.default_rng(0)
    shape = (30, 36, 24)[:dims]
    truth, prediction = np.zeros((2, *shape), dtype=np.uint8)
    if not empty:
        truth[(slice(10, 22),) * dims] = 1
        truth[(slice(10, 14),) * dims] = 2
        prediction[(slice(8, 20),) * dims] = 1
    image = 50.0 * truth + rng.normal(0, 5, (channels, *shape))
    grid = Grid(shape, np.diag([*(1.0, 1.0, 2.0)[:dims], 1.0]))
    uncertainty = rng.random(shape) if unsure else None
    return CaseView("case_1", image, prediction, truth, grid, uncertainty, "Dice 0.8")


def letters(figure: MatplotlibFigure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("empty", [False, True])
def test_overlays_have_a_row_for_each_case_and_three_planes(empty: bool) -> None:
    views = {"worst": view(3, empty=empty), "best": view(3)}
    picture = overlay_figure(views, LABELS).figure
    assert len(picture.axes) == 6
    assert letters(picture)[:12] == [*"RLAP", *"RLSI", *"APSI"]
    titles = [axes.get_title(loc="left") for axes in picture.axes]
    assert titles[0] == "worst: case_1  Dice 0.8" and titles[3].startswith("best")
    assert [axes.get_aspect() for axes in picture.axes[:3]] == [1.0, 2.0, 2.0]
    assert png(picture).startswith(b"\x89PNG")


def test_contours_lie_where_the_masks_are() -> None:
    one = view(2)
    picture = overlay_figure({"": one}, LABELS).figure
    (axes,) = picture.axes
    drawn = [path for each in axes.collections for path in each.get_paths()]
    rows, columns = (axes.images[0].get_array().shape[i] for i in (0, 1))
    assert rows == columns < 36
    sizes = sorted(np.ptp(path.vertices[:, 0]) for path in drawn)
    assert sizes == pytest.approx([4, 12, 12], abs=1.0)
    shown = axes.images[0].get_array()
    (dashed,) = [p for p in drawn if np.ptp(p.vertices[:, 0]) < 6]
    middle = dashed.vertices.mean(axis=0)
    assert shown[round(middle[1]), round(middle[0])] > 0.8
    assert letters(picture) == []


def test_pictures_of_three_channels_are_in_colour() -> None:
    picture = overlay_figure({"": view(2, channels=3)}, LABELS).figure
    assert picture.axes[0].images[0].get_array().shape[-1] == 3


@pytest.mark.parametrize("dims", [2, 3])
def test_errors_and_uncertainty_are_below_each_other(dims: int) -> None:
    sure, unsure = error_figure(view(dims)), error_figure(view(dims, unsure=True))
    count = 1 if dims == 2 else 3
    assert len(sure.figure.axes) == count and len(unsure.figure.axes) == 2 * count + 1
    kinds = sure.figure.axes[0].images[1].get_array()
    assert set(np.unique(kinds.compressed())) == {1, 2, 3, 4}
    assert "unsure" in unsure.caption and "unsure" not in sure.caption
    assert png(unsure.figure).startswith(b"\x89PNG")


def rows(number: int) -> list[dict[str, object]]:
    found = []
    for case in range(number):
        one = view(3)
        prediction = np.roll(one.truth, case, axis=0)
        found += score_case(f"case_{case}", prediction, one.truth, (1, 1, 2), LABELS)
    empty = np.zeros((5, 5, 5), dtype=np.uint8)
    return found + score_case("empty", empty, empty, (1, 1, 1), LABELS)


def test_typical_cases_are_the_ends_and_the_middle() -> None:
    assert typical_cases(rows(5)) == {"worst": "case_4", "median": "case_2", "best": "case_0"}
    assert typical_cases(rows(2)) == {"worst": "case_1", "best": "case_0"}
    assert typical_cases(rows(1)) == {"worst": "case_0"}
    assert typical_cases(rows(0)) == {}


@pytest.mark.parametrize("number", [0, 1, 5])
def test_every_scored_case_is_a_dot(number: int) -> None:
    dice, volume = dice_figure(rows(number)).figure, volume_figure(rows(number)).figure
    for figure in (dice, volume):
        dots = [len(each.get_offsets()) for each in figure.axes[0].collections]
        assert dots == [number, number][: 2 * (number > 0)]
        assert png(figure).startswith(b"\x89PNG")


def test_limits_of_agreement_are_those_of_bland_and_altman() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(3, 2, 40)
    lines = [
        {
            "case": str(i),
            "label": "organ",
            "present": "both",
            "unit": "ml",
            "volume": 100.0 + i,
            "volume_predicted": 100.0 + i + d,
            "volume_difference": d,
        }
        for i, d in enumerate(differences)
    ]
    drawn = volume_figure(lines).figure.axes[0].lines
    heights = sorted(float(line.get_ydata()[0]) for line in drawn)
    mean, sd = differences.mean(), differences.std(ddof=1)
    assert heights == pytest.approx(sorted([0, mean, mean - 1.96 * sd, mean + 1.96 * sd]))


def test_calibration_is_drawn_with_and_without_uncertainty() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(500)
    truth = rng.random(500) < probability
    reliability = reliability_table(probability, truth)
    alone = calibration_figure(reliability)
    risk = risk_coverage(-np.abs(probability - 0.5), truth != (probability > 0.5))
    both = calibration_figure(reliability, {"entropy": risk})
    assert (len(alone.figure.axes), len(both.figure.axes)) == (1, 2)
    assert alone.figure.axes[0].lines[1].get_ydata() == pytest.approx(reliability["frequency"])
    assert png(both.figure).startswith(b"\x89PNG")
