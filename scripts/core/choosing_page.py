"""Write the tables of docs/choosing.md from the folder of `heed attention benchmark`.

    python scripts/core/choosing_page.py FOLDER docs/choosing.md

Text between tables is kept; each table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from shared_runtime.attention_benchmark.command import TABLE, read_rows
from shared_runtime.attention_benchmark.crossover import Row, summary

MARK = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADINGS = (
    "mechanism", "mask", "faster forward from", "faster in training from",
    "speed forward, {n}", "in training", "memory of training", "error, noise / related",
)  # fmt: skip


def table(rows: Sequence[Row], families: Sequence[str]) -> str:
    """Crossovers and the cost at the longest length, for some families."""
    chosen = [row for row in rows if row["family"] in (*families, "baseline")]
    longest = max(row["length"] for row in rows)
    lines = [[cell.format(n=f"{longest:,}") for cell in HEADINGS], *summary(chosen)[1:]]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|---" * len(HEADINGS) + "|", *text[1:]])


def main() -> None:
    folder, page = Path(sys.argv[1]), Path(sys.argv[2])
    rows = read_rows(folder / TABLE)
    settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))["settings"]
    lengths = sorted({row["length"] for row in rows})
    makers: dict[str, Callable[[], str]] = {
        "settings": lambda: (
            f"Measured: batch {settings['batch']}, {settings['heads']} heads of "
            f"{settings['head_dim']}, {settings['dtype']}, {settings['device']}, "
            f"{settings['threads']} thread(s), lengths {', '.join(f'{n:,}' for n in lengths)}."
        ),
        "attention": lambda: table(rows, ["attention", "recurrent"]),
        "operators": lambda: table(rows, ["mixer", "pooling", "spatial", "graph"]),
    }
    text = page.read_text("utf-8")
    text = MARK.sub(lambda found: f"{found[1]}{makers[found[2]]()}\n{found[3]}", text)
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
