"""`models`: list the models with their size, mechanism and paper."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from shared_runtime.building import build
from shared_runtime.domain import Domain
from shared_runtime.options import model_arguments, resolve
from shared_runtime.results import aligned
from shared_runtime.samples import sample_path, temporary_sample


def models(domain: Domain) -> list[dict[str, Any]]:
    """Describe every model; parameters are counted with default options on the sample."""
    with temporary_sample(domain) as folder:
        rows = []
        for spec in domain.models().values():
            flags = {"data.path": sample_path(domain, spec, folder), "model.name": spec.name}
            config = resolve(domain, flags=flags)
            prepared = domain.prepare(config.data, spec=spec, seed=config.seed)
            rows.append(
                {
                    "name": spec.name,
                    "task": spec.task,
                    "parameters": build(spec, config, prepared.model_arguments).parameters,
                    "attention": spec.attention,
                    "paper": spec.paper,
                    "summary": spec.summary,
                    "options": {
                        argument.name: argument.default
                        for argument in model_arguments(spec).values()
                        if argument.default is not inspect.Parameter.empty
                    },
                }
            )
    return rows


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    rows = models(domain)
    if values["json"]:
        print(json.dumps(rows, indent=2))
        return
    lines = [["NAME", "TASK", "PARAMETERS", "ATTENTION", "PAPER"]]
    for row in rows:
        attention = row["attention"] or "-"
        lines.append([row["name"], row["task"], f"{row['parameters']:,}", attention, row["paper"]])
    print(aligned(lines))
    print(f"default: {domain.DEFAULT_MODEL}; options of a model: --json")
