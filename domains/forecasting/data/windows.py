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
    past_covariates: Tensor
    future_covariates: Tensor
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
    count = panel.past_covariates.shape[1]
    covariates = np.concatenate([panel.past_covariates, panel.future_covariates], axis=1)
    covariates = scaler.transform_covariates(covariates)
    past, future = covariates[:, :count], covariates[:, count:]
    readable = np.ones(len(series), dtype=bool)
    if carry_forward:
        starts = panel.offsets[:-1]
        values, past, future = (_carry(x, series, starts) for x in (values, past, future))
    for source in (values, past, future):
        readable &= ~np.isnan(source).any(axis=1)
    times = calendar_covariates(panel.local_times(), panel.frequency)
    return Store(
        panel=panel,
        scaler=scaler,
        values=torch.from_numpy(spread(np.nan_to_num(values))),
        observed=torch.from_numpy(spread(observed, padding=True)),
        readable=torch.from_numpy(spread(readable)),
        time=torch.from_numpy(spread(times)),
        past_covariates=torch.from_numpy(spread(np.nan_to_num(past))),
        future_covariates=torch.from_numpy(spread(np.nan_to_num(future))),
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
    def _starts(self) -> Tensor:
        rows = self.store.row(self.series, self.cutoffs) - self.lookback
        return torch.from_numpy(rows.astype(np.int64))

    @cached_property
    def _views(self) -> dict[str, Tensor]:
        store, width = self.store, self.lookback + self.horizon
        sources = {"values": store.values, "time": store.time}
        if store.past_covariates.shape[1]:
            sources["past_covariates"] = store.past_covariates
        if store.future_covariates.shape[1]:
            sources["future_covariates"] = store.future_covariates
        if not store.always_readable:
            sources["readable"] = store.readable[:, None]
        if not store.always_observed:
            sources["observed"] = store.observed
        return {name: _windows(source, width) for name, source in sources.items()}

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return windows as the tensors that `docs/architecture.md` lists."""
        starts = self._starts[torch.from_numpy(np.asarray(indices, dtype=np.int64))]
        split = self.lookback
        taken = {
            name: view.index_select(0, starts).unflatten(1, (split + self.horizon, -1))
            for name, view in self._views.items()
        }
        batch = {
            "past": taken["values"][:, :split],
            "past_time": taken["time"][:, :split],
            "future_time": taken["time"][:, split:],
            "future": taken["values"][:, split:],
        }
        past = [taken[n][:, :split] for n in ("past_covariates", "future_covariates") if n in taken]
        if past:
            batch["past_covariates"] = torch.cat(past, dim=-1) if len(past) > 1 else past[0]
        if "future_covariates" in taken:
            batch["future_covariates"] = taken["future_covariates"][:, split:]
        if "readable" in taken:
            valid = taken["readable"][:, :split, 0]
            if not bool(valid.all()):
                batch["valid"] = valid
        if "observed" in taken:
            observed = taken["observed"][:, split:]
            if not bool(observed.all()):
                batch["future_valid"] = observed
        return batch


def _windows(source: Tensor, width: int) -> Tensor:
    """View `[R, D]` as every window of `width` rows, `[R - width + 1, width * D]`."""
    source = source.contiguous()
    rows, dim = source.shape
    return source.as_strided((max(0, rows - width + 1), width * dim), (dim, 1))


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
