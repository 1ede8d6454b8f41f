r"""Rebuild an order book from LOBSTER's messages and a starting book, and write it as LOBSTER does.

    python scripts/orderbook/reconstruct.py TICKER_2012-06-21_34200000_37800000_message_50.csv \
        --start TICKER_orderbook_10.csv --levels 10 --out rebuilt

The start is an order book file, of which the first row is used, or a CSV file of levels
(`price,size,side`) or orders (`price,size,side,order_id`). Only messages that change the levels
written, hidden executions, crosses and halts get rows.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from domains.finance.data.findings import Findings
from domains.finance.data.lobster_checks import check_messages, find_tick
from domains.finance.data.lobster_csv import read_messages
from domains.finance.data.lobster_names import lobster_name
from domains.finance.data.lobster_writing import write_pair
from domains.finance.data.reconstruct import reconstruct
from domains.finance.data.starting_book import read_starting_book
from shared_runtime.errors import DataError


def run(arguments: argparse.Namespace) -> None:
    path: Path = arguments.messages
    name = lobster_name(path)
    findings = Findings(path)
    messages = read_messages(path, findings) if path.is_file() else None
    if messages is not None:
        check_messages(messages, find_tick(messages), findings)
    for problem in findings.problems():
        print(problem, file=sys.stderr)
    if messages is None or findings.failed:
        raise DataError(f"{path}: not a message file that can be replayed; correct it")
    covered = arguments.covered or (name.levels if name else None)
    started = time.perf_counter()
    start = read_starting_book(arguments.start)
    book = reconstruct(messages, start, arguments.levels, covered, arguments.form)
    seconds = time.perf_counter() - started
    stem = name.stem if name else path.stem
    paths = write_pair(messages.rows(book.rows), book.book, arguments.out, stem)
    known = np.minimum(book.known_asks, book.known_bids)
    print(f"{len(messages)} messages in {seconds:.2f} s: {len(messages) / seconds:,.0f} per second")
    certain = np.count_nonzero(known == arguments.levels)
    print(f"{len(book.rows)} rows, {certain} certain in all levels")
    print(f"{len(book.inferred)} orders inferred, {len(book.vanished)} levels vanished unseen")
    if len(book.overdrawn):
        first = book.overdrawn[0] + 1
        print(f"{len(book.overdrawn)} messages take more than was there, the first in row {first}")
    print(*paths, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("messages", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--levels", type=int, default=10)
    parser.add_argument("--covered", type=int, help="levels of the messages; from the file name")
    parser.add_argument("--form", choices=("careful", "plain"), default="careful")
    parser.add_argument("--out", type=Path, required=True)
    try:
        run(parser.parse_args())
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
