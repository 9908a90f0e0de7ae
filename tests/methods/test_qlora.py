"""Low-rank methods beside a 4-bit backbone: training, merging, export, whole runs."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from contracts.test_methods import TOTAL, batch, logits

bitsandbytes = pytest.importorskip("bitsandbytes")

from peftbench.backbones.anatomy import ROLES, head_modules, sites  # noqa: E402
from peftbench.backbones.nf4 import NF4Linear  # noqa: E402
from peftbench.backbones.quantisation import dequantise, quantise  # noqa: E402
from peftbench.cli import exit_status  # noqa: E402
from peftbench.compose import compose_run  # noqa: E402
from peftbench.config import PagedAdamW  # noqa: E402
from peftbench.doors import Clock, Context, ParameterGroup  # noqa: E402
from peftbench.errors import ConfigurationError  # noqa: E402
from peftbench.experiment import run_experiment  # noqa: E402
from peftbench.methods.registry import method_class  # noqa: E402
from peftbench.sparsity import Strength  # noqa: E402
from peftbench.training.optimizers import Optimizers  # noqa: E402

SMALL = {"qlora": {"rank": 4, "dropout": 0.0}, "sora": {"rank": 4}, "adalora": {"rank": 4, "target_rank": 2}}
each = pytest.mark.parametrize("name", SMALL)


def quantised(name, family="bert", compute_dtype=torch.float32, **changes):
    """A tiny 4-bit model with the method attached and its head trained."""
    model = tiny_model(family)
    quantise(model, compute_dtype=compute_dtype)
    model.requires_grad_(False)
    head = head_modules(model)
    method = replace(method_class(name)(), **SMALL[name], **changes)
    attachment = method.attach(model, Context(torch.Generator().manual_seed(0), TOTAL, "tiny", head))
    for part in head:
        model.get_submodule(part).requires_grad_(True)
    return model, attachment


def fit(model, attachment, steps=TOTAL, strength=1.0):
    """Adam on one batch; the losses."""
    groups = attachment.parameter_groups()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for step in range(1, steps + 1):
        loss = model(**batch()).loss
        penalty = attachment.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        lrs = {group.name: 5e-3 for group in groups}
        attachment.after_step(Clock(step, TOTAL, 0, lrs, Strength(strength, scales_with_lr=True)))
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def packed(model) -> dict[str, torch.Tensor]:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, NF4Linear)}
    found = {}
    for name, layer in layers.items():
        state = layer.quant_state
        found |= {f"{name}.data": layer.weight.data, f"{name}.absmax": state.absmax, f"{name}.mean": state.offset}
        found |= {f"{name}.nested": state.state2.absmax} | ({} if layer.bias is None else {f"{name}.bias": layer.bias})
    return {name: tensor.clone() for name, tensor in found.items()}


@each
def test_training_lowers_the_loss_and_never_moves_the_quantised_weights(name):
    model, attachment = quantised(name, compute_dtype=torch.bfloat16)
    before = packed(model)
    assert len(before) == 5 * 12
    losses = fit(model, attachment)
    logits(model)
    assert losses[-1] < 0.5 * losses[0]
    after = packed(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


@each
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_merging_keeps_logits_and_leaves_plain_float32_maps(name, family, tmp_path):
    from transformers import AutoModelForSequenceClassification

    from peftbench.backbones.projections import fuse

    model, attachment = quantised(name, family, sites=("query", "ffn_out"))
    fit(model, attachment)
    before = logits(model)
    attachment.finalize()
    attachment.merge()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=2e-5)
    for site in sites(model, ROLES):
        assert type(model.get_submodule(site.name)) is torch.nn.Linear
        assert model.get_submodule(site.name).weight.dtype == torch.float32
    fuse(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), before, rtol=0, atol=2e-5)


def test_merging_adds_to_the_dequantised_weight_exactly():
    model, attachment = quantised("qlora")
    fit(model, attachment, steps=5)
    expected = {
        site.name: layer.linear.plain().weight + 4.0 * layer.lora_B @ layer.lora_A
        for site, layer in attachment.layers.items()
    }
    attachment.merge()
    for name, weight in expected.items():
        torch.testing.assert_close(model.get_submodule(name).weight, weight, rtol=0, atol=1e-7)


def test_a_site_without_rank_leaves_the_bare_quantised_map():
    model, attachment = quantised("sora")
    name = next(iter(attachment.layers)).name
    with torch.no_grad():
        model.get_submodule(name).gate.zero_()
    before = logits(model)
    attachment.finalize()
    assert isinstance(model.get_submodule(name), NF4Linear)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)


def stock_quantised(family):
    """The tiny model with bitsandbytes' own maps, computing in float32, as PEFT meets it."""
    model = tiny_model(family)
    for site in sites(model, ROLES):
        plain = model.get_submodule(site.name)
        settings = {"compress_statistics": True, "quant_type": "nf4"}
        layer = bitsandbytes.nn.Linear4bit(
            plain.in_features, plain.out_features, plain.bias is not None, compute_dtype=torch.float32, **settings
        )
        layer.load_state_dict(plain.state_dict())
        layer.to("cpu")
        layer.support_avx512bf16_for_cpu = False
        model.set_submodule(site.name, layer)
    model.is_loaded_in_4bit = True
    return model


def dequantised(family):
    model = tiny_model(family)
    quantise(model)
    dequantise(model)
    return model


@each
@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("base", [stock_quantised, dequantised])
def test_the_export_loads_with_peft_on_the_quantised_and_on_the_dequantised_base(name, family, base, tmp_path):
    peft = pytest.importorskip("peft")
    model, attachment = quantised(name, family)
    fit(model, attachment)
    attachment.finalize()
    attachment.export(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    loaded = peft.PeftModel.from_pretrained(base(family), tmp_path)
    four_bit = [module for module in loaded.modules() if type(module).__name__ == "Linear4bit"]
    assert bool(four_bit) == (base is stock_quantised)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=2e-5)


def test_the_defaults_are_the_released_codes():
    method = method_class("qlora")()
    assert (method.rank, method.alpha, method.dropout, method.default_lr) == (64, 16.0, 0.1, 2e-4)
    assert method.sites == ROLES


def test_a_paged_optimizer_is_bitsandbytes_own():
    parameter = torch.nn.Parameter(torch.ones(4))
    made = Optimizers([ParameterGroup("x", [parameter])], PagedAdamW(betas=(0.8, 0.95), weight_decay=0.1), lr=0.5)
    (optimizer,) = made._optimizers
    assert type(optimizer) is bitsandbytes.optim.PagedAdamW32bit
    assert optimizer.is_paged
    (group,) = optimizer.param_groups
    assert (group["name"], group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (
        "x", 0.5, (0.8, 0.95), 1e-8, 0.1,
    )  # fmt: skip


@pytest.mark.parametrize("words", [["trainer.device=cpu"], []])
def test_a_paged_optimizer_without_cuda_is_refused_before_anything_is_read(words, tiny_run, monkeypatch):
    if not words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    monkeypatch.setattr("peftbench.experiment.load_task", None)
    with pytest.raises(ConfigurationError, match=r"^optimizer=paged_adamw .*use optimizer=adamw$"):
        run_experiment(compose_run([*tiny_run, "method=qlora", "optimizer=paged_adamw", *words]))


def test_a_missing_bitsandbytes_is_exit_status_2(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr("peftbench.experiment.load_task", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert exit_status([*tiny_run, "method=qlora"]) == 2
    complaint = capsys.readouterr().err
    assert "bitsandbytes, which quantises and pages, is not installed" in complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    "words",
    [["method=qlora"], ["method=sora", "model.quantization=nf4", "sparsity.lambda=150", "trainer.selection=last"]],
)
def test_a_run_on_a_quantised_backbone_says_what_it_weighs(words, tiny_run):
    record, _ = run_experiment(compose_run([*tiny_run, *words]))
    assert record["status"] == "completed"
    assert record["config"]["model"]["quantization"] == "nf4"
    assert record["environment"]["versions"]["bitsandbytes"]
    memory = record["memory"]
    plain, _ = run_experiment(compose_run([*tiny_run, "method=lora", "trainer.max_steps=1"]))
    assert "backbone_weights_mb_fp32" not in plain["memory"]
    assert memory["backbone_weights_mb_fp32"] == plain["memory"]["backbone_weights_mb"]
    assert memory["backbone_weights_mb_fp32"] == 4 * record["parameters"]["backbone"] / 1e6
    assert memory["backbone_weights_mb_bf16"] == memory["backbone_weights_mb_fp32"] / 2
    assert memory["backbone_weights_mb"] < memory["backbone_weights_mb_fp32"]
    assert record["parameters"]["backbone"] == plain["parameters"]["backbone"]
    if words[0] == "method=sora":
        assert sum(record["ranks"]["final"].values()) < sum(record["ranks"]["initial"].values())


def test_inspect_tells_the_quantised_backbones_size_from_shapes_alone(tiny_run, capsys):
    assert exit_status(["inspect", *tiny_run, "method=qlora"]) == 0
    assert "backbone in nf4" in capsys.readouterr().out
    assert exit_status(["inspect", *tiny_run, "method=lora"]) == 0
    assert "backbone in" not in capsys.readouterr().out
