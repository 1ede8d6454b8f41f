from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pandas as pd
import pytest
import yaml

from shared_runtime.errors import UsageError
from shared_runtime.run_folder import RunFolder, flatten

CONFIG = {"domain": "toy", "seed": 0, "data": {"path": "ETTh1.csv", "lookback": 96}}


def test_a_new_run_writes_its_configuration_and_environment(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "one", config=CONFIG)
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == CONFIG
    environment = json.loads((folder.path / "environment.json").read_text())
    assert {"python", "platform", "cpu_count", "threads", "packages"} <= set(environment)
    assert environment["packages"]["torch"]
    assert not folder.finished


def test_an_unfinished_run_needs_resume(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, config=CONFIG)
    with pytest.raises(UsageError) as caught:
        RunFolder.create(tmp_path, config=CONFIG)
    assert str(caught.value) == (
        f"--out {tmp_path}: holds an unfinished run; "
        "add --resume to continue it, or choose another folder"
    )
    RunFolder.create(tmp_path, config=CONFIG, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_is_never_touched(tmp_path: Path, resume: bool) -> None:
    folder = RunFolder.create(tmp_path, config=CONFIG)
    folder.finish()
    assert folder.finished
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="holds a finished run; choose another folder"):
        RunFolder.create(tmp_path, config=CONFIG, resume=resume)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_names_every_setting_that_differs(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, config=CONFIG)
    other = {"domain": "toy", "seed": 1, "data": {"path": "ETTh1.csv", "horizon": 24}}
    with pytest.raises(UsageError) as caught:
        RunFolder.create(tmp_path, config=other, resume=True)
    assert str(caught.value) == (
        f"cannot resume {tmp_path}: data.horizon (was None, now 24), "
        "data.lookback (was 96, now None), seed (was 0, now 1) changed; "
        "ask for the same configuration, or choose another --out"
    )


def test_resume_of_nothing_starts_anew(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "new", config=CONFIG, resume=True)
    assert (folder.path / "config.yaml").exists()


def test_a_start_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".environment.json.partial").write_text("{")
    (tmp_path / "config.yaml").write_text("domain: toy")
    folder = RunFolder.create(tmp_path, config=CONFIG)
    assert yaml.safe_load((folder.path / "config.yaml").read_text()) == CONFIG


def test_folders_that_are_no_runs_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        RunFolder.create(tmp_path, config=CONFIG)
    with pytest.raises(UsageError, match="is a file; give a folder"):
        RunFolder.create(tmp_path / "thesis.tex", config=CONFIG)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "value": [0.1 + 0.2, 1e-300]})
    path = RunFolder(tmp_path).write_frame(f"table.{suffix}", frame)
    if suffix == "csv":
        read = pd.read_csv(path, float_precision="round_trip")
    else:
        read = pd.read_parquet(path)
    pd.testing.assert_frame_equal(read, frame, check_exact=True)


def test_other_table_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.csv or \.parquet"):
        RunFolder(tmp_path).write_frame("table.xlsx", pd.DataFrame())


def test_json_has_no_nan(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_json("metrics.json", {"mse": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("metrics.json", {"mse": math.nan})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"mse": 1.0}


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RunFolder.create(tmp_path, config=CONFIG)
    monkeypatch.setenv("LOCAL_RANK", "1")
    second = RunFolder.create(tmp_path, config=CONFIG)
    second.write_text("note.txt", "second")
    assert not (first.path / "note.txt").exists()


def test_the_log_goes_to_run_log_inside_the_block_only(tmp_path: Path) -> None:
    with RunFolder(tmp_path).log() as log:
        log.info("inside")
        logging.getLogger("heed.training").info("epoch 1")
    logging.getLogger("heed").warning("outside")
    text = (tmp_path / "run.log").read_text()
    assert "inside" in text and "epoch 1" in text and "outside" not in text


def test_flatten_gives_dotted_keys() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}
