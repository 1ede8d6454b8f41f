"""`check`: say everything that is wrong with the data, and where."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from shared_runtime.domain import Domain, Problem
from shared_runtime.errors import DataError
from shared_runtime.options import resolve_data


def check(domain: Domain, data: Any) -> list[Problem]:
    """Return every problem of the data; `data` is the domain's `DataConfig`."""
    return domain.check(data)


def command(domain: Domain, values: Mapping[str, Any]) -> None:
    """Carry out the verb for the command line."""
    data = resolve_data(
        domain,
        config=values["config"],
        flags={"data.path": values["data"], **values["flags"]},
        sets=values["set"] or [],
    )
    problems = check(domain, data)
    errors = sum(problem.severity == "error" for problem in problems)
    if values["json"]:
        print(json.dumps([dataclasses.asdict(problem) for problem in problems], indent=2))
    else:
        for problem in problems:
            print(problem)
        print(f"{data.path}: {errors} errors, {len(problems) - errors} warnings")
    if errors:
        raise DataError(f"{data.path} failed its checks")
