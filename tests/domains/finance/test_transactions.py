"""p_T against a loop over rows, and on the cases that the paper makes its point with."""

from __future__ import annotations

import numpy as np
import pytest

from domains.finance.signals import signals
from domains.finance.transactions import (
    threshold_table,
    transaction_counts,
    transaction_metrics,
    transactions,
)

U, S, D = 0, 1, 2


def one_hot(classes: list[int]) -> np.ndarray:
    return np.eye(3)[classes]


def p_t(predicted: list[int], label: list[int]) -> float:
    found = transaction_metrics(one_hot(predicted), np.array(label, dtype=np.int8), resamples=0)
    return found["p_t"].value


def loop(classes: np.ndarray, series: np.ndarray) -> list[tuple[int, int, int]]:
    """Walk row by row with a position in hand."""
    found, position, since = [], 0, -1
    for row, (code, owner) in enumerate(zip(classes, series, strict=True)):
        if row and owner != series[row - 1]:
            position = 0
        wanted = {U: 1, S: 0, D: -1}[int(code)]
        if wanted and position == 0:
            position, since = wanted, row
        elif wanted == -position and wanted:
            found.append((since, row, position))
            position, since = wanted, row
    return found


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_walk_row_by_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    series = np.sort(rng.integers(0, 5, n))
    label = rng.choice(3, n, p=[0.2, 0.6, 0.2]).astype(np.int8)
    predicted = np.where(rng.random(n) < 0.6, label, rng.integers(0, 3, n))
    made, possible = loop(predicted, series), loop(label, series)
    right = [t for t in made if label[t[0]] == 1 - t[2] and label[t[1]] == 1 + t[2]]
    exact = set(made) & set(possible)
    counts = transaction_counts(signals(one_hot(predicted)), label, series).sum(axis=0)
    assert counts.tolist() == [len(possible), len(made), len(right), len(exact)]
    assert len(exact) <= len(right) <= min(len(possible), len(made))
    found = transaction_metrics(one_hot(predicted), label, series, resamples=0)
    for name, correct in (("p_t", len(right)), ("p_t_exact", len(exact))):
        whole = len(possible) + len(made) - correct
        assert found[name].value == (correct / whole if whole else 0)
    taken = transactions(signals(one_hot(predicted)), series)
    assert [*zip(taken.opening, taken.closing, taken.side, strict=True)] == made


def test_errors_at_the_turns_leave_no_correct_transaction() -> None:
    label = [U, U, U, U, D, D, D, D, U, U, U, U, D, D, D, D]
    early = [U, U, U, D, D, D, D, U, U, U, U, D, D, D, D, U]
    assert np.mean(np.array(early) == label) == 0.75
    assert p_t(early, label) == 0
    late = [S, U, U, U, U, D, D, D, D, U, U, U, U, D, D, D]
    found = transaction_metrics(one_hot(late), np.array(label), resamples=0)
    assert found["p_t"].value == 1 and found["p_t_exact"].value == 0


def test_few_but_right_forecasts_are_complete() -> None:
    label = [U, U, U, U, D, D, D, D, U, U, U, U]
    sparse = [U, S, S, S, D, S, S, S, U, S, S, S]
    assert p_t(sparse, label) == p_t(label, label) == 1


def test_neither_open_positions_nor_two_series_make_a_transaction() -> None:
    assert p_t([U, U, S, U], [U, U, S, U]) == 0
    label = np.array([U, S, D, D], dtype=np.int8)
    apart = transaction_metrics(one_hot(label.tolist()), label, np.array([0, 0, 1, 1]), resamples=0)
    assert apart["p_t"].value == 0


def test_a_threshold_silences_what_is_less_sure() -> None:
    probability = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.3, 0.6, 0.1], [0.25, 0.5, 0.25]])
    assert signals(probability).tolist() == [1, -1, 0, 0]
    assert signals(probability, 0.55).tolist() == [0, -1, 0, 0]
    assert signals(probability, 0.25).tolist() == [1, -1, 1, 0]
    with pytest.raises(ValueError, match="threshold must be above 0"):
        signals(probability, 1.5)
    table = threshold_table(probability, np.array([U, D, S, S]), np.zeros(4, dtype=int), (0.55,))
    assert table["made"].tolist() == [1, 0] and table["p_t"].tolist() == [1, 0]


def test_intervals_are_of_transactions_and_reproducible() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(rng.choice([U, S, D], 500), 4).astype(np.int8)
    predicted = np.where(rng.random(2000) < 0.8, label, rng.integers(0, 3, 2000))
    one, two = (transaction_metrics(one_hot(predicted), label, block=20, seed=3) for _ in "ab")
    assert one == two
    for item in one.values():
        assert item.ci_low is not None and item.ci_high is not None
        assert 0 <= item.ci_low <= item.value <= item.ci_high <= 1
