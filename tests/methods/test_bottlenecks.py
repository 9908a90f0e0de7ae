"""Adapters against layers computed by hand: placements, equations, generation, checkpointing."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import tiny_architecture, tiny_generator, tiny_model
from contracts.test_methods import METHODS, attached, batch, logits
from torch.nn import functional as F

from peftbench.assembly import checkpoint_activations
from peftbench.backbones.anatomy import head_modules, layer_norms, sites
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.layers.bottleneck import Bottleneck
from peftbench.methods.parts.bottlenecks import bottleneck_groups
from peftbench.methods.registry import method_class
from peftbench.strict import build

ADAPTERS = ("houlsby", "pfeiffer", "parallel_adapter", "scaled_parallel_adapter", "adapter_drop", "compacter")
DECODERS = ("gpt2", "llama", "t5", "bart")


def randomise(attachment, std=0.3):
    """Random adapters and slightly moved norms, so that no term of the formula vanishes."""
    torch.manual_seed(5)
    with torch.no_grad():
        for group in attachment.parameter_groups():
            for p in group.parameters:
                p.add_(torch.randn_like(p) * (0.1 if group.name == "layer_norm" else std))


def bare(model, name, **changes):
    """`name` attached to `model`."""
    model.requires_grad_(False)
    method = replace(method_class(name)(), **(METHODS[name] | changes))
    return method.attach(model, Context(torch.Generator().manual_seed(0), 40, "tiny", head_modules(model)))


def put(model, name, **changes):
    """`name` attached to `model`, randomised."""
    attachment = bare(model, name, **changes)
    randomise(attachment)
    return attachment


def affine(x, linear):
    return x @ linear.weight.T + linear.bias


def normed(x, norm):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def bert_attention(layer, x, heads=4):
    def split(y):
        return y.unflatten(-1, (heads, -1)).transpose(1, 2)

    own = layer.attention.self
    q, k, v = (split(affine(x, m)) for m in (own.query, own.key, own.value))
    mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return affine(mixed.transpose(1, 2).flatten(2), layer.attention.output.dense)


def bert_ffn(layer, a):
    return affine(F.gelu(affine(a, layer.intermediate.dense)), layer.output.dense)


def plain(adapter, x, activation):
    return affine(activation(affine(x, adapter.down)), adapter.up)


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def kronecker(layer):
    terms = zip(layer.rule, *layer.factors, strict=True)
    return sum(torch.kron(a, left @ right) for a, left, right in terms), layer.bias


def compact(adapter, x):
    (down, down_bias), (up, up_bias) = kronecker(adapter.down), kronecker(adapter.up)
    return tanh_gelu(x @ down + down_bias) @ up + up_bias


def by_hand(name, layer, x):
    """The layer's output, x (B, S, D), from its weights."""
    out = layer.output
    y = bert_attention(layer, x)
    if name == "houlsby":
        y = y + plain(layer.attention.output.dense.adapter, y, tanh_gelu)
    if name == "compacter":
        y = y + compact(layer.attention.output.dense.adapter, y)
    a = normed(y + x, layer.attention.output.LayerNorm)
    h = bert_ffn(layer, a)
    if name == "houlsby":
        h = h + plain(out.dense.adapter, h, tanh_gelu)
    if name == "compacter":
        h = h + compact(out.dense.adapter, h)
    if name == "parallel_adapter":
        h = h + plain(out.dense.adapter, a, torch.relu)
    if name == "scaled_parallel_adapter":
        h = h + out.dense.adapter.scaling * plain(out.dense.adapter, a, torch.relu)
    if name == "pfeiffer":
        both = h + a
        return normed(both + plain(out.LayerNorm.adapter, normed(both, out.LayerNorm), torch.relu), out.LayerNorm)
    return normed(h + a, out.LayerNorm)


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "adapter_drop"])
def test_a_bert_layer_is_the_papers_formula(name):
    model = tiny_model().double()
    put(model, name)
    model.double()
    x = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for layer in model.bert.encoder.layer:
        got = layer(x)
        got = got[0] if isinstance(got, tuple) else got
        torch.testing.assert_close(got, by_hand(name, layer, x), rtol=0, atol=1e-10)
        assert (got - by_hand("none", layer, x)).abs().max() > 1e-2


def test_in_a_pre_norm_layer_the_single_adapter_is_on_the_feed_forwards_output():
    model = tiny_model("gpt2")
    attachment = put(model, "pfeiffer")
    block = model.transformer.h[1]
    adapter = list(attachment.adapters.values())[1]
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        h = affine(block.mlp.act(affine(x, block.mlp.c_fc)), block.mlp.c_proj)
        torch.testing.assert_close(block.mlp(x), h + plain(adapter, h, torch.relu))


@pytest.mark.parametrize("family", ["llama", "gated t5"])
def test_beside_a_gated_feed_forward_the_adapter_reads_the_common_input_once(family):
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    if family == "llama":
        model = tiny_model("llama")
        blocks = [(layer.mlp, ("gate_proj", "up_proj", "down_proj")) for layer in model.model.layers]
    else:
        config = AutoConfig.for_model(**tiny_architecture("t5"), pad_token_id=0, feed_forward_proj="gated-gelu")
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(config).eval()
        parts = ("wi_0", "wi_1", "wo")
        blocks = [(block.layer[1].DenseReluDense, parts) for block in model.encoder.block]
        blocks += [(block.layer[2].DenseReluDense, parts) for block in model.decoder.block]
    attachment = put(model, "parallel_adapter")
    assert len(attachment.adapters) == len(blocks)
    x = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))
    for (mlp, (gate, up, down)), adapter in zip(blocks, attachment.adapters.values(), strict=True):
        act = mlp.act_fn if family == "llama" else mlp.act
        with torch.no_grad():
            product = act(x @ getattr(mlp, gate).weight.T) * (x @ getattr(mlp, up).weight.T)
            expected = product @ getattr(mlp, down).weight.T + plain(adapter, x, torch.relu)
            torch.testing.assert_close(mlp(x), expected)


@pytest.mark.parametrize(
    ("name", "changes", "per_layer"),
    [
        ("houlsby", {}, {"encoder": 2, "decoder": 2}),
        ("houlsby", {"cross_attention": True}, {"encoder": 2, "decoder": 3}),
        ("compacter", {"placement": "ffn"}, {"encoder": 1, "decoder": 1}),
        ("pfeiffer", {}, {"encoder": 1, "decoder": 1}),
    ],
)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_where_adapters_go_in_an_encoder_decoder(family, name, changes, per_layer):
    model = tiny_generator(family)
    attachment = put(model, name, **({"cross_attention": False} if name == "houlsby" else {}) | changes)
    found = {f"{p.stack}{p.layer}": 0 for p in attachment.adapters}
    for place in attachment.adapters:
        found[f"{place.stack}{place.layer}"] += 1
    assert found == {f"{stack}{layer}": n for stack, n in per_layer.items() for layer in range(2)}
    assert len([m for m in model.modules() if isinstance(m, Bottleneck)]) == len(attachment.adapters)
    crossing = [
        n for n, m in model.named_modules() if isinstance(m, Bottleneck) and ("EncDec" in n or "encoder_a" in n)
    ]
    assert len(crossing) == (2 if changes.get("cross_attention") else 0)


@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby"])
def test_dropped_layers_are_bare_and_the_others_are_not(placement):
    model = tiny_model()
    attachment = put(model, "adapter_drop", placement=placement)
    assert {place.layer for place in attachment.adapters} == {1}
    own = {n for n, p in model.named_parameters() if p.requires_grad and n.startswith("bert.encoder")}
    assert own
    assert all(name.startswith("bert.encoder.layer.1.") for name in own)
    assert any("LayerNorm.weight" in name for name in own) == (placement == "houlsby")
    with pytest.raises(ConfigurationError, match=r"method\.drop: leaving out 2 layers .* at most 1"):
        bare(tiny_model(), "adapter_drop", drop=2, placement=placement)


def test_which_layer_norms_are_trained():
    def trained(name):
        model, _ = attached(name)
        return [n for n in layer_norms(model) if model.get_submodule(n).weight.requires_grad]

    every = layer_norms(tiny_model())
    assert trained("houlsby") == [name for name in every if ".layer." in name]
    assert trained("compacter") == list(every)
    assert trained("pfeiffer") == []


def test_one_rule_serves_every_hypercomplex_map():
    model, attachment = attached("compacter")
    rules = {id(p.rule) for a in attachment.adapters.values() for p in (a.down, a.up)}
    assert len(rules) == 1
    assert [p.ndim for p in attachment.stored().values()].count(3) == 1 + 4 * len(attachment.adapters)
    model(**batch()).loss.backward()
    assert next(iter(attachment.adapters.values())).down.rule.grad is not None


def test_widths_that_do_not_divide_are_refused_in_words():
    with pytest.raises(ConfigurationError, match=r"method\.n: 4 must divide .* width 32 .* 2 \(32/16\)"):
        bare(tiny_model(), "compacter", reduction=16)
    with pytest.raises(ConfigurationError, match=r"method\.reduction: 64 leaves nothing .* 32"):
        bare(tiny_model(), "compacter", reduction=64)
    with pytest.raises(ConfigurationError, match=r"method\.reduction: 64 leaves nothing .* 32"):
        bare(tiny_model(), "pfeiffer", reduction=64)
    with pytest.raises(ValueError, match="above 0"):
        method_class("scaled_parallel_adapter")(scaling=0.0)


def test_the_scaled_adapter_starts_at_zero_with_its_number():
    before = logits(tiny_model())
    model = tiny_model()
    attachment = bare(model, "scaled_parallel_adapter", scaling=4.0)
    assert all(a.scaling == 4.0 for a in attachment.adapters.values())
    assert torch.equal(logits(model), before)
    assert attached("scaled_parallel_adapter")[1].count().trained == attachment.count().trained + 2


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("name", [*ADAPTERS, "ia3"])
def test_generation_is_the_same_with_and_without_a_cache(name, family):
    model = tiny_generator(family)
    inputs = {k: v for k, v in batch(3).items() if k != "labels"}
    if family in ("gpt2", "llama"):  # Decoders continue rows, which are padded on the left.
        inputs = {k: v.flip(1) for k, v in inputs.items()}
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "num_beams": 1}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    before = model.generate(**inputs, **settings)
    put(model, name)
    with_cache = model.generate(**inputs, **settings, use_cache=True)
    without = model.generate(**inputs, **settings, use_cache=False)
    assert torch.equal(with_cache.sequences, without.sequences)
    torch.testing.assert_close(torch.stack(with_cache.logits), torch.stack(without.logits), rtol=0, atol=1e-4)
    assert (before.logits[0] - without.logits[0]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("name", [*ADAPTERS, "ia3"])
def test_gradients_are_the_same_with_checkpointing(name, family):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_generator(family) if family == "t5" else tiny_model(family)
        attachment = put(model, name)
        if checkpointing:
            checkpoint_activations(model)
        model.train()
        torch.manual_seed(7)
        inputs = batch() | ({"labels": batch()["input_ids"]} if family == "t5" else {})
        model(**inputs).loss.backward()
        gradients.append([p.grad for group in attachment.parameter_groups() for p in group.parameters])
        assert all(m._kept is None for m in model.modules() if isinstance(m, Bottleneck))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*ADAPTERS, "ia3"])
def test_other_methods_still_find_every_site(name):
    from peftbench.backbones.anatomy import ROLES

    for family in ("bert", "gpt2", "t5"):
        model = tiny_model(family)
        before = sites(model, ROLES), layer_norms(model)
        put(model, name)
        assert (sites(model, ROLES), layer_norms(model)) == before


@pytest.mark.parametrize("name", [*ADAPTERS, "ia3"])
def test_a_half_precision_backbone_runs_and_trains(name):
    model = tiny_model().bfloat16()
    attachment = put(model, name)
    own = [p for group in attachment.parameter_groups() if group.name != "layer_norm" for p in group.parameters]
    assert {p.dtype for p in own} == {torch.float32}
    out = model(**batch())
    assert out.logits.dtype == torch.bfloat16
    out.loss.backward()
    assert all(p.grad is not None for p in own)


def test_a_start_without_spread_is_refused_in_words():
    with pytest.raises(ConfigurationError, match=r"init_std: 0\.0 is too small"):
        build(method_class("houlsby"), {"init_std": 0.0}, "method", "conf/method/houlsby.yaml")


def test_a_gate_on_an_adapter_is_in_none_of_the_adapters_groups():
    _, attachment = attached("pfeiffer")
    before = [[id(p) for p in group.parameters] for group in bottleneck_groups(attachment.adapters)]
    for adapter in attachment.adapters.values():
        adapter.gate = torch.nn.Linear(32, 1)
    after = [[id(p) for p in group.parameters] for group in bottleneck_groups(attachment.adapters)]
    assert after == before
