"""Tables, means and intervals over patients, pooling and paired comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest

from domains.medical.metrics import SCORES, score_case
from domains.medical.scoring import counts, paired, pooled, summarise, table
from shared_runtime.errors import DataError
from shared_runtime.intervals import mean_interval

LABELS = {"background": 0, "organ": 1, "tumour": 2}


def cases(number: int, seed: int, *, wrong: float) -> list[dict[str, object]]:
    """Rows of squares whose prediction is shifted and shrunk by chance."""
    rows = []
    for case in range(number):
        place = np.random.default_rng(case).integers(0, 6, 2)
        rng = np.random.default_rng(seed + case)
        truth, prediction = np.zeros((2, 24, 24), dtype=np.uint8)
        for label, (start, size) in {1: (place + 2, 12), 2: (place + 5, 4)}.items():
            for mask, shift in ((truth, 0), (prediction, int(rng.random() < wrong))):
                mask[start[0] + shift :, start[1] :][:size, :size] = label
        rows += score_case(f"case_{case}", prediction, truth, (1.0, 2.0), LABELS)
    return rows


def row(case: str, label: str, dice: float, present: str = "both") -> dict[str, object]:
    scores = {name: dice for name in ("dice", "iou", "nsd")}
    distances = {name: 10 * (1 - dice) for name in ("hd95", "assd", "volume_error")}
    voxels = {"tp": 1, "fp": 0, "fn": 0, "tn": 1}
    return {"case": case, "label": label, "present": present, **scores, **distances, **voxels}


def test_values_are_case_averages_as_nnunets() -> None:
    rows = cases(9, 0, wrong=0.6)
    frame = table(rows)
    found = summarise(rows, seed=0)
    for score in SCORES:
        each = [frame.loc[frame["label"] == label, score].mean() for label in ("organ", "tumour")]
        assert found[f"{score}_organ"].value == pytest.approx(each[0])
        assert found[score].value == pytest.approx(np.mean(each))
    assert found["unscored"].value == 0 and found["unscored"].ci_low is None


def test_intervals_are_those_of_the_mean_over_patients() -> None:
    rows = cases(9, 0, wrong=0.6)
    frame = table(rows)
    by_case = frame.pivot(index="case", columns="label", values="dice")
    expected = mean_interval(by_case.mean(axis=1).to_numpy(), seed=3)
    found = summarise(rows, seed=3)["dice"]
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.ci_low, expected.ci_high))
    assert summarise(rows, seed=3)["dice"] == found != summarise(rows, seed=4)["dice"]


def test_a_patient_with_many_scans_counts_once() -> None:
    rows = [row(f"c{i}", "organ", 0.5) for i in range(8)] + [row("c8", "organ", 1.0)]
    patients = {f"c{i}": "anna" for i in range(8)} | {"c8": "ben"}
    assert summarise(rows, patients, seed=0)["dice"].value == pytest.approx(0.75)
    assert summarise(rows, seed=0)["dice"].value == pytest.approx((8 * 0.5 + 1) / 9)
    with pytest.raises(DataError, match="c8: no patient is known"):
        summarise(rows, {f"c{i}": "anna" for i in range(8)}, seed=0)


def test_correlated_scans_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    level = rng.uniform(0.3, 0.9, 8)
    rows = [row(f"p{i}s{j}", "organ", float(level[i])) for i in range(8) for j in range(10)]
    patients = {f"p{i}s{j}": f"p{i}" for i in range(8) for j in range(10)}
    whole, apart = summarise(rows, patients, seed=0)["dice"], summarise(rows, seed=0)["dice"]
    width = (whole.ci_high or 0) - (whole.ci_low or 0)
    assert width > 2 * ((apart.ci_high or 0) - (apart.ci_low or 0))


def test_labels_without_a_score_are_left_out_and_counted() -> None:
    rows = [row(f"c{i}", "organ", 0.8) for i in range(4)]
    rows += [row("c0", "tumour", 0.4), row("c1", "tumour", 0.0, "truth")]
    rows += [row(f"c{i}", "tumour", math.nan, "neither") for i in (2, 3)]
    found = summarise(rows, seed=0)
    assert found["dice_tumour"].value == pytest.approx(0.2)
    assert found["dice"].value == pytest.approx((0.8 + 0.2) / 2)
    assert found["unscored"].value == 2
    assert found["dice_organ"].ci_low == found["dice_organ"].ci_high == pytest.approx(0.8)
    low, high = found["dice"].ci_low, found["dice"].ci_high
    assert low is not None and high is not None and low < 0.5 < high
    lines = counts(rows).set_index("label").loc["tumour"].to_dict()
    assert lines == {"cases": 4, "scored": 2, "missed": 1, "invented": 0, "unscored": 2}


def test_intervals_with_missing_labels_cover_the_truth() -> None:
    """95 % intervals of a ratio of means, with a label that only some patients have."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = []
        for i in range(40):
            rows.append(row(f"c{i}", "organ", float(rng.beta(8, 2))))
            if rng.random() < 0.4:
                rows.append(row(f"c{i}", "tumour", float(rng.beta(2, 2))))
            else:
                rows.append(row(f"c{i}", "tumour", math.nan, "neither"))
        kept = [
            {name: each[name] for name in ("case", "label", "present", "dice")} for each in rows
        ]
        found = summarise(kept, seed=seed, resamples=200)["dice"]
        assert found.ci_low is not None and found.ci_high is not None
        covered += found.ci_low <= (0.8 + 0.5) / 2 <= found.ci_high
    assert 51 <= covered < 60


def test_pooling_is_named_and_differs_from_the_case_mean() -> None:
    big, small = np.zeros((2, 30, 30), dtype=np.uint8)
    big[:20], small[:1, :10] = 1, 1
    rows = score_case("big", big, big, (1, 1), {"lesion": 1})
    rows += score_case("small", np.zeros_like(small), small, (1, 1), {"lesion": 1})
    found = pooled(rows)
    assert set(found) == {
        f"pooled_{name}" for name in ("dice", "iou", "sensitivity", "specificity", "accuracy")
    }
    assert found["pooled_dice"] == pytest.approx(2 * 600 / (2 * 600 + 10))
    assert found["pooled_sensitivity"] == pytest.approx(600 / 610)
    assert found["pooled_specificity"] == 1.0
    assert found["pooled_accuracy"] == pytest.approx(1 - 10 / 1800)
    assert summarise(rows, seed=0)["dice"].value == 0.5


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    one, two = cases(30, 0, wrong=0.2), cases(30, 500, wrong=0.9)
    found = paired(one, two, seed=0).set_index("metric")
    a, b = (summarise(rows, seed=0) for rows in (one, two))
    for name in ("dice", "hd95", "dice_tumour"):
        line = found.loc[name]
        assert line["a"] == pytest.approx(a[name].value)
        assert line["b"] == pytest.approx(b[name].value)
        assert line["difference"] == pytest.approx(line["a"] - line["b"])
    assert found.loc["dice", "ci_low"] > 0 and found.loc["hd95", "ci_high"] < 0
    assert found.loc["dice", "better"] > 0.5 and found.loc["hd95", "better"] > 0.5
    assert found.loc["dice", "patients"] == 30
    back = paired(two, one, seed=0).set_index("metric")
    assert back["difference"].to_numpy() == pytest.approx(-found["difference"].to_numpy())
    same = paired(one, one, seed=0)
    assert (same[["difference", "ci_low", "ci_high", "better"]] == 0).all(axis=None)


def test_rows_are_paired_by_case_and_label_and_not_by_place() -> None:
    one, two = cases(12, 0, wrong=0.5), cases(12, 500, wrong=0.5)
    straight, shuffled = paired(one, two, seed=0), paired(one, two[::-1], seed=0)
    assert straight.equals(shuffled)


def test_models_over_different_cases_are_not_compared() -> None:
    one = cases(4, 0, wrong=0.5)
    with pytest.raises(DataError, match="case_3: label tumour is scored for one model only"):
        paired(one, one[:-1], seed=0)


def test_inventing_a_lesion_costs_where_the_other_model_said_nothing() -> None:
    quiet = [row("c0", "tumour", math.nan, "neither"), row("c1", "tumour", 0.8)]
    loud = [row("c0", "tumour", 0.0, "prediction"), row("c1", "tumour", 0.8)]
    found = paired(quiet, loud, seed=0).set_index("metric")
    assert found.loc["dice", "difference"] == pytest.approx(0.5)
    assert found.loc["hd95", "difference"] == pytest.approx(-5)
    neither = paired(quiet, quiet, seed=0).set_index("metric")
    assert neither.loc["dice", "patients"] == 1


def test_lesion_and_calibration_scores_are_averaged_where_there_are_some() -> None:
    rows = [row("c0", "tumour", 0.5), row("c1", "tumour", 0.5), row("c2", "organ", 0.5)]
    rows[0] |= {"lesion_recall": 1.0, "ece": 0.1}
    rows[1] |= {"lesion_recall": 0.5, "ece": 0.3}
    found = summarise(rows, seed=0)
    assert found["lesion_recall"].value == found["lesion_recall_tumour"].value == 0.75
    assert found["ece"].value == pytest.approx(0.2)
    assert "ece_tumour" not in found and "lesion_recall_organ" not in found


def test_no_cases_and_repeated_cases_are_refused() -> None:
    with pytest.raises(DataError, match="no case was scored"):
        summarise([], seed=0)
    with pytest.raises(DataError, match="c0: label organ is scored twice"):
        table([row("c0", "organ", 0.5)] * 2)
