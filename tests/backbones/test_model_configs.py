"""Every `conf/model/*.yaml` builds the published shape, and the anatomy reads it."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from peftbench.backbones import anatomy
from peftbench.backbones.projections import split_fused

FILES = sorted((Path(__file__).resolve().parents[2] / "conf" / "model").glob("*.yaml"))
KEYS = [
    "name",
    "repo",
    "revision",
    "path",
    "wheel",
    "wheel_folder",
    "fetched",
    "weights_sha256",
    "weights",
    "quantization",
    "double_quant",
    "dtype",
    "architecture",
]
PARAMETERS = {
    "bert_base": 109_483_778,
    "bert_base_cased": 108_311_810,
    "bert_large_cased": 333_581_314,
    "roberta_base": 124_647_170,
    "roberta_large": 355_361_794,
    "deberta_v3_base": 184_423_682,
}
LANGUAGE_MODEL_PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2_medium": 354_823_168,
    "gpt2_large": 774_030_080,
    "smollm2_135m": 134_515_008,
    "smollm2": 134_515_008,
    "qwen2_5_0_5b": 494_032_768,
    "llama3_2_1b": 1_235_814_400,
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "bart_base": 139_420_416,
    "bart_large": 406_291_456,
}
UNTIED_PARAMETERS = {
    "t5_v1_1_base": 247_577_856,
    "t5_lm_adapt_small": 76_961_152,
    "t5_lm_adapt_base": 247_577_856,
    "t5_lm_adapt_large": 783_150_080,
    "t5_lm_adapt_xl": 2_849_757_184,
    "t5_lm_adapt_xxl": 11_135_332_352,
}
"""With an output projection of its own, which only a checkpoint brings: see `test_an_untied_output_projection...`."""
# As the published config.json says it, where transformers stores it in another form.
PUBLISHED = {
    "smollm2_135m": {"rope_theta": 100000, "rope_scaling": None},
    "qwen2_5_0_5b": {"rope_theta": 1000000.0},
    "llama3_2_1b": {
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
    },
    "t5_v1_1_base": {"tie_word_embeddings": False},
    **{f"t5_lm_adapt_{size}": {"tie_word_embeddings": False} for size in ("small", "base", "large", "xl", "xxl")},
}

every_model = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file):
    return OmegaConf.to_container(OmegaConf.load(file))


@cache
def on_meta(file):
    with torch.device("meta"):
        config = AutoConfig.for_model(**read(file)["architecture"], num_labels=2)
        model = AutoModelForSequenceClassification.from_config(config)
    split_fused(model)
    return model


def named(name):
    return next(file for file in FILES if file.stem == name)


def language_model(architecture, **published):
    """The model that writes text, in the shape of a YAML's architecture, on the meta device."""
    config = AutoConfig.for_model(**architecture, **published)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_known_models_are_there():
    assert {file.stem for file in FILES} >= {"minilm", *PARAMETERS, *LANGUAGE_MODEL_PARAMETERS, *UNTIED_PARAMETERS}


@every_model
def test_first_line_says_what_it_is(file):
    assert re.match(r"# [^@\s]\S* .+", file.read_text().splitlines()[0])


@every_model
def test_keys_and_values(file):
    values = read(file)
    assert list(values) == KEYS
    assert values["name"] == file.stem
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", values["repo"])
    assert re.fullmatch(r"main|[0-9a-f]{40}", values["revision"])
    assert values["weights"] == "pretrained"
    assert values["path"] is None
    assert (values["wheel"] is None) == (values["wheel_folder"] is None)
    # Files from a wheel have no hub commit to vouch for them, so their digest does.
    assert values["wheel"] is None or re.fullmatch(r"[0-9a-f]{64}", values["weights_sha256"])


@every_model
def test_architecture_names_only_fields_of_its_config(file):
    architecture = read(file)["architecture"]
    config = AutoConfig.for_model(**architecture)
    # Configs take any keyword, so a misspelt field would pass silently: it must be known, or be one of those
    # that transformers reads with getattr.
    known = set(type(config)().to_dict()) | set(config.attribute_map)
    optional = {"position_buckets", "norm_rel_ebd", "share_att_key", "pooler_hidden_size", "decoder_start_token_id"}
    assert set(architecture) <= known | optional
    assert all(getattr(config, key) == value for key, value in architecture.items())


@every_model
def test_every_layer_has_all_six_roles(file):
    model = on_meta(file)
    found = anatomy.sites(model, anatomy.ROLES)
    assert len({site.name for site in found}) == len(found)
    layers = Counter((site.stack, site.layer) for site in found)
    for stack, layer in layers:
        assert {s.role for s in found if (s.stack, s.layer) == (stack, layer)} == set(anatomy.ROLES)
    config = model.config
    # T5 gates its feed-forward and has cross attention in its decoder; Llama's kind has the gate.
    gate = config.model_type in ("llama", "qwen2") or bool(getattr(config, "is_gated_act", False))
    depth = config.num_hidden_layers
    kinds = ("encoder", "decoder") if config.is_encoder_decoder else (found[0].stack,)
    assert layers == {
        (kind, i): 6 + gate + 4 * (config.is_encoder_decoder and kind == "decoder")
        for kind in kinds
        for i in range(depth)
    }


@every_model
def test_the_size_in_the_comment_is_the_size(file):
    stated = re.search(r"\((\d+)M\)", file.read_text().splitlines()[0])
    assert stated
    assert int(stated[1]) == round(UNTIED_PARAMETERS.get(file.stem, parameters(on_meta(file))) / 1e6)


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_total_parameters_with_two_labels(name, expected):
    assert parameters(on_meta(named(name))) == expected


@pytest.mark.parametrize(("name", "expected"), LANGUAGE_MODEL_PARAMETERS.items())
def test_total_parameters_of_the_language_model(name, expected):
    assert parameters(language_model(read(named(name))["architecture"])) == expected


@pytest.mark.parametrize(("name", "expected"), UNTIED_PARAMETERS.items())
def test_total_parameters_with_an_output_projection_of_its_own(name, expected):
    architecture = read(named(name))["architecture"]
    model = language_model(architecture)
    # transformers ties the projection of every T5 that it builds.
    assert parameters(model) + architecture["vocab_size"] * architecture["d_model"] == expected
    assert not model.config.scale_decoder_outputs


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_form_reads_as_the_yaml_says(name):
    architecture = read(named(name))["architecture"]
    shape = {k: v for k, v in architecture.items() if k not in ("rope_parameters", "scale_decoder_outputs")}
    config = AutoConfig.for_model(**shape, **PUBLISHED[name])
    assert {key: getattr(config, key) for key in architecture} == architecture


def test_an_untied_output_projection_comes_back_from_a_checkpoint(tmp_path):
    """T5 v1.1 and its LM-adapted kin: transformers reads their flag as tied, and must not tie them."""
    from safetensors.torch import load_file, save_file

    shape = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**shape, feed_forward_proj="gated-gelu"))
    model.save_pretrained(tmp_path)
    projection = torch.randn(50, 16)
    weights = load_file(tmp_path / "model.safetensors") | {"lm_head.weight": projection}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["tie_word_embeddings"] = False
    config.pop("scale_decoder_outputs", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for folder in (tmp_path, tmp_path / "again"):
        loaded = T5ForConditionalGeneration.from_pretrained(folder).eval()
        assert torch.equal(loaded.lm_head.weight, projection)
        assert torch.equal(loaded.shared.weight, model.shared.weight)
        assert parameters(loaded) == parameters(model) + 50 * 16
        assert not loaded.config.scale_decoder_outputs
        ids = torch.tensor([[5, 6, 1]])
        with torch.no_grad():
            written = loaded(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
        expected = written.decoder_hidden_states[-1] @ projection.T
        torch.testing.assert_close(written.logits, expected, rtol=0, atol=1e-5)
        # What a merged run writes has to keep both.
        loaded.save_pretrained(tmp_path / "again")
