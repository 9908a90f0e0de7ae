"""Hydra's composition: every YAML that is shipped, precedence, and mistakes told in one line."""

from pathlib import Path

import pytest
from contracts.test_methods import METHODS
from omegaconf import OmegaConf

from peftbench.compose import compose_run, conf_folder, known_keys
from peftbench.config import plain
from peftbench.errors import ConfigurationError

CONF = conf_folder()
CHOICES = sorted(
    (group.name, file.stem)
    for group in CONF.iterdir()
    if group.is_dir() and group.name not in ("preset", "experiment")
    for file in group.glob("*.yaml")
)
PRESETS = sorted(
    file.relative_to(CONF / "preset").with_suffix("").as_posix() for file in CONF.glob("preset/*/*/*.yaml")
)
FIRST = {name.partition("/")[0]: name for name in reversed(PRESETS)}.values()
"""A preset of every method."""
EXPERIMENTS = sorted(
    file.relative_to(CONF / "experiment").with_suffix("").as_posix() for file in CONF.glob("experiment/**/*.yaml")
)
STSB = ["method=sora", "task=stsb", "model=deberta_v3_base"]  # Its preset sets xi.


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        compose_run(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leaves(values: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in values.items():
        flat |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def test_every_yaml_is_one_of_those_composed_below():
    known = {CONF / "config.yaml", CONF / "preset" / "none.yaml"}
    known |= {CONF / group / f"{name}.yaml" for group, name in CHOICES}
    known |= {CONF / "preset" / f"{name}.yaml" for name in PRESETS}
    known |= {CONF / "hydra" / "sweeper" / f"{name}.yaml" for name in ("grid", "random", "tpe")}  # tests/test_sweep.py
    known |= {CONF / "experiment" / f"{name}.yaml" for name in EXPERIMENTS}
    assert set(CONF.rglob("*.yaml")) == known
    assert len(PRESETS) > 30


# Runs of every task and counts of every model have tests of their own.
@pytest.mark.parametrize(
    ("group", "name"),
    [pytest.param(*c, marks=pytest.mark.long if c[0] in ("task", "model") else (), id="-".join(c)) for c in CHOICES],
)
def test_every_choice_of_every_group_composes_and_converts(group, name):
    config = compose_run([f"{group}={name}"])
    beside = {"sweep": plain(config.sweep), "tracker": plain(config.tracker)}  # They change no run.
    resolved = leaves(config.resolved() | beside)
    for key, value in leaves({group: OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))}).items():
        if value is not None:
            assert resolved[key] == value, key


@pytest.mark.parametrize("name", [pytest.param(p, marks=() if p in FIRST else pytest.mark.long) for p in PRESETS])
def test_every_preset_applies_by_its_method_task_and_model(name):
    method, task, model = name.split("/")
    config = compose_run([f"method={method}", f"task={task}", f"model={model}"])
    assert config.preset == name
    resolved = leaves(config.resolved())
    for key, value in leaves(OmegaConf.to_container(OmegaConf.load(CONF / "preset" / f"{name}.yaml"))).items():
        assert resolved[key] == value, key


def test_the_default_run_is_sora_on_mrpc_with_minilm():
    config = compose_run([])
    assert (config.method_name, config.task.name, config.model.name) == ("sora", "mrpc", "minilm")
    assert (config.seed, config.data.source, config.preset) == (0, "auto", None)


def test_composing_twice_gives_equal_configurations():
    assert compose_run(["seed=3"]) == compose_run(["seed=3"])


def test_the_command_line_outranks_the_preset():
    config = compose_run([*STSB, "trainer.epochs=2"])
    assert (config.trainer.epochs, config.optimizer.lr) == (2, 8e-4)


def test_a_preset_outranks_the_groups():
    assert compose_run(STSB).trainer.epochs == 20
    assert compose_run([*STSB, "preset=none"]).trainer.epochs == 3


def test_preset_none_is_no_preset():
    config = compose_run([*STSB, "preset=none"])
    assert config.preset is None
    assert config.sparsity.xi is None
    assert config.optimizer.lr is None


def test_a_combination_without_a_preset_has_none():
    assert compose_run(["method=lora", "task=wnli", "model=minilm"]).preset is None


def test_another_combinations_preset_can_be_asked_for():
    config = compose_run(["method=sora", "task=rte", "preset=sora/stsb/deberta_v3_base"])
    assert config.preset == "sora/stsb/deberta_v3_base"
    assert config.sparsity.xi == 3e-4


def test_a_preset_that_is_asked_for_has_to_exist():
    assert refusal("preset=sora/stsb/deberta_v3_bas") == (
        "preset=sora/stsb/deberta_v3_bas: no such preset; did you mean sora/stsb/deberta_v3_base? (see conf/preset)"
    )


def test_lambda_on_the_command_line_displaces_a_presets_xi():
    assert compose_run(STSB).sparsity.xi == 3e-4
    for override in ("sparsity.lambda=1", "++sparsity.lambda=1"):
        sparsity = compose_run([*STSB, override]).sparsity
        assert (sparsity.lambda_, sparsity.xi) == (1.0, None)


def test_xi_on_the_command_line_replaces_a_presets_xi():
    sparsity = compose_run([*STSB, "sparsity.xi=1e-3"]).sparsity
    assert (sparsity.lambda_, sparsity.xi) == (None, 1e-3)


def test_a_null_lambda_displaces_nothing():
    assert compose_run([*STSB, "sparsity.lambda=null"]).sparsity.xi == 3e-4


def test_a_presets_xi_can_be_switched_off():
    sparsity = compose_run([*STSB, "sparsity.xi=null"]).sparsity
    assert (sparsity.lambda_, sparsity.xi) == (None, None)


@pytest.mark.parametrize("where", [[], STSB])
def test_lambda_and_xi_together_are_an_error(where):
    assert "lambda and xi are both set" in refusal(*where, "sparsity.lambda=1", "sparsity.xi=1e-3")


def test_the_home_folder_is_written_out():
    assert compose_run(["data.root=~/glue"]).data.root == str(Path.home() / "glue")
    assert compose_run(["model.path=~"]).model.path == str(Path.home())
    assert compose_run(["data.root='/a~/b'"]).data.root == "/a~/b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "method=srora",
            "method=srora: no such method; did you mean sora? (choose from: " + ", ".join(sorted(METHODS)) + ")",
        ),
        ("trainer=fast", "trainer=fast: no such trainer; did you mean default? (choose from: default)"),
        ("method.rnak=4", "method.rnak: unknown key or group; did you mean method.rank? (see peftbench --help)"),
        ("optimzer.lr=1", "optimzer.lr: unknown key or group; did you mean optimizer.lr? (see peftbench --help)"),
        ("sede=1", "sede: unknown key or group; did you mean seed? (see peftbench --help)"),
        ("sparsity.values=[1]", "sparsity.values: not a key of the chosen sparsity; sparsity=algorithm1 has it"),
        ("+method.rnak=4", "method.rnak: unknown key; did you mean method.rank? (conf/method/sora.yaml)"),
        ("method={a:1}", "method={a:1}: method takes a name, e.g. method=adalora"),
        (
            "~task",
            "method, task and model: each takes exactly one name, e.g. method=sora task=mrpc model=minilm",
        ),
    ],
)
def test_hydras_mistakes_are_told_with_the_nearest_valid_word(override, message):
    assert refusal(override) == message


@pytest.mark.parametrize("override", ["method=null", "preset=null", "task=3", "task=[1,2]"])
def test_a_group_wants_a_name(override):
    group = override.partition("=")[0]
    assert refusal(override).startswith(f"{override}: {group} takes a name, e.g. {group}=")


def test_a_word_without_a_key_is_told():
    assert refusal("=3") == "=3: names no key"


@pytest.mark.parametrize(
    "override",
    ["seed=[1", "seed", "method=lora,sora", "task.max_length=${foo}", "data.root=${oc.env:NO_SUCH_VARIABLE}",
     "task.name=???", "model=[bert_base,minilm]", "hydra.foo=1", "trainer.batch_size=1e3"],
)  # fmt: skip
def test_whatever_else_hydra_refuses_is_one_line_too(override):
    assert refusal(override)


def test_an_override_that_cannot_be_read_is_quoted_with_advice():
    assert refusal("data.root=/a~b").startswith("data.root=/a~b: not readable as key=value; special characters want")


def test_a_key_of_another_choice_says_which_choice_has_it():
    message = refusal("method=full", "method.rank=8")
    start = "method.rank: not a key of the chosen method; method=adalora or method=compacter or method=lora or "
    assert message.startswith(start)
    assert message.endswith(" has it")


def test_known_keys_cover_every_group_and_leave_architectures_closed():
    keys = known_keys()
    assert {"seed", "outputs", "experiment_name", "method", "method.rank", "sparsity.lambda", "preset"} <= set(keys)
    assert keys["trainer.epochs"] == ["default"]
    assert not [key for key in keys if key.startswith("model.architecture.")]
