"""What a record must be for a report to read it: which keys are there, of which types, and text that can be shown."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Kind = tuple[str, Callable[[Any], bool]]
"""What is expected in words, and whether a value is that."""

_LARGEST = 2**63 - 1
"""What a column of whole numbers holds."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that break or turn lines, and halves of surrogate pairs, which no file can hold."""

TEXT: Kind = ("text", lambda value: isinstance(value, str))
NAME: Kind = (
    "a name of letters, digits and . _ -",
    lambda value: isinstance(value, str) and re.fullmatch(r"\w[\w.-]*", value) is not None,
)
"""A folder's, too: it may not lead out of the one it is in."""
WHOLE: Kind = ("a whole number", lambda value: type(value) is int and abs(value) <= _LARGEST)
COUNT: Kind = ("a count", lambda value: WHOLE[1](value) and value >= 0)
NUMBER: Kind = (
    "a number",
    lambda value: WHOLE[1](value) or (isinstance(value, float) and math.isfinite(value)),
)
FLAG: Kind = ("true or false", lambda value: isinstance(value, bool))
MAPPING: Kind = ("a mapping", lambda value: isinstance(value, Mapping))


def _or_null(kind: Kind) -> Kind:
    return f"{kind[0]} or null", lambda value: value is None or kind[1](value)


def _each(kind: Kind) -> Kind:
    return f"a mapping to {kind[0]}", lambda value: isinstance(value, Mapping) and all(map(kind[1], value.values()))


def _list(kind: Kind) -> Kind:
    return f"a list, each {kind[0]}", lambda value: isinstance(value, list) and all(map(kind[1], value))


def _with(**keys: Kind) -> Kind:
    told = ", ".join(keys)
    return (
        f"a mapping with {told}",
        lambda value: (
            isinstance(value, Mapping) and all(key in value and kind[1](value[key]) for key, kind in keys.items())
        ),
    )


_NEEDED: Mapping[str, Kind] = {
    "status": TEXT,
    "run_id": TEXT,
    "task": TEXT,
    "method": TEXT,
    "seed": WHOLE,
    "config.experiment_name": NAME,
    "config.task": MAPPING,
    "config.method": MAPPING,
    "model.name": TEXT,
    "model.source": TEXT,
    "data.kind": TEXT,
    "data.source": TEXT,
    "data.protocol": TEXT,
    "data.splits": _each(_with(rows=COUNT, fingerprint=TEXT)),
    "parameters": MAPPING,
    "timing": MAPPING,
}
_OF_A_RESULT: Mapping[str, Kind] = {
    "parameters.effective": COUNT,
    "metrics": _each(_each(_or_null(NUMBER))),
    "selection.split": TEXT,
    "selection.metric": TEXT,
    "selection.rule": TEXT,
}
_WHERE_IT_IS: Mapping[str, Kind] = {
    "started": TEXT,
    "ended": TEXT,
    "form": TEXT,
    "model.described": TEXT,
    "model.revision": TEXT,
    "model.weights_sha256": TEXT,
    "environment": MAPPING,
    "environment.git": MAPPING,
    "environment.git.commit": TEXT,
    "environment.git.dirty": FLAG,
    "environment.hardware": _with(cpu=TEXT, cores=WHOLE, gpus=_list(TEXT)),
    "environment.threads": WHOLE,
    "environment.versions": MAPPING,
    "environment.versions.peftbench": TEXT,
    **{f"parameters.{key}": COUNT for key in ("trained", "stored", "head", "paper")},
    "timing.epoch_s": _list(NUMBER),
    "timing.epoch_median_s": NUMBER,
    "timing.train_s": NUMBER,
    "memory": MAPPING,
    "memory.peak_rss_mb": NUMBER,
    "memory.peak_cuda_mb": NUMBER,
    "ranks": _with(initial=_each(COUNT), final=_each(COUNT)),
    "stages": _list(
        _with(
            name=TEXT,
            steps=COUNT,
            parameters=_with(effective=COUNT),
            metrics=_each(_each(_or_null(NUMBER))),
            ranks=_or_null(_each(COUNT)),
            generalization=_or_null(NUMBER),
            memorization=_or_null(NUMBER),
        )
    ),
}
"""Of keys that old or broken-off records lack; null is as good as none."""


def wrong_in(record: Mapping[str, Any]) -> str | None:
    """What a record lacks or has of another type, in words; None: a report can read it."""
    needed = {**_NEEDED, **(_OF_A_RESULT if record.get("status") == "completed" else {})}
    if missing := [key for key in needed if _at(record, key) is _NOTHING]:
        return f"no {', '.join(missing)} in it"
    kinds = needed | {key: _or_null(kind) for key, kind in _WHERE_IT_IS.items()}
    return next((f"{key} is not {what}" for key, what in _of_another_type(record, kinds)), None)


def _of_another_type(record: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Iterator[tuple[str, str]]:
    for key, (what, good) in kinds.items():
        value = _at(record, key)
        if value is not _NOTHING and not good(value):
            yield key, what


def readable(value: Any) -> Any:
    """The same JSON value without characters that no screen or file should get, a space in the place of each."""
    if isinstance(value, str):
        return _CONTROL.sub(" ", value)
    if isinstance(value, list):
        return [readable(item) for item in value]
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    return value


_NOTHING = object()


@functools.cache
def _parts(key: str) -> list[str]:
    return key.split(".")


def _at(record: Any, key: str) -> Any:
    for part in _parts(key):
        if not isinstance(record, Mapping) or part not in record:
            return _NOTHING
        record = record[part]
    return record
