"""A backbone with cheap dropout is the stock one, but for the draws."""

import copy

import pytest
import torch
from conftest import TINY, tiny_model
from torch import nn

from peftbench.backbones import noise
from peftbench.backbones.anatomy import backbone
from peftbench.backbones.noise import cheapen_dropout
from peftbench.layers.dropout import Dropout, attention


def batch(side):
    torch.manual_seed(0)
    ids, mask = torch.randint(5, 600, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    where = slice(6, 9) if side == "right" else slice(0, 3)
    mask[1, where] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs(model, family, inputs):
    more = {"decoder_input_ids": inputs["input_ids"][:, :4]} if family in ("t5", "bart") else {}
    hidden = backbone(model)(**inputs, **more)[0]
    return hidden if more else hidden[inputs["attention_mask"] > 0]


def dropping(model, p):
    """Dropout of p everywhere, whatever the tiny model was made with."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        for name in ("dropout", "attention_dropout", "dropout_prob", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, p)
    return model


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("side", ["left", "right"])
def test_without_draws_it_is_the_stock_model(family, side, monkeypatch):
    stock = tiny_model(family)
    model = copy.deepcopy(stock)
    cheapen_dropout(model)
    inputs = batch(side)
    with torch.no_grad():
        torch.testing.assert_close(outputs(model.eval(), family, inputs), outputs(stock.eval(), family, inputs))
    # A probability that drops no element takes the other road through every layer.
    called = []
    monkeypatch.setattr(noise, "attention", lambda *args: called.append(1) or attention(*args))
    dropping(model.train(), 1e-9), dropping(stock.train(), 0.0)
    torch.testing.assert_close(outputs(model, family, inputs), outputs(stock, family, inputs), rtol=1e-4, atol=2e-6)
    assert bool(called) == (family in ("bert", "roberta", "distilbert", "electra", "gpt2", "bart"))


def test_every_dropout_module_and_the_attention_are_replaced():
    model = dropping(tiny_model("bert"), 0.5).train()
    cheapen_dropout(model)
    assert {type(m) for m in model.modules() if isinstance(m, nn.Dropout)} == {Dropout}
    assert model.config._attn_implementation == "cheap_dropout"
    inputs = batch("right")
    torch.manual_seed(1)
    first, second = outputs(model, "bert", inputs), outputs(model, "bert", inputs)
    torch.manual_seed(1)
    assert torch.equal(outputs(model, "bert", inputs), first)
    assert not torch.equal(first, second)


def test_a_probability_that_drops_all_is_left_to_torch():
    model = tiny_model("bert")
    cheapen_dropout(model)
    dropping(model.train(), 0.999999)
    assert torch.isfinite(outputs(model, "bert", batch("right"))).all()
