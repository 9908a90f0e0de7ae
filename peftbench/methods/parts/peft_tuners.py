"""HF PEFT's tuners as `method.config` names them: which train in this loop, their settings, the modules they adapt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from peftbench.backbones.anatomy import ROLES, layer_norms, sites
from peftbench.errors import ConfigurationError
from peftbench.hub import settle_offline
from peftbench.strict import did_you_mean

WRAPPED = "its virtual tokens live in PEFT's wrapper around the model"
NOT_HERE: Mapping[str, str] = {
    "ADALORA": "its penalty and its budget live in PEFT's wrapper around the model; use method=adalora",
    "ADAPTION_PROMPT": "its prompts live in PEFT's wrapper around the model, for Llama's attention alone",
    "CARTRIDGE": f"{WRAPPED}, and are made from documents",
    "CPT": f"{WRAPPED}, and want token types with every batch",
    "MULTITASK_PROMPT_TUNING": f"{WRAPPED}, and want a task id with every batch",
    "POLY": "it wants a task id with every batch",
    "PREFIX_TUNING": f"{WRAPPED}; use method=prefix_tuning",
    "PROMPT_TUNING": f"{WRAPPED}; use method=prompt_tuning",
    "P_TUNING": f"{WRAPPED}; use method=p_tuning",
    "SHADOW": "it runs a second network, with a loss of its own, in PEFT's forward pass",
    "XLORA": "it mixes adapters that were trained before",
}
"""Peft type -> why it does not train here."""
NOT_MERGEABLE = ("LILY",)
OURS = {
    "auto_mapping": "the export writes it",
    "base_model_name_or_path": "the backbone is the model group's",
    "inference_mode": "the export writes it",
    "modules_to_save": "the head is trainer.head's",
    "peft_version": "the export writes it",
    "revision": "the backbone is the model group's",
    "runtime_config": "it is not part of an adapter",
    "task_type": "the export writes it",
}
_OWN_LOSS = "its loss term is added by PEFT's own trainer only"
UNUSABLE: Sequence[tuple[str, str, tuple[str, ...], str]] = (
    ("ADAMSS", "use_asa", ("True",), "it freezes parameters in the middle of a run, which checkpoints do not hold"),
    ("LORA", "alora_invocation_tokens", (), "it reads the tokens in PEFT's wrapper around the model"),
    ("LORA", "arrow_config", (), "it mixes adapters that were trained before"),
    ("LORA", "init_lora_weights", ("eva", "corda", "lora_ga"), "it wants a pass over data before the first step"),
    ("LORA", "init_lora_weights", ("pissa_niter",), "loading the adapter draws its start anew; use pissa"),
    ("LORA", "kasa_config", (), _OWN_LOSS),
    ("LORA", "layer_replication", (), "it makes another backbone"),
    ("LORA", "monteclora_config", (), _OWN_LOSS),
)
"""Peft type, key, how the values begin (none: whatever is not null) that cannot be used here, and why."""


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse what PEFT does not know and what cannot train here.

    Args:
        settings: `method.config`.

    Raises:
        ConfigurationError: PEFT is not installed; an unknown or unusable type, key or value.
    """
    configs, tuners = _mappings()
    kind = settings.get("peft_type")
    if kind not in configs:
        near = did_you_mean(str(kind).upper(), configs)
        here = ", ".join(sorted(name for name in configs if not refusal(name, tuners[name])))
        raise ConfigurationError(f"method.config.peft_type: {kind!r} is not PEFT's{near} (these train: {here})")
    if reason := refusal(kind, tuners[kind]):
        raise ConfigurationError(f"method.config.peft_type: {kind} does not train here: {reason}")
    known = [f.name for f in dataclasses.fields(configs[kind]) if f.init]
    for key, value in settings.items():
        if key not in known:
            near = did_you_mean(str(key), known).replace("mean ", "mean method.config.")
            raise ConfigurationError(f"method.config.{key}: not a key of PEFT's {configs[kind].__name__}{near}")
        if key in OURS:
            raise ConfigurationError(f"method.config.{key}: not set here; {OURS[key]}")
        for *place, values, reason in UNUSABLE:
            if place == [kind, key] and value is not None and str(value).startswith(values or ""):
                raise ConfigurationError(f"method.config.{key}: {value} does not work here: {reason}")
    make_config(settings)


def refusal(kind: str, tuner: type | None) -> str | None:
    """Why a tuner does not train here, or None."""
    from peft.tuners.tuners_utils import BaseTuner

    if kind in NOT_HERE:
        return NOT_HERE[kind]
    if tuner is None or not issubclass(tuner, BaseTuner) or tuner.forward is not BaseTuner.forward:
        return "it lives in PEFT's wrapper around the model"
    return None


def make_config(settings: Mapping[str, Any]) -> Any:
    """PEFT's configuration object.

    Raises:
        ConfigurationError: PEFT refuses a value.
    """
    configs, _ = _mappings()
    kind = settings["peft_type"]
    values = {k: v for k, v in settings.items() if k != "peft_type"}
    try:
        return configs[kind](**values)
    except (ValueError, TypeError, ImportError) as error:
        raise ConfigurationError(f"method.config: PEFT's {kind} says: {_line(error)}") from error


def inject(model: nn.Module, config: Any, seed: int) -> Any:
    """Put the tuner's layers into the model.

    Args:
        model: changed in place.
        config: PEFT's configuration, targets resolved.
        seed: of every draw; the global random state is as it was afterwards.

    Returns:
        PEFT's tuner around the model.

    Raises:
        ConfigurationError: the tuner refuses the model or a setting.
    """
    import torch

    _, tuners = _mappings()
    kind = config.peft_type.value
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if any(p.is_meta for p in model.parameters()):
            _start_without_weights(model, config)
        try:
            tuner = tuners[kind](model, config, "default")
            tuner._cast_adapter_dtype("default")
        except Exception as error:  # Each tuner has its own way of refusing shapes and settings.
            raise ConfigurationError(f"method.config: PEFT's {kind} says: {_line(error)}") from error
    return tuner


def _start_without_weights(model: nn.Module, config: Any) -> None:
    """Make counts possible where the tuner looks at the weights' values and the model has shapes alone."""
    start = getattr(config, "init_lora_weights", True)
    if start in ("loftq", "olora", "pissa"):
        config.init_lora_weights = True  # The factors have the same shapes.
    elif start == "mica" or config.peft_type.value in ("ADAMSS", "FROD", "SHIRA"):
        # What these train depends on their own start, so the maps they adapt get some weights.
        for name in config.target_modules:
            for parameter in model.get_submodule(name).to_empty(device="cpu").parameters():
                nn.init.normal_(parameter, std=0.02)


def resolve_targets(config: Any, model: nn.Module, head: Sequence[str], roles: Sequence[str] | None) -> None:
    """Replace the targets of `config` by the exact names of the modules they mean, none of them in the head.

    Roles come first, then the configuration's own patterns, then PEFT's default for the architecture where all it
    matches are plain layers; then layer norms, embeddings or the query and value maps, as the tuner needs.

    Raises:
        ConfigurationError: nothing matches.
    """
    in_head = tuple(f"{name}." for name in head)
    modules = {n: m for n, m in model.named_modules() if n and n not in head and not n.startswith(in_head)}
    given = config.target_modules
    if roles:
        names = [site.name for site in sites(model, roles)]
    elif given is not None:
        names = _matching(config, modules, model)
    else:
        names = _default(config, modules, model)
    if not names:
        wanted = given if isinstance(given, str) else ", ".join(sorted(given or ()))
        near = did_you_mean(wanted, {name.rpartition(".")[2] for name in modules})
        raise ConfigurationError(f"method.config.target_modules: {wanted or 'an empty list'} matches no module{near}")
    if hasattr(config, "feedforward_modules"):
        forward = config.feedforward_modules
        chosen = [site.name for site in sites(model, ["ffn_out"])] if forward is None else _ends(forward, names)
        config.feedforward_modules = set(chosen) & set(names)
    kind = config.peft_type.value
    if bare := [name for name in names if kind == "BEFT" and getattr(modules[name], "bias", None) is None]:
        # PEFT trains there, and fails when merging, after training.
        raise ConfigurationError(
            f"method.config: {kind} wants maps with biases; {', '.join(bare[:2])} and the like have none"
        )
    config.target_modules = set(names)
    for key in ("exclude_modules", "layers_to_transform", "layers_pattern"):
        if hasattr(config, key):
            setattr(config, key, None)


def _default(config: Any, modules: Mapping[str, nn.Module], model: Any) -> list[str]:
    _, tuners = _mappings()
    kind = config.peft_type.value
    mapping = getattr(tuners[kind], "target_module_mapping", None) or {}
    config.target_modules = mapping.get(model.config.model_type)
    if config.target_modules is not None:
        names = _matching(config, modules, model)
        # A fused projection that was split while loading has parts.
        if names and not any(list(modules[name].children()) for name in names):
            return names
    if kind == "LN_TUNING":
        return [name for name in layer_norms(model) if name in modules]
    if kind == "TRAINABLE_TOKENS":
        table = model.get_input_embeddings()
        tied = [n for n, m in modules.items() if isinstance(m, nn.Embedding) and m.weight is table.weight]
        if len(tied) > 1:
            raise ConfigurationError(f"method.config: PEFT's {kind} cannot train a table that {', '.join(tied)} share")
        return tied
    roles = {"IA3": ("key", "value", "ffn_out"), "OSF": ROLES}.get(kind, ("query", "value"))
    return [site.name for site in sites(model, roles)]


def _matching(config: Any, modules: Mapping[str, nn.Module], model: Any) -> list[str]:
    """Names that PEFT's own rule matches."""
    from peft.tuners.tuners_utils import check_target_module_exists

    if isinstance(config.target_modules, str) and config.target_modules.lower() == "all-linear":
        output = model.get_output_embeddings()
        return [n for n, m in modules.items() if isinstance(m, nn.Linear) and m is not output]
    return [name for name in modules if _is_match(check_target_module_exists(config, name))]


def _is_match(found: Any) -> bool:
    # What PEFT says of an excluded module is an object of its own, which is not false.
    return bool(found) and type(found).__name__ != "_ExcludedModule"


def _ends(patterns: Any, names: Sequence[str]) -> list[str]:
    import re

    if isinstance(patterns, str):
        return [name for name in names if re.fullmatch(patterns, name)]
    return [name for name in names if any(name == p or name.endswith(f".{p}") for p in patterns)]


def _mappings() -> tuple[dict[str, Any], dict[str, Any]]:
    """Peft type -> its configuration's class; peft type -> its tuner's."""
    try:
        # PEFT imports the hub's libraries, which read once whether they are to stay offline.
        settle_offline()
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    except ImportError as error:
        advice = "pip install 'peftbench[peft]'"
        raise ConfigurationError(f"method=peft needs the library peft ({error}): {advice}") from error
    configs = {kind.value: config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    tuners: dict[str, Any] = {kind.value: tuner for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    return configs, tuners


def _line(error: Exception) -> str:
    told = isinstance(error, (ValueError, TypeError, RuntimeError, ImportError)) and str(error)
    return " ".join((str(error) if told else f"{type(error).__name__} {error}").split())
