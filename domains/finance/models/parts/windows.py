"""What every model of windows checks before it reads one."""

from __future__ import annotations

from torch import Tensor


def check_window(model: str, x: Tensor, lookback: int, features: int) -> None:
    """Refuse input that is not `[B, lookback, features]`.

    Raises:
        ValueError: Names what was given and what the model was built for.
    """
    if x.dim() != 3 or x.shape[1] != lookback or x.shape[2] != features:
        raise ValueError(
            f"{model}.forward: got windows of shape {list(x.shape)}, "
            f"expected [batch, {lookback}, {features}]"
        )


def check_sizes(model: str, *, lookback: int, features: int, classes: int) -> None:
    """Refuse sizes that no model can be built for.

    Raises:
        ValueError: Names the argument.
    """
    sizes = {"lookback": lookback, "features": features, "classes": classes}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{model}: {name} got {value}, expected at least 1")
