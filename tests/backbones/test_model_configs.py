"""Every `conf/model/*.yaml` builds the published shape, and the anatomy reads it."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForSequenceClassification

from peftbench.backbones import anatomy

FILES = sorted((Path(__file__).resolve().parents[2] / "conf" / "model").glob("*.yaml"))
KEYS = [
    "name",
    "repo",
    "revision",
    "path",
    "wheel",
    "wheel_folder",
    "weights_sha256",
    "weights",
    "architecture",
    "quantization",
    "double_quant",
]
PARAMETERS = {
    "bert_base": 109_483_778,
    "bert_base_cased": 108_311_810,
    "bert_large_cased": 333_581_314,
    "roberta_base": 124_647_170,
    "roberta_large": 355_361_794,
    "deberta_v3_base": 184_423_682,
}

every_model = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file):
    return OmegaConf.to_container(OmegaConf.load(file))


@cache
def on_meta(file):
    with torch.device("meta"):
        config = AutoConfig.for_model(**read(file)["architecture"], num_labels=2)
        return AutoModelForSequenceClassification.from_config(config)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_known_models_are_there():
    assert {file.stem for file in FILES} >= {"minilm", *PARAMETERS}


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
    optional = {"position_buckets", "norm_rel_ebd", "share_att_key", "pooler_hidden_size"}
    assert set(architecture) <= known | optional
    assert all(getattr(config, key) == value for key, value in architecture.items())


@every_model
def test_every_layer_has_all_six_roles(file):
    model = on_meta(file)
    found = anatomy.sites(model, anatomy.ROLES)
    assert len(found) == 6 * model.config.num_hidden_layers
    assert len({site.name for site in found}) == len(found)


@every_model
def test_the_size_in_the_comment_is_the_size(file):
    stated = re.search(r"\((\d+)M\)", file.read_text().splitlines()[0])
    assert stated
    assert int(stated[1]) == round(parameters(on_meta(file)) / 1e6)


@pytest.mark.parametrize(("name", "expected"), PARAMETERS.items())
def test_total_parameters_with_two_labels(name, expected):
    file = next(file for file in FILES if file.stem == name)
    assert parameters(on_meta(file)) == expected
