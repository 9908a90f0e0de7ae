"""Every tuner that HF PEFT registers: trains, counts, merges and loads as PEFT's own does, or is refused in words."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_generator, tiny_model
from contracts.test_methods import batch, logits

from peftbench.backbones.anatomy import head_modules
from peftbench.compose import compose_run
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.experiment import run_experiment
from peftbench.methods.peft import Peft
from peftbench.training.snapshot import restore, snapshot

peft = pytest.importorskip("peft")
mapping = pytest.importorskip("peft.mapping")
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "peft_tuners.md"

TRAINS = {
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "BEFT": {},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "DEFT": {"r": 4},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 32},
    "FROD": {},
    "GLORA": {"r": 4},
    "GRALORA": {"r": 8},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "IA3": {},
    "LILY": {"r": 4},
    "LN_TUNING": {},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "LORA": {"r": 4},
    "MISS": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "OSF": {"effective_rank": 4},
    "PEANUT": {"r": 4},
    "PSOFT": {"r": 8},
    "PVERA": {"r": 8},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "SUPERTUNING": {"sparsity": 0.9},
    "TINYLORA": {},
    "TRAINABLE_TOKENS": {"token_indices": [3, 5, 6, 7]},
    "UNILORA": {"theta_d_length": 32},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "VERA": {"r": 8},
    "WAVEFT": {"n_frequency": 32},
}
"""Settings that fit maps of 32 and 64."""
NOTES = {
    "ADAMSS": "without `use_asa`",
    "BEFT": "refused where an adapted map has no bias (T5, Llama)",
    "LILY": "`trainer.merge` is refused",
    "LN_TUNING": "trains in the backbone's own number type",
    "LORA": "`init_lora_weights`: not `eva`, `corda`, `lora_ga`, `pissa_niter_*`; without `alora_invocation_tokens`,"
    " `arrow_config`, `kasa_config`, `layer_replication`, `monteclora_config`",
    "TRAINABLE_TOKENS": "wants `token_indices`; refused where encoder and decoder share a table (T5, BART)",
}
REFUSED = {
    "ADALORA": "wrapper around the model; use method=adalora$",
    "ADAPTION_PROMPT": "wrapper around the model, for Llama's attention alone$",
    "CARTRIDGE": "made from documents$",
    "CPT": "want token types with every batch$",
    "MULTITASK_PROMPT_TUNING": "want a task id with every batch$",
    "POLY": "wants a task id with every batch$",
    "PREFIX_TUNING": "use method=prefix_tuning$",
    "PROMPT_TUNING": "use method=prompt_tuning$",
    "P_TUNING": "use method=p_tuning$",
    "SHADOW": "a second network, with a loss of its own",
    "XLORA": "adapters that were trained before$",
}
DRAWN = {
    "ADAMSS", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "LILY", "LOHA", "LOKR", "LORA",
    "PEANUT", "SHIRA", "UNILORA", "VBLORA",
}  # fmt: skip
"""Tuners whose start has something random in it; others draw from keys of PEFT's, or nothing."""

UNLIKE = {*NOTES, "FOURIERFT", "IA3", "LOHA", "OFT", "OSF", "ROAD", "SHIRA", "VBLORA", "VERA"}
"""Tuners that differ in what they train, draw or save; the short tests try these alone."""

each = pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in UNLIKE else pytest.mark.long) for k in TRAINS])


def lively(family="bert", make=tiny_model):
    """A tiny model whose weights are large enough, and biases and norms uneven enough, for everything to matter."""
    model = make(family)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if parameter.ndim < 2:
                parameter += 0.1 * noise.to(parameter.device)
            else:
                parameter.copy_(noise if "embed" in name else noise / parameter.shape[1] ** 0.5)
    return model


def attached(kind, family="bert", seed=0, model=None, sites=None, **settings):
    model = lively(family) if model is None else model
    model.requires_grad_(False)
    method = Peft({"peft_type": kind} | TRAINS.get(kind, {}) | settings, sites)
    context = Context(torch.Generator().manual_seed(seed), 40, "tiny", head_modules(model))
    return model, method.attach(model, context)


def train(model, attachment, steps=15):
    """A few steps of AdamW without dropout; the task loss of each."""
    parameters = [p for group in attachment.parameter_groups() for p in group.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    losses = []
    for _ in range(steps):
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def everything(model):
    return {n: t.detach().clone() for n, t in model.state_dict().items()}


def table() -> str:
    """The user's table: every type, whether it trains here, and why not or under which condition."""
    from peftbench.methods.parts.peft_tuners import NOT_HERE

    rows = {kind: ("trains", NOTES.get(kind, "")) for kind in TRAINS}
    rows |= {kind: ("refused", NOT_HERE[kind]) for kind in REFUSED}
    lines = [
        "# HF PEFT's tuners under `method=peft`",
        "",
        "`peftbench method=peft method.config.peft_type=VERA method.config.r=64 task=mrpc`: every key of the type's own"
        " configuration class can stand under `method.config`. `method.sites=[query,value]` names the adapted maps by"
        " role instead of `method.config.target_modules`.",
        "",
        "| peft_type | status | reason |",
        "|---|---|---|",
        *(f"| {kind} | {status} | {reason} |" for kind, (status, reason) in sorted(rows.items())),
    ]
    return "\n".join(lines) + "\n"


def test_every_type_that_peft_registers_is_in_the_table():
    registered = {kind.value for kind in mapping.PEFT_TYPE_TO_CONFIG_MAPPING}
    assert not set(TRAINS) & set(REFUSED)
    assert registered == set(TRAINS) | set(REFUSED)


def test_the_users_table_is_this_one():
    assert DOCUMENT.read_text(encoding="utf-8") == table()


@pytest.mark.parametrize("kind", REFUSED)
def test_a_type_that_cannot_train_here_is_refused_in_words(kind):
    with pytest.raises(ConfigurationError, match=REFUSED[kind]) as caught:
        Peft({"peft_type": kind})
    assert str(caught.value).startswith(f"method.config.peft_type: {kind} does not train here: ")


@each
def test_a_tuner_learns_with_exactly_what_it_claims(kind):
    model, attachment = attached(kind)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = train(model, attachment)
    assert losses[-1] < 0.98 * losses[0]
    claimed = {id(p) for group in attachment.parameter_groups() for p in group.parameters}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in claimed), name
        assert torch.equal(parameter, before[name]) != (id(parameter) in claimed), name


@each
def test_a_tuner_starts_and_counts_as_in_pefts_own_wrapper(kind):
    model, attachment = attached(kind)
    config = mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind](**TRAINS[kind])
    config.target_modules = set(attachment.tuner.targeted_module_names)
    if kind == "IA3":
        config.feedforward_modules = {n for n in config.target_modules if "output" in n}
    if kind == "SHIRA":
        config.random_seed = attachment.tuner.peft_config["default"].random_seed
    theirs = peft.get_peft_model(lively(), config)
    trained = {n.removeprefix("base_model.model."): p for n, p in theirs.named_parameters() if p.requires_grad}
    ours = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n: p.shape for n, p in trained.items()} == {n: p.shape for n, p in ours.items()}
    counts = attachment.count()
    assert counts.trained == counts.effective == sum(p.numel() for p in trained.values())
    head = ("classifier.", "bert.pooler.")
    assert counts.backbone == sum(p.numel() for n, p in tiny_model().named_parameters() if not n.startswith(head))


@each
def test_peft_loads_the_export_and_predicts_the_same(kind, tmp_path):
    from safetensors.torch import load_file

    model, attachment = attached(kind)
    train(model, attachment)
    with torch.no_grad():
        model.classifier.weight += 0.5
        model.bert.pooler.dense.bias -= 0.5
    expected = logits(model)
    attachment.export(tmp_path)
    torch.testing.assert_close(logits(peft.PeftModel.from_pretrained(lively(), tmp_path)), expected, rtol=0, atol=1e-5)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    head = tuple(f"base_model.model.{name}." for name in head_modules(tiny_model()))
    assert sum(n.startswith(head) for n in stored) == 4
    assert attachment.count().stored == sum(t.numel() for n, t in stored.items() if not n.startswith(head))
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described["peft_type"] == kind
    assert described["base_model_name_or_path"] == "tiny"


@each
def test_merging_keeps_logits_and_leaves_the_plain_model(kind):
    model, attachment = attached(kind)
    if kind == "LILY":
        with pytest.raises(ConfigurationError, match="LILY cannot be folded"):
            Peft({"peft_type": kind}).check(head="train", merge=True)
        return
    Peft({"peft_type": kind} | TRAINS[kind]).check(head="train", merge=True)
    train(model, attachment)
    before = logits(model)
    attachment.merge()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


@each
def test_shapes_alone_give_the_same_counts(kind):
    with torch.device("meta"):
        bare = tiny_model()
    assert attached(kind, model=bare)[1].count() == attached(kind)[1].count()


@each
def test_the_seed_of_the_generator_is_the_only_randomness(kind):
    stored = []
    for surroundings, seed in ((1, 0), (2, 0), (2, 1)):
        model = lively()
        torch.manual_seed(surroundings)
        state = torch.get_rng_state()
        stored.append(attached(kind, model=model, seed=seed)[1].stored())
        assert torch.equal(torch.get_rng_state(), state)
    first, again, other = stored
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert all(torch.equal(first[n], other[n]) for n in first) == (kind not in DRAWN)


@each
def test_a_snapshot_goes_back_as_it_was(kind):
    model, attachment = attached(kind)
    train(model, attachment, steps=3)
    kept, before = snapshot(model, attachment), logits(model)
    train(model, attachment, steps=3)
    assert not torch.equal(logits(model), before)
    restore(model, attachment, kept)
    assert torch.equal(logits(model), before)


@each
def test_half_precision_hosts_and_autocast_train(kind):
    model, attachment = attached(kind, model=lively().bfloat16())
    parameters = [p for group in attachment.parameter_groups() for p in group.parameters]
    assert {p.dtype for p in parameters} == {torch.bfloat16 if kind == "LN_TUNING" else torch.float32}
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = model(**batch()).loss
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)


@pytest.mark.parametrize("family", ["gpt2", "t5", "mpnet", "deberta-v2"])
@pytest.mark.parametrize("kind", ["LORA", "FOURIERFT", "IA3", "LN_TUNING", "OSF"])
def test_targets_that_are_not_given_fit_every_family(kind, family):
    model, attachment = attached(kind, family)
    losses = train(model, attachment, steps=8)
    assert losses[-1] < losses[0]
    if (kind, family) == ("LORA", "gpt2"):
        assert {n.rpartition(".")[2] for n in attachment.tuner.targeted_module_names} == {"query", "value"}


def undecayed(kind, **settings):
    """The last parts of the names of what is not decayed."""
    model, attachment = attached(kind, **settings)
    names = {id(p): n.removesuffix(".default") for n, p in model.named_parameters()}
    groups = [group for group in attachment.parameter_groups() if not group.decays]
    return {names[id(p)].rpartition(".")[2] for group in groups for p in group.parameters}


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("LORA", {"r": 1}, set()),
        ("LORA", {"r": 2}, set()),
        ("LORA", {"r": 1, "use_dora": True, "bias": "lora_only"}, {"weight", "bias"}),
        ("LOHA", {"r": 1}, set()),
        ("ADAMSS", {"subspace_rank": 1}, set()),
        ("TRAINABLE_TOKENS", {"token_indices": [3]}, set()),
        ("BEFT", {}, {"beft_bias"}),
        ("BOFT", {}, {"boft_s"}),
        ("IA3", {}, {"ia3_l"}),
        ("VERA", {"r": 1}, {"vera_lambda_b", "vera_lambda_d"}),
        ("DELORA", {"r": 1}, {"delora_lambda"}),
    ],
)
def test_scales_and_biases_are_not_decayed_and_factors_of_rank_one_are(kind, settings, expected):
    assert undecayed(kind, **settings) == expected


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_tokens_of_a_shared_table_are_refused(family):
    with pytest.raises(ConfigurationError, match=r"cannot train a table that .*shared.* share$"):
        attached("TRAINABLE_TOKENS", family)


def test_roles_name_exactly_their_maps():
    _, attachment = attached("LORA", sites=("ffn_out",))
    assert attachment.tuner.targeted_module_names == [f"bert.encoder.layer.{i}.output.dense" for i in range(2)]
    assert attached("IA3", sites=("key", "ffn_out"))[1].count().trained == 2 * (32 + 64)


@pytest.mark.parametrize("target", ["dense", "all-linear", r".*dense"])
def test_the_head_is_never_adapted(target):
    targets = [target] if target == "dense" else target
    model, attachment = attached("LORA", "roberta", target_modules=targets)
    assert not [n for n in attachment.tuner.targeted_module_names if n.startswith(head_modules(model))]
    assert len(attachment.tuner.targeted_module_names) == (12 if target == "all-linear" else 6)


def test_patterns_layers_and_exclusions_are_pefts():
    names = attached("LORA", target_modules=["dense"], exclude_modules=["intermediate.dense"], layers_to_transform=[1])
    found = names[1].tuner.targeted_module_names
    assert found == [f"bert.encoder.layer.1.{part}.dense" for part in ("attention.output", "output")]


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": "orthogonal"},
        {"use_dora": True},
        {"bias": "all"},
        {"trainable_token_indices": [3, 7]},
        {"rank_pattern": {"value": 2}, "use_rslora": True},
    ],
    ids=lambda settings: next(iter(settings.items())),
)
def test_loras_variants_learn_merge_and_load(settings, tmp_path):
    model, attachment = attached("LORA", **settings)
    losses = train(model, attachment)
    assert losses[-1] < 0.9 * losses[0]
    expected = logits(model)
    attachment.export(tmp_path)
    torch.testing.assert_close(logits(peft.PeftModel.from_pretrained(lively(), tmp_path)), expected, rtol=0, atol=1e-5)
    attachment.merge()
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    with torch.device("meta"):
        bare = tiny_model()
    assert attached("LORA", model=bare, **settings)[1].count() == attached("LORA", **settings)[1].count()


@pytest.mark.parametrize(
    ("kind", "settings", "real"),
    [
        ("LORA", {"init_lora_weights": "pissa"}, set()),
        ("LORA", {"init_lora_weights": "olora"}, set()),
        ("LORA", {"init_lora_weights": "mica"}, {"query", "value"}),
        ("ADAMSS", {}, {"query", "value"}),
        ("FROD", {}, {"query", "value"}),
        ("SHIRA", {}, {"query", "value"}),
    ],
)
def test_counts_from_shapes_make_at_most_the_adapted_maps_real(kind, settings, real):
    with torch.device("meta"):
        bare = tiny_model()
    names = {id(p): n for n, p in bare.named_parameters()}
    attached(kind, model=bare, sites=("query", "value"), **settings)
    left = {names[id(p)] for p in bare.parameters() if p.is_meta and id(p) in names}
    assert {n.split(".")[-2] for n in names.values() if n not in left} == real


@pytest.mark.parametrize("make", [lambda: tiny_model("t5"), lambda: tiny_generator("llama")], ids=["t5", "llama"])
def test_biases_are_not_trained_on_maps_without_one(make):
    with pytest.raises(ConfigurationError, match=r"BEFT wants maps with biases; .* have none$"):
        attached("BEFT", model=make())


def test_language_models_generate_and_load(tmp_path):
    model, attachment = attached("VERA", model=lively("llama", tiny_generator))
    ids = torch.randint(5, 600, (2, 6), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(attachment.trained, lr=0.05)
    for _ in range(4):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    limits = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **limits)
    assert torch.equal(model.generate(ids, use_cache=False, **limits), expected)
    attachment.export(tmp_path)
    loaded = peft.PeftModel.from_pretrained(lively("llama", tiny_generator), tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("settings", "sites", "message"),
    [
        ({}, None, r"^method\.config\.peft_type: None is not PEFT's \(these train: ADAMSS, "),
        ({"peft_type": "vera"}, None, r"'vera' is not PEFT's; did you mean VERA\?"),
        ({"peft_type": "VERA", "d_intial": 1}, None, r"^method\.config\.d_intial: not a key of PEFT's VeraConfig; did"),
        ({"peft_type": "OFT", "r": 2, "oft_block_size": 2}, None, r"^method\.config: PEFT's OFT says: You can only"),
        ({"peft_type": "LORA", "modules_to_save": ["x"]}, None, r"modules_to_save: not set here; the head is trainer"),
        ({"peft_type": "LORA", "task_type": "SEQ_CLS"}, None, r"task_type: not set here; the export writes it$"),
        ({"peft_type": "LORA", "init_lora_weights": "eva"}, None, r"init_lora_weights: eva does not work here: "),
        ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}, None, r"pissa_niter_4 does not work here: "),
        ({"peft_type": "LORA", "kasa_config": {}}, None, r"kasa_config: {} does not work here: its loss term"),
        ({"peft_type": "ADAMSS", "use_asa": True}, None, r"use_asa: True does not work here: "),
        ({"peft_type": "LORA", "target_modules": ["query"]}, ("query",), r"give one of them$"),
        ({"peft_type": "LN_TUNING"}, ("query",), r"^method\.sites: LN_TUNING does not adapt linear maps"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(settings, sites, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Peft(settings, sites)
    assert "\n" not in str(caught.value)


def test_tokens_without_indices_train_nothing_and_are_refused():
    with pytest.raises(ConfigurationError, match=r"TRAINABLE_TOKENS trains nothing with these settings$"):
        attached("TRAINABLE_TOKENS", token_indices=[])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["qery"]},
            r"target_modules: qery matches no module; did you mean query\?$",
        ),
        ({"target_modules": []}, r"an empty list matches no module$"),
        ({"r": 0}, r"^method\.config: PEFT's LORA says: `r` should be a positive"),
        ({"r": "many"}, r"^method\.config: PEFT's LORA says: "),
    ],
)
def test_what_only_the_model_can_tell_is_one_line_too(settings, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        attached("LORA", **settings)
    assert "\n" not in str(caught.value)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft.mapping", None)
    with pytest.raises(ConfigurationError, match=r"^method=peft needs the library peft .*: pip install 'pe"):
        Peft()


@pytest.mark.parametrize(
    "words",
    [
        ["method.config.peft_type=VERA", "method.config.r=64", "method.config.target_modules=[query,value]"],
        ["method.config.peft_type=VERA", "+method.config.r=64", "+method.config.target_modules=[query,value]"],
        ["method.config={peft_type: VERA, r: 64, target_modules: [query, value]}"],
    ],
)
def test_any_key_of_pefts_can_be_given_on_the_command_line(words):
    config = compose_run(["method=peft", *words])
    assert config.method.config == {"peft_type": "VERA", "r": 64, "target_modules": ["query", "value"]}
    assert config.identity()["method"]["sites"] is None


def test_a_run_trains_exports_and_merges(tiny_run):
    settings = ["method=peft", "method.config.peft_type=HRA", "method.config.r=4", "trainer.merge=true"]
    record, folder = run_experiment(compose_run([*tiny_run, *settings]))
    assert record["status"] == "completed"
    assert record["parameters"]["trained"] == record["parameters"]["stored"] == 2 * 2 * 4 * 32
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == "HRA"
    assert (folder / "merged" / "model.safetensors").is_file()
