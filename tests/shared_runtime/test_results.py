from __future__ import annotations

import pandas as pd

from shared_runtime.domain import Evaluation, Interval
from shared_runtime.results import metrics_document, results_table, table_text


def document() -> dict[str, object]:
    evaluation = Evaluation(
        {"mse": Interval(0.5, 0.4, 0.6), "accuracy": Interval(0.8), "coverage": Interval(0.9)},
        n_scored=7,
        predictions=pd.DataFrame(),
    )
    baselines = {"repeat": {"mse": 0.25, "accuracy": 0.5}, "mean": {"mse": 0.75, "coverage": 1.0}}
    return metrics_document("Net", "test", evaluation, 3, baselines)


def test_document() -> None:
    assert document() == {
        "model": "Net",
        "split": "test",
        "n_scored": 7,
        "seed": 3,
        "metrics": {
            "mse": {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6},
            "accuracy": {"value": 0.8, "ci_low": None, "ci_high": None},
            "coverage": {"value": 0.9, "ci_low": None, "ci_high": None},
        },
        "baselines": {
            "repeat": {"mse": 0.25, "accuracy": 0.5},
            "mean": {"mse": 0.75, "coverage": 1.0},
        },
    }


def test_best_is_lowest_error_and_highest_score() -> None:
    table = results_table(document())
    best = {
        column: [row.name for row in table.rows if row.cells[number].best]
        for number, column in enumerate(table.columns)
    }
    assert best == {"mse": ["repeat"], "accuracy": ["Net"], "coverage": []}
    assert [row.is_model for row in table.rows] == [True, False, False]


def test_text_has_every_row_and_the_count() -> None:
    lines = table_text(document()).splitlines()
    assert lines[0] == "test: 7 items scored, seed 3"
    assert lines[1].split() == ["mse", "accuracy", "coverage"]
    assert lines[2].split() == ["Net", "0.5", "[0.4,", "0.6]", "0.8*", "0.9"]
    assert lines[3].split() == ["repeat", "0.25*", "0.5"]
