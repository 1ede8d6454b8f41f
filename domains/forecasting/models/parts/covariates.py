"""What models without covariates say when they are given some."""

from __future__ import annotations

from torch import Tensor

from shared_attention import UnsupportedError


def refuse_covariates(model: str, past: Tensor | None, future: Tensor | None) -> None:
    """Raise instead of dropping covariates.

    Raises:
        UnsupportedError: `past` or `future` is given.
    """
    for name, given in (("past_covariates", past), ("future_covariates", future)):
        if given is not None:
            raise UnsupportedError(
                f"{model}.forward: {name} of shape {tuple(given.shape)} cannot be used; "
                f"choose MHAC, which takes covariates, or leave them out of the data"
            )
