"""Pictures of attention, which no verdict draws."""

from __future__ import annotations

import numpy as np
import pytest

from domains.finance.figures import attention_figure, level_figure
from shared_runtime.charts import png


@pytest.mark.parametrize("count", [1, 4, 6])
@pytest.mark.parametrize(("axis", "names"), [("events", ()), ("features", ("ask", "bid", "size"))])
def test_attention_matrices_share_a_scale(count: int, axis: str, names: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    matrices = {f"layer {i}": rng.dirichlet(np.ones(3), 3) for i in range(count)}
    figure = attention_figure(matrices, axis=axis, names=names).figure
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == count and len({image.get_clim() for image in images}) == 1
    assert png(figure).startswith(b"\x89PNG")


def test_levels_are_drawn_oldest_first() -> None:
    weights = np.zeros((5, 2))
    weights[-1, 0] = 1
    (image,) = level_figure(weights, ["level 1", "level 2"]).figure.axes[0].images
    assert image.get_array()[0].tolist() == [0, 0, 0, 0, 1]
    assert image.get_extent()[1] == 0.5
