"""Roles, heads and counts for every family, against the modules themselves."""

import dataclasses

import pytest
import torch
from conftest import TINY, tiny_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peftbench.backbones import anatomy
from peftbench.backbones.anatomy import ROLES, Site, max_positions
from peftbench.backbones.families import FAMILIES
from peftbench.backbones.projections import split_fused
from peftbench.errors import ConfigurationError

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
}
DEBERTA_V3 = {
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}
ARCHITECTURES = {
    "bert": SIZES,
    "roberta": SIZES,
    "electra": SIZES | {"embedding_size": 8},
    "deberta-v2": SIZES | DEBERTA_V3 | {"position_buckets": 4},
    "distilbert": {
        "vocab_size": 60,
        "dim": 16,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 40,
        "max_position_embeddings": 32,
    },
    "mpnet": SIZES,
    "gpt2": {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 40, "n_positions": 32},
    "llama": SIZES | {"num_key_value_heads": 1},
    "qwen2": SIZES | {"num_key_value_heads": 1},
    "qwen3": SIZES | {"num_key_value_heads": 1, "head_dim": 8},
    "t5": {"vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 2},
    "t5-gated": {
        "vocab_size": 60,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 40,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    },
    "bart": {
        "vocab_size": 60,
        "d_model": 16,
        "max_position_embeddings": 32,
        **{f"{stack}_layers": 2 for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")},
        **{f"{stack}_ffn_dim": 40 for stack in ("encoder", "decoder")},
    },
}
GENERATORS = {
    "gpt2": AutoModelForCausalLM,
    "llama": AutoModelForCausalLM,
    "qwen2": AutoModelForCausalLM,
    "qwen3": AutoModelForCausalLM,
    "t5": AutoModelForSeq2SeqLM,
    "t5-gated": AutoModelForSeq2SeqLM,
    "bart": AutoModelForSeq2SeqLM,
}
PREFIX = {
    "deberta-v2": "deberta",
    "gpt2": "transformer",
    "t5": "transformer",
    "t5-gated": "transformer",
} | dict.fromkeys(("llama", "qwen2", "qwen3", "bart"), "model")
BERT_NAMES = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
LLAMA_NAMES = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj",
]
BART_NAMES = [f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")]


def t5_names(*ffn_in):
    """Names in an encoder's and in a decoder's layer."""
    own, cross = (f"layer.{name}" for name in ("0.SelfAttention", "1.EncDecAttention"))
    dense = [tuple(f"layer.{i}.DenseReluDense.{name}" for name in ffn_in) for i in (1, 2)]
    return {
        "encoder.block": [*(f"{own}.{x}" for x in "qkvo"), dense[0], "layer.1.DenseReluDense.wo"],
        "decoder.block": [*((f"{own}.{x}", f"{cross}.{x}") for x in "qkvo"), dense[1], "layer.2.DenseReluDense.wo"],
    }


# Path of a stack's layers -> for every role the one map, or the maps, that play it in each layer.
STACKS = {
    "bert": {"encoder.layer": BERT_NAMES},
    "roberta": {"encoder.layer": BERT_NAMES},
    "electra": {"encoder.layer": BERT_NAMES},
    "deberta-v2": {"encoder.layer": [name + "_proj" if ".self." in name else name for name in BERT_NAMES]},
    "distilbert": {
        "transformer.layer": [
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ]
    },
    "mpnet": {
        "encoder.layer": [
            "attention.attn.q",
            "attention.attn.k",
            "attention.attn.v",
            "attention.attn.o",
            "intermediate.dense",
            "output.dense",
        ]
    },
    "gpt2": {
        "h": [
            "attn.c_attn.query",
            "attn.c_attn.key",
            "attn.c_attn.value",
            "attn.c_proj",
            "mlp.c_fc",
            "mlp.c_proj",
        ]
    },
    "llama": {"layers": LLAMA_NAMES},
    "qwen2": {"layers": LLAMA_NAMES},
    "qwen3": {"layers": LLAMA_NAMES},
    "t5": t5_names("wi"),
    "t5-gated": t5_names("wi_0", "wi_1"),
    "bart": {
        "encoder.layers": [*BART_NAMES, "fc1", "fc2"],
        "decoder.layers": [*((name, name.replace("self", "encoder")) for name in BART_NAMES), "fc1", "fc2"],
    },
}
HEADS = {
    "bert": ("bert.pooler", "classifier"),
    "roberta": ("classifier",),
    "electra": ("classifier",),
    "deberta-v2": ("pooler", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
    "mpnet": ("classifier",),
    "gpt2": ("score",),
    "llama": ("score",),
    "qwen2": ("score",),
    "qwen3": ("score",),
    "t5": ("classification_head",),
    "t5-gated": ("classification_head",),
    "bart": ("classification_head",),
}
BARE_HEADS = dict.fromkeys(ARCHITECTURES, ()) | {"bert": ("pooler",), "roberta": ("pooler",), "mpnet": ("pooler",)}
# Layer norms in a layer of each stack, and outside the layers. DeBERTaV3 normalises its relative positions too,
# Qwen3 every head's queries and keys.
NORMS = dict.fromkeys(ARCHITECTURES, ([2], 1)) | {
    "deberta-v2": ([2], 2),
    "qwen3": ([4], 1),
    "t5": ([2, 3], 2),
    "t5-gated": ([2, 3], 2),
    "bart": ([2, 3], 2),
}
# Attentions in a layer of each stack.
ATTENTIONS = {
    "bert": ["attention.self"],
    "roberta": ["attention.self"],
    "electra": ["attention.self"],
    "deberta-v2": ["attention.self"],
    "distilbert": ["attention"],
    "mpnet": ["attention.attn"],
    "gpt2": ["attn"],
    "llama": ["self_attn"],
    "qwen2": ["self_attn"],
    "qwen3": ["self_attn"],
    "t5": ["layer.0.SelfAttention", "layer.1.EncDecAttention"],
    "t5-gated": ["layer.0.SelfAttention", "layer.1.EncDecAttention"],
    "bart": ["self_attn", "encoder_attn"],
}
POST_NORM = {
    "bert": "output.LayerNorm",
    "roberta": "output.LayerNorm",
    "electra": "output.LayerNorm",
    "deberta-v2": "output.LayerNorm",
    "distilbert": "output_layer_norm",
    "mpnet": "output.LayerNorm",
    "bart": "final_layer_norm",
}
ENCODERS = ("bert", "roberta", "electra", "deberta-v2", "distilbert", "mpnet")

every_family = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))


def build(model_type, auto=AutoModelForSequenceClassification, **changes):
    """A tiny model, its fused projections split, as it is loaded."""
    shape = ARCHITECTURES[model_type] | {"pad_token_id": 0} | changes
    model = auto.from_config(AutoConfig.for_model(model_type.removesuffix("-gated"), **shape))
    split_fused(model)
    return model


def prefix(model_type):
    return PREFIX.get(model_type, model_type)


def maps(names):
    """(role, name) of every linear map in a layer."""
    pairs = zip(ROLES, names, strict=True)
    return [(role, name) for role, given in pairs for name in ([given] if isinstance(given, str) else given)]


def every_map(model_type, start=""):
    """(qualified name, layer, role, stack) of every linear map in both layers of every stack."""
    return [
        (f"{start}{path}.{i}.{name}", i, role, stack_kind(model_type, path))
        for path, names in STACKS[model_type].items()
        for i in range(2)
        for role, name in maps(names)
    ]


def stack_kind(model_type, path):
    return "encoder" if model_type in ENCODERS or path.startswith("encoder") else "decoder"


def lora_parameters(found, rank):
    return sum(rank * (site.in_features + site.out_features) for site in found)


def test_every_family_is_tested():
    assert set(FAMILIES) == set(ARCHITECTURES) - {"t5-gated"}
    assert all(tuple(stack.roles) == ROLES for family in FAMILIES.values() for stack in family.stacks)
    assert set(TINY) | {"qwen2", "qwen3"} == set(FAMILIES)


@every_family
def test_sites_of_a_model_with_a_head(model_type):
    model = build(model_type)
    found = anatomy.sites(model, ROLES)
    expected = every_map(model_type, f"{prefix(model_type)}.")
    assert [(s.name, s.layer, s.role, s.stack) for s in found] == expected
    for site in found:
        assert model.get_submodule(site.name).weight.shape == (site.out_features, site.in_features)


@every_family
def test_sites_of_a_bare_backbone(model_type):
    model = build(model_type, AutoModel)
    assert anatomy.backbone(model) is model
    found = anatomy.sites(model, ["ffn_out"])
    assert [s.name for s in found] == [name for name, _, role, _ in every_map(model_type) if role == "ffn_out"]
    assert [(s.in_features, s.out_features) for s in found] == [(40, 16)] * 2 * len(STACKS[model_type])


@pytest.mark.parametrize("model_type", GENERATORS)
def test_sites_of_a_language_model(model_type):
    model = build(model_type, GENERATORS[model_type])
    # T5's language model is its own base model.
    start = "" if model_type.startswith("t5") else f"{prefix(model_type)}."
    assert [s.name for s in anatomy.sites(model, ROLES)] == [name for name, *_ in every_map(model_type, start)]
    assert not any("lm_head" in site.name for site in anatomy.sites(model, ROLES))


@every_family
def test_sites_are_in_forward_order_whatever_the_order_asked(model_type):
    model = build(model_type)
    asked = anatomy.sites(model, ["value", "query", "value"])
    assert asked == anatomy.sites(model, ("query", "value"))
    layers = [[role for role, _ in maps(names) if role in ("query", "value")] for names in STACKS[model_type].values()]
    assert [s.role for s in asked] == [role for layer in layers for role in layer * 2]


@every_family
def test_all_linear_maps_of_the_layers_are_sites_and_nothing_else(model_type):
    model = build(model_type)
    base = anatomy.backbone(model)
    layers = [base.get_submodule(path) for path in STACKS[model_type]]
    linear = {id(m) for stack in layers for m in stack.modules() if isinstance(m, nn.Linear)}
    assert not any("Conv1D" in type(m).__name__ for stack in layers for m in stack.modules())
    found = anatomy.sites(model, ROLES)
    assert {id(model.get_submodule(site.name)) for site in found} == linear
    assert len(found) == len(linear)


@every_family
def test_meta_device_gives_the_same_anatomy(model_type):
    real = build(model_type)
    with torch.device("meta"):
        meta = build(model_type)
    assert anatomy.sites(meta, ROLES) == anatomy.sites(real, ROLES)
    assert anatomy.head_modules(meta) == anatomy.head_modules(real)
    assert anatomy.layer_norms(meta) == anatomy.layer_norms(real)
    assert anatomy.attentions(meta) == anatomy.attentions(real)
    assert anatomy.max_positions(meta) == anatomy.max_positions(real)


@every_family
def test_head_modules(model_type):
    assert anatomy.head_modules(build(model_type)) == HEADS[model_type]
    assert anatomy.head_modules(build(model_type, AutoModel)) == BARE_HEADS[model_type]


@every_family
def test_head_and_backbone_share_out_all_parameters(model_type):
    model = build(model_type)
    head = {id(p) for name in anatomy.head_modules(model) for p in model.get_submodule(name).parameters()}
    outside = {id(p) for p in model.parameters()} - {id(p) for p in anatomy.backbone(model).parameters()}
    assert outside <= head
    extra = [name for name, p in anatomy.backbone(model).named_parameters() if id(p) in head]
    assert all(name.startswith("pooler.") for name in extra)
    assert not any("pooler" in site.name for site in anatomy.sites(model, ROLES))


@pytest.mark.parametrize("model_type", GENERATORS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_output_projection_of_a_language_model_is_no_head(model_type, tied):
    model = build(model_type, GENERATORS[model_type], tie_word_embeddings=tied)
    assert anatomy.head_modules(model) == ()
    assert model.get_output_embeddings() is not None


@every_family
def test_layer_norms_and_embeddings(model_type):
    model = build(model_type)
    norms = anatomy.layer_norms(model)
    inside, outside = NORMS[model_type]
    assert len(norms) == 2 * sum(inside) + outside
    assert len(set(norms)) == len(norms)
    # Every vector of gains that is not a map's belongs to one of them.
    gains = {
        name.rpartition(".")[0] for name, p in model.named_parameters() if name.endswith(".weight") and p.ndim == 1
    }
    assert set(norms) == gains
    name = anatomy.embeddings(model)
    table = model.get_submodule(name)
    if model_type in ENCODERS:
        assert all(isinstance(model.get_submodule(name), nn.LayerNorm) for name in norms)
        assert norms[0] == f"{name}.LayerNorm"
        table = table.get_submodule("word_embeddings")
    assert table is model.get_input_embeddings()


@every_family
def test_attentions(model_type):
    model = build(model_type)
    expected = [
        (f"{prefix(model_type)}.{path}.{i}.{name}", i, stack_kind(model_type, path), kind)
        for path in STACKS[model_type]
        for i in range(2)
        for name, kind in zip(ATTENTIONS[model_type], ("self", "cross"), strict=False)
        if kind == "self" or path.startswith("decoder")
    ]
    assert [(a.name, a.layer, a.stack, a.kind) for a in anatomy.attentions(model)] == expected
    bare = build(model_type, AutoModel)
    assert [f"{prefix(model_type)}.{a.name}" for a in anatomy.attentions(bare)] == [name for name, *_ in expected]


@pytest.mark.parametrize("model_type", sorted(set(ARCHITECTURES) - {"deberta-v2", "mpnet"}))
def test_attentions_are_what_the_attention_function_is_called_with(model_type, monkeypatch):
    model = build(model_type, AutoModel).eval()
    called = []
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module, *args, **kwargs):
        called.append(module)
        return original(module, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", spy)
    ids = torch.full((1, 5), 7)
    model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    assert called == [model.get_submodule(a.name) for a in anatomy.attentions(model)]


@every_family
def test_ffn_norms_give_the_layers_output_in_post_norm_architectures_and_are_none_elsewhere(model_type):
    model = build(model_type).eval()
    norms = anatomy.ffn_norms(model)
    if model_type not in POST_NORM:
        assert norms == {}
        return
    paths = {stack_kind(model_type, path): f"{prefix(model_type)}.{path}" for path in STACKS[model_type]}
    assert norms == {(kind, i): f"{path}.{i}.{POST_NORM[model_type]}" for kind, path in paths.items() for i in range(2)}
    outputs = {}
    for (kind, i), name in norms.items():
        for key in (name, f"{paths[kind]}.{i}"):
            model.get_submodule(key).register_forward_hook(
                lambda _, __, out, key=key: outputs.update({key: out if torch.is_tensor(out) else out[0]})
            )
    model(input_ids=torch.tensor([[7, 8, 9, model.config.eos_token_id or 2]]))
    for (kind, i), name in norms.items():
        assert torch.equal(outputs[name], outputs[f"{paths[kind]}.{i}"])


@every_family
def test_stacks_hold_their_layers(model_type):
    for model in (build(model_type), build(model_type, AutoModel)):
        found = anatomy.stacks(model)
        assert list(found) == [stack_kind(model_type, path) for path in STACKS[model_type]]
        for (kind, name), path in zip(found.items(), STACKS[model_type], strict=True):
            stack = model.get_submodule(name)
            layers = anatomy.backbone(model).get_submodule(path)
            assert any(part is layers for part in stack.modules())
            mine = [s for s in anatomy.sites(model, ROLES) if s.stack == kind]
            assert all(s.name.startswith(f"{name}." if name else "") for s in mine)
    base = anatomy.backbone(build(model_type))
    encoders = {kind: base.get_submodule(name) for kind, name in anatomy.stacks(base).items()}
    if base.config.is_encoder_decoder:
        assert encoders == {"encoder": base.get_encoder(), "decoder": base.get_decoder()}


def test_gated_feed_forward_maps_are_both_ffn_in():
    for model_type, names in (("t5-gated", {"wi_0", "wi_1"}), ("llama", {"gate_proj", "up_proj"})):
        found = anatomy.sites(build(model_type), ["ffn_in"])
        assert {s.name.rpartition(".")[2] for s in found} == names
        assert {(s.in_features, s.out_features) for s in found} == {(16, 40)}


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_grouped_queries_have_narrow_keys_and_values(model_type):
    model = build(model_type)
    widths = {s.role: (s.in_features, s.out_features) for s in anatomy.sites(model, ROLES)}
    assert widths["query"] == (16, 16)
    assert widths["key"] == widths["value"] == (16, 8)
    biased = {s.role for s in anatomy.sites(model, ROLES) if model.get_submodule(s.name).bias is not None}
    assert biased == ({"query", "key", "value"} if model_type == "qwen2" else set())


def test_qwen3_normalises_queries_and_keys():
    norms = anatomy.layer_norms(build("qwen3"))
    assert [n.rpartition(".")[2] for n in norms if ".layers.0." in n] == [
        "q_norm",
        "k_norm",
        "input_layernorm",
        "post_attention_layernorm",
    ]


@pytest.mark.parametrize(
    ("model_type", "roles", "expected"),
    [("deberta-v2", ROLES, 1_327_104), ("roberta", ("query", "value"), 294_912)],
)
def test_lora_counts_of_the_papers(model_type, roles, expected):
    """SoRA's and AdaLoRA's "1.33M" on DeBERTaV3-base; LoRA's "0.3M" on RoBERTa-base. Both rank 8."""
    base_size = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    shape = base_size | (DEBERTA_V3 if model_type == "deberta-v2" else {})
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(model_type, **shape))
    assert lora_parameters(anatomy.sites(model, roles), rank=8) == expected


def test_unknown_role_names_the_nearest_and_the_known():
    with pytest.raises(ConfigurationError, match=r"'querry'.*did you mean query\?.*attention_output"):
        anatomy.sites(build("bert"), ["querry"])


def test_unsupported_architecture_names_the_supported():
    shape = {"hidden_size": 8, "word_embed_proj_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "ffn_dim": 8}
    model = AutoModel.from_config(AutoConfig.for_model("opt", vocab_size=10, **shape))
    for read in (
        lambda m: anatomy.sites(m, ROLES),
        anatomy.head_modules,
        anatomy.embeddings,
        anatomy.attentions,
        anatomy.ffn_norms,
        anatomy.stacks,
        anatomy.max_positions,
    ):
        with pytest.raises(ConfigurationError, match=r"'opt'.*deberta-v2.*gpt2.*roberta"):
            read(model)
    with pytest.raises(ConfigurationError, match="None"):
        anatomy.sites(nn.Linear(1, 1), ROLES)


def test_a_layer_that_lacks_a_role_is_an_error():
    model = build("bert")
    model.bert.encoder.layer[1].output.dense = nn.Identity()
    with pytest.raises(RuntimeError, match=r"layer\.1: .*ffn_out, found none"):
        anatomy.sites(model, ["ffn_out"])
    assert len(anatomy.sites(model, ["ffn_in"])) == 2


def test_a_map_with_two_roles_is_an_error(monkeypatch):
    bert = FAMILIES["bert"]
    loose = dataclasses.replace(bert.stacks[0], roles=bert.stacks[0].roles | {"ffn_out": "*output.dense"})
    monkeypatch.setattr(anatomy, "FAMILIES", {"bert": dataclasses.replace(bert, stacks=(loose,))})
    with pytest.raises(RuntimeError, match=r"layer\.0: attention\.output\.dense plays attention_output and ffn_out"):
        anatomy.sites(build("bert"), ["ffn_out"])


def test_a_pattern_without_a_wildcard_names_exactly_one_map():
    for model_type in ARCHITECTURES:
        model = build(model_type)
        found = anatomy.sites(model, ROLES)
        for stack in FAMILIES[model_type.removesuffix("-gated")].stacks:
            for role, pattern in stack.roles.items():
                mine = [s for s in found if (s.stack, s.role) == (stack.kind, role)]
                assert {s.layer for s in mine} == {0, 1}
                assert len(mine) == 2 or "*" in pattern


def test_sites_are_values():
    site = Site("encoder.layer.0.output.dense", 0, "ffn_out", 40, 16)
    assert site == Site("encoder.layer.0.output.dense", 0, "ffn_out", 40, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        site.layer = 1


@pytest.mark.parametrize("family", TINY)
def test_the_longest_input_fits_and_a_longer_one_does_not(family):
    model = tiny_model(family)
    limit = max_positions(model)
    assert limit == {"roberta": 139, "mpnet": 138, "t5": None}.get(family, 140)

    def read(length):
        ids = torch.full((1, length), 7)
        ids[0, -1] = 3  # T5 and BART pool at the end token.
        with torch.no_grad():
            return model(input_ids=ids).logits

    assert read(limit or 600).shape == (1, 2)
    # Relative and rotary positions go on; the limit is what the model was trained on.
    if family not in ("deberta-v2", "llama", "t5"):
        with pytest.raises((IndexError, RuntimeError)):
            read(limit + 1)
