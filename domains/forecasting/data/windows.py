"""Windows over a panel: a batch is one gather from strided views."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from domains.forecasting.data.calendar import calendar_covariates
from domains.forecasting.data.panel import Panel
from domains.forecasting.data.scaling import Scaler


@dataclass(frozen=True)
class Store:
    """A panel as tensors, each series preceded by `pad` empty rows.

    Shapes have `R = T + S * pad` rows.
    """

    panel: Panel
    scaler: Scaler
    values: Tensor
    """float32 `[R, C]`, standardised, missing values filled in."""
    observed: Tensor
    """bool `[R, C]`: False where the file has no value, which is never scored."""
    readable: Tensor
    """bool `[R]`: True where a model may read the row."""
    time: Tensor
    """float32 `[R, F]`."""
    covariates: Tensor
    """float32 `[R, K + K']`: past covariates, then future ones; standardised."""
    pad: int

    @cached_property
    def always_readable(self) -> bool:
        """No row is padding or masked."""
        return bool(self.readable.all())

    @cached_property
    def always_observed(self) -> bool:
        """No value is missing."""
        return bool(self.observed.all())

    def row(self, series: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the row of a place in a series, int64."""
        return self.panel.offsets[series] + (series + 1) * self.pad + position


def build_store(panel: Panel, scaler: Scaler, *, pad: int, carry_forward: bool) -> Store:
    """Standardise a panel and lay it out for windows.

    Args:
        panel: the series.
        scaler: fitted on their training rows.
        pad: empty rows before each series, so that windows of short series exist.
        carry_forward: fill missing values with the last one before them; otherwise rows with a
            missing value are not read.
    """
    series = np.repeat(np.arange(len(panel)), panel.lengths)
    rows = np.arange(len(series)) + (series + 1) * pad
    total = len(series) + len(panel) * pad

    def spread(source: np.ndarray, padding: bool = False) -> np.ndarray:
        out = np.full((total, *source.shape[1:]), padding, dtype=source.dtype)
        out[rows] = source
        return out

    observed = ~np.isnan(panel.values)
    values = scaler.transform(panel.values, series)
    covariates = np.concatenate([panel.past_covariates, panel.future_covariates], axis=1)
    covariates = scaler.transform_covariates(covariates)
    if carry_forward:
        starts = panel.offsets[:-1]
        values, covariates = (_carry(x, series, starts) for x in (values, covariates))
    readable = ~(np.isnan(values).any(axis=1) | np.isnan(covariates).any(axis=1))
    times = calendar_covariates(panel.local_times(), panel.frequency)
    return Store(
        panel=panel,
        scaler=scaler,
        values=torch.from_numpy(spread(np.nan_to_num(values))),
        observed=torch.from_numpy(spread(observed, padding=True)),
        readable=torch.from_numpy(spread(readable)),
        time=torch.from_numpy(spread(times)),
        covariates=torch.from_numpy(spread(np.nan_to_num(covariates))),
        pad=pad,
    )


def _carry(values: np.ndarray, series: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Carry the last seen value forward within each series; leading gaps stay NaN."""
    rows = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, rows), axis=0)
    inside = last >= starts[series][:, None]
    carried = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where(inside, carried, np.float32(np.nan))


@dataclass(frozen=True)
class WindowSet:
    """Windows of one part of the data; satisfies `shared_runtime.domain.Batches`.

    Window i looks back `lookback` steps from cut-off `cutoffs[i]` of series `series[i]` and
    forecasts `horizon` steps from it on.
    """

    store: Store
    series: np.ndarray
    cutoffs: np.ndarray
    lookback: int
    horizon: int

    def __len__(self) -> int:
        return len(self.series)

    @cached_property
    def _starts(self) -> np.ndarray:
        return self.store.row(self.series, self.cutoffs) - self.lookback

    @cached_property
    def _views(self) -> dict[str, np.ndarray]:
        store, width = self.store, self.lookback + self.horizon
        sources = {"values": store.values, "time": store.time}
        if store.covariates.shape[1]:
            sources["covariates"] = store.covariates
        if not store.always_readable:
            sources["readable"] = store.readable[:, None]
        if not store.always_observed:
            sources["observed"] = store.observed
        return {name: _windows(source, width) for name, source in sources.items()}

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return windows as the tensors that `docs/architecture.md` lists."""
        starts = self._starts[indices]
        sizes = (self.lookback, self.horizon)
        parts = {
            name: torch.from_numpy(view[starts]).split_with_sizes(sizes, 1)
            for name, view in self._views.items()
        }
        past, future = parts["values"]
        past_time, future_time = parts["time"]
        batch = {
            "past": past,
            "past_time": past_time,
            "future_time": future_time,
            "future": future,
        }
        if "covariates" in parts:
            before, after = parts["covariates"]
            known = self.store.panel.past_covariates.shape[1]
            batch["past_covariates"] = before
            if known < after.shape[2]:
                batch["future_covariates"] = after[..., known:]
        if "readable" in parts:
            valid = parts["readable"][0].squeeze(-1)
            if not bool(valid.all()):
                batch["valid"] = valid
        if "observed" in parts:
            observed = parts["observed"][1]
            if not bool(observed.all()):
                batch["future_valid"] = observed
        return batch


def _windows(source: Tensor, width: int) -> np.ndarray:
    """View `[R, D]` as every window of `width` rows, `[R - width + 1, width, D]`.

    An array, since NumPy gathers long runs of memory with less overhead than PyTorch.
    """
    source = source.contiguous()
    rows, dim = source.shape
    return source.as_strided((max(0, rows - width + 1), width, dim), (dim, dim, 1)).numpy()


def training_windows(
    store: Store, train_stop: np.ndarray, lookback: int, horizon: int
) -> WindowSet:
    """Return every window whose targets lie in the training part.

    Where the store has padding, series too short for whole look-backs give windows padded on
    the left, each with at least half of what the series has before its last cut-off.
    """
    series, cutoffs = [], []
    for number, stop in enumerate(train_stop):
        last = int(stop) - horizon
        first = min(lookback, max(1, last // 2)) if store.pad else lookback
        found = np.arange(first, last + 1)
        series.append(np.full(len(found), number))
        cutoffs.append(found)
    return WindowSet(store, np.concatenate(series), np.concatenate(cutoffs), lookback, horizon)
