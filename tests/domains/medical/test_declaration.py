"""`dataset.json`: both ways of writing labels, and one line for whatever else it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.medical.data.declaration import read_declaration
from shared_runtime.errors import DataError
from tests.domains.medical.made_scans import declare

NAMES = st.text("abcdefghij äöü-_", min_size=1, max_size=8).filter(lambda n: n != "ignore")


def written(folder: Path, content: Any) -> Path:
    path = folder / "dataset.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def test_version_2(tmp_path: Path) -> None:
    found = read_declaration(declare(tmp_path, 2))
    assert found.channels == ("CT", "PET")
    assert dict(found.labels) == {"background": 0, "liver": 1, "tumour": 2}
    assert (found.values, found.file_ending, found.count) == ((0, 1, 2), ".nii.gz", 6)


def test_gaps_and_a_background_that_is_not_named(tmp_path: Path) -> None:
    path = declare(tmp_path, labels={"kidney": 252, "liver": "63"})
    found = read_declaration(path)
    assert dict(found.labels) == {"background": 0, "liver": 1, "kidney": 2}
    assert found.values == (0, 63, 252)
    found = read_declaration(declare(tmp_path, labels={"air": 0, "bone": 1}))
    assert dict(found.labels) == {"air": 0, "bone": 1}


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(names=st.dictionaries(st.integers(1, 65535), NAMES, max_size=6))
def test_both_versions_say_the_same(tmp_path: Path, names: dict[int, str]) -> None:
    names = {value: f"{name}{value}x" for value, name in names.items()} | {0: "background"}
    channels = {"0": "CT"}
    new = {"channel_names": channels, "labels": {name: value for value, name in names.items()}}
    old = {"modality": channels, "labels": {str(value): name for value, name in names.items()}}
    one, other = (read_declaration(written(tmp_path, content)) for content in (new, old))
    assert one == other
    for value, name in names.items():
        assert one.values[one.labels[name]] == value
    assert sorted(one.labels.values()) == list(range(len(names)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, "labels are regions of several values"),
        ({"regions_class_order": [1, 2]}, "labels are regions"),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "an ignore label, which is not supp"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "labels 'a' and 'b' have the same value 1"),
        ({"labels": {"0": "x", "1": "a", "2": "a"}}, "label 'a' is there twice"),
        ({"labels": {"background": 1}}, "background is not 0"),
        ({"labels": {"background": 0, "a": -1}}, "label 'a' has the value -1; give an integer"),
        ({"labels": {"background": 0, "a": 1.5}}, r"label 'a' has the value 1\.5"),
        ({"labels": {"background": 0, "a": True}}, "label 'a' has the value True"),
        ({"labels": {"background": 0, "a": 10**400}}, "label 'a' has the value 1000"),
        ({"labels": []}, "labels is no object"),
        ({"labels": None}, "labels is missing"),
        ({"channel_names": None}, "channel_names is missing"),
        ({"channel_names": {"1": "CT"}}, "channel_names has the keys '1'; number the channels"),
        ({"channel_names": {"0": 5}}, "number the channels from 0, with a name for each"),
        ({"file_ending": ".nrrd"}, r"file_ending '\.nrrd' is not supported; convert the files"),
        ({"training": {"image": "a"}}, "training is no list"),
        ({"training": [{"image": "a"}]}, "training entry 0 has no image and label"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = declare(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_declaration(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ('{"labels": {"a": 1, "a": 2}}', "'a' is there twice; remove one"),
        ("[1, 2]", "is no JSON object"),
        ("[" * 100_000, "is no JSON"),
        ("1" * 5000, "is no JSON"),
    ],
)
def test_what_is_no_declaration(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_declaration(written(tmp_path, text))
    (tmp_path / "dataset.json").write_bytes(b'{"labels": "\xff\xfe"}')
    with pytest.raises(DataError, match="is no JSON"):
        read_declaration(tmp_path / "dataset.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
KEYS = ["channel_names", "modality", "labels", "training", "file_ending", "numTraining"]


@settings(
    max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(content=st.dictionaries(st.sampled_from(KEYS), JSON), valid=st.booleans())
def test_any_json_gives_a_declaration_or_one_line(
    tmp_path: Path, content: dict, valid: bool
) -> None:
    base = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}} if valid else {}
    try:
        found = read_declaration(written(tmp_path, {**base, **content}))
    except DataError as error:
        assert "\n" not in str(error) and "; " in str(error)
    else:
        assert found.values[0] == 0 and list(found.values) == sorted(set(found.values))
        assert sorted(found.labels.values()) == list(range(len(found.values)))
