"""AutoETS and AutoTheta baselines beside calling statsforecast on each history by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from domains.forecasting.data.windows import WindowSet
from domains.forecasting.statistical import statistical_baselines
from tests.domains.forecasting.small_runs import HORIZON, long_table, untrained, write

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("statsforecast") is None, reason="statsforecast is not installed"
)


def long_windows(folder: Path, *sets: str, missing: bool = False) -> WindowSet:
    frame = long_table({"b": 90, "a": 85})
    if missing:
        frame.loc[[7, 60], "y"] = np.nan
    path = write(frame, folder / "long.csv")
    _, prepared = untrained(path, sets=["data.targets=[y]", "data.cutoffs=2", *sets])
    assert isinstance(prepared.test, WindowSet)
    return prepared.test


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("missing", [False, True])
def test_equal_to_statsforecast_by_hand(tmp_path: Path, missing: bool) -> None:
    from statsforecast.models import AutoETS, AutoTheta

    sets = ["data.missing=forward_fill"] if missing else []
    windows = long_windows(tmp_path, *sets, missing=missing)
    found = statistical_baselines(windows, season=7)
    assert list(found) == ["AutoETS", "AutoTheta"]
    frame = pd.read_csv(tmp_path / "long.csv")
    for n, (name, cutoff) in enumerate([("b", 66), ("b", 78), ("a", 61), ("a", 73)]):
        history = frame.loc[frame["unique_id"] == name, "y"].ffill().to_numpy()[:cutoff]
        for kind, model in (("AutoETS", AutoETS), ("AutoTheta", AutoTheta)):
            expected = model(season_length=7).forecast(history, h=HORIZON)["mean"]
            original = windows.store.scaler.inverse(found[kind], windows.series)[n, :, 0, 0]
            np.testing.assert_allclose(original, expected, rtol=1e-4)


def test_none_for_wide_tables_and_for_many_windows(tmp_path: Path, wide_file: Path) -> None:
    _, prepared = untrained(wide_file)
    assert isinstance(prepared.test, WindowSet)
    assert statistical_baselines(prepared.test, season=24) == {}
    windows = long_windows(tmp_path)
    many = WindowSet(windows.store, np.zeros(201, int), np.full(201, 60), 24, 12)
    assert statistical_baselines(many, season=7) == {}
