"""`backtest`: trade a trained model's forecasts under given costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from domains.finance.backtest import Ledger, Trading, backtest
from domains.finance.evaluation import scored_part, trading, without_unsure
from domains.finance.inference import probabilities
from domains.finance.profit import summary
from domains.finance.rivals import rival_forecasts
from domains.finance.verdict import SHOWN, verdict, verdict_figures
from shared_runtime import charts
from shared_runtime.domain import Domain
from shared_runtime.errors import DataError, UsageError
from shared_runtime.report import Report, render
from shared_runtime.results import table_text, written
from shared_runtime.run_folder import RunFolder
from shared_runtime.runs import open_run, prepare_again

SIGNALS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LATENCIES = (0, 1, 2, 5, 10, 50)


def run_backtest(
    domain: Domain,
    run: Path,
    *,
    data: Path | None = None,
    split: str = "test",
    out: Path | None = None,
    device: str | None = None,
    flags: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
) -> tuple[str, dict[str, Any], list[Path]]:
    """Trade the forecasts of a trained model on one part of the data.

    Writes `trades.csv`, `equity.csv`, `verdict.csv`, `metrics.json`, `backtest.html` and one PNG
    per figure.

    Args:
        domain: the finance domain.
        run: folder of a finished run.
        data: other data than the run's.
        split: "test" or "val".
        out: folder to write to; `backtest` inside the run folder where it is None.
        device: other device than the run's.
        flags: dotted keys of the `data` section.
        sets: `key=value` strings, such as `data.fee=0.5`, `data.latency=5`, `data.signal=0.6`.

    Returns:
        The verdict in words, a `metrics.json` document and the files.

    Raises:
        DataError: the prices are normalised, so nothing can be traded.
        UsageError: `out` holds something other than a backtest.
    """
    _require_free(out)
    opened = open_run(domain, run, data=data, device=device, flags=flags, sets=sets)
    prepared = prepare_again(opened, other_data=data is not None)
    part, how = scored_part(prepared, split), trading(prepared)
    if not part.money:
        raise DataError(
            f"{opened.config.data.path}: prices are normalised, so nothing can be traded; "
            "backtest on LOBSTER files, snapshots or diffs"
        )
    model = opened.loaded.spec.name
    probability = probabilities(
        opened.loaded.model,
        getattr(prepared, split),
        batch_size=opened.batch_size,
        device=opened.device,
    )
    forecasts = {model: probability, **rival_forecasts(prepared, split)}
    seed = opened.config.seed
    found = verdict(forecasts, part, trading=how, seed=seed)
    tables = {
        "Trades and costs": found.tables["Trades and costs"],
        "By probability that is traded on": pd.DataFrame(
            _money(signal, backtest(probability, part.ends, part.market, how_at), "signal")
            for signal in SIGNALS
            for how_at in [replace(how, threshold=signal or None)]
        ),
        "By latency in events": pd.DataFrame(
            _money(events, backtest(probability, part.ends, part.market, how_at), "latency")
            for events in LATENCIES
            for how_at in [replace(how, latency=events)]
        ),
        "By regime": found.tables["By regime"],
    }
    figures = verdict_figures(found, forecasts, part, seed=seed)
    document = {
        "model": model,
        "split": split,
        "n_scored": len(part.label),
        "seed": seed,
        "metrics": {name: asdict(item) for name, item in found.metrics.items()},
        "baselines": {n: v for n, v in without_unsure(found, model).items() if n != model},
        "trading": asdict(how),
        "text": found.text,
        "shown": [name for name in SHOWN if name in found.metrics],
    }
    ledger = found.ledgers[model]
    folder = RunFolder(out or run / "backtest")
    page = Report(
        domain=domain.NAME,
        model=f"{model}, traded",
        summary=_costs(how),
        disclaimer=domain.DISCLAIMER,
        text=found.text,
        metrics=document,
        figures=figures,
        tables=tables,
        data=prepared.summary,
    )
    files = [
        folder.write_text("backtest.html", render(page)),
        folder.write_frame("trades.csv", ledger.trades),
        folder.write_frame("equity.csv", _equity(ledger)),
        folder.write_frame("verdict.csv", found.long),
        folder.write_json("metrics.json", written(document)),
    ]
    for figure in figures:
        name = figure.title.lower().replace(" ", "-").replace(",", "")
        files.append(folder.write_bytes(f"{name}.png", charts.png(figure.figure)))
    return found.text, document, files


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    if values["run"] is None:
        raise UsageError("--run is needed: the folder of a trained model")
    _, document, files = run_backtest(
        domain,
        values["run"],
        data=values["data"],
        split=values["split"],
        out=values["out"],
        device=values["device"],
        flags=values["flags"],
        sets=values["set"] or [],
    )
    print(table_text(document))
    for path in files:
        print(path)
    print(domain.DISCLAIMER)


def _require_free(out: Path | None) -> None:
    """Refuse a folder that holds anything but an earlier backtest, which may be replaced."""
    if out is None or not out.exists() or (out / "backtest.html").is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError(f"--out {out}: exists and is not an empty folder; choose another")


def _money(value: float, ledger: Ledger, name: str) -> dict[str, float]:
    found = summary(ledger)
    columns = ("trades", "gross_pnl", "spread_paid", "fees", "net_pnl", "break_even_bps")
    return {name: value} | {column: getattr(found, column) for column in columns}


def _equity(ledger: Ledger) -> pd.DataFrame:
    market = ledger.market
    return pd.DataFrame(
        {
            "series": market.series,
            "time": market.time,
            "bid": market.bid,
            "ask": market.ask,
            "position": ledger.position,
            "equity": ledger.equity,
            "liquidation": ledger.liquidation,
        }
    )


def _costs(how: Trading) -> str:
    events = "event" if how.latency == 1 else "events"
    return (
        f"Market orders of {how.size:g} units, {how.latency} {events} after the forecast, "
        f"{how.fee_bps:g} basis points a side in fees"
    )
