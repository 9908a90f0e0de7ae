"""Against HF PEFT on the same weights: logits, gradients, AdaLoRA's masks, and loading what is exported."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import TINY, tiny_model
from contracts.test_methods import attached, batch, logits, train

from peftbench.backbones.anatomy import sites
from peftbench.doors import Clock, Context
from peftbench.methods.low_rank_family import ALL_SITES
from peftbench.methods.registry import method_class
from peftbench.sparsity import Strength

peft = pytest.importorskip("peft")


def peft_twin(family, attachment, **config):
    """PEFT's model of the same tiny backbone with our factors copied in; its layers by our site names."""
    names = [site.name for site in attachment.layers]
    kind = peft.AdaLoraConfig if "total_step" in config else peft.LoraConfig
    twin = peft.get_peft_model(tiny_model(family).double(), kind(target_modules=names, **config))
    layers = {name: twin.base_model.model.get_submodule(name) for name in names}
    with torch.no_grad():
        for site, layer in attachment.layers.items():
            theirs = layers[site.name]
            for part in ("lora_A", "lora_B"):
                target = getattr(theirs, part)["default"]
                (target.weight if hasattr(target, "weight") else target).copy_(getattr(layer, part))
            if layer.gate is not None:
                theirs.lora_E["default"].copy_(layer.gate.unsqueeze(1))
    return twin, layers


def randomised(name, family, **changes):
    model, attachment = attached(name, family, **changes)
    model.double()
    torch.manual_seed(5)
    for group in attachment.parameter_groups():
        for parameter in group.parameters:
            torch.nn.init.normal_(parameter, std=0.3)
    return model, attachment


@pytest.mark.parametrize("family", TINY)
def test_lora_has_pefts_logits_and_gradients(family):
    model, attachment = randomised("lora", family)
    twin, layers = peft_twin(family, attachment, r=4, lora_alpha=16, lora_dropout=0.0)
    model.eval()
    twin.eval()
    ours, theirs = model(**batch()), twin(**batch())
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-6)
    ours.loss.backward()
    theirs.loss.backward()
    for site, layer in attachment.layers.items():
        for part in ("lora_A", "lora_B"):
            expected = getattr(layers[site.name], part)["default"].weight.grad
            torch.testing.assert_close(getattr(layer, part).grad, expected, rtol=0, atol=1e-6)


def test_adalora_has_pefts_masks_site_by_site_at_every_step():
    total, t_initial, t_final = 30, 5, 8
    settings = {"t_initial": t_initial, "t_final": t_final, "delta_t": 3}
    method = replace(method_class("adalora")(), rank=4, target_rank=2, **settings)
    model = tiny_model().double().requires_grad_(False)
    attachment = method.attach(model, Context(torch.Generator().manual_seed(0), total, "tiny"))
    model.double()
    attachment.sensitivity = [t.double() for t in attachment.sensitivity]
    attachment.uncertainty = [t.double() for t in attachment.uncertainty]
    twin, layers = peft_twin(
        "bert", attachment, init_r=4, target_r=2, lora_alpha=32, tinit=t_initial, tfinal=t_final, deltaT=3,
        total_step=total, orth_reg_weight=0.1,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(9)
    moved = 0
    for step in range(1, total + 1):
        for site, layer in attachment.layers.items():
            theirs = layers[site.name]
            pairs = [
                (layer.lora_A, theirs.lora_A["default"]),
                (layer.lora_B, theirs.lora_B["default"]),
                (layer.gate, theirs.lora_E["default"]),
            ]
            for mine, other in pairs:
                gradient = torch.randn(mine.shape, generator=rng, dtype=torch.float64)
                mine.grad, other.grad = gradient.clone(), gradient.view_as(other).clone()
                with torch.no_grad():
                    mine -= 0.05 * mine.grad
                    other -= 0.05 * other.grad
        attachment.after_step(Clock(step, total, 0, {}, Strength(0.0, True)))
        twin.base_model.update_and_allocate(step)
        for site, layer in attachment.layers.items():
            expected = layers[site.name].lora_E["default"].view(-1)
            assert torch.equal(layer.gate == 0, expected == 0), (step, site.name)
            torch.testing.assert_close(layer.gate, expected, rtol=1e-12, atol=1e-14)
        moved += int(attachment.mask is not None and not bool(attachment.mask.all()))
    assert moved > 10
    assert sum(attachment.ranks().values()) == 2 * len(attachment.layers)


def test_adalora_has_pefts_penalty_and_forward():
    model, attachment = randomised("adalora", "bert")
    twin, _ = peft_twin(
        "bert", attachment, init_r=4, target_r=2, lora_alpha=32, tinit=1, tfinal=1, total_step=40, orth_reg_weight=0.1
    )
    model.eval()
    twin.eval()
    # PEFT adds its penalty in the tuner's own forward, which PeftModel goes around.
    theirs, ours = twin.base_model(**batch()), model(**batch())
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.loss + attachment.penalty(), theirs.loss, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("name", ["lora", "sora", "adalora"])
def test_peft_loads_the_export_and_predicts_the_same(name, family, tmp_path):
    model, attachment = attached(name, family)
    train(model, attachment)
    expected = logits(model)
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(family), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    live = {k: v for k, v in attachment.ranks().items() if v}
    assert config["rank_pattern"] == live
    if name != "lora":
        assert 0 < sum(live.values()) < 4 * len(attachment.ranks())


def test_peft_loads_an_export_without_any_rank(tmp_path):
    model, attachment = attached("sora")
    with torch.no_grad():
        for gate in attachment.gates:
            gate.zero_()
    expected = logits(model)
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-6)
    assert attachment.count().stored == sum(p.numel() for n, p in loaded.named_parameters() if "lora_" in n)


def test_the_export_is_the_same_before_and_after_pruning(tmp_path):
    from safetensors.torch import load_file

    model, attachment = attached("sora")
    train(model, attachment)
    attachment.export(tmp_path / "before")
    attachment.finalize()
    attachment.export(tmp_path / "after")
    before, after = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("before", "after"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_all_sites_are_the_six_maps_of_every_layer():
    assert len(sites(tiny_model(), ALL_SITES)) == 12
