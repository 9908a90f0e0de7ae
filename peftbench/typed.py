"""The composed mapping into typed, frozen objects; what contradicts itself ends here."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.config import OPTIMIZERS, DataConfig, ModelConfig, RunConfig, SweepConfig, TrackerConfig, TrainerConfig
from peftbench.errors import ConfigurationError
from peftbench.sparsity import SCHEDULES, Stages
from peftbench.strict import build, did_you_mean
from peftbench.task_config import TASK_CONFIGS, TaskConfig
from peftbench.tasks.base import LIKELIHOOD, LOWER_IS_BETTER
from peftbench.tasks.registry import task_spec

_TOP_LEVEL = (
    "task", "method", "model", "optimizer", "sparsity", "data", "trainer", "sweep", "tracker",
    "seed", "outputs", "experiment_name",
)  # fmt: skip


def typed(raw: Mapping[str, Any], choices: Mapping[str, str | None]) -> RunConfig:
    """The composed configuration as typed, frozen objects.

    Args:
        raw: the composed mapping, without Hydra's own node.
        choices: the YAML each group was read from, for messages and for the preset's name.

    Raises:
        ConfigurationError: anything unknown, mistyped, out of range or contradictory.
    """
    raw = {"sweep": {}, "tracker": {}, **raw}  # A record's configuration holds only what can change its run.
    for key in raw:
        if key not in _TOP_LEVEL:
            raise ConfigurationError(f"{key}: unknown key{did_you_mean(str(key), _TOP_LEVEL)} (conf/config.yaml)")
    _scalars(raw)
    parts = {}
    for section, cls in _section_classes(raw).items():
        parts[section] = build(cls, raw[section], section, _file(section, choices))
    _check_task(parts["task"])
    _folder_name("model.name", parts["model"].name)
    method_name, method = _method(raw["method"], _file("method", choices))
    parts["model"] = _base(parts["model"], method_name, method.capabilities.quantised_base)
    _check_dtype(parts["model"], method_name, method.capabilities.quantised_base, parts["trainer"].precision)
    preset = choices.get("preset")
    config = RunConfig(
        **parts,
        method_name=method_name,
        method=method,
        seed=raw["seed"],
        outputs=Path(raw["outputs"]).expanduser().absolute(),
        experiment_name=raw["experiment_name"],
        preset=None if preset == "none" else preset,
    )
    if isinstance(config.sparsity, Stages) and config.sparsity.restart == "official":
        _decays(config)
    method.check(config.trainer.head, config.trainer.merge)
    return config


def recorded_mapping(record: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a record as `typed` takes it: presets are written out there, and no schedule is none.

    Raises:
        ConfigurationError: the record holds no configuration of a run.
    """
    config = record.get("config")
    sections = ("task", "method", "model", "optimizer", "data", "trainer")
    lacking = [key for key in sections if not isinstance(config, Mapping) or not isinstance(config.get(key), Mapping)]
    if lacking or "seed" not in config:  # type: ignore[operator]
        raise ConfigurationError(f"the record's config has no {(lacking or ['seed'])[0]}; it is no record of a run")
    found = {key: value for key, value in config.items() if key != "preset"}  # type: ignore[union-attr]
    return found | {"sparsity": found.get("sparsity") or {"schedule": "constant"}}


def _base(model: ModelConfig, method_name: str, quantised: str) -> ModelConfig:
    """The model as the method can have it: one that needs a quantised base gets one without being asked."""
    if quantised == "needed" and model.quantization is None:
        return dataclasses.replace(model, quantization="nf4")
    if quantised == "refused" and model.quantization is not None:
        raise ConfigurationError(
            f"model.quantization={model.quantization}: method {method_name} does not go with quantised weights;"
            " leave it null, or take a method that adapts frozen linear maps from beside them"
        )
    return model


def _check_dtype(model: ModelConfig, method_name: str, quantised: str, precision: str) -> None:
    """Under autocast maps in bfloat16 are rounded as they would be; without it, with other methods, they are not."""
    if model.dtype == "float32":
        return
    told = f"model.dtype={model.dtype}"
    if model.quantization is not None:
        raise ConfigurationError(f"{told}: the maps are in 4 bits already (model.quantization); leave it float32")
    if quantised != "allowed":
        raise ConfigurationError(
            f"{told}: method {method_name} is not among those that leave the maps as they are and adapt them from"
            " beside (lora, sora, adalora); leave it float32"
        )
    if precision != "bf16":
        raise ConfigurationError(f"{told}: products would mix number types; add trainer.precision=bf16")


def _decays(config: RunConfig) -> None:
    """`official` stages train at the end of a schedule, where only a decaying one is 0."""
    if config.optimizer.schedule == "constant":
        raise ConfigurationError(
            "sparsity.restart=official goes on at the end of the learning-rate schedule,"
            " and optimizer.schedule=constant has none; use linear or cosine"
        )


def _file(section: str, choices: Mapping[str, str | None]) -> str:
    return f"conf/{section}/{choices.get(section) or '?'}.yaml"


def _section_classes(raw: Mapping[str, Any]) -> dict[str, type]:
    for section in _TOP_LEVEL[:9]:
        if not isinstance(raw.get(section), Mapping):
            raise ConfigurationError(f"{section}: expected a group's mapping, found {raw.get(section)!r}")
    return {
        "task": _task_class(raw["task"]),
        "model": ModelConfig,
        "optimizer": _pick(OPTIMIZERS, raw["optimizer"], "optimizer.name", "adamw"),
        "sparsity": _pick(SCHEDULES, raw["sparsity"], "sparsity.schedule", "constant"),
        "data": DataConfig,
        "trainer": TrainerConfig,
        "sweep": SweepConfig,
        "tracker": TrackerConfig,
    }


def _task_class(values: Mapping[str, Any]) -> type[TaskConfig]:
    return TASK_CONFIGS.get(str(values.get("name")), TaskConfig)


def _pick(table: Mapping[str, type], values: Mapping[str, Any], key: str, default: str) -> type:
    name = values.get(key.partition(".")[2], default)
    if not isinstance(name, str) or name not in table:
        raise ConfigurationError(f"{key}: {name!r} is not one of {', '.join(table)}{did_you_mean(str(name), table)}")
    return table[name]


def _scalars(raw: Mapping[str, Any]) -> None:
    seed, name = raw.get("seed"), raw.get("experiment_name")
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise ConfigurationError(f"seed: {seed!r} is not a whole number from 0 to 2^32 - 1 (conf/config.yaml)")
    if not isinstance(raw.get("outputs"), str) or not raw["outputs"]:
        raise ConfigurationError(f"outputs: {raw.get('outputs')!r} is not a folder's path (conf/config.yaml)")
    _folder_name("experiment_name", name)


def _folder_name(key: str, name: Any) -> None:
    """Results lie in folders of these names: one step down, and not hidden."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise ConfigurationError(
            f"{key}: {name!r} is not a name of letters, digits, '-', '_' and '.' that begins with none of '-' and '.'"
        )


def _check_task(task: TaskConfig) -> None:
    """What selects is a metric of the task's, and the protocol is one for its kind."""
    spec = task_spec(task.name)
    writes = spec.kind in ("generate", "lm")
    fitting = ("official",) if writes else ("glue_dev",) if spec.members else ("glue_dev", "sora")
    if task.protocol not in fitting:
        raise ConfigurationError(
            f"task.protocol={task.protocol}: {task.name} takes {' or '.join(fitting)} ({_OWN_SPLITS[writes]})"
        )
    known = (*(LIKELIHOOD if writes else ()), *spec.metrics)
    if task.selection_metric is not None and task.selection_metric not in known:
        near = did_you_mean(task.selection_metric, known)
        raise ConfigurationError(
            f"task.selection_metric: {task.selection_metric!r} is not a metric of {task.name}{near}"
            f" (its metrics: {', '.join(known)})"
        )
    if task.selection_metric in LOWER_IS_BETTER | {"meteor"}:
        raise ConfigurationError(
            f"task.selection_metric={task.selection_metric}: what selects grows with quality and is known everywhere;"
            " take log_likelihood or bleu"
        )


_OWN_SPLITS = {True: "its test set is public", False: "its test labels are hidden"}


def _method(values: Mapping[str, Any], source: str) -> tuple[str, Any]:
    # Methods bring torch with them, which Hydra's own errors and every mistake outside `method` do not wait for.
    from peftbench.methods.registry import method_class

    name: Any = values.get("name")
    cls = method_class(name)
    return name, build(cls, {k: v for k, v in values.items() if k != "name"}, "method", source)
