"""Splits are by patient, repeatable, and those of the field."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domains.medical.data.case import Case, DataSet
from domains.medical.data.config import DataConfig
from domains.medical.data.layouts import read_data_set
from domains.medical.data.splits import split
from shared_runtime.errors import DataError

IMAGE = (Path("a.nii.gz"),)


def data_set(patients: list[str], parts: list[str | None] | None = None) -> DataSet:
    given = parts or [None] * len(patients)
    cases = [
        Case(f"case_{n:03}", patient, IMAGE, split=part)
        for n, (patient, part) in enumerate(zip(patients, given, strict=True))
    ]
    return DataSet(tuple(cases), ("CT",), {"background": 0, "a": 1}, (0, 1), 3)


def config(**options: object) -> DataConfig:
    return DataConfig(path=Path("data"), **options)


def independent_folds(n: int, folds: int, seed: int) -> list[list[int]]:
    """A shuffled K-fold, written out: shuffle, cut, the first parts one longer."""
    order = np.arange(n)
    np.random.RandomState(seed).shuffle(order)
    return [sorted(part.tolist()) for part in np.array_split(order, folds)]


@pytest.mark.parametrize("n", [5, 23, 260])
def test_folds_are_those_of_nnunet(n: int) -> None:
    cases = data_set([f"case_{i:03}" for i in range(n)])
    expected = independent_folds(n, 5, 12345)
    for fold in range(5):
        parts = split(cases, config(fold=fold), seed=7)
        assert [cases.cases.index(case) for case in parts.test] == expected[fold]


def test_hippocampus_fold_0(heed_data: Path) -> None:
    settings_ = config(validation=0)
    found, _ = read_data_set(DataConfig(path=heed_data / "medical" / "hippocampus"))
    parts = split(found, settings_, seed=0)
    assert (len(parts.train), len(parts.test)) == (208, 52)
    assert parts.val == parts.train
    names = sorted(
        path.name[:15] for path in (heed_data / "medical/hippocampus/labelsTr").iterdir()
    )
    expected = [names[n] for n in independent_folds(260, 5, 12345)[0]]
    assert [case.id for case in parts.test] == expected


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 12).map(str), min_size=1, max_size=40),
    folds=st.integers(2, 5),
    validation=st.sampled_from([0.0, 0.1, 0.5, 0.99]),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_no_patient_is_ever_in_two_parts(
    patients: list[str], folds: int, validation: float, seed: int, data: st.DataObject
) -> None:
    cases = data_set(patients)
    fold = data.draw(st.integers(0, folds - 1))
    options = config(folds=folds, fold=fold, validation=validation)
    try:
        parts = split(cases, options, seed)
    except DataError:
        n = len(set(patients))
        rest = n - n // folds - (fold < n % folds)
        assert n < folds or (validation > 0 and rest < 2)
        return
    owners = {name: {case.patient for case in part} for name, part in parts.items().items()}
    assert not owners["train"] & owners["test"] and not owners["val"] & owners["test"]
    if validation:
        assert not owners["train"] & owners["val"]
        assert len(parts.train) + len(parts.val) + len(parts.test) == len(patients)
    assert all(owners.values())
    assert split(cases, options, seed) == parts


def test_the_order_of_cases_does_not_matter_and_the_seed_moves_validation_only() -> None:
    cases = data_set([f"p{n}" for n in range(40)])
    parts = split(cases, config(), 0)
    turned = DataSet(cases.cases[::-1], ("CT",), cases.labels, (0, 1), 3)
    assert {c.id for c in split(turned, config(), 0).val} == {c.id for c in parts.val}
    other = split(cases, config(), 1)
    assert other.test == parts.test
    assert other.val != parts.val
    assert len(parts.val) == 3
    folds = [case.id for fold in range(5) for case in split(cases, config(fold=fold), 0).test]
    assert Counter(folds) == Counter(case.id for case in cases.cases)


def test_given_parts_are_kept() -> None:
    named = ["train", "val", "test", "train", None]
    cases = data_set(list("abcde"), named)
    parts = split(cases, config(), 0)
    ids = {name: [case.patient for case in part] for name, part in parts.items().items()}
    assert ids == {"train": ["a", "d", "e"], "val": ["b"], "test": ["c"]}
    cases = data_set(list("abcdefghijk"), ["test", *[None] * 10])
    parts = split(cases, config(validation=0.2), 0)
    assert [len(part) for part in parts.items().values()] == [8, 2, 1]


@pytest.mark.parametrize(
    ("patients", "parts", "message"),
    [
        (["a", "a", "b"], ["train", "test", "val"], "patient a is in test and train; put all"),
        (["a", "a", "b"], ["test", None, None], "patient a is in no part and test; put all"),
        (["a", "b", "c"], ["train", "val", "train"], "no test part; name the cases to score"),
        (["a", "b"], None, "2 patients for 5 folds; set data.folds to 2 or less, or name a test"),
        (["a", "a"], None, "1 patient for 5 folds; name a test part"),
        (
            ["a", "b"],
            ["test", None],
            r"too few patients to train and validate on \(1\); add",
        ),
        (["a", "b"], ["test", "val"], "no patients are left to train on"),
        ([], None, "no cases to split"),
    ],
)
def test_refusals(patients: list[str], parts: list | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split(data_set(patients, parts), config(), 0)
    assert "\n" not in str(caught.value)
