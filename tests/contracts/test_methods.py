"""What every method promises at its doors, over every method and every family of backbone.

Adding a method is one row in `METHODS`.
"""

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from conftest import TINY, stock_model, tiny_model

from peftbench.assembly import checkpoint_activations
from peftbench.backbones.anatomy import head_modules, sites
from peftbench.backbones.quantisation import quantise
from peftbench.doors import Clock, Context
from peftbench.errors import ConfigurationError
from peftbench.exported import load_exported
from peftbench.layers.low_rank import LowRankLinear
from peftbench.methods.base import Method
from peftbench.methods.registry import method_class
from peftbench.sparsity import Strength
from peftbench.training.optimizers import check_groups
from peftbench.training.snapshot import restore, snapshot

TOTAL = 20
FEW = 8
"""Steps of a whole training where they change nothing of what is tested."""
METHODS = {
    "full": {},
    "linear_probe": {},
    "lora": {"rank": 4},
    "sora": {"rank": 4},
    "adalora": {"rank": 4, "target_rank": 2},
    "bitfit": {},
    "diff_pruning": {"sparsity_penalty": 0.01, "target": 0.05},
    "qlora": {"rank": 4},
    "prefix_tuning": {"length": 5, "mlp_hidden": 16},
    "p_tuning_v2": {"length": 5},
    "mam": {"prefix_length": 5, "mlp_hidden": 16, "size": 8},
    "unipelt": {"prefix_length": 5, "mlp_hidden": 16, "reduction": 4, "rank": 4},
    "houlsby": {"size": 4, "cross_attention": True},
    "pfeiffer": {"reduction": 4},
    "parallel_adapter": {"size": 4},
    "scaled_parallel_adapter": {"size": 4, "scaling": "learned"},
    "adapter_drop": {"drop": 1, "placement": "houlsby", "size": 4},
    "compacter": {"reduction": 4},
    "ia3": {},
    "prompt_tuning": {"length": 5},
    "p_tuning": {"template": (2, 3)},
    "peft": {"config": {"peft_type": "LOHA", "r": 4}},
}
"""One row per method: what it is attached with here."""
REFUSED: dict[tuple[str, str], str] = {
    **{("bitfit", family): f"a {family} backbone has no biases" for family in ("llama", "t5")},
    **{("unipelt", family): "a decoder must not see" for family in ("gpt2", "llama", "t5", "bart")},
}
"""(method, family) -> what the refusal says, for pairs that make no sense."""
LOW_RANK = ("lora", "sora", "adalora", "qlora")
PAIRS = [(name, family) for name in METHODS for family in TINY if (name, family) not in REFUSED]


def base(name, family="bert"):
    """A tiny model as the method takes it, in 4 bits where it needs them."""
    model = tiny_model(family)
    if method_class(name).capabilities.quantised_base == "needed":
        pytest.importorskip("bitsandbytes")
        quantise(model, compute_dtype=torch.float32)
    return model


def attached(name, family="bert", seed=0, total=TOTAL, **changes):
    """A tiny model with the method attached and its head trained."""
    return attached_to(base(name, family), name, seed, total, **changes)


def attached_to(model, name, seed=0, total=TOTAL, **changes):
    """The model with the method attached and its head trained."""
    model.requires_grad_(False)
    head = head_modules(model)
    method = replace(method_class(name)(), **METHODS[name] | changes)
    context = Context(torch.Generator().manual_seed(seed), total, "tiny", head)
    attachment = method.attach(model, context)
    for part in head:
        model.get_submodule(part).requires_grad_(True)
    return model, attachment


def batch(rows=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 600, (rows, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    # T5 and BART pool at the end token, decoders before the padding: the rows look like a tokenizer's.
    ids[mask == 0] = 0
    ids[torch.arange(rows), mask.sum(1) - 1] = 3
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.arange(rows) % 2}


def logits(model):
    model.eval()
    with torch.no_grad():
        inputs = batch()
        inputs.pop("labels")
        return model(**inputs).logits


def train(model, attachment, steps=TOTAL, strength=14.0, lr=0.05, total=TOTAL):
    """A few plain steps through the doors, strong enough that gates reach zero and budgets move."""
    groups = attachment.parameter_groups()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=lr)
    model.train()
    for step in range(1, steps + 1):
        loss = model(**batch(seed=step)).loss
        penalty = attachment.penalty()
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        lrs = {group.name: lr for group in groups}
        attachment.after_step(Clock(step, total, 0, lrs, Strength(strength / total, scales_with_lr=True)))
        optimizer.zero_grad()


each = pytest.mark.parametrize("name", METHODS)
ALIKE = ("roberta", "distilbert", "electra", "mpnet")
"""Families whose blocks are BERT's under other names: the short tests try them with LoRA alone."""
each_pair = pytest.mark.parametrize(
    ("name", "family"),
    [pytest.param(*p, marks=pytest.mark.long if p[1] in ALIKE and p[0] != "lora" else ()) for p in PAIRS],
)
each_low_rank = pytest.mark.parametrize("name", LOW_RANK)


@each_pair
def test_attaching_leaves_outputs_as_they_were(name, family):
    if not method_class(name).capabilities.identity_at_start:
        pytest.skip("does not claim to be the identity at the start")
    before = logits(base(name, family))
    model, _ = attached(name, family)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)


@each_pair
def test_exactly_the_claimed_parameters_get_gradients(name, family):
    model, attachment = attached(name, family)
    train(model, attachment, steps=2)
    loss = model(**batch()).loss
    penalty = attachment.penalty()
    (loss if penalty is None else loss + penalty).backward()
    head = tuple(f"{part}." for part in head_modules(model))
    claimed = {id(p) for group in attachment.parameter_groups() for p in group.parameters}
    for parameter_name, parameter in model.named_parameters():
        expected = id(parameter) in claimed or parameter_name.startswith(head)
        assert parameter.requires_grad == expected, parameter_name
        if not expected:
            assert parameter.grad is None, parameter_name
        # A position or a token that no batch holds has no gradient of its own; whole matrices must have one.
        elif "embeddings" not in parameter_name:
            assert parameter.grad is not None, parameter_name


@pytest.mark.parametrize(
    ("name", "family"), [pair for pair in PAIRS if pair[1] in ("bert", "deberta-v2", "gpt2", "llama", "t5")]
)
def test_gradients_are_the_same_under_gradient_checkpointing(name, family):
    found = []
    for checkpointing in (False, True):
        model, attachment = attached(name, family)
        train(model, attachment, steps=1)
        if checkpointing:
            checkpoint_activations(model)
        torch.manual_seed(0)
        model(**batch()).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad and p.grad is not None})
    plain, recomputed = found
    assert plain.keys() == recomputed.keys()
    for parameter, gradient in plain.items():
        torch.testing.assert_close(recomputed[parameter], gradient, rtol=1e-4, atol=1e-7, msg=parameter)


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_a_pair_that_makes_no_sense_is_refused_in_words(name, family):
    with pytest.raises(ConfigurationError, match=REFUSED[name, family]):
        attached(name, family)


@each
def test_groups_hold_every_trained_parameter_once(name):
    model, attachment = attached(name)
    head = [p for part in head_modules(model) for p in model.get_submodule(part).parameters()]
    from peftbench.doors import ParameterGroup

    groups = [*attachment.parameter_groups(), ParameterGroup("head", head)]
    check_groups(model, groups)
    with pytest.raises(RuntimeError, match="doubled"):
        check_groups(model, [*groups, groups[-1]])
    with pytest.raises(RuntimeError, match="in no group"):
        check_groups(model, groups[:-1])


@each
def test_counts_are_those_of_brute_force(name):
    model, attachment = attached(name)
    counts = attachment.count()
    head = tuple(f"{part}." for part in head_modules(model))
    trained = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and not n.startswith(head))
    plain = sum(p.numel() for n, p in tiny_model().named_parameters() if not n.startswith(head))
    assert counts.trained == trained
    assert counts.backbone == plain


@each
def test_the_seed_of_the_generator_is_the_only_randomness(name):
    torch.manual_seed(1)
    first = snapshot(*attached(name))["parameters"]
    torch.manual_seed(2)
    second = snapshot(*attached(name))["parameters"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)


@each
def test_attaching_draws_nothing_from_the_global_generator(name):
    model = base(name)
    before = torch.get_rng_state()
    attached_to(model, name)
    assert torch.equal(torch.get_rng_state(), before)


@each
def test_state_goes_back_as_it_was(name):
    model, attachment = attached(name)
    train(model, attachment, steps=TOTAL // 2)
    kept = snapshot(model, attachment)
    before = logits(model)
    train(model, attachment, steps=4)
    assert not torch.equal(logits(model), before)
    restore(model, attachment, kept)
    assert torch.equal(logits(model), before)
    again = snapshot(model, attachment)
    assert all(
        torch.equal(v, again["method"][k]) if torch.is_tensor(v) else v == again["method"][k]
        for k, v in kept["method"].items()
    )


@each_pair
def test_finalize_keeps_logits_and_what_is_exported_goes_back_onto_a_stock_model(name, family, tmp_path):
    model, attachment = attached(name, family, total=FEW)
    train(model, attachment, FEW, total=FEW)
    before = logits(model)
    attachment.finalize()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    attachment.export(tmp_path)
    if method_class(name).capabilities.exports_peft:
        with pytest.raises(ConfigurationError, match=r"PeftModel\.from_pretrained"):
            load_exported(tmp_path, tiny_model(family))
        return
    torch.testing.assert_close(logits(load_exported(tmp_path, stock_model(family))), logits(model), rtol=0, atol=1e-5)


@each
def test_merge_keeps_logits_and_leaves_no_low_rank_layer(name):
    if not method_class(name).capabilities.mergeable:
        with pytest.raises(ConfigurationError, match="cannot be folded"):
            method_class(name)().check(head="train", merge=True)
        return
    model, attachment = attached(name)
    train(model, attachment)
    before = logits(model)
    attachment.finalize()
    attachment.merge()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    assert not [m for m in model.modules() if isinstance(m, LowRankLinear)]


@each
def test_penalty_has_the_gradient_of_finite_differences(name):
    changes = {"gate_l1": 0.7} if name == "sora" else {}
    model, attachment = attached(name, **changes)
    model.double()
    if attachment.penalty() is None:
        assert name not in ("sora", "adalora", "diff_pruning")
        return
    parameters = [p for group in attachment.parameter_groups() for p in group.parameters]
    torch.manual_seed(0)
    for p in parameters:
        torch.nn.init.normal_(p, std=0.5)
    attachment.penalty().backward()
    for parameter in parameters[:3] + parameters[-2:]:
        flat = parameter.data.view(-1)
        analytic = 0.0 if parameter.grad is None else parameter.grad.view(-1)[0].item()
        values = []
        for shift in (1e-6, -2e-6):
            flat[0] += shift
            values.append(attachment.penalty().item())
        flat[0] += 1e-6
        assert math.isclose(analytic, (values[0] - values[1]) / 2e-6, rel_tol=1e-4, abs_tol=1e-7)


@pytest.mark.parametrize("name", ["lora", "sora", "adalora"])
def test_a_pass_that_fails_half_way_leaves_nothing_once_the_next_begins(name):
    """Llama's gate computes its up map too; what fails between them would keep every activation below."""
    model, _ = attached(name, "llama")
    outputs = []
    layer = model.get_submodule("model.layers.1.mlp.gate_proj")
    layer.register_forward_hook(lambda _, __, output: outputs.append(weakref.ref(output.grad_fn)))
    broken = model.get_submodule("model.layers.1.mlp.act_fn").register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**batch())
    gc.collect()
    assert outputs[0]() is not None
    broken.remove()
    begun = []
    model.model.embed_tokens.register_forward_hook(lambda *_: begun.append(outputs[0]()))
    model(**batch())
    assert begun == [None]


@each_low_rank
def test_effective_count_is_brute_force_on_the_folded_modules(name):
    model, attachment = attached(name)
    train(model, attachment)
    effective = attachment.count().effective
    ranks = attachment.ranks()
    attachment.finalize()
    folded = [m for m in model.modules() if isinstance(m, LowRankLinear)]
    assert effective == sum(m.lora_A.numel() + m.lora_B.numel() for m in folded)
    assert sum(ranks.values()) == sum(m.rank for m in folded)
    assert attachment.count().effective == effective
    if name not in ("lora", "qlora"):
        assert 0 < sum(ranks.values()) < 4 * len(ranks)


def test_a_sora_site_without_rank_disappears():
    model, attachment = attached("sora")
    name = sites(tiny_model(), ("query",))[0].name
    with torch.no_grad():
        model.get_submodule(name).gate.zero_()
    before = logits(model)
    attachment.finalize()
    assert isinstance(model.get_submodule(name), torch.nn.Linear)
    assert attachment.ranks()[name] == 0
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-6)


def test_sora_counts_as_the_released_code_beside_the_exact_count():
    _, attachment = attached("sora")
    layers = list(attachment.layers.items())
    ffn = next(layer for site, layer in layers if site.role == "ffn_in")
    with torch.no_grad():
        for _, layer in layers:
            layer.gate.fill_(1.0)
        ffn.gate[:3] = 0
    counts = attachment.count()
    total = sum(4 * (site.in_features + site.out_features) for site, _ in layers)
    assert counts.trained == total + 4 * len(layers)
    assert counts.effective == total - 3 * (32 + 64)
    assert counts.paper == total - 3 * 2 * 32


def test_adalora_fails_loudly_where_its_budget_never_moved():
    from peftbench.errors import RunError

    model, attachment = attached("adalora")
    train(model, attachment, steps=5)
    assert not attachment.selectable
    with pytest.raises(RunError, match="never reached"):
        attachment.check_finished()
    train(model, attachment)
    assert attachment.selectable
    attachment.check_finished()


def test_soras_l1_term_is_the_coefficient_times_the_mean_absolute_gate():
    _, attachment = attached("sora", gate_l1=10.0)
    gates = torch.cat([g.detach() for g in attachment.gates])
    assert attachment.penalty().item() == pytest.approx(10 * gates.abs().mean().item())
    assert attached("sora")[1].penalty() is None


def test_soras_gates_are_never_decayed():
    _, attachment = attached("sora")
    assert {group.name: group.decays for group in attachment.parameter_groups()} == {"low_rank": True, "gate": False}


def test_soras_threshold_goes_with_the_gates_own_rate():
    _, attachment = attached("sora")
    with torch.no_grad():
        for gate in attachment.gates:
            gate.fill_(1.0)
    lrs = {"low_rank": 0.5, "gate": 0.1}
    attachment.after_step(Clock(1, TOTAL, 0, lrs, Strength(2.0, scales_with_lr=True)))
    assert all(torch.allclose(gate, torch.full_like(gate, 0.8)) for gate in attachment.gates)


def test_the_released_count_is_by_hidden_size_even_where_only_wide_maps_are_adapted():
    _, attachment = attached("sora", sites=("ffn_out",))
    with torch.no_grad():
        for gate in attachment.gates:
            gate.zero_()
    assert attachment.count().paper == 2 * (4 * (32 + 64) - 4 * 2 * 32)


@each
def test_the_listing_says_what_a_method_can(name):
    from peftbench.guide import listing

    cls = method_class(name)
    can = {
        "merges": cls.capabilities.mergeable,
        "loads in PEFT": cls.capabilities.exports_peft,
        "4-bit base": cls.capabilities.quantised_base != "refused",
        "sparsity schedule": cls.capabilities.gated,
        "mixed batches": cls.by_row.__func__ is not Method.by_row.__func__,
    }
    (line,) = [line for line in listing(["methods"]).splitlines() if line.split()[0] == name]
    said = line[line.rindex("[") + 1 : -1].split(", ") if line.endswith("]") else []
    assert said == [word for word, does in can.items() if does]
