"""Scores of an embedding against independent references; masks and groups."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, normalized_mutual_info_score

from domains.medical.retrieval.baselines import histogram, pixels
from domains.medical.retrieval.clustering import centres, cluster, renamed
from domains.medical.retrieval.scoring import (
    RANKS,
    average_precision,
    hits,
    mean_over_patients,
    neighbour_loss,
    nmi,
    ranked,
    scores,
)
from domains.medical.retrieval.weak import dice, otsu, weak_masks

RANDOM = np.random.default_rng(0)


def test_nmi_is_scikit_learns() -> None:
    label, group = RANDOM.integers(0, 4, 200), RANDOM.integers(0, 3, 200)
    table = np.zeros((4, 3))
    np.add.at(table, (label, group), 1)
    assert float(nmi(table)) == pytest.approx(normalized_mutual_info_score(label, group))
    assert float(nmi(np.diag([3.0, 5.0]))) == pytest.approx(1)
    assert float(nmi(np.array([[4.0]]))) == 1


def test_average_precision_is_scikit_learns() -> None:
    points, target = RANDOM.normal(size=(30, 5)), RANDOM.integers(0, 3, 30)
    target[0] = 7
    found = average_precision(points, target)
    assert np.isnan(found[0])
    for query in range(1, 30):
        others = np.arange(30) != query
        gap = np.linalg.norm(points - points[query], axis=1)[others]
        expected = average_precision_score(target[others] == target[query], -gap)
        assert found[query] == pytest.approx(expected)


def test_neighbour_loss_by_loops() -> None:
    points, target = RANDOM.normal(size=(9, 2)), np.array([0, 0, 0, 1, 1, 1, 1, 1, 2])
    found = neighbour_loss(points, target)
    assert np.isnan(found[8])
    for query in range(8):
        weights = np.exp(-2 * ((points - points[query]) ** 2).sum(axis=1))
        weights[query] = 0
        expected = -np.log(weights[target == target[query]].sum() / weights.sum())
        assert found[query] == pytest.approx(expected)


def test_recall_leaves_out_images_of_the_same_patient() -> None:
    points = np.array([[0.0], [0.1], [5.0], [5.1], [0.3]])
    target = np.array([0, 0, 1, 1, 1])
    apart = hits(points, target, list("abcde"))
    assert apart[:, 0].tolist() == [1, 1, 1, 1, 0]
    assert apart[4].tolist() == [0, 0, 1, 1]
    paired = hits(points, target, list("aabbc"))
    assert np.isnan(paired[:2]).all(), "no other patient has class 0"
    assert paired[2].tolist() == [1, 1, 1, 1]


def test_recall_by_loops() -> None:
    points, target = RANDOM.normal(size=(40, 3)), RANDOM.integers(0, 5, 40)
    patients = [str(n // 2) for n in range(40)]
    found = hits(points, target, patients)
    for query in range(40):
        order = np.argsort(np.linalg.norm(points - points[query], axis=1), kind="stable")
        others = [n for n in order if patients[n] != patients[query]]
        for column, k in enumerate(RANKS):
            expected = any(target[n] == target[query] for n in others[:k])
            assert bool(found[query, column]) == expected


def test_a_perfect_embedding_scores_one_and_chance_much_less() -> None:
    target = np.arange(40) % 4
    patients = [str(n) for n in range(40)]
    perfect = scores(np.eye(4)[target], target, patients, seed=0)
    assert perfect["nmi"].value == pytest.approx(1)
    assert [perfect[f"recall_{k}"].value for k in RANKS] == [1, 1, 1, 1]
    chance = scores(RANDOM.normal(size=(40, 8)), target, patients, seed=0)
    assert chance["nmi"].value < 0.4
    assert chance["recall_1"].ci_low < chance["recall_1"].value < chance["recall_1"].ci_high  # type: ignore[operator]


def test_intervals_are_over_patients_not_images() -> None:
    """Ten copies of each patient's image say no more than one."""
    values = RANDOM.integers(0, 2, 30).astype(float)
    once = mean_over_patients(values, np.arange(30), seed=0)
    often = mean_over_patients(np.repeat(values, 10), np.repeat(np.arange(30), 10), seed=0)
    assert dataclasses.astuple(often) == pytest.approx(dataclasses.astuple(once))
    alone = mean_over_patients(np.repeat(values, 10), np.arange(300), seed=0)
    assert alone.ci_low is not None
    assert once.ci_low is not None
    assert alone.ci_low > once.ci_low


def test_ranking_in_parts_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = RANDOM.normal(size=(7, 3)), RANDOM.normal(size=(9, 3))
    whole = ranked(query, gallery, most=4)
    monkeypatch.setattr("domains.medical.retrieval.scoring._QUERIES_AT_ONCE", 2)
    parts = ranked(query, gallery, most=4)
    assert np.array_equal(whole[0], parts[0])
    gap = np.linalg.norm(query[:, None] - gallery, axis=2)
    assert np.allclose(whole[1], np.sort(gap, axis=1)[:, :4])


def test_groups_keep_their_names() -> None:
    points = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 10, axis=0)
    points += RANDOM.normal(0, 0.1, points.shape)
    groups = cluster(points, 3, seed=1)
    assert np.array_equal(groups, cluster(points, 3, seed=1))
    before = np.repeat([2, 0, 1], 10)
    assert np.array_equal(renamed(groups, before, 3), before)
    assert np.allclose(centres(points, before, 3)[2], points[:10].mean(axis=0))


def test_a_new_group_gets_the_name_that_is_left() -> None:
    before = np.array([0] * 12)
    groups = np.array([1] * 8 + [0] * 4)
    assert renamed(groups, before, 2).tolist() == [0] * 8 + [1] * 4


def test_fewer_points_than_groups() -> None:
    points = np.array([[0.0], [0.0], [1.0]])
    assert set(cluster(points, 3, seed=0)) == {0, 1}
    assert centres(points, np.array([0, 0, 1]), 3)[2] == pytest.approx(points.mean())


def test_otsu_by_trying_every_threshold() -> None:
    values = np.concatenate([RANDOM.normal(0, 1, 300), RANDOM.normal(6, 1, 100)])
    edges = np.histogram(values, bins=256)[1][1:-1]

    def within(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * low.var() + len(high) * high.var()

    best = min(within(edge) for edge in edges)
    assert within(otsu(values)) == pytest.approx(best, rel=1e-3)
    assert not weak_masks(np.ones((1, 4, 4))).any()


def test_dice_of_masks() -> None:
    found = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    truth = np.array([[1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert dice(found, truth).tolist() == [pytest.approx(2 / 3), 1.0]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_histograms_see_colours_and_not_places(channels: int) -> None:
    images = RANDOM.normal(size=(3, channels, 16, 16)).astype(np.float16)
    images[1] += 1
    shuffled = images[..., ::-1, :]
    assert np.allclose(histogram(shuffled, images), histogram(images, images))
    assert not np.allclose(histogram(images, images)[0], histogram(images, images)[1])
    joint = 1 if channels <= 3 else channels
    assert np.allclose((histogram(images, images) ** 2).sum(axis=1), joint, atol=1e-6)
    assert not np.allclose(pixels(shuffled), pixels(images))
