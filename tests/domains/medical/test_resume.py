"""Interrupted and resumed training with every augmentation gives the same weights, bit by bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from domains.medical import domain
from domains.medical.data.patches import PatchBatches
from shared_runtime.domain import Domain
from shared_runtime.errors import Interrupted
from shared_runtime.options import resolve
from shared_runtime.verbs.train import train
from tests.domains.medical.made_scans import declare, save

DOMAIN = cast(Domain, domain)


def test_interrupted_is_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    for number in range(6):
        image = np.random.default_rng(number).integers(-200, 300, (12, 12, 12)).astype(np.int16)
        save(data / "imagesTr" / f"c{number}_0000.nii.gz", image, np.eye(4))
        save(data / "labelsTr" / f"c{number}.nii.gz", (image > 200) + 0, np.eye(4))
    declare(data, labels={"background": 0, "bright": 1})
    sets = ["data.folds=2", "data.patch_size=[16,16,16]", "data.patches_per_epoch=6"]
    sets += ["model.width=8", "model.depth=3", "data.augment=full"]
    sets += ["training.epochs=3", "training.batch_size=2", "device=cpu"]
    config = resolve(DOMAIN, flags={"data.path": data, "model.name": "MPUNet"}, sets=sets)
    train(DOMAIN, config, tmp_path / "whole", progress=False)

    start = PatchBatches.start_epoch

    def stopped(batches: PatchBatches, epoch: int) -> None:
        start(batches, epoch)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(PatchBatches, "start_epoch", stopped)
        with pytest.raises(Interrupted):
            train(DOMAIN, config, tmp_path / "parts", progress=False)
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    train(DOMAIN, config, tmp_path / "parts", resume=True, progress=False)

    whole, parts = (tmp_path / run / "model.safetensors" for run in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
