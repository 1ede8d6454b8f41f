from __future__ import annotations

from shared_runtime.cli import domain_app, run
from shared_runtime.domain import DomainOption

app = domain_app(
    "toy",
    "tests.shared_runtime.toy_domain.domain",
    summary="Regression on the rows of a table.",
    options=(
        DomainOption("--target", "data.target", str, "Column to predict.", ("train", "check")),
    ),
)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
