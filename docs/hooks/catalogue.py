"""Writes the catalogue of mechanisms into the pages that ask for it.

`<!-- catalogue attention -->` becomes a table of the family's capabilities and a section for each
of its mechanisms; several families may be named.
"""

from __future__ import annotations

import re
from typing import Any

from shared_attention import MechanismSpec, catalogue
from shared_attention.spec import CAPABILITIES

MARK = re.compile(r"<!-- catalogue ([a-z ]+) -->")
NOT_ABILITIES = ("train_eval_differs", "fixed_size", "stochastic")
"""Capabilities that are traits: they are told in a mechanism's section, not in the table."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return MARK.sub(lambda found: family(found[1].split()), markdown)


def family(names: list[str]) -> str:
    """Describe every mechanism of some families."""
    specs = [spec for spec in catalogue().values() if spec.family in names]
    return "\n\n".join([table(specs), *map(section, specs)])


def table(specs: list[MechanismSpec]) -> str:
    """Say which mechanism has which capability, leaving out those that none has."""
    columns = [
        name
        for name in CAPABILITIES
        if name not in NOT_ABILITIES and any(spec.supports(name) for spec in specs)
    ]
    lines = [
        "| mechanism | " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for spec in specs:
        cells = [cell(spec, name) for name in columns]
        lines.append(f"| [{spec.name}](#{spec.name}) | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(spec: MechanismSpec, name: str) -> str:
    """One cell of the table."""
    if name == "causal" and spec.capabilities.causal == "always":
        return "always"
    return "yes" if spec.supports(name) else ""


def section(spec: MechanismSpec) -> str:
    """Describe one mechanism as its spec does."""
    traits = [name.replace("_", " ") for name in NOT_ABILITIES if spec.supports(name)]
    lines = [
        f"## {spec.name}",
        f"**{spec.title}.** {spec.when_to_use}",
        f"```text\n{spec.equation}\n```",
        f"- Paper: {spec.paper}",
        f"- Cost: {spec.complexity}",
        f"- Correctness: {spec.correctness}",
        f"- Called with: {', '.join(f'`{name}`' for name in spec.sizes)}"
        if spec.function is None
        else f"- Backends: {', '.join(f'`{name}`' for name in spec.backends)}",
    ]
    if traits:
        lines.append(f"- Mind: {', '.join(traits)}")
    if spec.options:
        lines[-1] += "\n- Options:\n" + "\n".join(
            f"    - `{option.name}` ({option.type.__name__}, default `{option.shown_default}`): "
            f"{option.help}"
            for option in spec.options
        )
    return "\n".join([*(line + "\n" for line in lines[:3]), *lines[3:]])
