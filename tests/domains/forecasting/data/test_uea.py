"""The `.ts` reader: what it reads, and that nothing but a documented error comes of bad files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.forecasting.data.samples import write_samples
from domains.forecasting.data.uea import fit_channel_scale, labelled_set, read_ts
from shared_runtime.errors import DataError

HEADER = "# comment\n@problemName Toy\n@timeStamps false\n@dimensions 2\n@classLabel true a b\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "toy.ts"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_lengths_and_labels(tmp_path: Path) -> None:
    text = HEADER + "@data\n1,2,3:4,?,6:a\n\n# pause\n7.5:-8e1:b\n"
    series = read_ts(write(tmp_path, text))
    assert series.classes == ("a", "b")
    assert series.labels.tolist() == ["a", "b"]
    assert series.lengths.tolist() == [3, 1]
    expected = [[[1, 4], [2, np.nan], [3, 6]], [[7.5, -80], [0, 0], [0, 0]]]
    np.testing.assert_array_equal(series.values, np.float32(expected))


def test_header_is_free_of_case_and_classes_may_be_found(tmp_path: Path) -> None:
    series = read_ts(write(tmp_path, "@CLASSLABEL true\r\n@DATA\r\n1:z\r\n2:y\r\n"))
    assert series.classes == ("y", "z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": no @data line; give a UEA .ts file"),
        ("1,2:a\n", ": line 1: data before @data; add the .ts header"),
        (HEADER + "@data\n", ": no series after @data; give a file with data"),
        (HEADER + "@data\n1,2\n", ": line 7: no class; write dimensions and a class, separated"),
        (HEADER + "@data\n1,2:a\n", ": line 7: 1 dimensions, expected 2 as in the header and"),
        (HEADER + "@data\n1,2:3:a\n", ": line 7: dimensions of 1 and 2 values; give all"),
        (HEADER + "@data\n1,x:3,4:a\n", ": line 7: 'x' is not a number; correct it, or write ?"),
        (HEADER + "@data\n1,:3,4:a\n", ": line 7: '' is not a number"),
        (HEADER + "@data\n1,1_0:3,4:a\n", ": line 7: '1_0' is not a number"),
        (HEADER + "@data\n1,inf:3,4:a\n", ": line 7: a value is infinite or beyond 3.4e38"),
        (HEADER + "@data\n1,4e38:3,4:a\n", ": line 7: a value is infinite or beyond 3.4e38"),
        (HEADER + "@data\n1,2:3,4:c\n", ": line 7: class 'c' is not in the header's a, b;"),
        ("@timestamps true\n@data\n", ": @timeStamps true is not supported"),
        ("@targetlabel true\n@data\n", ": @targetLabel true: numbers to regress"),
        ("@classlabel false\n@data\n", ": @classLabel is not true"),
        ("@dimensions two\n@data\n", ": @dimensions 'two': expected a number"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_ts(path)
    assert str(caught.value).startswith(f"{path}{message}")
    assert "\n" not in str(caught.value)


PIECES = st.sampled_from(
    ["@data", "@", "@classLabel true a", "#", "1", "?", ",", ":", "a", "\n", "nan", "-", "1e999",
     "é", "\x00", " ", "@dimensions 2", "\u2028", "1,2:3,4:a\n", "٣"]
)  # fmt: skip


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pieces=st.lists(PIECES, max_size=25), raw=st.binary(max_size=20))
def test_any_text_is_read_or_refused_in_one_line(
    tmp_path: Path, pieces: list[str], raw: bytes
) -> None:
    path = tmp_path / "any.ts"
    path.write_bytes("".join(pieces).encode() + raw)
    try:
        series = read_ts(path)
    except DataError as error:
        assert str(path) in str(error)
        return
    assert series.values.shape[:2] == (len(series.labels), series.lengths.max())
    assert set(series.labels) <= set(series.classes)
    assert not np.isinf(series.values).any()


def test_standardised_on_existing_steps_of_training_only(tmp_path: Path) -> None:
    text = HEADER + "@data\n1,2,3:5,5,5:a\n7,?:5,5:b\n"
    series = read_ts(write(tmp_path, text))
    mean, std = fit_channel_scale(series)
    seen = np.array([1.0, 2.0, 3.0, 7.0])
    np.testing.assert_allclose(mean, [seen.mean(), 5])
    np.testing.assert_allclose(std, [seen.std(), 1])
    items = labelled_set(series, ("b", "a"), mean, std, max_length=4)
    batch = items.batch(np.array([1, 0]))
    assert batch["label"].tolist() == [0, 1]
    assert batch["valid"].tolist() == [[True, True, False, False], [True, True, True, False]]
    expected = [(7 - mean[0]) / std[0], 0.0, 0.0, 0.0]
    np.testing.assert_allclose(batch["x"][0, :, 0], expected, rtol=1e-6)
    assert not batch["x"][~batch["valid"]].any()


def test_unknown_classes_and_long_series_are_refused(tmp_path: Path) -> None:
    series = read_ts(write(tmp_path, HEADER + "@data\n1,2,3:5,5,5:a\n"))
    scale = fit_channel_scale(series)
    with pytest.raises(DataError, match="class 'a' was not in the training data"):
        labelled_set(series, ("b",), *scale, max_length=3)
    with pytest.raises(DataError, match="a series has 3 steps, the model takes 2"):
        labelled_set(series, ("a",), *scale, max_length=2)


def test_samples_are_readable_and_repeat_by_seed(tmp_path: Path) -> None:
    first, again, other = (
        write_samples(tmp_path / n, s) for n, s in (("1", 3), ("2", 3), ("3", 4))
    )
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(first, other, strict=True))
    train, test = read_ts(first[2]), read_ts(first[3])
    assert train.classes == test.classes
    assert len(set(train.lengths)) > 5


def test_japanese_vowels(heed_data: Path) -> None:
    folder = heed_data / "forecasting" / "japanese_vowels"
    train, test = (read_ts(folder / f"JapaneseVowels_{part}.ts") for part in ("TRAIN", "TEST"))
    assert train.values.shape == (270, 26, 12)
    assert len(test.labels) == 370
    assert (train.lengths.min(), test.lengths.max()) == (7, 29)
    assert len(train.classes) == 9
    assert [int((train.labels == name).sum()) for name in train.classes] == [30] * 9
