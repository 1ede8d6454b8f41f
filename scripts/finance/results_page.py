"""Write the tables of docs/results/finance.md from the rows that reproduce.py measured.

    python scripts/finance/results_page.py docs/results/finance.csv docs/results/finance.md

Text between tables is kept; each table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

BASELINES = (
    "majority",
    "level-1 imbalance",
    "drift rule",
    "logistic regression",
    "gradient boosting",
    "buy and hold",
)
MODELS = ("TLOB", "MLPLOB", "DeepLOB", "BiNCTABL", "StreamingLOB")


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per horizon and forecast: means over seeds with their standard deviation."""
    lines = []
    for horizon, of_horizon in rows.groupby("horizon"):
        for name in (*MODELS, *BASELINES):
            group = of_horizon[of_horizon["name"] == name]
            if group.empty:
                continue
            cost = group["gross_pnl"] - group["net_pnl"]
            line = {
                "rows ahead": horizon,
                "forecast": name,
                "seeds": str(len(group)) if name in MODELS else "",
                "macro-F1": _percent(group["macro_f1"]),
                "MCC": _number(group["mcc"], 3),
                "p_T": _number(group["p_t"], 3),
                "trades": _number(group["trades"], 0),
                "gross, $": _number(group["gross_pnl"], 2),
                "spread paid, $": _number(cost, 2),
                "net, $": _number(group["net_pnl"], 2),
                "net, 95 %": _interval(group),
                "parameters": "" if name not in MODELS else f"{int(group['parameters'].iloc[0]):,}",
                "training, s": _number(group["seconds"], 0, spread=False),
            }
            lines.append(line)
    return pd.DataFrame(lines)


def lead_table(rows: pd.DataFrame) -> pd.DataFrame:
    """By how much each model beats gradient boosting in macro-F1 and MCC, by label and horizon."""
    lines = []
    for (label, horizon), group in rows.groupby(["label", "horizon"], sort=False):
        best = group[group["name"] == "gradient boosting"].iloc[0]
        line = {"label": label, "rows ahead": horizon}
        for name in MODELS:
            own = group[group["name"] == name]
            if len(own):
                f1, mcc = own["macro_f1"].mean(), own["mcc"].mean()
                line[name] = f"{100 * (f1 - best.macro_f1):+.1f} / {mcc - best.mcc:+.3f}"
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


def _number(values: pd.Series, digits: int, *, spread: bool = True) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    around = f" ± {values.std():.{digits}f}" if spread and len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{around}"


def _percent(values: pd.Series) -> str:
    return _number(100 * values, 1)


def _interval(group: pd.DataFrame) -> str:
    first = group.iloc[0]
    known = pd.notna(first.net_pnl_low)
    return f"{first.net_pnl_low:.1f} to {first.net_pnl_high:.1f}" if known else ""


TABLES = {
    "tlob": lambda rows: summary(rows[rows["label"] == "tlob"]),
    "fi2010": lambda rows: summary(rows[rows["label"] == "fi2010"]),
    "return": lambda rows: summary(rows[rows["label"] == "return"]),
    "lead": lead_table,
}


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * table.shape[1] + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table.to_numpy()]
    return "\n".join(lines)


def main(rows_file: Path, page: Path) -> None:
    """Replace every table of the page."""
    rows = pd.read_csv(rows_file)
    text = page.read_text(encoding="utf-8")
    for name, build in TABLES.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        table = build(rows)
        content = "\n" + (markdown(table) if len(table) else "Not measured yet.") + "\n\n"
        text = re.sub(pattern, lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
