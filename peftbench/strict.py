"""Mappings into frozen dataclasses, strictly: an unknown key, a wrong type or a value out of range is an error."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from peftbench.errors import ConfigurationError

T = TypeVar("T")


def bounded(default: Any, *, at_least: float | None = None, above: float | None = None, at_most: float | None = None):
    """A dataclass field with a default and a range, checked by `build` (null is exempt).

    Args:
        default: the field's default.
        at_least: smallest allowed value.
        above: the value must be strictly larger than this.
        at_most: largest allowed value.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most}
    return dataclasses.field(default=default, metadata={k: v for k, v in limits.items() if v is not None})


def distinct(default: Any):
    """A dataclass field that is a list with an entry at least and none twice, checked by `build` (null is exempt)."""
    return dataclasses.field(default=default, metadata={"distinct": True})


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean X?` for the nearest known word, upper and lower case being alike, else the empty string."""
    names = list(known)
    near = difflib.get_close_matches(word.lower(), [name.lower() for name in names], n=1, cutoff=0.5)
    alike = [name for name in names if name.lower() in near]
    return f"; did you mean {difflib.get_close_matches(word, alike, n=1, cutoff=0.0)[0]}?" if near else ""


def build(cls: type[T], values: Mapping[str, Any], where: str, source: str) -> T:
    """Make the dataclass `cls` of `values`.

    A field whose name ends in an underscore stands for the key without it (`lambda_` for `lambda`).

    Args:
        cls: a dataclass; its annotations are the types.
        values: the configuration's mapping.
        where: the mapping's own key, e.g. `method`, for messages.
        source: the file whose keys these are, for messages.

    Raises:
        ConfigurationError: unknown key, wrong type, value out of range, or what `__post_init__` refuses.
    """
    fields = {f.name.rstrip("_"): f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            near = did_you_mean(str(key), fields)
            near = near.replace("mean ", f"mean {where}.") if near else f"; known keys: {', '.join(fields)}"
            raise ConfigurationError(f"{where}.{key}: unknown key{near} ({source})")
    built = {}
    for key, field in fields.items():
        if key in values:
            name = f"{where}.{key}"
            built[field.name] = _checked(_convert(values[key], hints[field.name], name, source), field, name, source)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigurationError(f"{where}.{key}: not given, and it has no default ({source})")
    try:
        return cls(**built)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error} ({source})") from error


def _checked(value: Any, field: dataclasses.Field, name: str, source: str) -> Any:
    limits = field.metadata
    if value is None or not limits:
        return value
    if "distinct" in limits and not value:
        raise ConfigurationError(f"{name}: an empty list, name one at least ({source})")
    if "distinct" in limits and len(set(value)) < len(value):
        raise ConfigurationError(f"{name}: {', '.join(map(str, value))} names one twice ({source})")
    if "at_least" in limits and value < limits["at_least"]:
        raise ConfigurationError(f"{name}: {value} is too small, at least {limits['at_least']} ({source})")
    if "above" in limits and value <= limits["above"]:
        raise ConfigurationError(f"{name}: {value} is too small, it must be above {limits['above']} ({source})")
    if "at_most" in limits and value > limits["at_most"]:
        raise ConfigurationError(f"{name}: {value} is too large, at most {limits['at_most']} ({source})")
    return value


def _convert(value: Any, hint: Any, name: str, source: str) -> Any:
    """`value` as the annotated type, or a ConfigurationError that names both."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        choices = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        if value is None and len(choices) < len(typing.get_args(hint)):
            return None
        if len(choices) == 1:
            return _convert(value, choices[0], name, source)
        for arm in choices:
            try:
                return _convert(value, arm, name, source)
            except ConfigurationError:
                continue
        raise _wrong(value, hint, name, source)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value in allowed and not isinstance(value, bool):
            return value
        near = did_you_mean(str(value), [str(a) for a in allowed])
        raise ConfigurationError(f"{name}: {value!r} is not one of {', '.join(map(str, allowed))}{near} ({source})")
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, hint, name, source)
        item = typing.get_args(hint)[0]
        return tuple(_convert(v, item, f"{name}[{i}]", source) for i, v in enumerate(value))
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(value, hint, name, source)
        return dict(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:
            raise ConfigurationError(f"{name}: {value} is not a finite number ({source})")
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise _wrong(value, hint, name, source)


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return _WORDS.get(hint, str(hint))


def _wrong(value: Any, hint: Any, name: str, source: str) -> ConfigurationError:
    arms = [arm for arm in (typing.get_args(hint) or (hint,)) if arm not in (type(None), Ellipsis)]
    wanted = " or ".join(_in_words(arm) for arm in arms)
    if typing.get_origin(hint) is tuple:
        wanted = f"a list of {wanted}"
    if hint is dict:
        wanted = "a mapping"
    return ConfigurationError(f"{name}: {value!r} is not {wanted} ({source})")
