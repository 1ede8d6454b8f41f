"""Run every check that a mechanism's declared capabilities call for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shared_attention.registry import find
from shared_attention.spec import MechanismSpec
from shared_attention.testing import (
    causality,
    compilation,
    conduct,
    graph_checks,
    operator_causality,
    operator_compilation,
    operator_conduct,
    operator_padding,
    operator_values,
    padding,
    values,
)
from shared_attention.testing.operator import Operator
from shared_attention.testing.report import Check, NotClaimed, Report, Status
from shared_attention.testing.subject import Subject

CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "agrees with the reference": values.check_reference,
    "gradients": values.check_gradients,
    "extreme scores": values.check_extreme_scores,
    "half precision": values.check_half_precision,
    "prefix consistency": causality.check_prefix_consistency,
    "state": causality.check_state,
    "padding": padding.check_padding,
    "batch slots": padding.check_batch_slots,
    "hidden keys": padding.check_hidden_keys,
    "empty rows": padding.check_empty_rows,
    "inputs unchanged": conduct.check_inputs_unchanged,
    "linear in values": conduct.check_linear_in_values,
    "training mode": conduct.check_training_mode,
    "randomness": conduct.check_randomness,
    "refusals": conduct.check_refusals,
    "messages": conduct.check_messages,
    "state_dict": conduct.check_state_dict,
    "compile": compilation.check_compile,
    "export": compilation.check_export,
}
"""Checks of families attention and recurrent, by the name that reports and `expected_failures`
use."""

OPERATOR_CHECKS: Mapping[str, Callable[[Operator], None]] = {
    "agrees with the reference": operator_values.check_reference,
    "gradients": operator_values.check_gradients,
    "extreme inputs": operator_values.check_extreme_inputs,
    "half precision": operator_values.check_half_precision,
    "prefix consistency": operator_causality.check_prefix_consistency,
    "state": operator_causality.check_state,
    "padding": operator_padding.check_padding,
    "hidden positions": operator_padding.check_hidden_positions,
    "empty samples": operator_padding.check_empty_samples,
    "batch slots": operator_padding.check_batch_slots,
    "node order": graph_checks.check_node_order,
    "edge order": graph_checks.check_edge_order,
    "separate graphs": graph_checks.check_separate_graphs,
    "isolated nodes": graph_checks.check_isolated_nodes,
    "inputs unchanged": operator_conduct.check_inputs_unchanged,
    "training mode": operator_conduct.check_training_mode,
    "randomness": operator_conduct.check_randomness,
    "refusals": operator_conduct.check_refusals,
    "messages": operator_conduct.check_messages,
    "state_dict": operator_conduct.check_state_dict,
    "compile": operator_compilation.check_compile,
    "export": operator_compilation.check_export,
}
"""Checks of families mixer, pooling, spatial and graph."""


def checks_of(spec: MechanismSpec) -> Mapping[str, Callable[[Any], None]]:
    """Return the checks that mechanisms of this family go through, by name."""
    return CHECKS if spec.family in ("attention", "recurrent") else OPERATOR_CHECKS


def check_mechanism(
    mechanism: str | MechanismSpec,
    *,
    options: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    checks: tuple[str, ...] | None = None,
    compile: bool = False,
) -> Report:
    """Hold a mechanism to what its spec claims.

    Args:
        mechanism: Name in the catalogue, or a spec that need not be in it.
        options: Options other than the defaults; the reference gets them too.
        expected_failures: Reason by name of each check that is known to fail. One that passes
            after all is reported as failed, so that the list stays true.
        checks: Names of the checks to run; None runs all.
        compile: Also compile with the default compiler, which takes about half a minute. The
            check that one graph captures the mechanism runs in any case.

    Returns:
        The report; print it, or ask `report.ok`.

    Raises:
        ValueError: There is no mechanism or no check of that name.
    """
    spec = find(mechanism) if isinstance(mechanism, str) else mechanism
    available = dict(checks_of(spec))
    attends = available.keys() == CHECKS.keys()
    if compile:
        available["inductor"] = (
            compilation.check_inductor if attends else operator_compilation.check_inductor
        )
    expected = dict(expected_failures or {})
    for name in (*(checks or ()), *expected):
        if name not in available:
            raise ValueError(
                f"check_mechanism: no check {name!r}; there are {', '.join(available)}"
            )
    chosen = available if checks is None else {name: available[name] for name in checks}
    subject = (Subject if attends else Operator)(spec, dict(options or {}))
    done = [_run(name, check, subject, expected.get(name)) for name, check in chosen.items()]
    return Report(spec.name, tuple(done))


def _run(
    name: str, check: Callable[[Any], None], subject: Subject | Operator, expected: str | None
) -> Check:
    status: Status = "passed"
    reason = ""
    try:
        check(subject)
    except NotClaimed as why:
        return Check(name, "not claimed", str(why))
    except AssertionError as error:
        status, reason = "failed", str(error)
    except Exception as error:  # whatever a third party's mechanism raises is its failure
        status, reason = "failed", f"{type(error).__name__}: {error}".splitlines()[0]
    if expected is None:
        return Check(name, status, reason)
    if status == "failed":
        return Check(name, "expected failure", f"{expected} ({reason})")
    return Check(name, "failed", f"passes, though expected to fail: {expected}")
