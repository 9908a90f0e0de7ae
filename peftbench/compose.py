"""Hydra's composition: overrides in, one plain mapping out, every mistake as one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.config import RunConfig, typed
from peftbench.errors import ConfigurationError
from peftbench.strict import did_you_mean


def conf_folder() -> Path:
    """The YAML groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose_run(overrides: Sequence[str]) -> RunConfig:
    """One run's typed configuration.

    Raises:
        ConfigurationError: an override that Hydra refuses or a value that the typed configuration refuses.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            node = compose("config", overrides=list(overrides), return_hydra_config=True)
            return from_hydra(node)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(one_line(error)) from error


def from_hydra(node: Any) -> RunConfig:
    """The typed configuration of a composed Hydra node (with its `hydra` part).

    Raises:
        ConfigurationError: see `peftbench.config.typed`.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    choices = dict(node.hydra.runtime.choices)
    overrides = list(node.hydra.overrides.task)
    own = OmegaConf.masked_copy(node, [k for k in node if k != "hydra"])
    try:
        raw = OmegaConf.to_container(own, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(one_line(error)) from error
    assert isinstance(raw, dict)
    _last_word_on_threshold(raw, overrides)
    choices["preset"] = _existing_preset(choices.get("preset"))
    return typed(raw, choices)  # type: ignore[arg-type]


def _last_word_on_threshold(raw: dict, overrides: Sequence[str]) -> None:
    """`sparsity.lambda` on the command line displaces a preset's `xi`, and the reverse: they are one choice."""
    given = {o.lstrip("+").partition("=")[0] for o in overrides}
    for mine, other in (("lambda", "xi"), ("xi", "lambda")):
        if f"sparsity.{mine}" in given and f"sparsity.{other}" not in given and isinstance(raw.get("sparsity"), dict):
            raw["sparsity"][other] = None


def _existing_preset(name: str | None) -> str | None:
    exists = name is not None and (conf_folder() / "preset" / f"{name}.yaml").is_file()
    return name if exists else None


def one_line(error: Exception) -> str:
    """Hydra's or OmegaConf's complaint as one line that names the nearest valid word."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = list(error.options or [])
        if group:
            return f"{group}={name}: no such {group}{did_you_mean(name, known)} (choose from: {', '.join(known)})"
    text = " ".join(str(error).split())
    key = _quoted(text) if text.startswith(("Could not override", "Key ")) else None
    if key:
        # `+key=value` is Hydra's own advice for an unknown key; the strict configuration would refuse that too.
        return f"{key}: unknown key or group{did_you_mean(key, known_keys())} (see peftbench --help)"
    return text


def _quoted(text: str) -> str | None:
    parts = text.split("'")
    return parts[1] if len(parts) > 2 else None


def known_keys() -> list[str]:
    """Every key and group that can stand on the left of an override."""
    from omegaconf import OmegaConf

    keys = [group.name for group in sorted(conf_folder().iterdir()) if group.is_dir()]
    keys += ["seed", "outputs", "experiment_name"]
    for group in list(keys):
        for file in sorted((conf_folder() / group).glob("*.yaml")):
            if group not in ("preset", "experiment"):
                keys += _flat(OmegaConf.to_container(OmegaConf.load(file)), group)  # type: ignore[arg-type]
    return list(dict.fromkeys(keys))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}.{key}"
        if isinstance(value, Mapping) and key != "architecture":
            yield from _flat(value, f"{prefix}.{key}")
