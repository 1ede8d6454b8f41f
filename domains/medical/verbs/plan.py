"""`plan`: show what a data set is like and how it would be prepared, as a file to edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from domains.medical.data.config import DataConfig
from domains.medical.data.fingerprint import Fingerprint, fingerprint
from domains.medical.data.plan import Plan
from domains.medical.data.planning import make_plan, step_bytes
from domains.medical.data.splits import split
from domains.medical.preparation import read, usable
from shared_runtime.domain import Domain
from shared_runtime.errors import UsageError
from shared_runtime.files import replacing
from shared_runtime.options import resolve_data


def run_plan(
    config: DataConfig, out: Path | None = None, *, seed: int = 0
) -> tuple[Fingerprint, Plan]:
    """Take the fingerprint of the training part, plan, and write the plan as a configuration.

    Args:
        config: the `data:` section; what it sets is kept in the plan.
        out: YAML file to write, for `train --config`; None writes nothing.
        seed: of the split.

    Raises:
        UsageError: `out` exists.
        DataError: the data cannot be read.
    """
    if out is not None and out.exists():
        raise UsageError(f"--out {out}: exists and is not overwritten; choose another name")
    data_set = usable(config)
    parts = split(data_set, config, seed)
    found = fingerprint(parts.train, data_set, partial(read, data_set=data_set))
    plan = make_plan(found, data_set, config)
    if out is not None:
        with replacing(out) as partial_file:
            partial_file.write_text(fragment(config, plan, len(found.ids)), encoding="utf-8")
    return found, plan


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    config = resolve_data(
        domain,
        config=values["config"],
        flags={"data.path": values["data"], **values["flags"]},
        sets=values["set"] or [],
    )
    out = values["out"]
    found, plan = run_plan(config, out)
    if values["json"]:
        print(json.dumps({"fingerprint": summary(found), "plan": plan.to_dict()}, indent=2))
    else:
        print(describe(found, plan))
    if out is not None and not values["json"]:
        print(f"\n{out}: edit what you like, then\n  heed {domain.NAME} train --config {out}")


def fragment(config: DataConfig, plan: Plan, cases: int) -> str:
    """Return a plan as a configuration that `train --config` takes.

    It holds what the plan decides and what `config` sets. Planned again from it, the same data
    give the same plan.
    """
    kinds = set(plan.normalisation)
    data = {
        field.name: _plain(getattr(config, field.name))
        for field in fields(config)
        if field.default is MISSING or getattr(config, field.name) != field.default
    }
    data |= {
        "spacing": list(plan.spacing),
        "patch_size": list(plan.patch_size),
        "normalisation": kinds.pop() if len(kinds) == 1 else config.normalisation,
    }
    tree = {"data": data, "training": {"batch_size": plan.batch_size}}
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return (
        f"# Planned from {cases} training cases. Edit any value; training takes it as it is.\n"
        "# spacing: millimetres along right, anterior, superior (2-D: rows, columns).\n"
        "# patch_size: voxels along the same axes. batch_size: patches of a step.\n" + text
    )


def summary(found: Fingerprint) -> dict[str, Any]:
    """Return the fingerprint as plain numbers: medians and ranges over the cases."""
    return {
        "cases": len(found.ids),
        "voxels": _spread(found.shapes),
        "spacing": _spread(found.spacings),
        "kept": float(np.median(found.kept)),
        "shares": dict(zip(found.labels, found.shares.tolist(), strict=True)),
        "cases_with": {
            name: int((found.voxels[:, index] > 0).sum()) for index, name in enumerate(found.labels)
        },
        "intensities": {
            name: {"mean": one.mean, "std": one.std, "low": one.low, "high": one.high}
            for name, one in zip(found.channels, found.intensities, strict=True)
        },
    }


def describe(found: Fingerprint, plan: Plan) -> str:
    """Return fingerprint and plan as lines for a person."""
    facts = summary(found)
    count = facts["cases"]
    lines = [f"Fingerprint of {count} training cases", *_sizes(facts)]
    lines.append(f"  not zero      {100 * facts['kept']:.0f} % of the median scan's box")
    for name, one in facts["intensities"].items():
        lines.append(
            f"  {name:<12}  foreground {one['low']:.4g} to {one['high']:.4g} (0.5th to 99.5th "
            f"percentile), mean {one['mean']:.4g}, deviation {one['std']:.4g}"
        )
    for name, share in facts["shares"].items():
        cases = facts["cases_with"][name]
        lines.append(
            f"  {name:<12}  {100 * share:.3g} % of all voxels, in {cases} of {count} cases"
        )
    memory = step_bytes(plan.patch_size, plan.batch_size) / 1e9
    return "\n".join(
        [
            *lines,
            "Plan",
            f"  spacing       {_times(plan.spacing)} mm",
            f"  patch         {_times(plan.patch_size)} voxels",
            f"  normalisation {', '.join(plan.normalisation)}",
            f"  cropping      {'to what is not zero' if plan.crop else 'none'}",
            f"  batch         {plan.batch_size} patches; a step of a U-Net of 31 million "
            f"parameters in float32 takes about {memory:.1f} GB",
        ]
    )


def _sizes(facts: Mapping[str, Any]) -> list[str]:
    return [
        f"  {name:<12}  {_times(facts[name]['median'])}{unit} (median), "
        f"{_times(facts[name]['lowest'])} to {_times(facts[name]['highest'])}"
        for name, unit in (("voxels", ""), ("spacing", " mm"))
    ]


def _spread(values: np.ndarray) -> dict[str, list[float]]:
    return {
        "median": np.median(values, axis=0).tolist(),
        "lowest": values.min(axis=0).tolist(),
        "highest": values.max(axis=0).tolist(),
    }


def _times(values: Any) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value
