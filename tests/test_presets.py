"""Published hyper-parameters: each with its source, for things that exist, within the allowed keys."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

CONF = Path(__file__).resolve().parents[1] / "conf"
PRESETS = sorted((CONF / "preset").glob("*/*/*.yaml"))

METHODS = {"full", "lora", "sora", "adalora", "houlsby", "pfeiffer", "bitfit", "p_tuning_v2", "prefix_tuning", "mam"}
ROLES = {"query", "key", "value", "attention_output", "ffn_in", "ffn_out"}
TRAIN_ROWS = {
    "cola": 8_551,
    "sst2": 67_349,
    "mrpc": 3_668,
    "stsb": 5_749,
    "qqp": 363_846,
    "mnli": 392_702,
    "qnli": 104_743,
    "rte": 2_490,
}
OTHER_TASKS = {"boolq", "copa", "superglue_rte", "wic", "wsc", "e2e", "webnlg", "dart"}
LORA_KEYS = {"rank", "alpha", "sites"}
METHOD_KEYS = {
    "full": set(),
    "bitfit": set(),
    "houlsby": {"size"},
    "pfeiffer": {"size"},
    "lora": LORA_KEYS | {"dropout"},
    "sora": LORA_KEYS | {"gate_l1"},
    "adalora": LORA_KEYS | {"target_rank", "gamma", "t_initial", "t_final", "delta_t"},
    "p_tuning_v2": {"length", "dropout", "projection"},
    "prefix_tuning": {"length", "dropout", "mlp", "mlp_hidden"},
    "mam": {"prefix_length", "size", "scaling"},
}
# key -> type, smallest and largest value that anyone would publish
RANGES = {
    "optimizer.lr": (float, 1e-6, 1e-1),
    "optimizer.weight_decay": (float, 0, 1),
    "optimizer.eps": (float, 1e-10, 1e-5),
    "optimizer.warmup_ratio": (float, 0, 0.5),
    "optimizer.warmup_steps": (int, 0, 10_000),
    "trainer.epochs": (int, 1, 200),
    "trainer.batch_size": (int, 1, 1_024),
    "trainer.max_grad_norm": (float, 1e-3, 100),
    "task.max_length": (int, 8, 512),
    "task.label_smoothing": (float, 0, 0.5),
    "task.max_new_tokens": (int, 1, 512),
    "task.beams": (int, 1, 20),
    "task.length_penalty": (float, 0, 2),
    "task.no_repeat_ngram": (int, 0, 10),
    "task.linearisation": (str, "lora", "prefix"),
    "sparsity.xi": (float, 0, 0.1),
    "method.rank": (int, 1, 256),
    "method.length": (int, 1, 512),
    "method.projection": (bool, 0, 1),
    "method.mlp": (bool, 0, 1),
    "method.mlp_hidden": (int, 1, 2_048),
    "method.prefix_length": (int, 1, 512),
    "method.size": (int, 1, 1_024),
    "method.scaling": (float, 0.1, 10),
    "method.target_rank": (int, 1, 256),
    "method.alpha": (int, 1, 256),
    "method.dropout": (float, 0, 0.5),
    "method.gate_l1": (float, 0, 100),
    "method.gamma": (float, 0, 1),
    "method.t_initial": (int, 0, 100_000),
    "method.t_final": (int, 0, 100_000),
    "method.delta_t": (int, 1, 1_000),
}

every_preset = pytest.mark.parametrize(
    "file", PRESETS, ids=lambda file: file.relative_to(CONF / "preset").with_suffix("").as_posix()
)


def read(file):
    return OmegaConf.to_container(OmegaConf.load(file))


def place(file):
    """(method, task, model) of a preset file."""
    return file.parent.parent.name, file.parent.name, file.stem


def header(file):
    """The comment lines before the first key."""
    lines = file.read_text().splitlines()
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:first]


def leaves(values):
    return {f"{group}.{key}": value for group, keys in values.items() for key, value in keys.items()}


def test_the_published_tables_are_complete():
    found = {place(file) for file in PRESETS}
    for method, model in [
        ("lora", "deberta_v3_base"),
        ("adalora", "deberta_v3_base"),
        ("lora", "roberta_base"),
        ("lora", "roberta_large"),
    ]:
        assert {task for m, task, b in found if (m, b) == (method, model)} == set(TRAIN_ROWS)
    assert found >= {("sora", "stsb", "deberta_v3_base"), ("sora", "rte", "deberta_v3_base")}
    assert ("full", "mnli", "deberta_v3_base") in found
    written = {(m, t, b) for m, t, b in found if t in ("e2e", "webnlg", "dart")}
    assert {m for m, *_ in written} == {"full", "lora", "prefix_tuning"}
    assert len(written) == 3 * 3 * 2


@every_preset
def test_it_is_for_things_that_exist(file):
    method, task, model = place(file)
    assert method in METHODS
    assert task in TRAIN_ROWS.keys() | OTHER_TASKS
    assert (CONF / "model" / f"{model}.yaml").is_file()


@every_preset
def test_it_names_its_source(file):
    comment = header(file)
    # Hydra stops reading headers at the first line that is not one, so the package comes before the prose.
    assert comment[0] == "# @package _global_"
    assert comment[1].startswith("# Source: ")
    assert len(comment[1]) > 40


@every_preset
def test_only_allowed_keys_with_sane_values(file):
    values = leaves(read(file))
    method = place(file)[0]
    allowed = {f"method.{key}" for key in METHOD_KEYS[method]} | {key for key in RANGES if "method." not in key}
    if method != "sora":
        allowed.discard("sparsity.xi")
    assert set(values) <= allowed
    assert {"optimizer.lr", "trainer.epochs", "trainer.batch_size"} <= set(values)
    assert not {"optimizer.warmup_ratio", "optimizer.warmup_steps"} <= set(values)
    sites = values.pop("method.sites", ["query"])
    assert sites
    assert set(sites) <= ROLES
    assert len(set(sites)) == len(sites)
    if values.get("trainer.max_grad_norm", 0) is None:  # The published code does not clip.
        del values["trainer.max_grad_norm"]
    for key, value in values.items():
        kind, least, most = RANGES[key]
        assert type(value) is kind, key
        assert least <= value <= most, key


@pytest.mark.parametrize("file", [file for file in PRESETS if place(file)[0] == "adalora"], ids=lambda f: f.parent.name)
def test_adalora_budget_phases_fit_into_the_run(file):
    values = read(file)
    method, trainer = values["method"], values["trainer"]
    rows = TRAIN_ROWS[place(file)[1]]
    steps = trainer["epochs"] * -(-rows // trainer["batch_size"])
    assert method["t_initial"] + method["t_final"] < steps
    assert method["target_rank"] < method["rank"]
    assert values["optimizer"].get("warmup_steps", 0) < steps


@pytest.mark.parametrize("file", [f for f in PRESETS if place(f)[0] == "lora" and "gpt2" in f.stem], ids=str)
def test_loras_language_models_have_its_codes_epsilon(file):
    assert read(file)["optimizer"]["eps"] == 1e-6


def test_none_is_empty_and_says_so():
    file = CONF / "preset" / "none.yaml"
    # Without the package, Hydra leaves an empty `preset` key behind, which the strict configuration refuses.
    assert header(file)[0] == "# @package _global_"
    assert header(file)[1].startswith("# no preset")
    assert not read(file)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("sora/stsb/deberta_v3_base", {"optimizer.lr": 8e-4, "sparsity.xi": 3e-4, "trainer.epochs": 20}),
        ("adalora/mrpc/deberta_v3_base", {"optimizer.warmup_ratio": 0.1, "method.target_rank": 8}),
        ("none", {}),
    ],
)
def test_hydra_merges_it_into_the_groups(tmp_path, preset, expected):
    """The package header puts a preset's groups at the root, over what the groups themselves say."""
    (tmp_path / "config.yaml").write_text(
        "defaults:\n  - optimizer: adam\n  - preset: none\n  - _self_\n"
        f"hydra:\n  searchpath:\n    - file://{CONF.as_posix()}\n"
    )
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "adam.yaml").write_text("lr: null\nbeta: 0.9\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", overrides=[f"preset={preset}"])
    assert config.optimizer.beta == 0.9
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    assert "preset" not in config
