"""The typed configuration: what YAML and classes agree on, what is refused, what makes a run another run."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from peftbench.compose import compose_run, conf_folder
from peftbench.config import AdamW, DataConfig, ModelConfig, Optimizer, RunConfig, TrainerConfig, plain, run_id
from peftbench.errors import ConfigurationError
from peftbench.methods.registry import method_class
from peftbench.sparsity import SCHEDULES
from peftbench.task_config import TASK_CONFIGS, TaskConfig
from peftbench.tasks.registry import TASKS
from peftbench.typed import typed

OPTIMIZERS = {cls.name: cls for cls in get_args(Optimizer)}


def yaml_of(group: str, name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{name}.yaml"))


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))


def keys_of(cls: type) -> set[str]:
    return {field.name.rstrip("_") for field in dataclasses.fields(cls)}


def defaults_of(cls: type) -> dict:
    """The fields' defaults as YAML would hold them."""
    made = plain(
        cls(**{f.name: "x" for f in dataclasses.fields(cls) if dataclasses.MISSING is f.default is f.default_factory})
    )
    return {f.name.rstrip("_"): made[f.name.rstrip("_")] for f in dataclasses.fields(cls) if f.name != "name"}


@pytest.mark.parametrize("name", names("method"))
def test_a_methods_yaml_has_its_classes_fields_with_the_same_defaults(name):
    values = yaml_of("method", name)
    assert values.pop("name") == name
    assert values == defaults_of(method_class(name))


@pytest.mark.parametrize("name", names("optimizer"))
def test_an_optimizers_yaml_has_its_classes_fields(name):
    assert set(yaml_of("optimizer", name)) == keys_of(OPTIMIZERS[name])
    assert yaml_of("optimizer", name)["name"] == name


@pytest.mark.parametrize("name", names("sparsity"))
def test_a_schedules_yaml_has_its_classes_fields(name):
    values = yaml_of("sparsity", name)
    assert set(values) == keys_of(SCHEDULES[values["schedule"]])


@pytest.mark.parametrize(("group", "cls"), [("model", ModelConfig), ("data", DataConfig), ("trainer", TrainerConfig)])
def test_every_choice_of_a_group_has_its_classes_fields(group, cls):
    assert names(group)
    for name in names(group):
        assert set(yaml_of(group, name)) == keys_of(cls), name


@pytest.mark.parametrize("name", names("task"))
def test_a_tasks_yaml_has_its_classes_fields(name):
    assert set(yaml_of("task", name)) == keys_of(TASK_CONFIGS.get(name, TaskConfig))


def test_the_trainers_yaml_holds_the_classes_defaults():
    assert yaml_of("trainer", "default") == defaults_of(TrainerConfig)


def test_every_class_has_a_yaml_and_every_yaml_a_class():
    assert set(names("task")) == set(TASKS)
    assert set(names("optimizer")) == set(OPTIMIZERS)
    assert {yaml_of("sparsity", name)["schedule"] for name in names("sparsity")} == set(SCHEDULES)
    assert {yaml_of("data", name)["source"] for name in names("data")} == {"auto", "hub", "folder", "sample"}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["seed=-1"], r"^seed: -1 is not a whole number from 0 to 2\^32 - 1"),
        (["seed=4294967296"], r"^seed: 4294967296 is not"),
        (["seed=abc"], r"^seed: 'abc' is not"),
        (["seed=true"], r"^seed: True is not"),
        (["seed=1.0"], r"^seed: 1.0 is not"),
        (["seed=null"], r"^seed: None is not"),
        (["outputs=null"], r"^outputs: None is not a folder's path"),
        (["outputs=''"], r"^outputs: '' is not a folder's path"),
        (["experiment_name=a/b"], r"^experiment_name: 'a/b' is not a name"),
        (["experiment_name=.."], r"^experiment_name: '..' is not a name"),
        (["experiment_name=.hidden"], r"^experiment_name: '.hidden' is not a name"),
        (["experiment_name=5"], r"^experiment_name: 5 is not a name"),
        (["model.name=../x"], r"^model\.name: '../x' is not a name"),
        (["task.name=mrcp"], r"^task\.name: 'mrcp' is not a task; did you mean mrpc\?"),
        (["task.selection_metric=f2"], r"^task\.selection_metric: 'f2' is not a metric of mrpc; did you mean f1\?"),
        (["task=rte", "task.selection_metric=f1"], r"not a metric of rte .*its metrics: accuracy"),
        (["method.name=sorra"], r"^method\.name: 'sorra' is not a method; did you mean sora\?"),
        (["method.name=[sora]"], r"^method\.name: \['sora'\] is not a method"),
        (["optimizer.name=adam"], r"^optimizer\.name: 'adam' is not one of .*; did you mean adamw\?"),
        (["optimizer.name=[adamw]"], r"^optimizer\.name: \['adamw'\] is not one of"),
        (["optimizer.betas=[0.9]"], r"betas: \[0.9\] must be two numbers"),
        (["optimizer.betas=[0.9,1.0]"], r"betas: \[0.9, 1.0\] must be two numbers"),
        (["sparsity.schedule=ramp"], r"^sparsity\.schedule: 'ramp' is not one of constant, linear"),
        (["data.max_train_rows=0"], r"^data\.max_train_rows: 0 is too small"),
        (["trainer.batch_size=8", "trainer.micro_batch_size=16"], r"micro_batch_size 16 exceeds batch_size 8"),
        (["trainer.selection=last", "trainer.patience=2"], r"patience .* needs selection=best"),
        (["method=linear_probe", "trainer.head=freeze"], r"^trainer\.head=freeze: .*nothing would train"),
        (["method=adalora", "method.target_rank=13"], r"target_rank 13 exceeds rank 12"),
        (["~trainer"], r"^trainer: expected a group's mapping, found None"),
        (["~task.name"], r"^task\.name: not given"),
        (["++foo=1"], r"^foo: unknown key"),
        (["+seeed=1"], r"^seeed: unknown key; did you mean seed\?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_refused_by_name(overrides, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        compose_run(overrides)


def test_the_refusal_names_the_yaml_that_was_chosen():
    with pytest.raises(ConfigurationError, match=r"\(conf/method/lora\.yaml\)$"):
        compose_run(["method=lora", "method.rank=0"])


def test_typed_needs_every_group():
    with pytest.raises(ConfigurationError, match=r"^method: expected a group's mapping, found None"):
        typed({"seed": 0, "outputs": "o", "experiment_name": "x", "task": {"name": "rte"}}, {})


def test_outputs_become_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compose_run([]).outputs == tmp_path / "outputs"
    assert compose_run(["outputs=~/results"]).outputs == Path.home() / "results"


def test_the_learning_rate_is_the_methods_unless_given():
    assert compose_run(["method=full"]).lr == 5e-5
    assert compose_run(["method=lora"]).lr == 1e-3
    assert compose_run(["method=full", "optimizer.lr=0.25"]).lr == 0.25


def test_resolved_is_plain_data_under_the_yamls_names():
    resolved = compose_run(["sparsity.lambda=1", "optimizer.betas=[0.8,0.9]"]).resolved()
    assert resolved["sparsity"]["lambda"] == 1.0
    assert "lambda_" not in resolved["sparsity"]
    assert resolved["optimizer"]["betas"] == [0.8, 0.9]
    assert resolved["optimizer"]["lr"] == 1e-3
    assert resolved["method"]["sites"][0] == "query"
    assert resolved["method"]["name"] == "sora"


def test_resolved_writes_out_the_default_strength():
    assert compose_run([]).resolved()["sparsity"]["lambda"] == 2.0
    given = compose_run(["sparsity.xi=1e-3"]).resolved()["sparsity"]
    assert (given["lambda"], given["xi"]) == (None, 1e-3)


def test_the_configuration_cannot_be_changed():
    config = compose_run([])
    assert isinstance(config, RunConfig)
    for part in (config, config.trainer, config.method, config.optimizer, config.sparsity, config.data):
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.anything = 1


@cache
def plain_id() -> str:
    """The run id of the default configuration."""
    return id_of()


def id_of(*overrides: str, **found) -> str:
    return run_id(compose_run(["preset=none", *overrides]).identity(**found))


@pytest.mark.parametrize(
    "changed",
    [
        "seed=1",
        "optimizer.lr=2e-3",
        "optimizer=adafactor",
        "optimizer.weight_decay=0.1",
        "method.rank=4",
        "method.sites=[query]",
        "method.gate_init=ones",
        "method=lora",
        "task=rte",
        "task.protocol=sora",
        "task.max_length=64",
        "task.selection_metric=f1",
        "model=bert_base",
        "data.max_train_rows=100",
        "trainer.epochs=4",
        "trainer.batch_size=16",
        "trainer.precision=bf16",
        "trainer.head=freeze",
        "trainer.selection=last",
        "trainer.eval_every=10",
        "trainer.score_untrained=true",
        "sparsity.lambda=1",
        "sparsity.xi=1e-3",
        "sparsity.operator=official",
        "sparsity=linear",
    ],
)
def test_what_changes_the_result_makes_another_run(changed):
    assert id_of(changed) != plain_id()


@pytest.mark.parametrize(
    "changed",
    [
        "outputs=elsewhere",
        "experiment_name=other",
        "data.root=/somewhere",
        "data=hub",
        "model.path=/somewhere",
        "trainer.threads=1",
        "trainer.progress=false",
        "trainer.log_every=1",
        "trainer.device=cpu",
        "trainer.checkpoint_every=5",
        "optimizer.lr=1e-3",
        "sparsity.lambda=2",
        "method.alpha=16.0",
        "seed=0",
    ],
)
def test_what_does_not_change_the_result_keeps_the_run(changed):
    assert id_of(changed) == plain_id()


def test_a_run_that_scores_no_untrained_model_keeps_the_id_of_before_the_key():
    assert id_of("trainer.score_untrained=false") == plain_id()
    assert "score_untrained" not in compose_run(["method=lora"]).identity()["trainer"]


def test_adafactors_parameter_scaling_makes_another_run():
    plain = id_of("optimizer=adafactor")
    assert id_of("optimizer=adafactor", "optimizer.scale_parameter=true") != plain
    assert id_of("optimizer=adafactor", "optimizer.scale_parameter=false") == plain


def test_sparsity_makes_another_run_only_where_there_are_gates():
    for method in ("lora", "adalora", "full", "linear_probe"):
        assert id_of(f"method={method}", "sparsity.lambda=1") == id_of(f"method={method}")
        assert id_of(f"method={method}", "sparsity=algorithm1") == id_of(f"method={method}")
    assert id_of("method=sora", "sparsity.lambda=1") != id_of("method=sora")
    assert id_of("method=sora", "sparsity=algorithm1") != id_of("method=sora")


def test_a_method_that_needs_a_quantised_base_gets_one():
    assert compose_run(["method=qlora"]).model.quantization == "nf4"
    assert id_of("method=qlora") == id_of("method=qlora", "model.quantization=nf4")
    assert id_of("method=qlora") != id_of("method=qlora", "model.double_quant=false")


def test_a_quantised_base_is_another_run_and_how_it_would_be_quantised_is_not():
    assert id_of("model.quantization=nf4") != plain_id()
    assert id_of("model.double_quant=false") == plain_id()
    identity = compose_run(["method=lora"]).identity()
    assert "quantization" not in identity["model"]


@pytest.mark.parametrize("method", ["full", "houlsby"])
def test_a_method_that_cannot_go_with_quantised_weights_says_so(method):
    with pytest.raises(ConfigurationError, match=rf"^model\.quantization=nf4: method {method} does not go with"):
        compose_run([f"method={method}", "model.quantization=nf4"])


def test_maps_in_bfloat16_are_another_run_and_those_in_float32_one_of_before_the_key():
    mixed = ["method=lora", "trainer.precision=bf16"]
    assert id_of(*mixed, "model.dtype=bfloat16") != id_of(*mixed) == id_of(*mixed, "model.dtype=float32")
    assert "dtype" not in compose_run(mixed).identity()["model"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=lora"], "products would mix number types; add trainer.precision=bf16"),
        (["method=full", "trainer.precision=bf16"], "method full is not among those"),
        (["method=qlora", "trainer.precision=bf16"], "the maps are in 4 bits already"),
    ],
)
def test_maps_in_bfloat16_are_refused_where_they_would_change_more_than_their_size(words, told):
    with pytest.raises(ConfigurationError, match=rf"^model\.dtype=bfloat16: {told}"):
        compose_run([*words, "model.dtype=bfloat16"])


def test_what_loading_finds_is_part_of_the_run():
    assert id_of(rows={"train": "a"}) != id_of(rows={"train": "b"})
    assert id_of(weights={"weights_sha256": "a"}) != id_of(weights={"weights_sha256": "b"})


def test_a_preset_counts_by_its_values_and_not_by_its_name():
    where = ["method=lora", "task=mrpc", "model=roberta_base"]
    with_preset = compose_run(where)
    assert with_preset.preset == "lora/mrpc/roberta_base"
    by_hand = dataclasses.replace(with_preset, preset=None)
    assert run_id(by_hand.identity()) == run_id(with_preset.identity())


def test_the_run_id_is_twelve_digits_of_canonical_json():
    assert run_id({"b": 1, "a": [1, 2.5, None, "é"]}) == run_id({"a": [1, 2.5, None, "é"], "b": 1})
    # printf '{"a":1}' | sha256sum
    assert run_id({"a": 1}) == "015abd7f5cc5"


def test_optimizers_keep_their_own_ranges():
    with pytest.raises(ValueError, match="betas"):
        AdamW(betas=(0.9, 0.99, 0.999))
    with pytest.raises(ConfigurationError, match=r"optimizer\.momentum: 1.5 is too large"):
        compose_run(["optimizer=sgd", "optimizer.momentum=1.5"])
    with pytest.raises(ConfigurationError, match=r"optimizer\.warmup_ratio: 1.5 is too large"):
        compose_run(["optimizer.warmup_ratio=1.5"])
