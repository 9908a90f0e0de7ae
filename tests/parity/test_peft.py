"""Against HF PEFT on the same weights: logits, gradients, AdaLoRA's masks, and loading what is exported."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import TINY, tiny_generator, tiny_model
from contracts.test_methods import ALIKE, attached, batch, logits, train

from peftbench.backbones.anatomy import ROLES, sites
from peftbench.backbones.projections import fuse
from peftbench.doors import Clock, Context
from peftbench.methods.parts.adapter_files import LowRankUpdate, peft_updates
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


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.long if f in ALIKE else ()) for f in TINY])
@pytest.mark.parametrize("name", ["lora", "sora", "adalora"])
def test_peft_loads_the_export_and_predicts_the_same(name, family, tmp_path):
    model, attachment = attached(name, family)
    train(model, attachment)
    expected = logits(model)
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(stock_model(family), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == stock_ranks(attachment)
    assert config["task_type"] == "SEQ_CLS"
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert attachment.count().stored == sum(p.numel() for n, p in loaded.named_parameters() if "lora_" in n)
    if name != "lora":
        assert 0 < sum(attachment.ranks().values()) < 4 * len(attachment.ranks())


def stock_model(family, generator=False):
    """The tiny backbone as transformers builds it, GPT-2's projections fused."""
    model = tiny_generator(family) if generator else tiny_model(family)
    fuse(model)
    assert not any("query" in name for name, _ in model.named_modules() if family == "gpt2")
    return model


def stock_ranks(attachment):
    """Live ranks by the stock model's maps."""
    ranks = Counter()
    for name, rank in attachment.ranks().items():
        parent = name.rpartition(".")[0]
        ranks[parent if parent.endswith("c_attn") else name] += rank
    return {name: rank for name, rank in ranks.items() if rank}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_peft_loads_an_export_without_any_rank(family, tmp_path):
    model, attachment = attached("sora", family)
    with torch.no_grad():
        for gate in attachment.gates:
            gate.zero_()
    expected = logits(model)
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(stock_model(family), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-6)
    assert attachment.count().stored == sum(p.numel() for n, p in loaded.named_parameters() if "lora_" in n)


@pytest.mark.parametrize("sites", [("query", "value"), ("key",), ("value", "ffn_out")])
def test_some_of_the_fused_projections_are_exported(sites, tmp_path):
    model, attachment = attached("lora", "gpt2", sites=sites)
    train(model, attachment)
    expected = logits(model)
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(stock_model("gpt2"), tmp_path)
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)


def test_projections_with_scalings_of_their_own_fuse_exactly():
    """Against the dense update of the fused map, its rows the parts' in turn."""
    model = tiny_model("gpt2")
    generator = torch.Generator().manual_seed(0)
    name = "transformer.h.0.attn.c_attn"
    parts = [
        LowRankUpdate(
            f"{name}.{part}", torch.randn(rank, 32, generator=generator), torch.randn(32, rank, generator=generator), s
        )
        for part, rank, s in (("query", 2, 0.5), ("key", 0, 3.0), ("value", 3, 4.0))
    ]
    (fused,) = peft_updates(parts, model)
    assert (fused.name, fused.a.shape, fused.b.shape) == (name, (5, 32), (96, 5))
    expected = torch.cat([u.scaling * u.b @ u.a for u in parts])
    torch.testing.assert_close(fused.scaling * fused.b @ fused.a, expected)


@pytest.mark.parametrize(("family", "task_type"), [("gpt2", "CAUSAL_LM"), ("llama", "CAUSAL_LM"),
                                                   ("t5", "SEQ_2_SEQ_LM"), ("bart", "SEQ_2_SEQ_LM")])  # fmt: skip
def test_peft_loads_the_export_of_a_language_model(family, task_type, tmp_path):
    model = tiny_generator(family).requires_grad_(False)
    attachment = method_class("lora")(rank=4).attach(model, Context(torch.Generator().manual_seed(0), 1, "tiny"))
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in attachment.layers.values():
            torch.nn.init.normal_(layer.lora_B, std=0.1)
    inputs = batch()
    del inputs["labels"]
    if family in ("t5", "bart"):
        inputs["decoder_input_ids"] = inputs["input_ids"]
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(stock_model(family, generator=True), tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)
        assert not torch.allclose(loaded(**inputs).logits, tiny_generator(family)(**inputs).logits, atol=1e-3)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == task_type


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
    assert len(sites(tiny_model(), ROLES)) == 12
