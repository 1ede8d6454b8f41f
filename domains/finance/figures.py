"""Pictures of what forecasts are worth: scores, trades, costs, and what a model looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from domains.finance.backtest import Ledger
from domains.finance.market import Market
from domains.finance.metrics import CLASSES, confusion, reliability_table
from domains.finance.profit import Summary, equity_band
from domains.finance.rolling import clock
from shared_runtime.charts import INK, PALETTE, SEQUENTIAL, style
from shared_runtime.domain import Figure

_BLUE, _ORANGE, _GREEN = PALETTE[:3]
_MOST_POINTS = 2000
_MOST_PARTS = 14
_SCORES = {"mcc": "MCC", "macro_f1": "macro F1", "p_t": "$p_T$"}
_REFERENCE: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": (0, (2, 3))}
_ABOVE: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.3}


def equity_figure(
    ledgers: Mapping[str, Ledger], *, block: int, seed: int, resamples: int = 500
) -> Figure:
    """Draw the net result over events, the first ledger's with its bootstrap band.

    Args:
        ledgers: by name, of one market: the model first, then what it is compared with.
        block: of `profit.equity_band`.
        seed: of the bootstrap.
        resamples: number of bootstrap samples.
    """
    name, ledger = next(iter(ledgers.items()))
    market = ledger.market
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 3.2))
        axes = figure.subplots()
        rows, low, high = equity_band(ledger, block=block, seed=seed, resamples=resamples)
        kept = _thinned(len(rows))
        axes.fill_between(rows[kept], low[kept], high[kept], color=_BLUE, alpha=0.18, linewidth=0)
        kept = _thinned(len(ledger.equity))
        for (label, other), color in zip(ledgers.items(), PALETTE, strict=False):
            axes.plot(kept, other.equity[kept], color=color, linewidth=1.4, label=label)
        axes.axhline(0, **_REFERENCE)
        _time_axis(axes, market)
        axes.set_ylabel("net result")
        axes.legend(ncols=min(4, len(ledgers)), **_ABOVE)
    caption = (
        f"Net result after spread and fees, open positions at the mid price. Shaded: where 95 % of "
        f"resampled runs of {name} lie, from blocks of neighbouring events."
    )
    return Figure("Result over time, after costs", caption, figure)


def confusion_figure(probability: np.ndarray, label: np.ndarray) -> Figure:
    """Draw the confusion matrix, as shares of each true class with the counts."""
    counts = confusion(probability, label)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with style():
        figure = MatplotlibFigure(figsize=(5.4, 3.8))
        axes = figure.subplots()
        axes.grid(False)
        image = axes.imshow(share, cmap=SEQUENTIAL, vmin=0, vmax=1)
        for row, column in np.ndindex(3, 3):
            axes.text(
                column,
                row,
                f"{100 * share[row, column]:.0f} %\n{_spaced(format(counts[row, column], ',.0f'))}",
                ha="center",
                va="center",
                color="white" if share[row, column] > 0.55 else "#22303c",
                fontsize=9.5,
            )
        axes.set_xticks(range(3), labels=CLASSES)
        axes.set_yticks(range(3), labels=CLASSES)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(
            image, ax=axes, shrink=0.85, format=PercentFormatter(1.0, decimals=0, symbol=" %")
        )
        bar.outline.set_visible(False)
    return Figure(
        "Confusion matrix", "Share of each true class that was predicted as each class.", figure
    )


def reliability_figure(probability: np.ndarray, label: np.ndarray) -> Figure:
    """Draw how often the predicted class came true, by the probability it was given."""
    table = reliability_table(probability, label)
    with style():
        figure = MatplotlibFigure(figsize=(5.4, 4.2))
        axes, below = figure.subplots(2, 1, height_ratios=(3.2, 1), sharex=True)
        axes.plot([0, 1], [0, 1], **_REFERENCE)
        axes.plot(table["confidence"], table["accuracy"], marker="o", markersize=5)
        axes.set_ylim(0, 1)
        axes.set_ylabel("came true")
        below.bar(
            (table["from"] + table["to"]) / 2,
            table["items"] / len(label),
            width=0.085,
            color=_BLUE,
            alpha=0.6,
        )
        below.set_xlim(0.3, 1.0)
        below.set_ylabel("forecasts")
        below.set_xlabel("probability of the predicted class")
        below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        below.yaxis.set_major_locator(MaxNLocator(3))
    return Figure(
        "Calibration",
        "Share of forecasts that came true by the probability they were given; on the dotted "
        "diagonal a forecast is as sure as it is right, below it too sure. Bars: share of the "
        "forecasts.",
        figure,
    )


def costs_figure(summaries: Mapping[str, Summary]) -> Figure:
    """Draw the way from the gross to the net result, for the model and its comparisons."""
    names = list(summaries)
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 1.1 + 0.62 * len(names)))
        axes = figure.subplots()
        axes.grid(axis="x")
        axes.grid(False, axis="y")
        for row, item in enumerate(summaries.values()):
            lost = item.gross_pnl - item.spread_paid
            parts = (
                ("gross, at mid prices", 0.0, item.gross_pnl, _GREEN, 0.36),
                ("spread", item.gross_pnl, -item.spread_paid, _ORANGE, 0.18),
                ("fees", lost, -item.fees, PALETTE[4], 0.18),
            )
            for label, left, width, color, height in parts:
                axes.barh(
                    row,
                    width,
                    left=left,
                    height=height,
                    color=color,
                    label=label if row == 0 else None,
                )
            axes.plot(
                item.net_pnl,
                row,
                marker="D",
                color=_BLUE,
                markersize=6,
                linestyle="",
                label="net" if row == 0 else None,
            )
            side = "right" if item.net_pnl < 0 else "left"
            axes.annotate(
                _number(item.net_pnl),
                (item.net_pnl, row),
                xytext=(-9 if item.net_pnl < 0 else 9, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=9,
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), labels=names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.use_sticky_edges = False
        axes.margins(x=0.16)
        axes.set_xlabel("result")
        axes.legend(ncols=4, **_ABOVE)
    return Figure(
        "What costs leave of it",
        "Result at mid prices, what crossing the spread and fees take from it, and what is left.",
        figure,
    )


def regime_figure(table: pd.DataFrame, score: str = "macro_f1") -> Figure:
    """Draw a score and the net result of a trade in each regime of `regimes.regime_table`."""
    names = [n for n in table["regime"].unique() if (table["regime"] == n).sum() > 1]
    rank = table.groupby("regime")["items"].rank(method="first", ascending=False)
    kept = table["regime"].isin(names) & (rank <= _MOST_PARTS)
    rows = table[kept].iloc[::-1].reset_index(drop=True)
    gap = np.cumsum(np.append(0, (rows["regime"].to_numpy()[1:] != rows["regime"][:-1]) * 0.9))
    place = np.arange(len(rows)) + gap
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 1.0 + 0.27 * (len(rows) + 0.9 * len(names))))
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, column, color in (
            (left, score, _BLUE),
            (right, "net_bps_per_trade", _ORANGE),
        ):
            axes.grid(axis="x")
            axes.grid(False, axis="y")
            axes.barh(place, rows[column].fillna(0.0), color=color, height=0.7)
            axes.axvline(0, color=INK, linewidth=0.8)
        left.set_yticks(place, labels=[_shortened(part) for part in rows["part"]])
        for name in names:
            top = place[rows["regime"] == name].max()
            left.text(
                0.0,
                top + 0.55,
                name,
                fontweight="bold",
                fontsize=9,
                va="bottom",
                transform=left.get_yaxis_transform(),
            )
        left.set_ylim(-0.6, place[-1] + 1.5 if len(place) else 1)
        left.set_xlabel(_SCORES.get(score, score))
        right.spines["left"].set_visible(False)
        right.set_xlabel("net result of a trade, basis points")
    return Figure(
        "Where it works",
        "Scores and results by part of the day, by trailing volatility and spread (bounds from "
        f"earlier data), and by series; the {_MOST_PARTS} largest parts of each.",
        figure,
    )


def rolling_figure(table: pd.DataFrame, score: str = "mcc") -> Figure:
    """Draw a score of `rolling.rolling_scores` over the blocks, one line per forecast."""
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 2.9))
        axes = figure.subplots()
        for number, (name, rows) in enumerate(table.groupby("model", sort=False)):
            axes.plot(
                rows["block"],
                rows[score],
                label=name,
                color=PALETTE[number % len(PALETTE)],
                marker="o" if rows["block"].nunique() < 40 else "",
                markersize=3.5,
                linewidth=1.8 if number == 0 else 1.2,
            )
        axes.axhline(0, **_REFERENCE)
        first = table[table["model"] == table["model"].iloc[0]]
        _label_blocks(axes, first)
        axes.set_ylabel(_SCORES.get(score, score))
        axes.legend(ncols=min(4, table["model"].nunique()), **_ABOVE)
    size = int(first["items"].median())
    return Figure(
        "Predictability over time",
        f"Score of consecutive blocks of about {size} forecasts.",
        figure,
    )


def excerpt_figure(
    market: Market,
    ends: np.ndarray,
    probability: np.ndarray,
    label: np.ndarray,
    *,
    items: int = 400,
    start: int | None = None,
) -> Figure:
    """Draw a stretch of the price with the true and the predicted moves under it.

    Args:
        market: M rows.
        ends: int64 `[n]`.
        probability: `[n, 3]`.
        label: classes `[n]`.
        items: forecasts shown.
        start: first forecast shown; None takes the stretch with the most moves among twenty.
    """
    items = min(items, len(ends))
    if start is None:
        starts = np.linspace(0, len(ends) - items, 20).astype(int)
        moves = np.concatenate([[0], np.cumsum(label != 1)])
        start = int(starts[np.argmax(moves[starts + items] - moves[starts])])
    shown = slice(start, start + items)
    rows = ends[shown]
    whole = np.arange(rows[0], rows[-1] + 1)
    whole = whole[market.series[whole] == market.series[rows[0]]]
    span = whole[market.tradeable[whole]]
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 3.8))
        price, moves = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        price.fill_between(
            span,
            market.bid[span],
            market.ask[span],
            step="post",
            color=_BLUE,
            alpha=0.2,
            linewidth=0,
            label="bid to ask",
        )
        price.step(span, market.mid[span], where="post", color=INK, linewidth=1.1, label="mid")
        price.ticklabel_format(axis="y", style="plain", useOffset=False)
        price.set_ylabel("price")
        price.legend(ncols=2, **_ABOVE)
        strips = (label[shown], probability[shown].argmax(axis=1))
        for height, strip in zip((1, 0), strips, strict=True):
            for code, color in ((0, _GREEN), (2, _ORANGE)):
                runs = _runs(rows, strip == code)
                moves.broken_barh(runs, (height - 0.36, 0.72), color=color, linewidth=0)
        moves.grid(False)
        moves.set_yticks([1, 0], labels=["true", "predicted"])
        moves.set_ylim(-0.6, 1.6)
        moves.spines["left"].set_visible(False)
        _time_axis(moves, market, whole)
    return Figure(
        "An excerpt",
        "Price, and below it the moves that came (upper strip) and that were predicted (lower): "
        "green up, orange down, blank stationary.",
        figure,
    )


def attention_figure(
    matrices: Mapping[str, np.ndarray],
    *,
    axis: str,
    names: Sequence[str] = (),
) -> Figure:
    """Draw attention matrices beside each other on one scale.

    Args:
        matrices: `[L, S]` by name, such as one per layer: each row what one token takes from which.
        axis: what tokens are: `events` (the last is the latest) or `features`.
        names: of the tokens; those of events are numbered instead.
    """
    named = bool(names)
    columns = min(2 if named else 4, len(matrices))
    rows = -(-len(matrices) // columns)
    largest = max(float(matrix.max()) for matrix in matrices.values()) or 1.0
    with style():
        side = 1.2 + 0.1 * len(names) if named else 2.3
        size = (
            max(4.6, side * columns + 0.9) + 1.4 * named,
            (side + 0.2) * rows + 0.4 + 1.4 * named,
        )
        figure = MatplotlibFigure(figsize=size)
        grid = figure.subplots(rows, columns, squeeze=False)
        for spare in grid.flat[len(matrices) :]:
            spare.set_visible(False)
        for number, (axes, (name, matrix)) in enumerate(
            zip(grid.flat, matrices.items(), strict=False)
        ):
            axes.grid(False)
            axes.imshow(
                matrix,
                cmap=SEQUENTIAL,
                vmin=0,
                vmax=largest,
                aspect="auto",
                interpolation="nearest",
            )
            axes.set_title(name)
            lowest = number >= len(matrices) - columns
            _token_ticks(axes, matrix, names, left=number % columns == 0, lowest=lowest)
            if lowest:
                axes.set_xlabel("looked at")
            if number % columns == 0:
                axes.set_ylabel("from")
        bar = figure.colorbar(grid.flat[0].images[0], ax=grid, shrink=0.85, label="weight")
        bar.outline.set_visible(False)
    text = (
        "both axes are events before the forecast. Each row says what one event takes from which."
        if axis == "events"
        else "both axes are features. The layer attends among channels that mix them; its "
        "attention is dealt out to the features that each channel depends on."
    )
    return Figure(
        f"Attention over {axis}", f"Mean attention over the windows shown; {text}", figure
    )


def level_figure(
    weights: np.ndarray, parts: Sequence[str], title: str = "What it looked at"
) -> Figure:
    """Draw how much each event and each part of the book counted.

    Args:
        weights: `[T, P]`, zero or positive; row T is the latest event.
        parts: names of the columns, such as `level 1` to `level 10` or groups of features.
        title: of the figure.
    """
    with style():
        figure = MatplotlibFigure(figsize=(7.2, 1.6 + 0.2 * len(parts)))
        axes = figure.subplots()
        axes.grid(False)
        image = axes.imshow(
            weights.T,
            cmap=SEQUENTIAL,
            vmin=0,
            aspect="auto",
            interpolation="nearest",
            extent=(-len(weights) + 0.5, 0.5, len(parts) - 0.5, -0.5),
        )
        axes.set_yticks(range(len(parts)), labels=parts)
        axes.set_xlabel("events before the forecast")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.0f}"))
        bar = figure.colorbar(image, ax=axes, shrink=0.85, label="sensitivity")
        bar.outline.set_visible(False)
    return Figure(
        title,
        "How much a small change of each part of the book at each event moves the score of up "
        "against down; root mean square over the windows.",
        figure,
    )


def _token_ticks(
    axes: Axes, matrix: np.ndarray, names: Sequence[str], *, left: bool, lowest: bool
) -> None:
    """Label tokens: by name, or events by how long before the forecast they are."""
    if names:
        axes.set_xticks(range(len(names)), labels=names if lowest else [], rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), labels=names if left else [], fontsize=7)
        return
    for side, count in ((axes.xaxis, matrix.shape[1]), (axes.yaxis, matrix.shape[0])):
        places = np.unique(np.linspace(0, count - 1, 4).round())
        side.set_ticks(places, labels=[f"{count - 1 - place:.0f}" for place in places])


def _thinned(count: int) -> np.ndarray:
    """Return at most about `_MOST_POINTS` of `count` indices, the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))


def _time_axis(axes: Axes, market: Market, span: np.ndarray | None = None) -> None:
    """Label rows with the time of day, or with the series where there are several."""
    first, last = (0, len(market) - 1) if span is None else (int(span[0]), int(span[-1]))
    inner = market.edges[(market.edges > first) & (market.edges <= last)]
    if len(inner):
        for edge in inner if len(inner) <= 30 else []:
            axes.axvline(edge, color=INK, linewidth=0.5, alpha=0.35)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("event" + (", lines between series" if len(inner) <= 30 else ""))
        return
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not market.clocked:
        axes.set_xlabel("row")
        return
    length = (market.time[last] - market.time[first]) / 1e9

    def label(value: float, _: int | None) -> str:
        row = round(value)
        if not first <= row <= last:
            return ""
        tenths = int(market.time[row] // 10**8) % 864_000
        text = f"{tenths // 36_000:02d}:{tenths // 600 % 60:02d}"
        if length < 600:
            text += f":{tenths // 10 % 60:02d}"
        return f"{text}.{tenths % 10}" if length < 60 else text

    axes.xaxis.set_major_formatter(FuncFormatter(label))
    axes.set_xlabel("time of day, events evenly spaced")


def _label_blocks(axes: Axes, first: pd.DataFrame) -> None:
    names = [clock(time).removeprefix("row ")[:5] for time in first["start"]]
    places = first["block"].to_numpy()
    step = -(-len(places) // 8)
    axes.set_xticks(places[::step], labels=names[::step])
    series = first["series"].to_numpy()
    edges = np.flatnonzero(series[1:] != series[:-1])
    axes.set_xlabel("start of the block" + (", lines between series" if len(edges) else ""))
    for edge in edges[:30]:
        axes.axvline(edge + 0.5, color=INK, linewidth=0.5, alpha=0.35)


def _shortened(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _runs(rows: np.ndarray, chosen: np.ndarray) -> list[tuple[float, float]]:
    """Return start and width of each stretch of chosen forecasts; each lasts until the next."""
    change = np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]]))
    starts, stops = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    until = np.append(rows, rows[-1] + 1)
    return [(float(rows[a]), float(until[b] - rows[a])) for a, b in zip(starts, stops, strict=True)]


def _number(value: float) -> str:
    return _spaced(f"{value:,.2f}" if value == 0 or abs(value) >= 0.095 else f"{value:.2g}")


def _spaced(text: str) -> str:
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
