"""The verb `plan`: what it prints and writes, and that the file plans the same again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from domains.medical import domain as medical
from domains.medical.cli import app
from domains.medical.verbs.plan import run_plan
from shared_runtime.domain import Domain
from shared_runtime.options import resolve, resolve_data

DOMAIN = cast(Domain, medical)


def heed(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output or result.exception
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An nnU-Net folder of ten small CT scans with thick slices."""
    root = tmp_path_factory.mktemp("plans") / "Dataset001_Ball"
    rng = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    for number in range(10):
        shape = (40 + number, 44, 8)
        label = np.zeros(shape, np.uint8)
        label[10:30, 12:30, 2:6] = 1
        image = (rng.normal(-100, 30, shape) + 150 * label).astype(np.int16)
        affine = np.diag([0.8, 0.8, 5.0, 1])
        nib.save(nib.Nifti1Image(image, affine), root / f"imagesTr/ball_{number:03}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label, affine), root / f"labelsTr/ball_{number:03}.nii.gz")
    declaration = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1},
        "numTraining": 10,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(declaration))
    return root


def test_prints_and_writes_what_training_takes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans" / "plan.yaml"
    printed = heed("plan", "--data", folder, "--out", out, "--set", "data.fold=1")
    for expected in ("0.8 x 0.8 x 5 mm", "ball", "ct", str(out), "train --config"):
        assert expected in printed
    tree = yaml.safe_load(out.read_text())
    assert tree["data"]["spacing"] == [0.8, 0.8, 5.0] and tree["data"]["fold"] == 1
    assert tree["data"]["normalisation"] == "ct" and tree["data"]["patch_size"] == [48, 48, 8]
    config = resolve(DOMAIN, config=out)
    assert config.data.patch_size == (48, 48, 8)
    assert config.training.batch_size == tree["training"]["batch_size"] >= 2
    given = resolve_data(DOMAIN, flags={"data.path": folder}, sets=["data.fold=1"])
    first, plan = run_plan(given)
    again, same = run_plan(config.data)
    assert plan == same and first.ids == again.ids
    assert plan.intensities[0].mean == pytest.approx(50, abs=3)


def test_edits_are_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.yaml"
    heed("plan", "--data", folder, "--out", out)
    out.write_text(out.read_text().replace("spacing: [0.8, 0.8, 5.0]", "spacing: [2.0, 2.0, 5.0]"))
    assert run_plan(resolve(DOMAIN, config=out).data)[1].spacing == (2, 2, 5)


def test_json(folder: Path) -> None:
    document = json.loads(heed("plan", "--data", folder, "--json"))
    assert document["plan"]["spacing"] == [0.8, 0.8, 5.0]
    assert document["fingerprint"]["cases"] == 7
    assert document["fingerprint"]["cases_with"]["ball"] == 7


def test_refusals(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.yaml"
    out.write_text("mine")
    assert "exists" in heed("plan", "--data", folder, "--out", out, code=2)
    assert out.read_text() == "mine"
    assert "nowhere" in heed("plan", "--data", tmp_path / "nowhere", code=3)
    printed = heed("plan", "--data", folder, "--set", "data.spacing=[1.0, 1.0]", code=2)
    assert "data.spacing" in printed
