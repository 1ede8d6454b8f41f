"""LSSAR beyond the conformance kit: the formula, its failures, and their corrections."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from shared_attention import attention, masks


def draw(length: int = 12, dtype=torch.float64):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, 2, 2, length, 8, generator=random, dtype=dtype).unbind(0)


def explicit(q, k, v, *, reweight=True):
    length = q.shape[2]
    count = torch.arange(1.0, length + 1, dtype=q.dtype)[:, None]
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * math.log(8) * count.log()
    weights = F.softplus(scores).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    if reweight:
        offset = (count > 3).to(q.dtype)
        weights = torch.relu(weights * count - offset).pow(15).tril()
        weights = weights / weights.sum(-1, keepdim=True)
    return weights @ v


@pytest.mark.parametrize("form", ["corrected", "published"])
@pytest.mark.parametrize("reweight", [True, False])
def test_follows_the_formula(form, reweight):
    q, k, v = draw()
    out = attention(q, k, v, "lssar", masks.causal(), form=form, reweight=reweight)
    torch.testing.assert_close(out, explicit(q, k, v, reweight=reweight))


def test_equal_keys_are_averaged_where_the_published_form_gives_nothing():
    q, k, v = draw()
    k = k[:, :, :1].expand_as(k)
    out = attention(q, torch.zeros_like(k), v, "lssar")
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(v))
    assert (attention(q, torch.zeros_like(k), v, "lssar", form="published") == 0).all()
    torch.testing.assert_close(attention(q, k, v, "lssar"), out)


def test_long_rows_overflow_in_the_published_form_only():
    q = torch.eye(8)[:1].expand(1, 1, 1, 8)
    k = -q.expand(1, 1, 4096, 8).clone()
    k[:, :, 7] = q[0, 0]
    v = torch.randn(1, 1, 4096, 8)
    assert attention(q, k, v, "lssar", form="published").isnan().all()
    torch.testing.assert_close(attention(q, k, v, "lssar"), v[:, :, 7:8])


def test_higher_powers_are_sharper_and_no_key_below_the_mean_is_read():
    q, k, _ = draw()
    identity = torch.eye(12, dtype=q.dtype).expand(2, 2, 12, 12)
    soft = attention(q, k, identity, "lssar", reweight=False)
    sharp = attention(q, k, identity, "lssar")
    assert (sharp[soft < 1 / 12] == 0).all()
    assert (sharp.amax(-1) >= attention(q, k, identity, "lssar", power=3.0).amax(-1)).all()


def test_scores_do_not_depend_on_the_length_of_queries_or_keys():
    q, k, v = draw()
    torch.testing.assert_close(attention(9 * q, 0.1 * k, v, "lssar"), attention(q, k, v, "lssar"))


@pytest.mark.parametrize("options", [{"power": 0.0}, {"form": "official"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"lssar: option {next(iter(options))} got"):
        attention(*draw(), "lssar", **options)
