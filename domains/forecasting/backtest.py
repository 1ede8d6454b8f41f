"""Rolling-origin evaluation: several cut-offs of every series, and the errors of each."""

from __future__ import annotations

import numpy as np
import pandas as pd

from domains.forecasting.data.windows import WindowSet
from domains.forecasting.metrics import Scores


def backtest_table(windows: WindowSet, scores: Scores) -> pd.DataFrame:
    """Return the errors of each cut-off over all series, in time order.

    `cutoff` is the last time before the forecast, in the zone of the data; `windows` how many
    series have one there; `mse` and `mae` are on standardised values.

    Args:
        windows: N windows.
        scores: errors of the same windows, in the same order.
    """
    panel = windows.store.panel
    last = panel.offsets[windows.series] + windows.cutoffs - 1
    errors = scores.per_window()
    table = pd.DataFrame(
        {
            "cutoff": panel.local_times(panel.times[last]),
            "windows": 1,
            "mse": errors["squared"],
            "mae": errors["absolute"],
            "count": errors["count"],
        }
    )
    table = table.groupby("cutoff", as_index=False).sum()
    seen = table.pop("count").replace(0, np.nan)
    return table.assign(mse=table["mse"] / seen, mae=table["mae"] / seen)
