"""The command `heed medical`, also `heed-medical`."""

from __future__ import annotations

from shared_runtime.cli import domain_app, run
from shared_runtime.domain import DomainOption
from shared_runtime.flags import Verb

_HOME = "domains.medical.verbs"
_PREDICTS = ("evaluate", "predict")

app = domain_app(
    "medical",
    "domains.medical.domain",
    summary="Segment scans: masks on the scan's own grid, millimetre metrics, uncertainty.",
    options=(
        DomainOption("--fold", "data.fold", int, "Which of the folds is scored (0).", ("train",)),
        DomainOption("--mirror", "data.mirror", bool, "Average over flips.", _PREDICTS),
        DomainOption(
            "--keep-largest",
            "data.keep_largest",
            bool,
            "Keep the largest component of each class.",
            _PREDICTS,
        ),
        DomainOption("--fill-holes", "data.fill_holes", bool, "Fill holes.", _PREDICTS),
        DomainOption(
            "--ensemble", "data.ensemble", str, "Further runs, comma-separated.", _PREDICTS
        ),
        DomainOption(
            "--uncertainty", "data.uncertainty", bool, "Write uncertainty maps too.", ("predict",)
        ),
    ),
    verbs=(
        Verb(
            "plan",
            "Show the fingerprint of a data set and write a plan that can be edited.",
            ("data", "out", "config", "set", "json", "debug"),
            takes_configuration=True,
            home=_HOME,
        ),
        Verb(
            "crossvalidate",
            "Train every fold, one after the other, and score all cases.",
            (
                "data",
                "model",
                "attention",
                "out",
                "seed",
                "config",
                "device",
                "set",
                "quiet",
                "debug",
            ),
            takes_configuration=True,
            home=_HOME,
        ),
        Verb(
            "tame",
            "Train maps that explain a trained model in one forward pass, and score them.",
            ("run", "data", "out", "device", "set", "quiet", "debug"),
            takes_configuration=True,
            home=_HOME,
        ),
    ),
)


def main() -> None:
    """Run `heed-medical`."""
    run(app)
