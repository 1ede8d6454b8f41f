"""Data problems, all in one pass, before anything is trained."""

from __future__ import annotations

import logging
from typing import Any

from shared_runtime.domain import Domain
from shared_runtime.errors import DataError

_log = logging.getLogger("heed.check")


def require_clean(domain: Domain, data: Any) -> None:
    """Check the data; log the warnings and raise with every error.

    Raises:
        DataError: The data have errors; the message has one line for each.
    """
    problems = domain.check(data)
    errors = [problem for problem in problems if problem.severity == "error"]
    for problem in problems:
        if problem.severity == "warning":
            _log.warning("%s", problem)
    if errors:
        listed = "\n".join(f"  {problem}" for problem in errors)
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise DataError(f"the data have {count}:\n{listed}")
