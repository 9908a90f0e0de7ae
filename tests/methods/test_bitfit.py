"""BitFit: the paper's counts, its random controls, and how far biases go."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from contracts.test_methods import attached, batch, logits, train
from safetensors.torch import load_file

from peftbench.assembly import attach, counts
from peftbench.backbones.anatomy import head_modules
from peftbench.backbones.loading import random_model
from peftbench.compose import compose_run
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.methods.registry import method_class
from peftbench.strict import build

HALF = ("query", "ffn_in")
CONTROLS = ("uniform", "row_column")


@pytest.mark.parametrize(
    ("model", "biases", "trained", "paper"),
    [
        ("bert_base", "all", 102_144, 102_912),
        ("bert_base", "[query,ffn_in]", 46_080, None),
        ("bert_large", "all", 271_360, 272_384),
        ("bert_large", "[query,ffn_in]", 122_880, None),
        ("roberta_base", "all", 102_144, None),
        ("roberta_large", "all", 271_360, None),
    ],
)
def test_counts_at_published_sizes(model, biases, trained, paper):
    config = compose_run(["method=bitfit", f"method.biases={biases}", f"model={model}", "preset=none"])
    with torch.device("meta"):
        backbone = random_model(config.model, 2)
    found = counts(*attach(config, backbone, "none", total_steps=1000, length=128))
    assert (found.trained, found.effective, found.stored, found.paper) == (trained, trained, trained, paper)


@pytest.mark.parametrize("control", CONTROLS)
def test_a_controls_count_at_bert_base_is_that_of_the_biases(control):
    words = ["method=bitfit", f"method.control={control}", "model=bert_base", "preset=none"]
    config = compose_run(words)
    with torch.device("meta"):
        backbone = random_model(config.model, 2)
    found = counts(*attach(config, backbone, "none", total_steps=1000, length=128))
    assert (found.trained, found.effective, found.stored, found.paper) == (102_144, 102_144, 102_144, None)


@pytest.mark.parametrize("family", ["bert", "deberta-v2", "distilbert", "gpt2", "bart"])
@pytest.mark.parametrize("biases", ["all", HALF, ("layer_norms",), ("key", "ffn_out")])
def test_exactly_the_named_biases_train(family, biases):
    model, attachment = attached("bitfit", family, biases=biases)
    head = tuple(f"{part}." for part in head_modules(model))
    trained = {n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(head)}
    endings = {
        "query": ("query.bias", "query_proj.bias", "q_lin.bias", "q_proj.bias"),
        "key": ("key.bias", "key_proj.bias", "k_lin.bias", "k_proj.bias"),
        "ffn_in": ("intermediate.dense.bias", "ffn.lin1.bias", "mlp.c_fc.bias", "fc1.bias"),
        "layer_norms": ("LayerNorm.bias", "layer_norm.bias", "layernorm_embedding.bias", "ln_1.bias", "ln_2.bias",
                        "ln_f.bias"),
        "ffn_out": ("output.dense.bias", "ffn.lin2.bias", "mlp.c_proj.bias", "fc2.bias"),
    }  # fmt: skip
    everything = {n for n, _ in model.named_parameters() if n.endswith(".bias") and not n.startswith(head)}
    if biases == "all":
        expected = everything
    else:
        expected = {n for n in everything if n.endswith(tuple(e for b in biases for e in endings[b]))}
        expected -= {n for n in expected if n.endswith("attention.output.dense.bias")}
    assert trained == expected
    assert attachment.count().trained == sum(dict(model.named_parameters())[n].numel() for n in expected)


@pytest.mark.parametrize("biases", ["all", HALF])
@pytest.mark.parametrize("family", ["bert", "deberta-v2", "gpt2", "bart"])
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_has_the_biases_size_and_moves_nothing_else(control, family, biases):
    plain = attached("bitfit", family, biases=biases)[1].count().trained
    model, attachment = attached("bitfit", family, biases=biases, control=control)
    head = head_modules(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    model.train()
    for step in range(3):
        model(**batch(seed=step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    before = logits(model)
    attachment.finalize()
    attachment.merge()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)
    assert attachment.count().trained == plain
    old = dict(tiny_model(family).named_parameters())
    moved, allowed = 0, 0
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(f"{part}." for part in head)):
            continue
        changed = int((parameter != old[name]).sum())
        moved += changed
        if control == "row_column" and changed:
            bias = old[name.removesuffix("weight") + "bias"]
            assert changed <= bias.numel()
            allowed += bias.numel()
        if control == "uniform":
            assert not changed or parameter.ndim > 1
    # A drawn weight may have no gradient, as the embedding of a token that no batch holds.
    assert plain / 4 < moved <= plain
    if control == "row_column":
        assert allowed <= plain


def test_a_row_or_column_is_whole_and_of_the_biases_own_matrix():
    shapes = set()
    for seed in range(6):
        _, attachment = attached("bitfit", seed=seed, control="row_column", biases=("query", "ffn_in", "ffn_out"))
        for target, delta in attachment.deltas:
            out, width = target.parameter.shape
            assert len(delta.indices) == len(delta.indices.unique()) == out
            rows, columns = {int(i) // width for i in delta.indices}, {int(i) % width for i in delta.indices}
            column = len(columns) == 1 and len(rows) == out
            assert column or (len(columns) == width and len(rows) == out // width)
            shapes.add((out, width, "column" if column else "rows"))
    assert shapes == {
        (32, 32, "column"), (32, 32, "rows"), (64, 32, "column"), (64, 32, "rows"), (32, 64, "column"),
    }  # fmt: skip


def test_the_uniform_control_is_uniform_over_all_matrices():
    counted, expected = 0, 0
    for seed in range(5):
        _, attachment = attached("bitfit", seed=seed, control="uniform")
        plain = dict(tiny_model().named_parameters())
        matrices = {n: p for n, p in plain.items() if p.ndim > 1 and not n.startswith(("bert.pooler", "classifier"))}
        share = attachment.count().trained / sum(p.numel() for p in matrices.values())
        table = "bert.embeddings.word_embeddings.weight"
        counted += sum(len(delta.indices) for target, delta in attachment.deltas if target.name == table)
        expected += share * matrices[table].numel()
        assert {target.name for target, _ in attachment.deltas} <= set(matrices)
    assert counted == pytest.approx(expected, abs=4 * expected**0.5)


@pytest.mark.parametrize(
    ("family", "biases", "said"),
    [
        ("t5", "all", "a t5 backbone has no biases"),
        ("t5", HALF, "a t5 backbone has no biases"),
        ("llama", ("query",), "a llama backbone has no biases"),
    ],
)
def test_backbones_without_biases_are_refused(family, biases, said):
    with pytest.raises(ConfigurationError, match=said):
        attached("bitfit", family, biases=biases)


def test_a_subset_without_biases_is_refused_where_others_have_some():
    model = tiny_model().requires_grad_(False)
    for layer in model.bert.encoder.layer:
        layer.attention.self.query.bias = None
    method = replace(method_class("bitfit")(), biases=HALF)
    with pytest.raises(ConfigurationError, match=r"method\.biases: query has no biases in a bert backbone"):
        method.attach(model, Context(torch.Generator(), 10, "tiny", head_modules(model)))


@pytest.mark.parametrize(
    ("biases", "said"),
    [
        ("some", "neither all nor a list"),
        ([], "nothing to train"),
        (["quer"], "did you mean query"),
        (["key", "key"], "twice"),
    ],
)
def test_wrong_subsets_are_refused_in_words(biases, said):
    with pytest.raises(ConfigurationError, match=said):
        build(method_class("bitfit"), {"biases": biases}, "method", "conf/method/bitfit.yaml")


def test_biases_are_never_decayed():
    for control in (None, *CONTROLS):
        (group,) = attached("bitfit", control=control)[1].parameter_groups()
        assert not group.decays


@pytest.mark.parametrize("family", ["bert", "distilbert", "gpt2", "bart"])
def test_analysis_is_the_mean_absolute_change_by_type_and_layer(family):
    model, attachment = attached("bitfit", family)
    assert all(change == 0 for row in attachment.analysis()["bias_change"].values() for change in row)
    train(model, attachment, steps=3)
    changes = attachment.analysis()["bias_change"]
    kinds = {"query", "key", "value", "attention_output", "ffn_in", "ffn_out", "attention_layer_norm", "ffn_layer_norm"}
    if family == "bart":
        crossing = {f"cross_{kind}" for kind in ("query", "key", "value", "attention_output", "attention_layer_norm")}
        kinds = {f"encoder.{kind}" for kind in kinds} | {f"decoder.{kind}" for kind in kinds | crossing}
    assert set(changes) == kinds
    assert all(len(row) == 2 for row in changes.values())
    old, new = dict(tiny_model(family).named_parameters()), dict(model.named_parameters())
    hand = {
        "bert": ("attention_layer_norm", "bert.encoder.layer.1.attention.output.LayerNorm.bias"),
        "distilbert": ("ffn_in", "distilbert.transformer.layer.1.ffn.lin1.bias"),
        "gpt2": ("query", "transformer.h.1.attn.c_attn.query.bias"),
        "bart": ("decoder.cross_attention_layer_norm", "model.decoder.layers.1.encoder_attn_layer_norm.bias"),
    }
    kind, name = hand[family]
    assert changes[kind][1] == pytest.approx((new[name] - old[name]).abs().mean().item(), rel=1e-6)
    assert changes[kind][1] > 0


def test_the_keys_bias_has_no_gradient_but_rounding():
    model, _ = attached("bitfit")
    model.double()
    model(**batch()).loss.backward()
    layer = model.bert.encoder.layer[0].attention.self
    assert layer.key.bias.grad.abs().max() < 1e-12 < layer.query.bias.grad.abs().max()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_the_export_is_the_biases_and_the_head(family, tmp_path):
    model, attachment = attached("bitfit", family)
    train(model, attachment, steps=3)
    attachment.export(tmp_path)
    found = load_file(tmp_path / "adapter_model.safetensors")
    head = tuple(f"{part}." for part in head_modules(model))
    biases = {name: tensor for name, tensor in found.items() if not name.startswith(head)}
    assert sum(t.numel() for t in biases.values()) == attachment.count().stored
    if family == "gpt2":
        fused = model.transformer.h[0].attn.c_attn
        parts = torch.cat([fused.query.bias, fused.key.bias, fused.value.bias])
        assert torch.equal(biases["transformer.h.0.attn.c_attn.bias"], parts)
        return
    fresh = tiny_model(family)
    _, unexpected = fresh.load_state_dict(found, strict=False)
    assert not unexpected
    assert torch.equal(logits(fresh), logits(model))


@pytest.mark.parametrize("control", CONTROLS)
def test_a_controls_export_rebuilds_the_model(control, tmp_path):
    model, attachment = attached("bitfit", control=control)
    train(model, attachment, steps=3)
    attachment.export(tmp_path)
    found = load_file(tmp_path / "adapter_model.safetensors")
    fresh = tiny_model()
    own = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, tensor in found.items():
            if name.endswith(".indices"):
                base = name.removesuffix(".indices")
                own[base].view(-1)[tensor.long()] += found[f"{base}.values"]
            elif not name.endswith(".values"):
                own[name].copy_(tensor)
    torch.testing.assert_close(logits(fresh), logits(model), rtol=0, atol=1e-6)
