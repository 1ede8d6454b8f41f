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


def test_numbers_as_people_read_them() -> None:
    shown = {0.0: "0.000", 9.4: "9.400", 9999.0: "9999", 123456.7: "123457", 1.2345e-4: "0.000123"}
    for value, text in shown.items():
        single = {"model": "N", "metrics": {"m": Interval(value).__dict__}, "baselines": {}}
        cell = results_table(single).rows[0].cells[0]
        assert (cell.text, cell.best) == (text, False)


def test_one_value_is_not_the_best_of_anything() -> None:
    single = {"model": "N", "metrics": {"mse": Interval(1.0).__dict__}, "baselines": {}}
    assert not results_table(single).rows[0].cells[0].best


def test_text_has_every_row_and_the_count() -> None:
    lines = table_text(document()).splitlines()
    assert lines[0] == "test: 7 items scored, seed 3"
    assert lines[1].split() == ["mse", "accuracy", "coverage"]
    assert lines[2].split() == ["Net", "0.5000", "[0.4000,", "0.6000]", "0.8000*", "0.9000"]
    assert lines[3].split() == ["repeat", "0.2500*", "0.5000"]


def test_many_metrics_are_rows() -> None:
    many = document()
    many["metrics"] = {f"m{n}": Interval(n / 10).__dict__ for n in range(6)}
    many["baselines"] = {"repeat": {"m0": 3.0}}
    lines = table_text(many).splitlines()
    assert lines[1].split() == ["Net", "repeat"]
    assert [line.split()[0] for line in lines[2:-1]] == list(many["metrics"])
    assert lines[2].split() == ["m0", "0.000", "3"]
    assert results_table(many, most=2).columns == ("m0", "m1")
    assert not results_table(many, most=2).metrics_are_rows
