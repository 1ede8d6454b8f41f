"""Print what simulated order books have in common with real ones, and draw it.

    python scripts/orderbook/stylised_facts.py --messages 50000 --days 3 --plot facts.png
    python scripts/orderbook/stylised_facts.py --beside FOLDER

`--beside` is a folder of LOBSTER pairs, or an `.npz` of a day with `book`, `time`, `type`, `size`,
`price` and `side` in LOBSTER's units.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from domains.finance.data.book import BookSeries, Events
from domains.finance.data.config import DataConfig
from domains.finance.data.simulator import Market, simulate_day
from domains.finance.data.stylised_facts import autocorrelation, next_move_share, stylised_facts

LAGS = (1, 2, 3, 5, 10, 20, 50, 100)


def packed(path: Path) -> list[BookSeries]:
    """Read a day from arrays."""
    with np.load(path) as arrays:
        book = arrays["book"].astype(np.float64)
        book[:, 0::2] /= 10_000
        events = Events(
            arrays["type"],
            np.zeros(len(book), np.int64),
            arrays["size"].astype(np.float64),
            arrays["price"] / 10_000,
            arrays["side"],
        )
        time = np.rint(arrays["time"] * 1e9).astype(np.int64)
    return [BookSeries(path.stem, "", time, book, str(path), events=events)]


def real(path: Path) -> list[BookSeries]:
    if path.suffix == ".npz":
        return packed(path)
    from domains.finance.data.reading import read_books

    series, _ = read_books(DataConfig(path=path))
    return [one for one in series if one.events is not None]


def draw(books: Mapping[str, Sequence[BookSeries]], path: Path) -> None:
    """Draw spread, depth, the memory of returns and the signal of the imbalance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    for name, series in books.items():
        one = max(series, key=len)
        spread = np.rint(one.spread / one.tick).astype(int)
        shares = np.bincount(spread)[:40] / len(one)
        axes[0, 0].plot(shares, label=name, marker=".")
        size = (np.nanmean(one.ask_size, 0) + np.nanmean(one.bid_size, 0)) / 2
        axes[0, 1].plot(np.arange(1, one.levels + 1), size / size.mean(), marker=".")
        change, returns = np.diff(one.mid), np.diff(one.mid[::10])
        axes[0, 2].plot(LAGS, [autocorrelation(change, lag) for lag in LAGS], marker=".")
        axes[1, 0].plot(LAGS, [autocorrelation(np.abs(returns), lag) for lag in LAGS], marker=".")
        assert one.events is not None
        signs = -one.events.direction[one.events.type == 4].astype(float)
        axes[1, 1].plot(LAGS, [autocorrelation(signs, lag) for lag in LAGS], marker=".")
        beyond = np.linspace(0, 0.9, 10)
        axes[1, 2].plot(beyond, [next_move_share(one, b) for b in beyond], marker=".")
    titles = (
        "Spread, ticks (share of rows)",
        "Size by level, of the mean",
        "Autocorrelation of mid changes",
        "Autocorrelation of absolute returns over 10 rows",
        "Autocorrelation of trade signs",
        "Next move goes to the heavier side, by imbalance",
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.axhline(0.5 if "Next" in title else 0, color="0.8", lw=0.8)
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=50_000, help="messages of each day")
    parser.add_argument("--days", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beside", type=Path, help="real books to print beside")
    parser.add_argument("--plot", type=Path, help="picture to write")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.days)
    books = {"simulated": [simulate_day(Market(), options.messages, s)[0] for s in seeds]}
    if options.beside:
        books["real"] = real(options.beside)
    facts = {name: stylised_facts(series) for name, series in books.items()}
    print(f"{'':52s}" + "".join(f"{name:>12s}" for name in facts))
    for fact in facts["simulated"]:
        print(f"{fact:52s}" + "".join(f"{found[fact]:12.3f}" for found in facts.values()))
    if options.plot:
        draw(books, options.plot)


if __name__ == "__main__":
    main()
