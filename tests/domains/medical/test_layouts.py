"""Every layout gives the same form of data, and says what is wrong with it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from domains.medical.data.case import DataSet
from domains.medical.data.config import DataConfig
from domains.medical.data.layouts import layout_of, read_data_set
from domains.medical.data.reading import read_label, read_scan
from shared_runtime.domain import Problem
from shared_runtime.errors import DataError
from tests.domains.medical.made_scans import declare, mask, nnunet, save, series, stored, volume


def read(path: Path, **options: object) -> tuple[DataSet, list[Problem]]:
    return read_data_set(DataConfig(path=path, **options))


def clean(path: Path, **options: object) -> DataSet:
    data_set, problems = read(path, **options)
    assert problems == []
    return data_set


def complaints(path: Path, **options: object) -> list[str]:
    return [f"{p.severity}: {p.where}: {p.what}; {p.remedy}" for p in read(path, **options)[1]]


def picture(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def colour(seed: int = 0, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3))


def test_nnunet(tmp_path: Path) -> None:
    data_set = clean(nnunet(tmp_path, channels=2))
    assert [case.id for case in data_set.cases] == [f"case_{n:02}" for n in range(6)]
    assert data_set.channels == ("CT", "PET")
    assert data_set.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert (data_set.values, data_set.spatial_dims) == ((0, 1, 2), 3)
    case = data_set.cases[3]
    scan = read_scan(case, 2)
    np.testing.assert_array_equal(scan.array, np.stack([volume(30), volume(31)]))
    np.testing.assert_array_equal(read_label(case, data_set), mask())
    assert case.split is None and case.patient == case.id


def test_nnunet_1_lists_other_names(tmp_path: Path) -> None:
    nnunet(tmp_path, 2, declared=False)
    listed = [
        {"image": f"./imagesTr/case_{n:02}.nii.gz", "label": f"./labelsTr/case_{n:02}.nii.gz"}
        for n in range(2)
    ]
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "anterior", "2": "posterior"},
        "training": listed,
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert layout_of(tmp_path) == "nnunet"
    data_set = clean(tmp_path)
    assert data_set.labels == {"background": 0, "anterior": 1, "posterior": 2}
    assert data_set.channels == ("MRI",)
    assert len(data_set.cases) == 2


def test_without_declaration_classes_come_from_the_files(tmp_path: Path) -> None:
    nnunet(tmp_path, declared=False)
    save(tmp_path / "labelsTr" / "case_05.nii.gz", mask((0, 63, 252)))
    data_set = clean(tmp_path)
    assert data_set.values == (0, 1, 2, 63, 252)
    assert list(data_set.labels) == ["background", "label_1", "label_2", "label_3", "label_4"]
    assert data_set.channels == ("image",)
    np.testing.assert_array_equal(read_label(data_set.cases[5], data_set), mask((0, 3, 4)))


@pytest.mark.parametrize("names", [("a_001", "b_002"), ("case_0001", "case_0002")])
def test_names_without_channels(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        save(tmp_path / "imagesTr" / f"{name}.nii.gz", volume())
        save(tmp_path / "labelsTr" / f"{name}.nii.gz", mask())
    assert [case.id for case in clean(tmp_path).cases] == list(names)


def test_labelled_test_images_are_the_test_part(tmp_path: Path) -> None:
    nnunet(tmp_path)
    for name in ("x", "y"):
        save(tmp_path / "imagesTs" / f"{name}_0000.nii.gz", volume())
    save(tmp_path / "labelsTs" / "x.nii.gz", mask())
    assert {case.id for case in clean(tmp_path).cases if case.split == "test"} == {"x"}


def test_folds_of_nnunet_are_taken(tmp_path: Path) -> None:
    nnunet(tmp_path, 4)
    names = [f"case_{n:02}" for n in range(4)]
    folds = [{"train": names[1:], "val": names[:1]}, {"train": names[:2], "val": names[2:3]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    assert [case.split for case in clean(tmp_path).cases] == ["test", None, None, None]
    data_set, problems = read(tmp_path, fold=1)
    assert [case.split for case in data_set.cases] == [None, None, "test"]
    assert "1 of 4 cases are in no part of fold 1, such as case_03" in problems[0].what
    assert "no fold 4" in complaints(tmp_path, fold=4)[0]
    folds[0]["train"].append(names[0])
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    assert "case_00 is in train and val of fold 0" in complaints(tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("channel", r"case_02_0000.nii.gz: channel 1 of case_02 is missing; add case_02_0001"),
        ("more", r"case_02_0002.nii.gz: channel 2 of case_02, 2 are declared"),
        ("label", r"case_02_0000.nii.gz: no label for case_02; add labelsTr/case_02"),
        ("image", r"labelsTr.lone.nii.gz: no image for lone; add it to imagesTr"),
        ("twice", r"case_02_0001.nii.gz: a second file of case_02, beside case_02_0001.nii;"),
        ("both", r"imagesTs.case_02_0000.nii.gz: case_02 is in imagesTr too"),
        ("count", r"dataset.json: numTraining is 7, there are 6 cases"),
        ("ending", r"imagesTr: 1 of 13 files do not end in .nii.gz, such as x_0000.nii"),
        ("folder", r"imagesTr: no such folder"),
    ],
)
def test_what_is_wrong_with_an_nnunet_folder(tmp_path: Path, change: str, message: str) -> None:
    nnunet(tmp_path, channels=2)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    if change == "channel":
        (images / "case_02_0001.nii.gz").unlink()
    elif change == "more":
        save(images / "case_02_0002.nii.gz", volume())
    elif change == "label":
        (labels / "case_02.nii.gz").unlink()
    elif change == "image":
        save(labels / "lone.nii.gz", mask())
    elif change == "twice":
        declare(tmp_path, 2, file_ending=None)
        save(images / "case_02_0001.nii", volume())
    elif change == "both":
        for channel in range(2):
            save(tmp_path / "imagesTs" / f"case_02_{channel:04}.nii.gz", volume())
        save(tmp_path / "labelsTs" / "case_02.nii.gz", mask())
    elif change == "count":
        declare(tmp_path, 2, 7)
    elif change == "ending":
        save(images / "x_0000.nii", volume())
    elif change == "folder":
        shutil.rmtree(images)
    found = complaints(tmp_path)
    assert any(re.search(message, line) for line in found), found


def test_pictures_in_an_nnunet_folder_hold_all_channels(tmp_path: Path) -> None:
    for n in range(3):
        picture(tmp_path / "imagesTr" / f"road_{n}_0000.png", colour(n))
        picture(tmp_path / "labelsTr" / f"road_{n}.png", mask((0, 1), (6, 8)))
    names = {"0": "R", "1": "G", "2": "B"}
    declare(
        tmp_path, 3, 3, channel_names=names, labels={"background": 0, "road": 1}, file_ending=".png"
    )
    data_set = clean(tmp_path)
    assert (data_set.spatial_dims, data_set.channels) == (2, ("R", "G", "B"))
    np.testing.assert_array_equal(
        read_scan(data_set.cases[1], 3).array, np.moveaxis(colour(1), -1, 0)
    )


def test_decathlon(tmp_path: Path) -> None:
    listed = []
    for n in range(3):
        array = np.stack([volume(n), volume(n + 10)], axis=-1)
        save(tmp_path / "imagesTr" / f"BRATS_{n:03}.nii.gz", array)
        save(tmp_path / "labelsTr" / f"BRATS_{n:03}.nii.gz", mask())
        name = f"BRATS_{n:03}.nii.gz"
        listed.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "tumour"},
        "training": listed,
        "test": ["./imagesTs/BRATS_999.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert layout_of(tmp_path) == layout_of(tmp_path / "dataset.json") == "decathlon"
    data_set = clean(tmp_path)
    assert data_set.channels == ("FLAIR", "T1w")
    scan = read_scan(data_set.cases[2], 2)
    np.testing.assert_array_equal(scan.array, np.stack([volume(2), volume(12)]))
    content["training"] += [listed[0], {"image": "../x.nii.gz", "label": "labelsTr/none.nii.gz"}]
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    save(tmp_path.parent / "x.nii.gz", volume())
    found = complaints(tmp_path)
    assert "BRATS_000 is listed twice" in found[0]
    assert "leads out of the folder" in found[1]
    assert "none.nii.gz: no such file" in found[2]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("Img/{}.png", "GT/{}.png"),
        ("images/{}.png", "masks/{}_mask.png"),
        ("ISIC2018_Task1-2_Input/{}.jpg", "ISIC2018_Task1_GroundTruth/{}_segmentation.png"),
        ("PH2/{0}/{0}_Dermoscopic_Image/{0}.bmp", "PH2/{0}/{0}_lesion/{0}_lesion.bmp"),
        ("images/train/{}.png", "masks/train/{}.png"),
        ("{}.jpg", "{}_segmentation.png"),
        ("all/{}.tif", "all/{}_mask.tif"),
    ],
)
def test_usual_folders_of_images(tmp_path: Path, image: str, label: str) -> None:
    for n in range(3):
        name = f"IMD{n:03}"
        picture(tmp_path / image.format(name), colour(n))
        picture(tmp_path / label.format(name), 255 * mask((0, 1), (6, 8)))
    data_set = clean(tmp_path)
    assert [case.id for case in data_set.cases] == ["IMD000", "IMD001", "IMD002"]
    assert [case.patient for case in data_set.cases] == ["IMD000", "IMD001", "IMD002"]
    assert data_set.channels == ("red", "green", "blue")
    assert (data_set.values, data_set.labels) == ((0, 255), {"background": 0, "label_1": 1})
    for n, case in enumerate(data_set.cases):
        assert case.images[0].stem == f"IMD{n:03}" and case.images[0] != case.label
        assert read_scan(case, 3).array.shape == (3, 6, 8)
        np.testing.assert_array_equal(read_label(case, data_set), mask((0, 1), (6, 8)))


def test_parts_and_patients_of_folders(tmp_path: Path) -> None:
    for part in ("train", "val", "Test"):
        for patient in "ab":
            for n in range(2):
                name = f"Subj_{part}{patient}slice_{n}.png"
                picture(tmp_path / part / "Img" / name, colour()[..., 0])
                picture(tmp_path / part / "GT" / name, mask((0, 63, 126), (6, 8)))
    data_set = clean(tmp_path)
    assert data_set.channels == ("grey",)
    assert data_set.values == (0, 63, 126)
    assert {(case.patient, case.split) for case in data_set.cases} == {
        (f"Subj_{part}{patient}", part.lower())
        for part in ("train", "val", "Test")
        for patient in "ab"
    }


def test_series_of_a_patient_stay_together(tmp_path: Path) -> None:
    """As in CHAOS: a folder per patient, below it sequences with slices of the same names."""
    for patient in ("1", "2"):
        for sequence in ("T1DUAL", "T2SPIR"):
            place = tmp_path / "MR" / patient / sequence
            series(place / "DICOM_anon", stored(2))
            for n in range(2):
                picture(place / "Ground" / f"IM{n:03}.png", mask((0, 63), (5, 6)))
    data_set = clean(tmp_path)
    assert len(data_set.cases) == 8 == len({case.id for case in data_set.cases})
    assert {case.patient for case in data_set.cases} == {"1", "2"}
    assert data_set.channels == ("CT",)
    assert read_label(data_set.cases[0], data_set).shape == (5, 6)


def test_folders_of_classes(tmp_path: Path) -> None:
    for kind in ("melanoma", "naevus"):
        for n in range(2):
            picture(tmp_path / "train" / kind / f"{n}.png", colour(n))
            picture(tmp_path / "test" / kind / f"{n}.png", colour(n))
    data_set = clean(tmp_path)
    assert data_set.targets == ("melanoma", "naevus")
    assert {(c.split, c.target) for c in data_set.cases} == {
        (part, kind) for part in ("train", "test") for kind in ("melanoma", "naevus")
    }
    assert len({case.id for case in data_set.cases}) == len(data_set.cases) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mask", r"images.b.png: no mask of the same name; add it"),
        ("image", r"masks.b.png: no image b; add it"),
        ("image twice", r"images.b.png: a second image b; keep it or b.jpg"),
        ("mask twice", r"masks.b_mask.png: a second mask of b; keep it or b.png"),
        ("folder", r"other: 1 masks and no images; add the images"),
        ("no masks", r"images without masks, and in no folder of a class"),
        ("grey levels", r"masks.b.png: \d+ values in one label file, \d+ in all: no classes"),
        ("nothing", r"no images with masks or classes; give images/ and masks/"),
    ],
)
def test_what_is_wrong_with_folders_of_images(tmp_path: Path, change: str, message: str) -> None:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.png", colour())
        picture(tmp_path / "masks" / f"{name}.png", mask((0, 255), (6, 8)))
    if change == "mask":
        (tmp_path / "masks" / "b.png").unlink()
    elif change == "image":
        (tmp_path / "images" / "b.png").unlink()
    elif change == "folder":
        picture(tmp_path / "other" / "masks" / "x.png", mask((0, 255), (6, 8)))
    elif change == "image twice":
        picture(tmp_path / "images" / "b.jpg", colour())
    elif change == "mask twice":
        picture(tmp_path / "masks" / "b_mask.png", mask((0, 255), (6, 8)))
    elif change in ("no masks", "nothing"):
        shutil.rmtree(tmp_path / "masks")
    elif change == "grey levels":
        picture(tmp_path / "masks" / "b.png", np.arange(200).reshape(10, 20))
    if change == "nothing":
        shutil.rmtree(tmp_path / "images")
    found = complaints(tmp_path)
    assert any(re.search(message, line) for line in found), found


def test_what_is_no_data_set(tmp_path: Path) -> None:
    assert "no such file or folder" in complaints(tmp_path / "gone")[0]
    assert "is one file; give a folder" in complaints(save(tmp_path / "a.nii.gz", volume()))[0]
    for layout in ("nnunet", "decathlon", "images", "manifest"):
        data_set, problems = read(tmp_path / "gone", layout=layout)
        assert not data_set.cases
        assert [problem.severity for problem in problems] == ["error"]
    with pytest.raises(DataError, match="no such file or folder"):
        layout_of(tmp_path / "gone")


def test_the_real_hippocampus(heed_data: Path) -> None:
    data_set = clean(heed_data / "medical" / "hippocampus")
    assert len(data_set.cases) == 260
    assert data_set.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert (data_set.channels, data_set.spatial_dims) == (("image",), 3)
    assert read_label(data_set.cases[0], data_set).max() == 2
