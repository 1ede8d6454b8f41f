"""Writes the catalogue of mechanisms into the page that asks for it."""

from __future__ import annotations

from typing import Any

from shared_attention import MechanismSpec, catalogue
from shared_attention.spec import CAPABILITIES

MARK = "<!-- catalogue -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    if MARK not in markdown:
        return markdown
    return markdown.replace(MARK, "\n\n".join(map(section, catalogue().values())))


def section(spec: MechanismSpec) -> str:
    """Describe one mechanism as its spec does."""
    able = [name for name in CAPABILITIES if spec.supports(name)]
    lines = [
        f"## {spec.name}",
        f"**{spec.title}.** {spec.when_to_use}",
        f"```text\n{spec.equation}\n```",
        f"- Paper: {spec.paper}",
        f"- Cost: {spec.complexity}",
        f"- Correctness: {spec.correctness}",
        f"- Capabilities: {', '.join(f'`{name}`' for name in able)}",
    ]
    if spec.options:
        lines[-1] += "\n- Options:\n" + "\n".join(
            f"    - `{option.name}` ({option.type.__name__}, default `{option.shown_default}`): "
            f"{option.help}"
            for option in spec.options
        )
    return "\n".join([*(line + "\n" for line in lines[:3]), *lines[3:]])
