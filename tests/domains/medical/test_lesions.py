"""Lesions found, missed and invented, in masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from domains.medical.lesions import OVERLAP, match_lesions
from domains.medical.metrics import score_case


def boxes(*places: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((40, 40), dtype=bool)
    for place in places:
        mask[place] = True
    return mask


A, B, C = np.s_[2:8, 2:8], np.s_[2:8, 20:26], np.s_[30:34, 30:34]


def test_found_missed_and_invented_lesions_are_counted() -> None:
    half = np.s_[2:5, 2:8]
    scores = match_lesions(boxes(half, C), boxes(A, B)).scores()
    assert scores["lesions_true"] == scores["lesions_predicted"] == 2
    assert scores["lesions_found"] == 1
    assert scores["lesion_recall"] == scores["lesion_precision"] == scores["lesion_f1"] == 0.5
    assert scores["lesion_dice"] == pytest.approx((2 * 18 / (18 + 36) + 0) / 2)


def test_a_lesion_counts_as_found_from_the_overlap_on() -> None:
    truth = boxes(np.s_[0:10, 0:10])
    at, below = boxes(np.s_[0:10, 0:1]), boxes(np.s_[0:9, 0:1])
    assert match_lesions(at, truth).found == 1 and match_lesions(below, truth).found == 0
    assert at.sum() / truth.sum() == OVERLAP


def test_one_prediction_over_two_lesions_finds_one_and_the_larger_overlap_decides() -> None:
    joined = boxes(np.s_[2:8, 2:24])
    lesions = match_lesions(joined, boxes(A, np.s_[2:8, 20:25]))
    assert lesions.found == 1 and lesions.match.tolist() == [0, -1]
    parts = boxes(np.s_[2:4, 2:8], np.s_[5:8, 2:8])
    lesions = match_lesions(parts, boxes(A))
    assert lesions.match.tolist() == [1] and lesions.scores()["lesion_precision"] == 0.5


def test_pairs_are_chosen_together_and_not_one_after_the_other() -> None:
    """The best pair alone would leave the second lesion without one."""
    truth = boxes(np.s_[0:2, 0:10], np.s_[0:2, 11:21])
    prediction = boxes(np.s_[0:2, 4:20], np.s_[0:2, 0:3])
    lesions = match_lesions(prediction, truth)
    assert lesions.found == 2 and sorted(lesions.match.tolist()) == [0, 1]


def test_corners_join_and_touching_grids_do_not_wrap() -> None:
    corner = boxes(np.s_[0:2, 0:2], np.s_[2:4, 2:4])
    assert len(match_lesions(corner, corner).truth) == 1
    ends = boxes(np.s_[0:2, 0:2], np.s_[38:40, 38:40])
    assert len(match_lesions(ends, ends).truth) == 2


def test_nothing_to_find_and_nothing_predicted() -> None:
    empty, some = boxes(), boxes(A)
    both = match_lesions(empty, empty).scores()
    assert all(np.isnan(both[f"lesion_{name}"]) for name in ("recall", "precision", "f1", "dice"))
    nothing = match_lesions(empty, some).scores()
    assert nothing["lesion_recall"] == nothing["lesion_precision"] == nothing["lesion_f1"] == 0
    assert nothing["lesion_dice"] == 0
    invented = match_lesions(some, empty).scores()
    assert np.isnan(invented["lesion_recall"]) and np.isnan(invented["lesion_dice"])
    assert invented["lesion_precision"] == invented["lesion_f1"] == 0


def test_the_table_has_the_diameter_of_each_lesion() -> None:
    zyx = np.indices((30, 30, 30)) - 14.5
    truth = (zyx**2).sum(0) * 0.25 <= 5**2
    table = match_lesions(truth, truth).table((0.5, 0.5, 0.5))
    assert table["mm"].tolist() == pytest.approx([10], rel=0.02)
    assert table["found"].tolist() == [True] and table["dice"].tolist() == [1.0]
    flat = match_lesions(truth[15], truth[15]).table((0.5, 0.5))
    assert flat["mm"].tolist() == pytest.approx([10], rel=0.03)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(30, 30), (12, 14, 10)]))
def test_matches_are_pairs_that_overlap_enough(seed: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), 1.5)
    other = field + 0.6 * gaussian_filter(rng.normal(size=shape), 1.5)
    one, two = field > 0.15, other > 0.15
    lesions = match_lesions(two, one)
    used = lesions.match[lesions.match >= 0]
    assert len(set(used)) == len(used)
    assert lesions.truth.sum() == one.sum() and lesions.predicted.sum() == two.sum()
    least = 2 * OVERLAP / (1 + OVERLAP)
    assert ((lesions.dice > 0) == (lesions.match >= 0)).all()
    assert (lesions.dice[lesions.match >= 0] >= least - 1e-12).all()
    assert match_lesions(one, two).found == lesions.found
    perfect = match_lesions(one, one)
    assert perfect.found == len(perfect.truth) and (perfect.dice == 1).all()


def test_rows_of_lesion_labels_have_their_scores() -> None:
    truth, prediction = boxes(A, B).astype(int), boxes(A).astype(int)
    labels = {"background": 0, "lesion": 1, "organ": 2}
    lesion, organ = score_case("x", prediction, truth, (1, 1), labels, lesions=("lesion",))
    assert lesion["lesion_recall"] == 0.5 and "lesion_recall" not in organ
