"""CSV manifests: every column, every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domains.medical.data.config import DataConfig
from domains.medical.data.findings import Found
from domains.medical.data.layouts import read_data_set
from domains.medical.data.manifest import read_manifest
from domains.medical.data.reading import read_label, read_scan
from tests.domains.medical.made_scans import mask, save, series, stored, volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        save(tmp_path / "ct" / f"{name}.nii.gz", volume())
        save(tmp_path / "pet" / f"{name}.nii.gz", volume(1))
        save(tmp_path / "seg" / f"{name}.nii.gz", mask())
    return tmp_path


def manifest(folder: Path, *lines: str) -> Found:
    path = folder / "cases.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return read_manifest(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_column(folder: Path, separator: str) -> None:
    lines = [
        "image_CT,image_PET,label,patient,split,id,age",
        "ct/a.nii.gz,pet/a.nii.gz,seg/a.nii.gz,P1,train,one,50",
        "",
        f"{folder}/ct/b.nii.gz,pet/b.nii.gz,seg/b.nii.gz,P2,Validation,,60",
        "ct/c.nii.gz,pet/c.nii.gz,seg/c.nii.gz,P3,test,two,",
    ]
    text = [line.replace(",", separator) for line in lines]
    (folder / "cases.csv").write_text("\ufeff" + "\n".join(text), encoding="utf-8")
    data_set, problems = read_data_set(DataConfig(path=folder / "cases.csv"))
    assert problems == []
    assert data_set.channels == ("CT", "PET")
    assert [(c.id, c.patient, c.split) for c in data_set.cases] == [
        ("b", "P2", "val"),
        ("one", "P1", "train"),
        ("two", "P3", "test"),
    ]
    np.testing.assert_array_equal(
        read_scan(data_set.cases[0], 2).array, np.stack([volume(), volume(1)])
    )
    np.testing.assert_array_equal(read_label(data_set.cases[0], data_set), mask())


def test_a_series_is_named_by_its_modality(folder: Path) -> None:
    for name in "xy":
        series(folder / name, stored())
        save(folder / f"{name}.nii.gz", mask(shape=(6, 5, 4)))
    lines = ["image,label", "x,x.nii.gz", "y,y.nii.gz"]
    (folder / "manifest.csv").write_text("\n".join(lines))
    data_set, problems = read_data_set(DataConfig(path=folder))
    assert problems == []
    assert data_set.channels == ("CT",)
    assert [case.id for case in data_set.cases] == ["x", "y"]


def test_targets(folder: Path) -> None:
    found = manifest(folder, "image,target", "ct/a.nii.gz,naevus", "ct/b.nii.gz,melanoma")
    assert found.problems == []
    assert found.targets == ("melanoma", "naevus")
    assert [case.target for case in found.cases] == ["naevus", "melanoma"]


ROW = "ct/a.nii.gz,seg/a.nii.gz"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "cases.csv: columns nothing: neither image nor image_<channel>"),
        (["img,label", ROW], "columns img, label: neither image nor image_<channel> alone"),
        (["image,image_PET,label", f"a,{ROW}"], "neither image nor image_<channel> alone"),
        (["image,label", "ct/x.nii.gz,seg/a.nii.gz"], "line 2: image ct/x.nii.gz does not exist"),
        (["image,label", ROW, "ct/b.nii.gz,seg/x.nii"], "line 3: label seg/x.nii does not exist"),
        (["image,label", "ct/a.nii.gz,seg"], "line 2: label seg is a folder"),
        (["image,label", ",seg/a.nii.gz"], "line 2: image is empty"),
        (["image,label", f"{ROW},x"], "line 2: 3 cells, the header has 2"),
        (["image,label", ROW, ROW], "line 3: id a is in line 2 too"),
        (["image,label,split", f"{ROW},holdout"], "line 2: split holdout; expected train, val"),
        (["image,label,id", f"{ROW},../x"], "line 2: id '../x' is no file name"),
        (["image,label,label", f"{ROW},x"], "column label is there twice"),
        (["image,label", ROW, "ct/b.nii.gz,"], "1 rows without label, such as b, others have one"),
        (["image,id", "ct/a.nii.gz,x"], "neither label nor target in any row"),
        (["image,lable", ROW], "column lable is not used; rename it label"),
        (["image,label"], "no rows below the header"),
        (["image,label", '"ct/a.nii.gz,seg'], "is no CSV table in UTF-8"),
        (["image,label", "ct/\0a.nii.gz,seg/a.nii.gz"], "does not exist"),
    ],
)
def test_mistakes(folder: Path, lines: list[str], message: str) -> None:
    found = [f"{p.where}: {p.what}; {p.remedy}" for p in manifest(folder, *lines).problems]
    assert any(message in line for line in found), found
    assert not any("\n" in line for line in found)


def test_one_mistake_leaves_the_other_rows(folder: Path) -> None:
    found = manifest(folder, "image,label", ROW, "none,none", "ct/c.nii.gz,seg/c.nii.gz")
    assert [case.id for case in found.cases] == ["a", "c"]
    assert len(found.problems) == 2


@settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    header=st.lists(
        st.sampled_from(["image", "label", "patient", "split", "id", "image_x", "", "target"]),
        max_size=5,
    ),
    rows=st.lists(
        st.lists(
            st.sampled_from(["ct/a.nii.gz", "seg/b.nii.gz", "x", "", '"', "train", "\0", ".", "ä"]),
            max_size=6,
        ),
        max_size=4,
    ),
)
def test_any_table_gives_cases_or_problems(
    folder: Path, header: list[str], rows: list[list[str]]
) -> None:
    found = manifest(folder, ",".join(header), *(",".join(row) for row in rows))
    assert found.cases or found.problems
    assert len({case.id for case in found.cases}) == len(found.cases)
    assert not any("\n" in str(problem) for problem in found.problems)


@settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(content=st.binary(max_size=200))
def test_any_bytes(folder: Path, content: bytes) -> None:
    (folder / "cases.csv").write_bytes(content)
    assert read_manifest(folder / "cases.csv").problems
