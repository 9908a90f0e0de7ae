"""NF4: its values against the paper's formula, its bytes against arithmetic, its products against dense ones."""

import copy
import math
import sys

import pytest
import torch
from conftest import TINY, tiny_generator, tiny_model
from torch import nn

bitsandbytes = pytest.importorskip("bitsandbytes")

from peftbench.backbones.anatomy import ROLES, head_modules, sites  # noqa: E402
from peftbench.backbones.nf4 import NF4Linear  # noqa: E402
from peftbench.backbones.quantisation import (  # noqa: E402
    backbone_elements,
    backbone_megabytes,
    dequantise,
    halve,
    packed_bytes,
    quantise,
    require_bitsandbytes,
)
from peftbench.errors import ConfigurationError  # noqa: E402

WIDE = {
    "bert": {"hidden_size": 128, "intermediate_size": 320},
    "llama": {"hidden_size": 192, "intermediate_size": 256, "num_attention_heads": 6, "num_key_value_heads": 2},
}


def levels() -> torch.Tensor:
    """The sixteen values of the paper's §3 and Appendix E: quantiles of N(0, 1), asymmetric so that zero is one."""
    from scipy.stats import norm

    end = (1 - 1 / 32 + 1 - 1 / 30) / 2  # Halfway between the last quantiles of 16 and of 15 values.
    positive = norm.ppf(torch.linspace(end, 0.5, 9, dtype=torch.float64)[:-1])
    negative = -norm.ppf(torch.linspace(end, 0.5, 8, dtype=torch.float64)[:-1])
    values = torch.tensor([*negative, 0.0, *positive], dtype=torch.float64)
    return (values / values.max()).sort().values.float()


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Every block of 64 to the nearest level times its largest magnitude."""
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] / scale[..., None] - levels()).abs().argmin(-1)
    return (levels()[nearest] * scale).reshape(weight.shape)


def linear(inputs=128, outputs=64, seed=0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs).requires_grad_(False)


def wide(family):
    import conftest
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = conftest.tiny_architecture(family) | WIDE[family]
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**shape, pad_token_id=0)).eval()


def inputs():
    ids = torch.randint(5, 600, (4, 12), generator=torch.Generator().manual_seed(0))
    ids[:, -1] = 3
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(model):
    with torch.no_grad():
        return model.eval()(**inputs()).logits


def packed_state(layer: NF4Linear) -> list[torch.Tensor]:
    state = layer.quant_state
    nested = [] if state.state2 is None else [state.offset, state.state2.absmax]
    return [t.clone() for t in (layer.weight.data, state.absmax, *nested)]


def test_the_levels_are_the_papers():
    block = torch.cat([levels(), torch.zeros(48)]) * 0.3
    plain = linear(64, 1)
    plain.weight.data = block[None]
    kept = NF4Linear(plain, double_quant=False, compute_dtype=torch.float32).plain().weight[0]
    torch.testing.assert_close(kept, block, rtol=0, atol=1e-7)


def test_every_weight_goes_to_the_nearest_level_of_its_block():
    plain = linear()
    found = NF4Linear(plain, double_quant=False, compute_dtype=torch.float32).plain().weight
    torch.testing.assert_close(found, rounded(plain.weight), rtol=0, atol=1e-7)


def test_double_quantisation_is_bitsandbytes_own_and_changes_the_constants_little():
    plain = linear(256, 128)
    found = NF4Linear(plain, double_quant=True, compute_dtype=torch.float32).plain().weight
    data, state = bitsandbytes.functional.quantize_4bit(plain.weight, compress_statistics=True, quant_type="nf4")
    assert torch.equal(found, bitsandbytes.functional.dequantize_4bit(data, state))
    single = rounded(plain.weight)
    assert not torch.equal(found, single)
    assert (found - single).abs().max() < 0.01 * plain.weight.abs().max()


@pytest.mark.parametrize("family", WIDE)
def test_halved_maps_give_under_autocast_the_bits_of_whole_ones_and_come_back(family):
    whole, halved = wide(family), wide(family)
    halve(halved)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(whole(**inputs()).logits, halved(**inputs()).logits)
    count = sum(site.in_features * site.out_features for site in sites(whole, ROLES))
    sizes = [backbone_megabytes(model)["backbone_weights_mb"] for model in (whole, halved)]
    assert sizes[0] - sizes[1] == pytest.approx(2 * count / 1e6)
    dequantise(halved)
    assert {p.dtype for p in halved.parameters()} == {torch.float32}
    for site in sites(whole, ROLES):
        weight = whole.get_submodule(site.name).weight
        assert torch.equal(halved.get_submodule(site.name).weight, weight.bfloat16().float())


@pytest.mark.parametrize("family", WIDE)
@pytest.mark.parametrize("double_quant", [True, False])
def test_the_backbone_occupies_exactly_what_arithmetic_says(family, double_quant):
    model = wide(family)
    maps = [site.in_features * site.out_features for site in sites(model, ROLES)]
    head = head_modules(model)
    count = backbone_elements(model, head)
    assert backbone_megabytes(model) == {"backbone_weights_mb": 4 * count / 1e6}
    quantise(model, double_quant)
    found = backbone_megabytes(model)
    bits = 4 + 8 / 64 + 32 / (64 * 256) if double_quant else 4 + 32 / 64
    assert bits == pytest.approx(4.127 if double_quant else 4.5, abs=1e-3)
    exact = sum(packed_bytes(size, double_quant) for size in maps)
    # A map's constants do not fill their last group of 256, and their mean takes four bytes.
    assert 0 <= exact - sum(maps) * bits / 8 <= 8 * len(maps)
    # Every map has the sixteen levels beside it, and the 256 values of its constants.
    tables = len(maps) * (4 * 16 + 4 * 256 * double_quant)
    expected = exact + 4 * (count - sum(maps)) + tables
    assert round(found["backbone_weights_mb"] * 1e6) == expected
    assert found["backbone_weights_mb_fp32"] == 4 * count / 1e6
    assert found["backbone_weights_mb_bf16"] == 2 * count / 1e6


def test_at_the_published_size_a_weight_takes_4_127_bits():
    size = 768 * 3072
    assert 8 * packed_bytes(size, True) / size == pytest.approx(4.127, abs=1e-3)
    assert 8 * packed_bytes(size, False) / size == 4.5


@pytest.mark.parametrize("family", TINY)
def test_all_linear_maps_of_the_layers_and_nothing_else(family):
    model = tiny_model(family)
    named, before = {site.name for site in sites(model, ROLES)}, dict(model.named_parameters())
    count = backbone_elements(model, ())
    quantise(model)
    assert {name for name, module in model.named_modules() if isinstance(module, NF4Linear)} == named
    for name, parameter in model.named_parameters():
        if name.removesuffix(".weight") not in named:
            assert parameter is before[name]
            assert parameter.dtype == torch.float32
    assert count == backbone_elements(model, ()) == sum(p.numel() for p in before.values())


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_a_language_models_output_projection_stays(family):
    model = tiny_generator(family)
    quantise(model)
    assert not isinstance(model.get_output_embeddings(), NF4Linear)
    assert model.get_output_embeddings().weight.dtype == torch.float32
    produced = model.generate(**inputs(), max_new_tokens=3, do_sample=False)
    assert produced.shape[0] == 4


@pytest.mark.parametrize("family", TINY)
def test_the_quantised_model_is_the_model_of_the_dequantised_weights(family):
    model = tiny_model(family)
    original = logits(model)
    quantise(model, compute_dtype=torch.float32)
    in_four_bits = logits(model)
    dequantise(model)
    assert not [module for module in model.modules() if isinstance(module, NF4Linear)]
    torch.testing.assert_close(in_four_bits, logits(model), rtol=0, atol=1e-5)
    assert not torch.allclose(in_four_bits, original, atol=1e-5)


def test_outputs_and_input_gradients_are_those_of_a_dense_map():
    layer = NF4Linear(linear(), double_quant=True, compute_dtype=torch.float32).train()
    dense = layer.plain()
    ours, theirs = (torch.randn(3, 5, 128, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in "ab")
    ours_out, theirs_out = layer(ours), dense(theirs)
    torch.testing.assert_close(ours_out, theirs_out, rtol=0, atol=1e-5)
    ours_out.square().sum().backward()
    theirs_out.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_is_in_bfloat16_and_the_output_in_the_inputs_type(dtype):
    layer = NF4Linear(linear(), double_quant=True, compute_dtype=torch.bfloat16)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(dtype)
    dense = layer.plain()
    product = nn.functional.linear(x.bfloat16(), dense.weight.bfloat16()).to(dtype) + dense.bias.to(dtype)
    found = layer(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, product, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_neither_evaluation_nor_training_changes_what_is_stored(compute_dtype):
    layer = NF4Linear(linear(), double_quant=True, compute_dtype=compute_dtype)
    before, bias = packed_state(layer), layer.bias.clone()
    with torch.no_grad():
        layer.eval()(torch.randn(2, 128))
    x = torch.randn(2, 128, requires_grad=True)
    layer.train()(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert layer.bias.dtype == torch.float32
    assert torch.equal(layer.bias, bias)
    assert all(torch.equal(a, b) for a, b in zip(packed_state(layer), before, strict=True))


def test_casting_or_copying_the_model_leaves_the_packed_weights_alone():
    model = tiny_model("t5")
    quantise(model, compute_dtype=torch.float32)
    before = logits(model)
    assert torch.equal(logits(copy.deepcopy(model).to("cpu")), before)
    layers = [m for m in model.modules() if isinstance(m, NF4Linear)]
    kept = [packed_state(layer) for layer in layers]
    model.double()
    assert all(
        torch.equal(a, b)
        for x, old in zip(layers, kept, strict=True)
        for a, b in zip(packed_state(x), old, strict=True)
    )
    assert math.isclose(float(logits(model)[0, 0]), float(before[0, 0]), abs_tol=1e-4)


def test_a_missing_bitsandbytes_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ConfigurationError, match=r"bitsandbytes.* is not installed; run pip install 'peftbench\[quantised\]'"
    ):
        require_bitsandbytes()
