from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared_runtime.checkpoint import (
    WholeFileIO,
    random_state,
    read_checkpoint,
    seed_everything,
    set_random_state,
)
from shared_runtime.errors import HeedError
from shared_runtime.files import replacing

CONTENT = {"weights": torch.arange(100.0), "epoch": 3, "random": random.getstate()}


def draws() -> tuple[float, ...]:
    return (torch.rand(1).item(), np.random.random(), np.random.normal(), random.random())


def test_every_random_state_survives_a_file(tmp_path: Path) -> None:
    seed_everything(3)
    np.random.normal()  # leaves numpy's second Gaussian waiting
    WholeFileIO().save_checkpoint(random_state(), tmp_path / "state")
    expected = [draws() for _ in range(3)]
    seed_everything(4)
    set_random_state(read_checkpoint(tmp_path / "state"))
    assert [draws() for _ in range(3)] == expected


def test_seeds_and_processes_draw_differently() -> None:
    seen = set()
    for seed, rank in ((0, 0), (0, 1), (1, 0), (2**63, 0)):
        seed_everything(seed, rank)
        seen.add(draws())
    assert len(seen) == 4
    seed_everything(0)
    assert draws() in seen


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as partial:
        partial.write_text("half of the ne")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
import os, pathlib, signal
from shared_runtime.files import replacing
os.{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with replacing(pathlib.Path({str(path)!r})) as partial:
    partial.write_text("new")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    assert path.read_text() == "old"
    with replacing(path) as partial:
        partial.write_text("newer")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "newer"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_noticed_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "last.ckpt"
    WholeFileIO().save_checkpoint(CONTENT, path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        read = read_checkpoint(path)
    except HeedError as error:
        assert str(error) == f"{path}: the checkpoint is damaged; start again with another --out"
    else:
        assert read["epoch"] == 3
        assert read["random"] == CONTENT["random"]
        assert torch.equal(read["weights"], CONTENT["weights"])


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": os.system}, path)
    with pytest.raises(HeedError, match="the checkpoint is damaged"):
        read_checkpoint(path)
