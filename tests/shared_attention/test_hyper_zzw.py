"""The HyperZ·Z·W operator beyond the conformance kit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_attention import UnsupportedError, masks
from shared_attention.mechanisms.hyper_zzw import HyperZzw
from shared_attention.references.hyper_zzw import reference_hyper_zzw
from shared_attention.testing import check_mechanism


def build(**options) -> HyperZzw:
    torch.manual_seed(0)
    return HyperZzw(4, hidden=5, **options).double()


def draw(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({"branch": "local", "kernel": 3}, (6, 5)),
        ({"branch": "local", "dims": 1}, (13,)),
        ({"form": "published"}, (5, 5)),
        ({"depth": 1}, (1, 6)),
    ],
    ids=str,
)
def test_other_options_follow_the_reference_too(options, grid):
    module, x = build(**options), draw(2, *grid, 4)
    out = reference_hyper_zzw(x, parameters=dict(module.named_parameters()), **options)
    torch.testing.assert_close(module(x), out)


def test_the_local_branch_passes_the_kit_and_keeps_samples_apart():
    checks = ("gradients", "extreme inputs", "half precision", "batch slots")
    report = check_mechanism("hyper_zzw", options={"branch": "local"}, checks=checks)
    assert report.ok, str(report)


def test_the_global_branch_convolves_with_the_product_of_kernel_and_input():
    module, x = build(dims=1), draw(1, 9, 4)
    z = F.instance_norm(module.mixer(x).mT).mT
    kernels = module.slow((9,)) * x
    full = F.conv1d(
        F.pad(z[0].T, (8, 8))[None], kernels[0].T.flip(-1)[:, None], groups=4
    )  # all of the convolution
    torch.testing.assert_close(module(x), full[..., 4:13].mT)


def test_kernels_take_any_grid_and_depend_on_places_only():
    slow = build().slow
    coarse, fine = slow((3, 3)), slow((5, 5))
    torch.testing.assert_close(fine[::2, ::2], coarse)


def test_doubling_the_input_doubles_the_output():
    module, x = build(), draw(1, 6, 7, 4)
    module.mixer.bias.data.zero_()
    torch.testing.assert_close(module(2e3 * x), 2e3 * module(x), rtol=1e-4, atol=0.1)


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="kernel got 2, expected an odd size"):
        HyperZzw(4, kernel=2)
    with pytest.raises(ValueError, match="dims got 3, expected 1 or 2"):
        HyperZzw(4, dims=3)
    with pytest.raises(ValueError, match="depth got 0"):
        HyperZzw(4, depth=0)
    with pytest.raises(ValueError, match="branch got 'both'"):
        HyperZzw(4, branch="both")
    with pytest.raises(ValueError, match=r"the grid \[3, 4\], expected a square"):
        build(form="published")(draw(1, 3, 4, 4))
    with pytest.raises(UnsupportedError, match="hyper_zzw cannot honour a causal mask"):
        build(dims=1)(draw(1, 5, 4), mask=masks.causal())
