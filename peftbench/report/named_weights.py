"""The weights that a backbone's name stands for, and how a report calls those that a run had."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.plain_yaml import read_yaml


def is_another(model: Mapping[str, Any]) -> bool:
    """Whether the weights of a record's `model` are known not to be those that its name stands for."""
    repo, _, revision = _named().get(model["name"], "").partition("@")
    found = ((model.get("repo"), repo), (model.get("revision"), revision))
    return any(has and has != expected for has, expected in found if expected)


def hub_name(model: Mapping[str, Any]) -> str:
    """A record's `model` as the hub knows it: `microsoft/deberta-v3-base@8ccc9b6`."""
    revision = model.get("revision")
    return f"{model.get('repo')}@{revision[:7]}" if revision else str(model.get("repo"))


@functools.cache
def _named() -> Mapping[str, str]:
    return read_yaml(Path(__file__).parent / "weights.yaml")
