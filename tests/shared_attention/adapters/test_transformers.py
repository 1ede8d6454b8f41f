"""Models of transformers, built from their configs, with the core's mechanisms."""

from __future__ import annotations

import copy
import importlib
import sys

import pytest
import torch
from torch import Tensor

from shared_attention import UnsupportedError, attention, catalogue, masks, swap

transformers = pytest.importorskip("transformers", reason="the extra 'transformers' is absent")

from shared_attention.adapters.transformers import ROW_BY_ROW, register  # noqa: E402
from shared_attention.adapters.transformers_masks import (  # noqa: E402
    EVERYTHING,
    build_mask,
    read_mask,
)

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IDS = torch.randint(1, 31, (2, 12), generator=torch.Generator().manual_seed(0))
REAL = torch.ones(2, 12, dtype=torch.long)
REAL[1, 9:] = 0
LEFT = REAL.flip(1)


def bert(**arguments):
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**SIZES, **NO_DROPOUT, **arguments})
    return transformers.BertModel(config, add_pooling_layer=False).double().eval()


def llama(**arguments):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{**SIZES, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": None, **arguments}
    )
    return transformers.LlamaForCausalLM(config).double().eval()


def swapped(model, mechanism: str, **options):
    other = copy.deepcopy(model)
    assert swap(other, mechanism, **options) == 2
    return other


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9)


def results(model, **call) -> list[Tensor]:
    model.zero_grad()
    out = model(**call)
    out = out.logits if "logits" in out else out.last_hidden_state
    real = call.get("attention_mask", torch.ones(out.shape[:2])).bool()
    out[real].square().sum().backward()
    return [out[real], *(p.grad for p in model.parameters())]


def four_dimensional(dtype: torch.dtype) -> Tensor:
    allowed = (torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(3)) > 0.4) | (
        torch.eye(12, dtype=torch.bool)
    )
    if dtype == torch.bool:
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


@pytest.mark.parametrize(
    ("build", "call"),
    [
        (bert, {}),
        (bert, {"attention_mask": REAL}),
        (llama, {}),
        (llama, {"attention_mask": REAL}),
        (llama, {"attention_mask": LEFT}),
        (llama, {"position_ids": torch.tensor([[*range(5), *range(7)]]).expand(2, -1)}),
    ],
)
def test_softmax_gives_outputs_and_gradients_of_the_original(build, call):
    model = build()
    ours = swapped(model, "softmax")
    for got, expected in zip(
        results(ours, input_ids=IDS, **call), results(model, input_ids=IDS, **call), strict=True
    ):
        close(got, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
@pytest.mark.parametrize("build", [bert, llama])
def test_masks_that_the_user_made_are_honoured(build, dtype):
    model = build()
    call = {"input_ids": IDS, "attention_mask": four_dimensional(dtype)}
    with torch.no_grad():
        close(swapped(model, "softmax")(**call)[0], model(**call)[0])
        with pytest.raises(UnsupportedError, match="linear cannot honour a dense mask"):
            swapped(model, "linear")(**call)


def test_attention_matrices_are_those_of_the_original():
    model = bert(attn_implementation="eager")
    call = {"input_ids": IDS, "attention_mask": REAL, "output_attentions": True}
    with torch.no_grad():
        got, expected = swapped(model, "softmax")(**call).attentions, model(**call).attentions
    for ours, theirs in zip(got, expected, strict=True):
        close(ours[0], theirs[0])
        close(ours[1, :, :9], theirs[1, :, :9])


FREE = [n for n, s in catalogue().items() if s.family == "attention" and s.function is not None]
BOTH_WAYS = [n for n in FREE if catalogue()[n].capabilities.causal != "always"]
PADDED = [n for n in BOTH_WAYS if catalogue()[n].supports("key_padding")]
ORDERED = [n for n in FREE if catalogue()[n].supports("causal")]


@pytest.mark.parametrize("name", PADDED)
def test_padding_changes_nothing_in_a_bert(name):
    model = swapped(bert(), name)
    other = IDS.clone()
    other[1, 9:] = 7
    with torch.no_grad():
        out = model(IDS, attention_mask=REAL)[0]
        close(model(other, attention_mask=REAL)[0][REAL.bool()], out[REAL.bool()])
        close(model(IDS[1:, :9])[0][0], out[1, :9])
        assert (model(IDS)[0][1, :9] - out[1, :9]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ORDERED)
def test_a_decoder_never_sees_the_future(name):
    model = swapped(llama(), name)
    later = IDS.clone()
    later[:, 8:] = 5
    with torch.no_grad():
        close(model(later)[0][:, :8], model(IDS)[0][:, :8])
        assert (model(later)[0] - model(IDS)[0])[:, 8:].abs().max() > 1e-6


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_a_cache_continues_exactly(name):
    model = swapped(llama(), name)
    with torch.no_grad():
        whole = model(IDS, attention_mask=LEFT).logits
        cache, parts = None, []
        for start, end in ((0, 5), (5, 6), (6, 10), (10, 12)):
            out = model(
                IDS[:, start:end],
                attention_mask=LEFT[:, :end],
                cache=cache,
                use_cache=True,
                position_ids=torch.arange(start, end)[None],
            )
            cache = out.cache
            parts.append(out.logits)
    close(torch.cat(parts, 1)[LEFT.bool()], whole[LEFT.bool()])


@pytest.mark.parametrize("name", [n for n in ORDERED if n not in ROW_BY_ROW])
def test_mechanisms_that_a_cache_cannot_continue_refuse_it_and_generate_without(name):
    model = swapped(llama(), name)
    with torch.no_grad():
        with pytest.raises(UnsupportedError, match=f"{name} cannot continue from transformers'"):
            model.generate(IDS[:1], max_new_tokens=3, do_sample=False)
        assert (
            model.generate(IDS[:1], max_new_tokens=2, do_sample=False, use_cache=False).shape[1]
            == 14
        )


def test_generation_equals_the_original_with_and_without_a_cache():
    model = llama()
    call = {"attention_mask": LEFT, "max_new_tokens": 6, "do_sample": False}
    expected = model.generate(IDS, **call)
    for use_cache in (True, False):
        assert torch.equal(
            swapped(model, "softmax").generate(IDS, use_cache=use_cache, **call), expected
        )
    static = swapped(model, "softmax").generate(
        IDS, cache_implementation="static", disable_compile=True, **call
    )
    assert torch.equal(static, expected)


def test_a_sliding_window_reaches_the_mechanism():
    config = transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, sliding_window=4, pad_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.MistralModel(config).double().eval()
    with torch.no_grad():
        for mask in (None, LEFT):
            expected = model(IDS, attention_mask=mask)[0]
            real = slice(None) if mask is None else mask.bool()
            for name, options in (("softmax", {}), ("window", {"left": 40, "right": 0})):
                got = swapped(model, name, **options)(IDS, attention_mask=mask)[0]
                close(got[real], expected[real])
        with pytest.raises(UnsupportedError, match="linear cannot honour a window mask"):
            swapped(model, "linear")(IDS)


def test_options_and_names():
    model = bert()
    assert register("window", left=2, right=1) == "heed_window(left=2,right=1)"
    model.set_attn_implementation(register("window", name="narrow", left=2, right=1))
    again = swapped(bert(), "window", left=2, right=1)
    with torch.no_grad():
        close(model(IDS)[0], again(IDS)[0])
    with pytest.raises(ValueError, match="transformers has an attention function 'sdpa' already"):
        register("linear", name="sdpa")
    with pytest.raises(UnsupportedError, match="gated has parameters"):
        register("gated")
    with pytest.raises(ValueError, match="window has no option 'size'"):
        register("window", size=3)


def test_dropout_is_for_training_only():
    model = swapped(bert(attention_probs_dropout_prob=0.5), "softmax")
    still = swapped(bert(), "softmax")
    with torch.no_grad():
        close(model(IDS)[0], still(IDS)[0])
        model.train()
        assert (model(IDS)[0] - still(IDS)[0]).abs().max() > 1e-3


def test_refusals_name_the_layers_and_change_nothing():
    model = bert()
    with pytest.raises(UnsupportedError) as error:
        swap(model, "liger")
    assert str(error.value) == (
        "swap: nothing was changed; encoder.layer.0.attention.self, "
        "encoder.layer.1.attention.self: liger has a causal form only, and the layer sees all "
        "tokens"
    )
    with pytest.raises(UnsupportedError, match=r"layers\.0\.self_attn.*agent cannot honour|agent"):
        swap(llama(), "agent")
    with pytest.raises(UnsupportedError, match="gated has parameters"):
        swap(model, "gated")
    crossing = bert(is_decoder=True, add_cross_attention=True)
    with pytest.raises(UnsupportedError, match="do not say which they are"):
        swap(crossing, "flow")
    assert model.config._attn_implementation == "sdpa"


def test_what_a_model_adds_to_attention_is_refused_not_dropped():
    model = swapped(bert(), "linear")
    layer = model.encoder.layer[0].attention.self
    function = transformers.AttentionInterface()[model.config._attn_implementation]
    q = torch.randn(1, 4, 6, 4, generator=torch.Generator().manual_seed(0))
    out, weights = function(layer, q, q, q, None, scaling=0.5)
    close(out, attention(q, q, q, "linear").transpose(1, 2))
    assert weights is None
    for extra in ({"softcap": 30.0}, {"s_aux": q}, {"cu_seq_lens_q": q}):
        with pytest.raises(UnsupportedError, match=f"takes {next(iter(extra))}"):
            function(layer, q, q, q, None, scaling=0.5, **extra)
    with pytest.raises(UnsupportedError, match="the model's score scale 1:"):
        function(layer, q, q, q, None, scaling=1.0)
    with pytest.raises(UnsupportedError, match="an additive bias"):
        function(layer, q, q, q, None, position_bias=q.new_ones(1, 4, 6, 6))
    with pytest.raises(UnsupportedError, match=r"gives a mask \[1, 6\], expected"):
        function(layer, q, q, q, torch.ones(1, 6))


def test_masks_keep_their_structure():
    from transformers import masking_utils as theirs

    valid = REAL.bool()
    pattern = theirs.bidirectional_mask_function
    assert build_mask(2, 12, 12, mask_function=pattern) is EVERYTHING
    assert masks.split(EVERYTHING) == masks.Parts()
    found = masks.split(build_mask(2, 12, 12, attention_mask=valid))
    assert found.causal and torch.equal(found.keys, valid) and found.rest is None
    step = masks.split(build_mask(2, 1, 12, 11, attention_mask=valid[:, :8]))
    assert step.causal and step.keys.sum() == 16
    sliding = theirs.sliding_window_causal_mask_function(3)
    found = masks.split(build_mask(2, 12, 12, mask_function=sliding, local_size=3))
    assert found.causal and found.window == (2, 0) and found.rest is None
    ahead = build_mask(1, 2, 6, 1)
    assert ahead[0, 0].int().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]
    q = torch.zeros(2, 1, 12, 4)
    mask, bias = read_mask(masks.causal().to_dense(12, 12), True, q, q)
    assert mask == masks.causal() and bias is None


def test_the_error_without_the_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "shared_attention.adapters.transformers")
    with pytest.raises(ImportError) as error:
        importlib.import_module("shared_attention.adapters.transformers")
    assert str(error.value) == (
        "shared_attention.adapters.transformers needs transformers: "
        "pip install 'heed-core[transformers]'"
    )
