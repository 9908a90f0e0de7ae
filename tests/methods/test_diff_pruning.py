"""Diff-Pruning: the projection against brute force, the mask under Adam, one sample per forward pass, counts."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_generator, tiny_model
from contracts.test_methods import TOTAL, attached, batch, logits, train
from safetensors.torch import load_file
from torch.nn.utils import parametrize

from peftbench.assembly import attach, checkpoint_activations, counts
from peftbench.backbones.anatomy import head_modules
from peftbench.backbones.loading import random_model
from peftbench.compose import compose_run
from peftbench.doors import Clock, Context
from peftbench.errors import ConfigurationError, RunError
from peftbench.methods.registry import method_class
from peftbench.sparsity import Strength
from peftbench.strict import build
from peftbench.training.checkpoint import load_checkpoint, save_checkpoint
from peftbench.training.snapshot import restore, snapshot


def clock(step):
    return Clock(step, TOTAL, 0, {}, Strength(0.0, scales_with_lr=True))


def outside_head(model, family="bert"):
    head = tuple(f"{part}." for part in head_modules(model))
    return {n: p for n, p in model.named_parameters() if not n.startswith(head)}


def adam_steps(model, attachment, first, steps):
    """Steps of AdamW with decay, so that moments and decay push at masked weights too."""
    groups = attachment.parameter_groups()
    optimizer = torch.optim.AdamW(
        [{"params": list(g.parameters), "lr": 0.1 if g.name == "gate" else 0.01} for g in groups], weight_decay=0.1
    )
    model.train()
    for step in range(first, first + steps):
        loss, penalty = model(**batch(seed=step)).loss, attachment.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        attachment.after_step(clock(step))
        optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize(("model", "groups"), [("bert_base", 197), ("bert_large", 389)])
def test_counts_at_published_sizes(model, groups):
    config = compose_run(["method=diff_pruning", f"model={model}", "preset=none"])
    with torch.device("meta"):
        backbone = random_model(config.model, 2)
    attachment, all_groups = attach(config, backbone, "none", total_steps=1000, length=128)
    found = counts(attachment, all_groups)
    total = found.backbone
    # The paper's 393 groups of BERT-large are these, the pooler's two and the output layer's two.
    assert len(attachment.targets) == groups
    assert found.trained == 2 * total + groups
    assert found.effective == found.stored == round(0.005 * total)


@pytest.mark.parametrize("structured", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_the_projection_keeps_exactly_the_largest(family, structured):
    _, attachment = attached("diff_pruning", family, structured=structured, target=0.03)
    plain = outside_head(tiny_model(family))
    total = sum(p.numel() for p in plain.values())
    size = round(0.03 * total)
    generator = torch.Generator().manual_seed(1)
    magnitudes = []
    for target, delta in zip(attachment.targets, attachment.deltas, strict=True):
        with torch.no_grad():
            for p in delta.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))
            delta.alpha.add_(1)
        z = (3 * torch.sigmoid(delta.alpha) - 1.5).clamp(0, 1)
        if structured:
            torch.nn.init.ones_(delta.group_alpha)
            z = z * (3 * torch.sigmoid(delta.group_alpha) - 1.5).clamp(0, 1)
        magnitudes.append((target.name, (z * delta.w).detach()))
    assert [name for name, _ in magnitudes] == list(plain)
    flat = torch.cat([d.flatten() for _, d in magnitudes])
    threshold = flat.abs().sort(descending=True).values[size - 1]
    for step in range(1, TOTAL + 1):
        attachment.after_step(clock(step))
        assert attachment.selectable == (step >= TOTAL // 2)
    for delta, target, (_, dense) in zip(attachment.sparse(), attachment.targets, magnitudes, strict=True):
        kept = torch.where(dense.abs() >= threshold, dense, 0)
        torch.testing.assert_close(delta(target.parameter), target.parameter + kept)
    assert sum(len(delta.indices) for delta in attachment.sparse()) == size
    assert attachment.count().effective == attachment.count().stored == size
    assert attachment.analysis()["learned_share"] == pytest.approx(float((flat != 0).sum()) / total)
    assert attachment.penalty() is None


def test_ties_and_zeros_do_not_change_the_number_that_is_kept():
    _, attachment = attached("diff_pruning", target=0.2)
    attachment.after_step(clock(TOTAL))
    kept = [delta.indices for delta in attachment.sparse()]
    assert sum(len(indices) for indices in kept) == attachment.count().effective
    assert all(len(indices) == len(indices.unique()) for indices in kept)


def test_nothing_outside_the_mask_moves_whatever_the_optimizer_remembers():
    model, attachment = attached("diff_pruning")
    optimizer = adam_steps(model, attachment, 1, TOTAL // 2)
    assert attachment.projected
    kept = {t.name: set(d.kept.tolist()) for t, d in zip(attachment.targets, attachment.deltas, strict=True)}
    outside = [p.detach().clone() for g in attachment.parameter_groups() if g.name == "gate" for p in g.parameters]
    masked = {t.name: t.value.clone() for t in attachment.targets}
    # The same optimizer, moments and all, goes on under the mask.
    for step in range(TOTAL // 2 + 1, TOTAL + 1):
        model(**batch(seed=step)).loss.backward()
        optimizer.step()
        attachment.after_step(clock(step))
        optimizer.zero_grad()
    gates = [p for g in attachment.parameter_groups() if g.name == "gate" for p in g.parameters]
    assert all(torch.equal(a, b) for a, b in zip(outside, gates, strict=True))
    old = outside_head(tiny_model())
    moved = 0
    for target in attachment.targets:
        changed = {int(i) for i in (target.value != old[target.name]).flatten().nonzero()}
        assert changed <= kept[target.name]
        moved += int((target.value != masked[target.name]).sum())
    assert moved > attachment.size // 2


@pytest.mark.parametrize("family", ["gpt2", "t5", "bart"])
def test_tied_weights_have_one_delta_and_one_sample(family):
    model = tiny_generator(family).requires_grad_(False)
    tied = model.get_input_embeddings().weight
    context = Context(torch.Generator(), TOTAL, "tiny", head_modules(model))
    attachment = method_class("diff_pruning")().attach(model, context)
    targets = [t for t in attachment.targets if t.parameter is tied]
    assert len(targets) == 1
    assert len(targets[0].places) > 1
    for delta in attachment.deltas:
        torch.nn.init.ones_(delta.w)
        torch.nn.init.zeros_(delta.alpha)
    model.train()
    inputs = {key: value for key, value in batch().items() if key != "labels"}
    seen = []
    for _ in range(2):
        model(**inputs, labels=inputs["input_ids"])
        first, second = (getattr(m, a) for m, a in targets[0].places[:2])
        assert first is second
        seen.append(first.detach().clone())
    assert not torch.equal(*seen)
    with torch.no_grad():
        for step in range(1, TOTAL + 1):
            attachment.after_step(clock(step))
    model.eval()
    before = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=4)
    attachment.finalize()
    attachment.merge()
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is tied
    after = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=4)
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("projected", [False, True])
def test_checkpointed_activations_see_the_same_sample(family, projected):
    gradients = []
    for checkpointing in (False, True):
        model, attachment = attached("diff_pruning", family)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for delta in attachment.deltas:
            torch.nn.init.constant_(delta.w, 0.1)
            torch.nn.init.zeros_(delta.alpha)
        if projected:
            attachment.after_step(clock(TOTAL))
        if checkpointing:
            checkpoint_activations(model)
        model.train()
        torch.manual_seed(3)
        model(**batch()).loss.backward()
        gradients.append([delta.w.grad for delta in attachment.deltas])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_penalty_is_lambda_times_the_expected_number_of_non_zeros():
    _, attachment = attached("diff_pruning", alpha_init=0.5, sparsity_penalty=0.25)
    total = sum(p.numel() for p in outside_head(tiny_model()).values())
    chance = torch.sigmoid(torch.tensor(0.5)).item()
    assert attachment.penalty().item() == pytest.approx(0.25 * chance**2 * total, rel=1e-5)
    assert attachment.status()["nonzero_share"] == pytest.approx(chance**2, rel=1e-5)
    _, attachment = attached("diff_pruning", alpha_init=0.5, sparsity_penalty=0.25, structured=False)
    assert attachment.penalty().item() == pytest.approx(0.25 * chance * total, rel=1e-5)
    assert attached("diff_pruning", sparsity_penalty=0.0)[1].penalty() is None


def test_a_strong_penalty_closes_gates():
    model, attachment = attached("diff_pruning", sparsity_penalty=1.0, alpha_init=1.0)
    before = attachment.penalty().item()
    adam_steps(model, attachment, 1, TOTAL // 2 - 1)
    assert attachment.penalty().item() < 0.6 * before


def test_a_run_that_ends_before_the_projection_fails_loudly():
    model, attachment = attached("diff_pruning")
    train(model, attachment, steps=TOTAL // 2 - 1)
    assert not attachment.selectable
    with pytest.raises(RunError, match=f"never fixed its mask: training ended before step {TOTAL // 2}"):
        attachment.check_finished()
    train(model, attachment)
    assert attachment.selectable
    attachment.check_finished()


@pytest.mark.parametrize(("share", "steps", "expected"), [(0.5, 40, 20), (0.0, 40, 40), (0.9, 40, 4), (0.5, 1, 1)])
def test_the_step_of_the_projection(share, steps, expected):
    method = replace(method_class("diff_pruning")(), fixed_mask_share=share)
    model = tiny_model().requires_grad_(False)
    attachment = method.attach(model, Context(torch.Generator(), steps, "tiny", head_modules(model)))
    assert attachment.projection_step == expected


def test_a_state_goes_back_across_the_projection_and_through_a_file(tmp_path):
    model, attachment = attached("diff_pruning")
    train(model, attachment, steps=5)
    early, before = snapshot(model, attachment), logits(model)
    adam_steps(model, attachment, 6, TOTAL - 5)
    late, after = snapshot(model, attachment), logits(model)
    restore(model, attachment, early)
    assert not attachment.projected
    assert not attachment.selectable
    assert torch.equal(logits(model), before)
    save_checkpoint(tmp_path / "state", late)
    fresh, other = attached("diff_pruning")
    restore(fresh, other, load_checkpoint(tmp_path / "state"))
    assert other.selectable
    assert torch.equal(logits(fresh), after)
    assert other.state_dict().keys() == late["method"].keys()
    assert other.analysis() == {**other.analysis(), "learned_share": late["method"]["learned_share"]}


def test_resuming_in_the_middle_equals_going_on():
    results = []
    for interrupted in (False, True):
        model, attachment = attached("diff_pruning")
        torch.manual_seed(0)
        train(model, attachment, steps=TOTAL // 4, lr=0.01)
        if interrupted:
            copy, state = snapshot(model, attachment), torch.get_rng_state()
            model, attachment = attached("diff_pruning")
            restore(model, attachment, copy)
            torch.set_rng_state(state)
        train(model, attachment, steps=TOTAL, lr=0.01)
        results.append(logits(model))
    assert torch.equal(*results)


def test_the_export_is_sparse_and_rebuilds_the_model(tmp_path):
    model, attachment = attached("diff_pruning")
    train(model, attachment)
    before = logits(model)
    for finalized in (False, True):
        if finalized:
            attachment.finalize()
            attachment.finalize()
        attachment.export(tmp_path)
        found = load_file(tmp_path / "adapter_model.safetensors")
        fresh = tiny_model()
        own = dict(fresh.named_parameters())
        values = 0
        with torch.no_grad():
            for name, tensor in found.items():
                if name.endswith(".indices"):
                    assert tensor.dtype == torch.int32
                    base = name.removesuffix(".indices")
                    own[base].view(-1)[tensor.long()] += found[f"{base}.values"]
                elif name.endswith(".values"):
                    values += tensor.numel()
                else:
                    own[name].copy_(tensor)
        assert values == attachment.count().stored == round(0.05 * attachment.count().backbone)
        torch.testing.assert_close(logits(fresh), before, rtol=0, atol=1e-6)


def test_analysis_counts_shares_and_untouched_groups():
    model, attachment = attached("diff_pruning")
    train(model, attachment)
    found = attachment.analysis()
    old = outside_head(tiny_model())
    changed = {t.name: len(d.indices) for t, d in zip(attachment.targets, attachment.sparse(), strict=True)}
    assert found["groups"] == len(old)
    assert found["zero_groups"] == sum(not n for n in changed.values()) > 0
    query = "bert.encoder.layer.1.attention.self.query"
    share = (changed[f"{query}.weight"] + changed[f"{query}.bias"]) / (32 * 32 + 32)
    assert found["nonzero_share"]["query"][1] == pytest.approx(share)
    inside = [name for name in old if name.startswith("bert.embeddings.")]
    share = sum(changed[n] for n in inside) / sum(old[n].numel() for n in inside)
    assert found["nonzero_share"]["embeddings"] == pytest.approx([share])
    attachment.finalize()
    assert attachment.analysis() == found


def test_gates_have_their_own_rate_and_are_not_decayed():
    groups = {g.name: g for g in attached("diff_pruning")[1].parameter_groups()}
    assert {name: (g.lr, g.decays) for name, g in groups.items()} == {
        "delta": (None, True), "delta_no_decay": (None, False), "gate": (0.1, False),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"l": 0.1}, "must be below 0"),
        ({"r": 0.9}, "too small"),
        ({"target": 0.0}, "above 0"),
        ({"fixed_mask_share": 1.0}, "too large"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ConfigurationError, match=said):
        build(method_class("diff_pruning"), values, "method", "conf/method/diff_pruning.yaml")
