"""Conformance kit: hold a mechanism, yours or ours, to what its spec claims.

from shared_attention.testing import check_mechanism

report = check_mechanism("flow")
print(report)
assert report.ok
"""

from shared_attention.testing.conformance import CHECKS, OPERATOR_CHECKS, check_mechanism, checks_of
from shared_attention.testing.report import Check, Report
from shared_attention.testing.tolerances import TOLERANCES, assert_close

__all__ = [
    "CHECKS",
    "OPERATOR_CHECKS",
    "TOLERANCES",
    "Check",
    "Report",
    "assert_close",
    "check_mechanism",
    "checks_of",
]
