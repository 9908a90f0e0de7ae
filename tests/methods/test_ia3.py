"""(IA)³ against HF PEFT with the same vectors, and folded into the backbone."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, tiny_generator, tiny_model
from contracts.test_methods import attached, batch, logits
from safetensors.torch import load_file

from peftbench.backbones.anatomy import sites
from peftbench.doors import Context
from peftbench.methods.registry import method_class

ROLES = ("key", "value", "ffn_out")


def larger(model):
    """In double precision and with weights and biases large enough that no vector's effect drowns in rounding."""
    model.double()
    torch.manual_seed(6)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(std=0.3)
    return model


def randomise(attachment, seed=5):
    torch.manual_seed(seed)
    with torch.no_grad():
        for rescaling in attachment.rescalings.values():
            rescaling.vector.copy_(1 + 0.5 * torch.randn_like(rescaling.vector))


@pytest.mark.parametrize(
    ("make", "family"),
    [(tiny_model, f) for f in ("bert", "llama", "t5", "bart", "gpt2")] + [(tiny_generator, f) for f in ("t5", "llama")],
)
def test_logits_and_gradients_are_pefts(make, family):
    peft = pytest.importorskip("peft")
    model = larger(make(family)).requires_grad_(False)
    attachment = replace(method_class("ia3")()).attach(model, Context(torch.Generator(), 40, "tiny"))
    randomise(attachment)
    model.double()
    names = [site.name for site in attachment.rescalings]
    feed_forward = [site.name for site in attachment.rescalings if site.role == "ffn_out"]
    config = peft.IA3Config(target_modules=names, feedforward_modules=feed_forward)
    twin = peft.get_peft_model(larger(make(family)), config)
    theirs = {site: twin.base_model.model.get_submodule(site.name) for site in attachment.rescalings}
    with torch.no_grad():
        for site, rescaling in attachment.rescalings.items():
            vector = theirs[site].ia3_l["default"]
            vector.copy_(rescaling.vector.view(vector.shape))
    inputs = batch() if make is tiny_model else batch() | {"labels": batch(seed=1)["input_ids"]}
    ours, other = model(**inputs), twin.eval()(**inputs)
    torch.testing.assert_close(ours.logits, other.logits, rtol=0, atol=1e-9)
    ours.loss.backward()
    other.loss.backward()
    for site, rescaling in attachment.rescalings.items():
        gradient = theirs[site].ia3_l["default"].grad.view(-1)
        torch.testing.assert_close(rescaling.vector.grad, gradient, rtol=0, atol=1e-9)


def test_berts_attention_output_is_not_rescaled():
    model, attachment = attached("ia3")
    assert {site.name for site in attachment.rescalings} == {site.name for site in sites(tiny_model(), ROLES)}
    layer = model.bert.encoder.layer[0]
    assert not hasattr(layer.attention.output.dense, "ia3")
    # 2d + d_ff per layer; matching the end of the name would add another d.
    assert attachment.count().trained == 2 * (2 * 32 + 64)
    x = torch.randn(2, 5, 32)
    randomise(attachment)
    dense = layer.attention.output.dense
    assert torch.equal(dense(x), torch.nn.functional.linear(x, dense.weight, dense.bias))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_cross_attention_is_rescaled_too(family):
    _, attachment = attached("ia3", family)
    assert attachment.count().trained == 2 * (2 * 32 + 64) + 2 * (4 * 32 + 64)


@pytest.mark.parametrize("family", TINY)
def test_merging_leaves_a_bare_backbone_with_the_same_logits(family):
    model, attachment = attached("ia3", family)
    larger(model)
    before = logits(model)
    randomise(attachment)
    expected = logits(model)
    assert (expected - before).abs().max() > 1e-3
    attachment.merge()
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-9)
    bare = tiny_model(family).double()
    bare.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits(bare), expected, rtol=0, atol=1e-9)


def test_vectors_are_never_decayed_and_stored_by_their_sites_names(tmp_path):
    _, attachment = attached("ia3")
    randomise(attachment)
    assert [(group.name, group.decays) for group in attachment.parameter_groups()] == [("ia3", False)]
    attachment.export(tmp_path)
    stored = {k: v for k, v in load_file(tmp_path / "adapter_model.safetensors").items() if "ia3" in k}
    assert stored.keys() == {f"{site.name}.ia3.vector" for site in attachment.rescalings}
    assert all(torch.equal(stored[f"{s.name}.ia3.vector"], r.vector) for s, r in attachment.rescalings.items())
