"""GPT-2 with its maps split against the stock model: outputs, gradients, and the way back."""

import pytest
import torch
from conftest import tiny_architecture, tiny_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2ForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from peftbench.backbones.projections import SplitProjections, fuse, fused_tensors, split_fused
from peftbench.doors import Context
from peftbench.methods.registry import method_class

AUTOS = [AutoModel, AutoModelForSequenceClassification, AutoModelForCausalLM]
every_head = pytest.mark.parametrize("auto", AUTOS, ids=lambda auto: auto.__name__)


def stock(auto=AutoModelForSequenceClassification, seed=0):
    """GPT-2 as transformers builds it, its biases and layer norms drawn too so that no part is trivial."""
    torch.manual_seed(seed)
    model = auto.from_config(AutoConfig.for_model(**tiny_architecture("gpt2"), pad_token_id=0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def split(auto=AutoModelForSequenceClassification):
    model = stock(auto)
    split_fused(model)
    return model


def tokens(rows=3):
    ids = torch.randint(5, 600, (rows, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@every_head
def test_the_split_model_says_what_the_stock_one_says(auto):
    model, plain = split(auto), stock(auto)
    assert not [m for m in model.modules() if isinstance(m, Conv1D)]
    assert len([m for m in model.modules() if isinstance(m, SplitProjections)]) == 2
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(**tokens())[0], plain(**tokens())[0], rtol=0, atol=1e-6)


def test_the_split_model_writes_what_the_stock_one_writes():
    inputs = {"input_ids": tokens()["input_ids"][1:], "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    ours, theirs = split(AutoModelForCausalLM).generate(**inputs), stock(AutoModelForCausalLM).generate(**inputs)
    assert torch.equal(ours, theirs)
    assert ours.shape[1] > 9
    assert torch.equal(split(AutoModelForCausalLM).generate(**inputs, use_cache=False), theirs)


def test_the_output_projection_stays_tied():
    model = split(AutoModelForCausalLM)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_gradients_are_the_stock_ones():
    model, plain = split(), stock()
    for m in (model, plain):
        m(**tokens(), labels=torch.tensor([0, 1, 1])).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    theirs = dict(plain.named_parameters())
    found = fused_tensors(gradients, model)
    assert found.keys() == theirs.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@every_head
def test_fusing_undoes_splitting_bit_by_bit(auto):
    model, plain = split(auto), stock(auto)
    fuse(model)
    ours, theirs = model.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert torch.equal(model(**tokens())[0], plain(**tokens())[0])


@every_head
def test_a_fused_model_is_saved_as_the_stock_one(auto, tmp_path):
    model = split(auto)
    with torch.no_grad():
        expected = model(**tokens())[0]
    fuse(model)
    model.save_pretrained(tmp_path)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(**tokens())[0], expected, rtol=0, atol=1e-6)


@every_head
def test_whole_weights_have_the_stock_names_and_shapes(auto):
    model, plain = split(auto), stock(auto)
    found = fused_tensors(dict(model.named_parameters()), model)
    expected = dict(plain.named_parameters())
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_export_of_a_fully_tuned_model_loads_into_the_stock_one(tmp_path):
    from safetensors.torch import load_file

    model = split().requires_grad_(False)
    attachment = method_class("full")().attach(model, Context(torch.Generator(), 1, "tiny", ("score",)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.02)
        expected = model(**tokens()).logits
    attachment.export(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert attachment.count().stored == sum(t.numel() for n, t in tensors.items() if not n.startswith("score."))
    plain = stock(seed=3)
    plain.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(plain(**tokens()).logits, expected, rtol=0, atol=1e-6)


def test_a_merged_model_is_the_stock_architecture(tmp_path):
    model = split().requires_grad_(False)
    attachment = method_class("lora")(rank=2).attach(model, Context(torch.Generator().manual_seed(0), 1, "tiny"))
    with torch.no_grad():
        for layer in attachment.layers.values():
            layer.lora_B.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
        expected = model(**tokens()).logits
    attachment.finalize()
    attachment.merge()
    fuse(model)
    model.save_pretrained(tmp_path)
    loaded = GPT2ForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**tokens()).logits, expected, rtol=0, atol=1e-5)
        assert not torch.allclose(stock()(**tokens()).logits, expected, atol=1e-3)


def test_splitting_works_without_storage_and_keeps_types_and_freezing():
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(**tiny_architecture("gpt2")))
    split_fused(model)
    assert all(p.is_meta for p in model.parameters())
    frozen = stock().requires_grad_(False).bfloat16()
    split_fused(frozen)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert {p.dtype for p in frozen.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "bart"])
def test_other_architectures_are_left_alone(family):
    model = tiny_model(family)
    before = [(name, type(m)) for name, m in model.named_modules()]
    weights = dict(model.named_parameters())
    split_fused(model)
    assert fused_tensors(weights, model) == weights
    fuse(model)
    assert [(name, type(m)) for name, m in model.named_modules()] == before
    assert isinstance(next(m for m in model.modules() if isinstance(m, nn.Linear)), nn.Linear)
