"""Hydra's composition: overrides in, one plain mapping out, every mistake as one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import ConfigurationError
from peftbench.plain_yaml import read_yaml
from peftbench.strict import did_you_mean

if TYPE_CHECKING:
    from peftbench.config import RunConfig


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
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with hydra_errors(), initialize_config_dir(str(conf_folder()), version_base="1.3"):
        node = _composed(readable(overrides))
        own = OmegaConf.masked_copy(node, [str(k) for k in node if k != "hydra"])
        return from_hydra(own, node.hydra)


def check_groups(overrides: Sequence[str]) -> None:
    """Refuse a group's value that is no name: Hydra has no words for some, such as a list of numbers.

    Raises:
        ConfigurationError: there is one, or a word that Hydra cannot read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, QuotedString

    with hydra_errors():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    for override in parsed:
        if not override.key_or_group:
            raise ConfigurationError(f"{override.input_line}: names no key")
        known = sorted(file.stem for file in (conf_folder() / override.key_or_group).glob("*.yaml"))
        if override.is_delete() or not known:
            continue
        found = override._value
        values = found.list if isinstance(found, ChoiceSweep) else [] if override.is_sweep_override() else [found]
        if any(not isinstance(value, str | QuotedString) for value in values):
            name = override.key_or_group
            raise ConfigurationError(f"{override.input_line}: {name} takes a name, e.g. {name}={known[0]}")


def _composed(overrides: list[str]) -> Any:
    """Hydra's composition."""
    from hydra import compose

    check_groups(overrides)
    try:
        return compose("config", overrides=overrides, return_hydra_config=True)
    except (TypeError, AttributeError, KeyError) as error:
        told = f"one of {', '.join(overrides)} is nothing that Hydra can compose ({error})"
        raise ConfigurationError(f"{told}; a group takes a name, a key a plain value") from error


@contextlib.contextmanager
def hydra_errors() -> Iterator[None]:
    """Tell Hydra's and OmegaConf's exceptions in one line.

    Raises:
        ConfigurationError: in their place.
    """
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        # What our own plugin refuses comes wrapped.
        if isinstance(error.__cause__, ConfigurationError):
            raise error.__cause__ from error
        raise ConfigurationError(one_line(error)) from error
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        # The folder that Hydra makes for a sweep; jobs answer for their own files.
        raise ConfigurationError(f"outputs: cannot write to {error.filename} ({error.strerror})") from error
    except ValueError as error:
        # Hydra's word on `hydra/launcher=null`, a group of its own: it names no key.
        if "Config group override" not in str(error):
            raise
        raise ConfigurationError(
            f"a group takes a name, e.g. method=lora or preset=none ({' '.join(str(error).split())})"
        ) from error


def from_hydra(node: Any, hydra: Any) -> RunConfig:
    """The typed configuration of a composed node.

    Args:
        node: the composed configuration, without Hydra's own.
        hydra: Hydra's own: choices and overrides.

    Raises:
        ConfigurationError: see `peftbench.typed.typed`.
    """
    from omegaconf import OmegaConf

    from peftbench.typed import typed  # With it come the tasks and numpy, which Hydra's own errors do without.

    choices = dict(hydra.runtime.choices)
    with hydra_errors(), without_environment():
        raw = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(raw, dict)
    _last_word_on_threshold(raw, list(hydra.overrides.task))
    choices["preset"] = _existing_preset(choices)
    return typed(raw, choices)  # type: ignore[arg-type]


@contextlib.contextmanager
def without_environment() -> Iterator[None]:
    """While open, no interpolation reads the environment, however it is written: what it gave would be recorded.

    Raises:
        ConfigurationError: one does.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from omegaconf.resolvers import oc

    asked = []
    OmegaConf.register_new_resolver("oc.env", lambda *_: asked.append(True), replace=True)
    try:
        yield
    except OmegaConfBaseException:
        if not asked:
            raise
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
    if asked:
        raise ConfigurationError("${oc.env:...}: a configuration is recorded, and the environment may hold secrets")


def readable(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra takes them: home folders written out, and the keys of open mappings added."""
    return [re.sub(r"^\+{0,2}(method\.config)(?=[.=])", r"++\1", word) for word in at_home(overrides)]


def at_home(overrides: Sequence[str]) -> list[str]:
    """`key=~/folder` with the home folder written out; Hydra's grammar has no `~` there."""
    return [re.sub(r"^([^=]+=)~(?=/|$)", lambda m: m[1] + str(Path.home()), word) for word in overrides]


def _last_word_on_threshold(raw: dict, overrides: Sequence[str]) -> None:
    """`sparsity.lambda` on the command line displaces a preset's `xi`, and the reverse: they are one choice."""
    sparsity = raw.get("sparsity")
    if not isinstance(sparsity, dict):
        return
    given = {o.lstrip("+").partition("=")[0] for o in overrides}
    for mine, other in (("lambda", "xi"), ("xi", "lambda")):
        # `lambda=null` takes nothing's place.
        if f"sparsity.{mine}" in given and f"sparsity.{other}" not in given and sparsity.get(mine) is not None:
            sparsity[other] = None


def _existing_preset(choices: Mapping[str, Any]) -> str | None:
    """The preset's name, or None where the combination has none; one asked for by name has to be there."""
    name, root = choices.get("preset"), conf_folder() / "preset"
    if name is None or (root / f"{name}.yaml").is_file():
        return name
    if name == "/".join(str(choices.get(group)) for group in ("method", "task", "model")):
        return None
    known = sorted(file.relative_to(root).with_suffix("").as_posix() for file in root.rglob("*.yaml"))
    near = [other for other in known if other.partition("/")[0] == str(name).partition("/")[0]]
    raise ConfigurationError(f"preset={name}: no such preset{did_you_mean(str(name), near)} (see conf/preset)")


def one_line(error: Exception) -> str:
    """Hydra's or OmegaConf's complaint as one line that names the nearest valid word."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, OverrideParseException):
        advice = """special characters want quotes of their own, 'key="value"'"""
        return f"{error.override}: not readable as key=value; {advice}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = list(error.options or []) or sorted(f.stem for f in (conf_folder() / group).glob("*.yaml"))
        if group:
            choose = f"choose from: {', '.join(known)}" if known else "there is none yet"
            return f"{group}={name}: no such {group}{did_you_mean(name, known)} ({choose})"
    text = " ".join(str(error).split())
    if "'${method}/${task}/${model}'" in text:
        return "method, task and model: each takes exactly one name, e.g. method=sora task=mrpc model=minilm"
    key = _quoted(text) if text.startswith(("Could not override", "Key ")) else None
    if key:
        return _unknown(key)
    return text


def _unknown(key: str) -> str:
    """Hydra advises `+key=value` for an unknown key; the strict configuration would refuse that too."""
    homes, group = known_keys(), key.partition(".")[0]
    if homes.get(key):
        owners = " or ".join(f"{group}={name}" for name in homes[key])
        return f"{key}: not a key of the chosen {group}; {owners} has it"
    if key in homes:
        return f"{key}: not a value that it takes (see peftbench --help)"
    return f"{key}: unknown key or group{did_you_mean(key, homes)} (see peftbench --help)"


def _quoted(text: str) -> str | None:
    parts = text.split("'")
    return parts[1] if len(parts) > 2 else None


def known_keys() -> dict[str, list[str]]:
    """Every key and group that can stand on the left of an override, with the group's choices that have the key."""
    groups = [group.name for group in sorted(conf_folder().iterdir()) if group.is_dir()]
    keys: dict[str, list[str]] = {name: [] for name in (*groups, "seed", "outputs", "experiment_name")}
    for group in groups:
        for file in sorted((conf_folder() / group).glob("*.yaml")):
            if group not in ("preset", "experiment"):
                for key in _flat(read_yaml(file) or {}, group):
                    keys.setdefault(key, []).append(file.stem)
    return keys


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        yield f"{prefix}.{key}"
        if isinstance(value, Mapping) and key != "architecture":
            yield from _flat(value, f"{prefix}.{key}")
