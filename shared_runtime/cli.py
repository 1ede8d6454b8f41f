"""The commands `heed` and `heed-<domain>`: thin shells over `shared_runtime.verbs`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from shared_runtime import attention_cli, demo
from shared_runtime.console import guarded, say
from shared_runtime.discovery import domains
from shared_runtime.domain import DomainOption
from shared_runtime.flags import VERBS, Verb, domain_flags, with_flags


class DomainApp(typer.Typer):
    """The command of one domain, with the module that holds the domain's hooks."""

    domain_name: str
    domain_module: str


def domain_app(
    name: str,
    module: str,
    *,
    summary: str,
    options: Sequence[DomainOption] = (),
    verbs: Sequence[Verb] = (),
) -> DomainApp:
    """Build the command of a domain: the nine verbs and the domain's own, with its flags.

    Args:
        name: Name of the domain, as `heed <name>` has it.
        module: Import path of the module that satisfies `shared_runtime.domain.Domain`; imported
            when a verb runs, never for help.
        summary: One line for help texts.
        options: Flags of the domain, each setting one configuration key.
        verbs: Verbs that only this domain has.
    """
    app = DomainApp(name=name, help=summary, **_SHELL)
    app.domain_name = name
    app.domain_module = module
    app.callback()(lambda: None)
    for verb in (*VERBS.values(), *verbs):
        app.command(verb.name)(_command(name, module, verb, options))
    return app


def run(app: typer.Typer) -> None:
    """Run a command built by :func:`domain_app`; exits the process."""
    app(prog_name=f"heed-{app.info.name}")


def main() -> None:
    """Run `heed`; exits the process."""
    root()(prog_name="heed")


def root() -> typer.Typer:
    """Build the command `heed`, whose domains are found by entry point."""
    app = typer.Typer(
        name="heed",
        cls=_Root,
        help="Attention models you can use: trained, measured, explained, one domain at a time.",
        **_SHELL,
    )
    app.callback()(lambda: None)
    app.add_typer(attention_cli.app, name="attention")
    app.command("demo")(demo.command)
    return app


class _Root(TyperGroup):
    """Finds domains when they are asked for; one that does not load spoils no other."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*domains(), *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        point = domains().get(cmd_name)
        if point is None:
            return super().get_command(ctx, cmd_name)
        try:
            return typer.main.get_command(point.load())
        except (ImportError, AttributeError) as error:
            return _broken(cmd_name, error)


def _broken(name: str, error: Exception) -> Any:
    app = typer.Typer(**_SHELL)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}

    @app.command(name, help=f"(does not load: {error})", context_settings=anything)
    def fail(context: typer.Context) -> None:
        say(f"heed: error: the domain {name} does not load: {error}")
        raise typer.Exit(1)

    return typer.main.get_command(app)


def _command(name: str, module: str, verb: Verb, options: Sequence[DomainOption]) -> Any:
    own = domain_flags(verb, options)

    def command(**given: Any) -> None:
        values: dict[str, Any] = {k: v for k, v in given.items() if k not in own}
        values["flags"] = {key: given[flag] for flag, key in own.items()}
        with guarded(name, values):
            domain = importlib.import_module(module)
            importlib.import_module(verb.module).command(domain, values)

    return with_flags(command, verb, options)


_SHELL: Mapping[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "no_args_is_help": True,
    "add_completion": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
