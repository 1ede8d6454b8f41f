"""The flags of every verb: one short list, the same in each domain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer

from shared_runtime.domain import DomainOption

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Flag:
    """One command-line flag; its value is None where the user did not give it."""

    name: str
    type: Any
    declarations: tuple[str, ...]
    help: str
    default: Any = None

    def parameter(self) -> inspect.Parameter:
        """Return the flag as a function parameter that Typer understands."""
        kind = self.type if self.default is not None else Optional[self.type]  # noqa: UP045
        option = typer.Option(*self.declarations, help=self.help, show_default=False)
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=self.default,
            annotation=Annotated[kind, option],
        )


@dataclass(frozen=True)
class Verb:
    """One verb: `module` holds `command(domain, values)`."""

    name: str
    help: str
    flags: tuple[str, ...]
    takes_configuration: bool = False
    home: str = "shared_runtime.verbs"
    """Package of the module of the verb's name that carries it out."""

    @property
    def module(self) -> str:
        """Import path of the module that carries out the verb."""
        return f"{self.home}.{self.name}"


def _switch(name: str, help: str, *short: str) -> Flag:
    return Flag(name, bool, (f"--{name.replace('_', '-')}", *short), help, default=False)


FLAGS: Mapping[str, Flag] = {
    flag.name: flag
    for flag in (
        Flag("data", Path, ("--data",), "Data file or folder in the field's own format."),
        Flag("model", str, ("--model",), "Model; `models` lists them."),
        Flag(
            "models", list[str], ("--model",), "Model to time; repeat for several. All if absent."
        ),
        Flag("attention", str, ("--attention",), "Attention mechanism instead of the model's own."),
        Flag("out", Path, ("--out",), "Where to write."),
        Flag("run", Path, ("--run",), "Folder of a finished run."),
        Flag("seed", int, ("--seed",), "Seed of everything random (0)."),
        Flag("config", Path, ("--config",), "YAML configuration, such as a run's config.yaml."),
        Flag("device", Device, ("--device",), "auto, cpu or cuda (auto)."),
        Flag("set", list[str], ("--set",), "KEY=VALUE, such as model.d_model=64; repeat."),
        Flag("split", Literal["test", "val"], ("--split",), "Which part to score.", "test"),
        Flag("format", Literal["onnx", "torch"], ("--format",), "onnx or torch (onnx).", "onnx"),
        Flag("pattern", str, ("--pattern",), "Files of a folder to predict for (*).", "*"),
        Flag("rounds", int, ("--rounds",), "Timed rounds for each model (5).", 5),
        _switch("resume", "Continue an interrupted run in --out."),
        _switch("dry_run", "One batch forward and backward; write nothing."),
        _switch("overwrite", "Predict again for files that are already done."),
        _switch("json", "Print JSON."),
        _switch("quiet", "No progress, only results and errors.", "-q"),
        _switch("debug", "Show the traceback of an unexpected failure."),
    )
}

VERBS: Mapping[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "sample",
            "Write a small synthetic data set in the field's own format.",
            ("out", "seed", "debug"),
        ),
        Verb(
            "check",
            "Say everything that is wrong with the data, and where.",
            ("data", "config", "set", "json", "debug"),
            takes_configuration=True,
        ),
        Verb(
            "train",
            "Train a model, score it beside naive baselines and write a report.",
            (
                "data",
                "model",
                "attention",
                "out",
                "seed",
                "config",
                "device",
                "set",
                "resume",
                "dry_run",
                "quiet",
                "debug",
            ),
            takes_configuration=True,
        ),
        Verb(
            "evaluate",
            "Score a trained model, on its own data or on other data.",
            ("run", "data", "split", "out", "device", "set", "quiet", "debug"),
            takes_configuration=True,
        ),
        Verb(
            "predict",
            "Predict for one file, or for every file of a folder.",
            ("run", "data", "out", "pattern", "overwrite", "device", "set", "quiet", "debug"),
            takes_configuration=True,
        ),
        Verb(
            "explain",
            "Show what a trained model attends to.",
            ("run", "data", "out", "device", "quiet", "debug"),
        ),
        Verb(
            "models",
            "List the models with their size, mechanism and paper.",
            ("json", "debug"),
        ),
        Verb(
            "export",
            "Write a trained model as ONNX or torch.export, checked against the original.",
            ("run", "format", "out", "quiet", "debug"),
        ),
        Verb(
            "benchmark",
            "Time training and inference of the models against the default one.",
            ("data", "models", "rounds", "seed", "device", "set", "json", "debug"),
            takes_configuration=True,
        ),
    )
}


def domain_flags(verb: Verb, options: Sequence[DomainOption]) -> dict[str, str]:
    """Return parameter name to configuration key of the domain's own flags of a verb."""
    return {_parameter_name(option): option.key for option in options if verb.name in option.verbs}


def with_flags(
    function: Callable[..., None], verb: Verb, options: Sequence[DomainOption]
) -> Callable[..., None]:
    """Give `function(**values)` the flags of a verb, so that Typer can read them.

    Raises:
        ValueError: An option of the domain is for a verb that takes no configuration.
    """
    parameters = [FLAGS[name].parameter() for name in verb.flags]
    for option in options:
        if verb.name not in option.verbs:
            continue
        if not verb.takes_configuration:
            raise ValueError(f"{option.flag}: the verb {verb.name} takes no configuration")
        flag = Flag(_parameter_name(option), option.type, (option.flag,), option.help)
        parameters.append(flag.parameter())
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    function.__doc__ = verb.help
    return function


def _parameter_name(option: DomainOption) -> str:
    return option.flag.lstrip("-").replace("-", "_")
