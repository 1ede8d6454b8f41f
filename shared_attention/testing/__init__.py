"""Conformance kit: hold a mechanism, yours or ours, to what its spec claims.

from shared_attention.testing import check_mechanism

report = check_mechanism("flow")
print(report)
assert report.ok
"""

from shared_attention.testing.conformance import CHECKS, check_mechanism
from shared_attention.testing.report import Check, Report
from shared_attention.testing.tolerances import TOLERANCES, assert_close

__all__ = ["CHECKS", "TOLERANCES", "Check", "Report", "assert_close", "check_mechanism"]
