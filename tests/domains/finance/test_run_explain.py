"""What `explain` says of a model: events and named features, whatever attends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from domains.finance.explanation import among_groups, channel_shares, feature_layers
from domains.finance.models import TLOB
from shared_runtime.verbs.explain import explain
from shared_runtime.verbs.train import RunResult
from tests.domains.finance.small_runs import DOMAIN, LOOKBACK


def test_tlob_shows_events_and_named_features(lobster_run: RunResult, tmp_path: Path) -> None:
    files = {path.name: path for path in explain(DOMAIN, lobster_run.folder, out=tmp_path)}
    assert {"attention-over-events.png", "attention-over-features.png"} <= files.keys()
    received = pd.read_csv(files["attention-by-feature.csv"])
    assert {"ask_size_1", "known", "micro_price"} <= set(received["feature"])
    assert received["layer 2"].sum() == pytest.approx(1)
    events = pd.read_csv(files["sensitivity-by-event.csv"])
    assert sorted(events["events before"]) == list(range(LOOKBACK))
    page = files["explain.html"].read_text()
    assert "move from past mean" in page and "order flow, level 1" in page


def test_attention_over_time_alone_is_not_called_features(
    snapshots_run: RunResult, tmp_path: Path
) -> None:
    names = {path.name for path in explain(DOMAIN, snapshots_run.folder, out=tmp_path)}
    assert "attention-over-events.png" in names
    assert not {"attention-over-features.png", "attention-by-feature.csv"} & names


def test_models_without_attention_get_sensitivities(
    normalised_run: RunResult, tmp_path: Path
) -> None:
    names = {path.name for path in explain(DOMAIN, normalised_run.folder, out=tmp_path)}
    assert {"sensitivity-by-feature.csv", "what-moves-the-forecast.png"} <= names


def test_layers_among_features() -> None:
    assert feature_layers(TLOB(lookback=8, features=8, layers=2)) == ["layers.1", "layers.3"]
    assert feature_layers(nn.Linear(2, 2)) == []


class Crossed(nn.Module):
    """Channel 0 is feature 1, channel 1 the mean of features 0 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        channels = torch.stack([x[..., 1], (x[..., 0] + x[..., 2]) / 2], dim=1)
        return self.layer(channels).sum()


def test_channels_are_dealt_out_to_their_features() -> None:
    x = torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    shares = channel_shares(Crossed(), x, ["layer"])["layer"]
    np.testing.assert_allclose(shares, [[0, 1, 0], [0.5, 0, 0.5]], atol=1e-6)
    matrix = np.array([[0.1, 0.9], [0.7, 0.3]])
    names = ["ask_size_1", "bid_size_1", "ask_size_2"]
    dealt = among_groups(matrix, shares, names)
    np.testing.assert_allclose(dealt, [[0.3, 0.7], [0.9, 0.1]], atol=1e-6)
