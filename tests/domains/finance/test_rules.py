"""Rules on cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from domains.finance.rules import (
    calibrated,
    drift_rule,
    imbalance,
    imbalance_rule,
    majority,
    terciles,
)


def test_majority_and_its_shares() -> None:
    label = np.array([1, 1, 0, 2], dtype=np.int8)
    assert majority(label, 2).tolist() == [[0, 1, 0], [0, 1, 0]]
    assert majority(label, 1, soft=True).tolist() == [[0.25, 0.5, 0.25]]


def test_drift_rule_compares_the_known_part_with_alpha() -> None:
    known = np.array([0.3, 0.1, -0.1, -0.3, np.nan, 0.2])
    assert drift_rule(known, 0.2).argmax(1).tolist() == [0, 1, 1, 2, 1, 1]
    assert drift_rule(known, (-0.05, 0.25)).argmax(1).tolist() == [0, 1, 2, 2, 1, 1]


def test_imbalance_by_training_terciles() -> None:
    bid, ask = np.array([3.0, 1, 0, np.nan, 0]), np.array([1.0, 3, 5, 4, 0])
    found = imbalance(bid, ask)
    assert found.tolist() == [0.5, -0.5, -1, -1, 0]
    bounds = terciles(np.array([-0.9, -0.3, 0, 0.3, 0.9, np.nan]))
    assert imbalance_rule(found, bounds).argmax(1).tolist() == [0, 2, 2, 2, 1]
    with pytest.raises(ValueError, match="finite"):
        terciles(np.array([np.nan]))


def test_calibrated_rules_give_their_training_frequencies() -> None:
    train = np.eye(3)[[0, 0, 0, 1]]
    found = calibrated(np.eye(3)[[0, 1, 2]], train, np.array([0, 0, 2, 1]))
    assert found.tolist() == [[0.5, 1 / 6, 1 / 3], [0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]]
