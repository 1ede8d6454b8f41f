"""The fingerprint against what is known of scans made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from domains.medical.data import fingerprint as module
from domains.medical.data.case import Case, Grid, Scan
from domains.medical.data.fingerprint import fingerprint
from shared_runtime.errors import DataError
from tests.domains.medical.small_cases import case, data_set, scan


def made() -> dict[str, tuple[Scan, np.ndarray | None]]:
    rng = np.random.default_rng(0)
    scans: dict[str, tuple[Scan, np.ndarray | None]] = {}
    for number, shape in enumerate([(6, 8, 10), (4, 4, 4), (5, 6, 7)]):
        image = rng.normal(100, 20, (1, *shape)).astype(np.float32)
        label = rng.choice([0, 1, 2], shape, p=[0.7, 0.2, 0.1]).astype(np.uint8)
        scans[f"case{number}"] = scan(image, (1, 2, 3)), label
    return scans


def test_by_hand() -> None:
    scans = made()
    cases = [case(name) for name in scans]
    found = fingerprint(cases, data_set(), lambda one: scans[one.id])
    assert found.shapes.tolist() == [[6, 8, 10], [4, 4, 4], [5, 6, 7]]
    np.testing.assert_allclose(found.spacings, [[1, 2, 3]] * 3)
    inside = np.concatenate([image.array[0][label > 0] for image, label in scans.values()])
    one = found.intensities[0]
    assert one.mean == pytest.approx(inside.mean()) and one.std == pytest.approx(inside.std())
    assert (one.low, one.high) == pytest.approx(tuple(np.percentile(inside, [0.5, 99.5])))
    labels = np.concatenate([label.ravel() for _, label in scans.values()])
    np.testing.assert_allclose(found.shares, np.bincount(labels) / labels.size)
    frame = found.to_frame()
    assert (
        list(frame["case"]) == list(scans)
        and frame["voxels_of_lesion"].sum() == (labels == 2).sum()
    )
    assert frame["highest_MRI"][1] == pytest.approx(scans["case1"][0].array.max())


def test_axes_are_canonical() -> None:
    affine = np.array([[0, 0, -3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    array = np.zeros((1, 4, 5, 6), np.float32)
    array[0, 1:3, 2, :4] = 1
    stored = Scan(array, Grid((4, 5, 6), affine), case("a").images[0])
    found = fingerprint([case("a")], data_set(), lambda one: (stored, None))
    assert found.shapes.tolist() == [[6, 4, 5]]
    assert found.boxes.tolist() == [[4, 2, 1]]
    assert found.kept[0] == pytest.approx(8 / 120)
    np.testing.assert_allclose(found.spacings, [[3, 1, 2]])


def test_without_any_label_all_voxels_are_sampled() -> None:
    scans = {name: (image, None) for name, (image, _) in made().items()}
    found = fingerprint([case(name) for name in scans], data_set(), lambda one: scans[one.id])
    assert not found.voxels.any() and not found.shares.any()
    assert found.intensities[0].mean == pytest.approx(100, abs=5)


def test_samples_are_bounded_and_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 20)
    scans = made()
    cases = [case(name) for name in scans]
    first = fingerprint(cases, data_set(), lambda one: scans[one.id])
    again = fingerprint(cases, data_set(), lambda one: scans[one.id])
    assert first.intensities == again.intensities
    monkeypatch.setattr(module, "SAMPLES", 10_000)
    assert (
        fingerprint(cases, data_set(), lambda one: scans[one.id]).intensities != first.intensities
    )


def test_refusals() -> None:
    scans = made()
    image, label = scans["case0"]
    one = case("case0")

    def look(scan: Scan, label: np.ndarray | None) -> None:
        def read(_: Case) -> tuple[Scan, np.ndarray | None]:
            return scan, label

        fingerprint([one], data_set(), read)

    assert label is not None
    with pytest.raises(DataError, match="no cases"):
        fingerprint([], data_set(), lambda one: scans[one.id])
    with pytest.raises(DataError, match=r"case0\.nii\.gz: has class 7, but 3 are declared"):
        look(image, np.full_like(label, 7))
    with pytest.raises(DataError, match=r"case0\.nii\.gz: has grid"):
        look(image, label[1:])
    with pytest.raises(DataError, match=r"scan\.nii\.gz: has 1 channels of 2 axes"):
        look(Scan(image.array[..., 0], Grid((6, 8), np.eye(3)), image.source), None)
    broken = image.array.copy()
    broken[0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match=r"scan\.nii\.gz: has voxels that are not finite"):
        look(Scan(broken, image.grid, image.source), label)
