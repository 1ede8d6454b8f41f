"""A domain module whose dependency is not installed."""

import nosuchpackage  # noqa: F401
