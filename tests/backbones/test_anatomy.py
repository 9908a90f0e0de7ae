"""Roles, heads and counts for every family, against the modules themselves."""

import dataclasses

import pytest
import torch
from conftest import TINY, tiny_model
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from peftbench.backbones import anatomy
from peftbench.backbones.anatomy import FAMILIES, ROLES, Site, max_positions
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
}
PREFIX = {"deberta-v2": "deberta"}
BERT_NAMES = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
]
NAMES = {
    "bert": BERT_NAMES,
    "roberta": BERT_NAMES,
    "electra": BERT_NAMES,
    "deberta-v2": [name + "_proj" if ".self." in name else name for name in BERT_NAMES],
    "distilbert": [
        "attention.q_lin",
        "attention.k_lin",
        "attention.v_lin",
        "attention.out_lin",
        "ffn.lin1",
        "ffn.lin2",
    ],
    "mpnet": [
        "attention.attn.q",
        "attention.attn.k",
        "attention.attn.v",
        "attention.attn.o",
        "intermediate.dense",
        "output.dense",
    ],
}
HEADS = {
    "bert": ("bert.pooler", "classifier"),
    "roberta": ("classifier",),
    "electra": ("classifier",),
    "deberta-v2": ("pooler", "classifier"),
    "distilbert": ("pre_classifier", "classifier"),
    "mpnet": ("classifier",),
}
BARE_HEADS = {
    "bert": ("pooler",),
    "roberta": ("pooler",),
    "electra": (),
    "deberta-v2": (),
    "distilbert": (),
    "mpnet": ("pooler",),
}

every_family = pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))


def build(model_type, auto=AutoModelForSequenceClassification, **changes):
    return auto.from_config(AutoConfig.for_model(model_type, **(ARCHITECTURES[model_type] | changes)))


def layer_path(model_type):
    return "transformer.layer" if model_type == "distilbert" else "encoder.layer"


def lora_parameters(found, rank):
    return sum(rank * (site.in_features + site.out_features) for site in found)


def test_every_family_is_tested():
    assert set(FAMILIES) == set(ARCHITECTURES)
    assert all(tuple(family.roles) == ROLES for family in FAMILIES.values())


@every_family
def test_sites_of_a_model_with_a_head(model_type):
    model = build(model_type)
    found = anatomy.sites(model, ROLES)
    start = f"{PREFIX.get(model_type, model_type)}.{layer_path(model_type)}"
    assert [s.name for s in found] == [f"{start}.{i}.{name}" for i in range(2) for name in NAMES[model_type]]
    assert [(s.layer, s.role) for s in found] == [(i, role) for i in range(2) for role in ROLES]
    for site in found:
        assert model.get_submodule(site.name).weight.shape == (site.out_features, site.in_features)


@every_family
def test_sites_of_a_bare_backbone(model_type):
    model = build(model_type, AutoModel)
    assert anatomy.backbone(model) is model
    found = anatomy.sites(model, ["ffn_out"])
    assert [s.name for s in found] == [f"{layer_path(model_type)}.{i}.{NAMES[model_type][-1]}" for i in range(2)]
    assert [(s.in_features, s.out_features) for s in found] == [(40, 16)] * 2


@every_family
def test_sites_are_in_forward_order_whatever_the_order_asked(model_type):
    model = build(model_type)
    asked = anatomy.sites(model, ["value", "query", "value"])
    assert asked == anatomy.sites(model, ("query", "value"))
    assert [s.role for s in asked] == ["query", "value"] * 2


@every_family
def test_all_linear_maps_of_the_layers_are_sites_and_nothing_else(model_type):
    model = build(model_type)
    base = anatomy.backbone(model)
    layers = base.get_submodule(layer_path(model_type))
    linear = {id(m) for m in layers.modules() if isinstance(m, nn.Linear)}
    found = anatomy.sites(model, ROLES)
    assert {id(model.get_submodule(site.name)) for site in found} == linear


@every_family
def test_meta_device_gives_the_same_anatomy(model_type):
    real = build(model_type)
    with torch.device("meta"):
        meta = build(model_type)
    assert anatomy.sites(meta, ROLES) == anatomy.sites(real, ROLES)
    assert anatomy.head_modules(meta) == anatomy.head_modules(real)
    assert anatomy.layer_norms(meta) == anatomy.layer_norms(real)


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


@every_family
def test_layer_norms_and_embeddings(model_type):
    model = build(model_type)
    norms = anatomy.layer_norms(model)
    # Two per layer and the embeddings' own; DeBERTaV3 normalises its relative positions too.
    assert len(norms) == 2 * 2 + 1 + (model_type == "deberta-v2")
    assert all(isinstance(model.get_submodule(name), nn.LayerNorm) for name in norms)
    name = anatomy.embeddings(model)
    assert norms[0] == f"{name}.LayerNorm"
    table = model.get_submodule(name).get_submodule("word_embeddings")
    assert table is model.get_input_embeddings()


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
    model = AutoModel.from_config(AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=1, vocab_size=10))
    for read in (lambda m: anatomy.sites(m, ROLES), anatomy.head_modules, anatomy.embeddings):
        with pytest.raises(ConfigurationError, match=r"'gpt2'.*deberta-v2.*roberta"):
            read(model)
    with pytest.raises(ConfigurationError, match="None"):
        anatomy.sites(nn.Linear(1, 1), ROLES)


def test_a_layer_that_lacks_a_role_is_an_error():
    model = build("bert")
    model.bert.encoder.layer[1].output.dense = nn.Identity()
    with pytest.raises(RuntimeError, match=r"layer\.1: .*ffn_out, found none"):
        anatomy.sites(model, ["ffn_out"])
    assert len(anatomy.sites(model, ["ffn_in"])) == 2


def test_a_layer_with_a_role_twice_is_an_error(monkeypatch):
    loose = dataclasses.replace(FAMILIES["bert"], roles=FAMILIES["bert"].roles | {"ffn_out": "*output.dense"})
    monkeypatch.setattr(anatomy, "FAMILIES", {"bert": loose})
    with pytest.raises(RuntimeError, match=r"ffn_out, found attention\.output\.dense, output\.dense"):
        anatomy.sites(build("bert"), ["ffn_out"])


def test_sites_are_values():
    site = Site("encoder.layer.0.output.dense", 0, "ffn_out", 40, 16)
    assert site == Site("encoder.layer.0.output.dense", 0, "ffn_out", 40, 16)
    with pytest.raises(dataclasses.FrozenInstanceError):
        site.layer = 1


@pytest.mark.parametrize("family", TINY)
def test_the_longest_input_fits_and_a_longer_one_does_not(family):
    model = tiny_model(family)
    limit = max_positions(model)
    ids = torch.full((1, limit), 7)
    with torch.no_grad():
        assert model(input_ids=ids).logits.shape == (1, 2)
    assert limit == {"roberta": 139, "mpnet": 138}.get(family, 140)
    if family != "deberta-v2":
        with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
            model(input_ids=torch.full((1, limit + 1), 7))
