"""Write the tables of docs/results/forecasting.md from the rows that reproduce.py measured.

    python scripts/forecasting/results_page.py rows.csv docs/results/forecasting.md

Text between tables is kept; each table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pandas as pd

PUBLISHED = {
    ("Informer (reduced)", 96): "0.865 / 0.713",
    ("Informer (reduced)", 192): "1.008 / 0.792",
    ("Informer (reduced)", 336): "1.107 / 0.809",
    ("Informer (reduced)", 720): "1.181 / 0.865",
    ("Autoformer (reduced)", 96): "0.449 / 0.459",
    ("Autoformer (reduced)", 192): "0.500 / 0.482",
    ("Autoformer (reduced)", 336): "0.521 / 0.496",
    ("Autoformer (reduced)", 720): "0.514 / 0.512",
}
"""MSE / MAE at look-back 96 in Autoformer (arXiv 2106.13008), table 1 and its repository."""


def summary(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return one line per setting: mean and range over seeds, interval of the first seed."""
    lines = []
    for key, group in rows.groupby(by, sort=False):
        first = group.sort_values("seed").iloc[0]
        line = dict(zip(by, key, strict=True))
        seeds = ", ".join(str(seed) for seed in sorted(group["seed"]))
        line |= {
            "seeds": seeds,
            "MSE": _mean(group["mse"]),
            "95 % interval": f"{first.mse_low:.3f} to {first.mse_high:.3f}",
            "MAE": _mean(group["mae"]),
            "parameters": f"{int(first.parameters):,}",
            "epochs": "/".join(str(int(epochs)) for epochs in group["epochs"]),
            "training, s": f"{group['seconds'].mean():.0f}",
        }
        lines.append(line)
    return pd.DataFrame(lines)


def _mean(values: pd.Series) -> str:
    spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}"


def baseline_lines(rows: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """Return the baselines of a horizon as lines of the same table."""
    found = json.loads(rows[rows["horizon"] == horizon].iloc[0]["baselines"])
    return pd.DataFrame(
        {
            "label": name,
            "lookback": 96,
            "horizon": horizon,
            "seeds": "-",
            "MSE": f"{values['mse']:.4f}",
            "MAE": f"{values['mae']:.4f}",
        }
        for name, values in found.items()
    )


def main_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Models and baselines at look-back 96, by horizon."""
    by = ["label", "lookback", "horizon"]
    groups = ("default", "patched", "informer", "informer-long", "autoformer", "autoformer-long")
    chosen = rows[rows["group"].isin(groups) & (rows["lookback"] == 96)]
    table = summary(chosen, by)
    table["published"] = [
        PUBLISHED.get((label, horizon), "")
        for label, horizon in zip(table["label"], table["horizon"], strict=True)
    ]
    default = rows[(rows["group"] == "default") & (rows["lookback"] == 96)]
    extra = [baseline_lines(default, horizon) for horizon in default["horizon"].unique()]
    table = pd.concat([table, *extra], ignore_index=True)
    return table.sort_values(["horizon", "MSE"], kind="stable").fillna("")


def lookback_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Look-backs of the default model; the one with the lowest mean validation MSE is chosen."""
    chosen = rows[rows["group"].isin(("default", "lookback", "lookback-long"))]
    table = summary(chosen, ["horizon", "lookback"])
    loss = chosen.groupby(["horizon", "lookback"], sort=False)["val_mse"].mean()
    table.insert(3, "validation MSE", [f"{value:.4f}" for value in loss])
    best = loss.groupby(level=0).transform("min").eq(loss)
    table.insert(4, "chosen", ["yes" if value else "" for value in best])
    return table.sort_values(["horizon", "lookback"])


def accuracy_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the classifiers after the last epoch."""
    lines = []
    for label, group in rows[rows["group"] == "vowels"].groupby("label", sort=False):
        scores = 100 * group["accuracy"]
        lines.append(
            {
                "model": label,
                "seeds": len(group),
                "accuracy": f"{scores.mean():.2f} %",
                "range": f"{scores.min():.2f} to {scores.max():.2f} %",
                "parameters": f"{int(group.iloc[0].parameters):,}",
                "training, s": f"{group['seconds'].mean():.0f}",
            }
        )
    found = rows[rows["group"] == "vowels"]
    if len(found):
        for name, values in json.loads(found.iloc[0]["baselines"]).items():
            lines.append({"model": name, "accuracy": f"{100 * values['accuracy']:.2f} %"})
    return pd.DataFrame(lines).fillna("")


TABLES = {
    "main": main_table,
    "lookback": lookback_table,
    "ablation": lambda rows: summary(rows[rows["group"] == "ablation"], ["label", "lookback"]),
    "vowels": accuracy_table,
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
