"""Pictures hold the numbers they are given; without matplotlib the error says what to install."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from shared_attention.explain import plots


def images(figure):
    return [axes.images[0] for axes in figure.axes if axes.images]


def test_a_matrix_of_each_head_on_one_scale():
    weights = torch.rand(5, 6, 7)
    figure = plots.matrix_figure(weights, title="layer", queries=list("abcdef"))
    drawn = images(figure)
    assert len(drawn) == 5
    for image, own in zip(drawn, weights, strict=True):
        np.testing.assert_array_equal(np.asarray(image.get_array()), own.numpy())
        assert image.get_clim() == (0, float(weights.max()))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == list("abcdef")
    signed = images(plots.matrix_figure(weights - 0.5))[0].get_clim()
    assert signed[0] == -signed[1]


def test_tokens_and_heads(tmp_path):
    figure = plots.token_figure({"one": torch.tensor([1.0, 4.0]), "none": torch.zeros(2)}, "ab",
                                marked=[1])  # fmt: skip
    np.testing.assert_allclose(images(figure)[0].get_array(), [[0.25, 1], [0, 0]])
    values = {"first": torch.tensor([0.5, 2.0]), "second": torch.tensor([1.0])}
    heads = plots.head_figure(values, title="entropy", label="nats")
    assert [t.get_text() for t in heads.axes[0].texts] == ["0.50", "2.00", "1.00"]
    for n, picture in enumerate((figure, heads)):
        picture.savefig(tmp_path / f"{n}.png")


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match=r"shape \[1, 2, 3, 3\], expected \[heads"):
        plots.matrix_figure(torch.rand(1, 2, 3, 3))
    with pytest.raises(ValueError, match="got 2 names of keys, expected 3"):
        plots.matrix_figure(torch.rand(2, 3, 3), keys="ab")
    with pytest.raises(ValueError, match="one has shape"):
        plots.token_figure({"one": torch.rand(3)}, "ab")
    with pytest.raises(ValueError, match="got no layers"):
        plots.head_figure({})


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'heed-core\[plots\]'"):
        plots.head_figure({"a": torch.ones(1)})
