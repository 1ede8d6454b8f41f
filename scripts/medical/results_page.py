"""Write the tables of docs/results/medical.md from the rows that reproduce.py measured.

    python scripts/medical/results_page.py docs/results/medical.csv docs/results/medical.md

Text between tables is kept; each table stands between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from domains.medical.scoring import paired

SCORES = ("dice", "iou", "hd95", "assd", "nsd", "volume_error")


def models_table(runs: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """One line per run, best Dice first, with intervals over patients; baselines at the end."""
    labels = list(cases["label"].unique())
    trained = runs[runs["seed"].notna()].sort_values("dice", ascending=False)
    lines = []
    for _, row in pd.concat([trained, runs[runs["seed"].isna()]]).iterrows():
        known = pd.notna(row["seed"])
        line = {
            "model": f"**{row['name']}**" if str(row["attention"]) == "True" else row["name"],
            "seed": int(row["seed"]) if known else "",
            "Dice": _number(row["dice"], 4),
            "95 %": f"{row['dice_low']:.4f} to {row['dice_high']:.4f}" if known else "",
        }
        line |= {f"Dice {label}": _number(row[f"dice_{label}"], 3) for label in labels}
        line |= {
            "HD95, mm": _number(row["hd95"], 2),
            "ASSD, mm": _number(row["assd"], 3),
            "surface Dice at 1 mm": _number(row["nsd"], 3),
            "parameters": f"{int(row['parameters']):,}" if known else "",
            "patches": _number(row["patches"], 0),
            "step, CPU s": _number(row["step_seconds"], 3),
            "run, CPU s": _number(row["cpu_seconds"], 0),
        }
        lines.append(line)
    return pd.DataFrame(lines)


def paired_table(runs: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """The best attention model against every other model: mean differences over the same cases.

    The scores of a case are means over the seeds that both models have.
    """
    means = runs[runs["seed"].notna()].groupby("name")["dice"].mean()
    attending = set(runs.loc[runs["attention"].astype(str) == "True", "name"])
    rest = means[means.index.isin(attending)]
    if rest.empty:
        return pd.DataFrame()
    best = str(rest.idxmax())
    lines = []
    for name in means.drop(best).sort_values(ascending=False).index:
        seeds = sorted(_seeds(cases, best) & _seeds(cases, name))
        if not seeds:
            continue
        found = paired(_rows(cases, best, seeds), _rows(cases, name, seeds), seed=0)
        by = found.set_index("metric")
        line = {"best attention model": best, "against": name, "seeds": len(seeds)}
        for title, score, digits in (
            ("Dice", "dice", 4),
            ("HD95, mm", "hd95", 2),
            ("surface Dice", "nsd", 4),
        ):
            one = by.loc[score]
            line[title] = f"{one['difference']:+.{digits}f}"
            line[f"{title}, 95 %"] = f"{one['ci_low']:+.{digits}f} to {one['ci_high']:+.{digits}f}"
        line["better Dice in"] = f"{100 * by.loc['dice', 'better']:.0f} %"
        line["cases"] = int(by.loc["dice", "patients"])
        lines.append(line)
    return pd.DataFrame(lines)


def _seeds(cases: pd.DataFrame, name: str) -> set[int]:
    return set(cases.loc[cases["name"] == name, "seed"])


def _rows(cases: pd.DataFrame, name: str, seeds: Sequence[int]) -> list[Mapping[str, Any]]:
    """Return one row per case and label, the mean over seeds."""
    chosen = cases[(cases["name"] == name) & cases["seed"].isin(seeds)]
    kept = [score for score in SCORES if score in chosen]
    means = chosen.groupby(["case", "label"], sort=False)[kept].mean().reset_index()
    return means.to_dict("records")


def _number(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


TABLES = {"models": models_table, "paired": paired_table}


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * table.shape[1] + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table.to_numpy()]
    return "\n".join(lines)


def main(rows_file: Path, page: Path) -> None:
    """Replace every table of the page."""
    runs = pd.read_csv(rows_file)
    cases = pd.read_csv(rows_file.with_name(f"{rows_file.stem}_cases.csv"))
    text = page.read_text(encoding="utf-8")
    for group in runs["group"].unique():
        chosen = (runs[runs["group"] == group], cases[cases["group"] == group])
        for name, build in TABLES.items():
            pattern = rf"(<!-- table {group} {name} -->\n).*?(<!-- end -->)"
            table = build(*chosen)
            content = "\n" + (markdown(table) if len(table) else "Not measured yet.") + "\n\n"
            text = re.sub(pattern, lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
