"""`peftbench report <folder> ... [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from peftbench.errors import ConfigurationError
from peftbench.report.contents import Contents, make
from peftbench.report.layouts import Figure
from peftbench.report.output import FORMATS, show, write
from peftbench.report.records import Found, Run, find
from peftbench.strict import did_you_mean

_FILTERS: dict[str, Callable[[Run], object]] = {
    "experiment": lambda run: run.experiment,
    "method": lambda run: run.method,
    "task": lambda run: run.task,
    "model": lambda run: run.model,
    "seed": lambda run: run.seed,
    "status": lambda run: run.status,
}
_OPTIONS = ("to", "format", "layout", "metric", "test", "against", "figures", *_FILTERS)


def report(words: Sequence[str]) -> int:
    """Show what runs left, or with `to=<folder>` write it there; the exit status.

    Raises:
        ConfigurationError: an unknown option or value, no records, or a layout that does not fit.
    """
    folders, options = _read(words)
    figures = _figures(options)
    to, form = options.get("to"), options.get("format")
    formats = _formats(form or "all") if to else [_screen_format(form or "terminal")]
    found = find(folders)
    for file, reason in found.unreadable:
        print(f"peftbench: note: {file}: {reason}; left out", file=sys.stderr)
    runs = _wanted(found, options)
    test = _one_of("test", options.get("test", "permutation"), ("permutation", "wilcoxon"))
    contents = make(
        found, runs, options.get("layout"), _values(options.get("metric", "")), test, options.get("against")
    )
    for told in contents.left_out:
        print(f"peftbench: note: {told}", file=sys.stderr)
    if to:
        write(contents, replace(found, runs=_results(contents)), Path(to), formats, figures)
    else:
        show(contents, formats[0])
    return 0


def _read(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    folders: list[Path] = []
    options: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-") or (equals and "/" not in key and key not in _OPTIONS):
            near = did_you_mean(key.lstrip("-"), _OPTIONS)
            raise ConfigurationError(f"{word}: unknown option{near} (known: {', '.join(_OPTIONS)})")
        if key in _OPTIONS and equals:
            if not value:
                raise ConfigurationError(f"{key}=: a value is expected")
            if key in options:
                raise ConfigurationError(f"{word}: {key} is there twice; several values go by commas")
            options[key] = value
        else:
            folders.append(Path(word))
    if not folders:
        raise ConfigurationError("report: name at least one folder of results, such as outputs")
    return folders, options


def _wanted(found: Found, options: dict[str, str]) -> list[Run]:
    runs = found.runs
    for key, asked in _FILTERS.items():
        if key in options:
            known = sorted({str(asked(run)) for run in found.runs})
            for value in _values(options[key]):
                _one_of(key, value, known)
            runs = [run for run in runs if str(asked(run)) in _values(options[key])]
    if not runs:
        told = " ".join(f"{key}={value}" for key, value in options.items() if key in _FILTERS)
        raise ConfigurationError(f"report: of {len(found.runs)} runs none is {told}")
    return runs


def _results(contents: Contents) -> list[Run]:
    """The page's runs: all but trials, each by what its table shows of it; one that is in no table as it is."""
    shown = {run.file: run for grid in contents.grids for run in grid.shown()}
    return [shown.get(run.file, run) for run in contents.runs if not contents.budgets.is_trial(run)]


def _values(text: str) -> list[str]:
    return [value for value in text.split(",") if value]


def _one_of(key: str, value: str, known: Sequence[str]) -> Any:
    if value not in known:
        raise ConfigurationError(f"{key}={value}: unknown{did_you_mean(value, known)} (known: {', '.join(known)})")
    return value


def _screen_format(text: str) -> str:
    if "," in text or text == "all":
        raise ConfigurationError(f"format={text}: several are files; write them with to=<folder>")
    return _one_of("format", text, FORMATS)


def _formats(text: str) -> list[str]:
    if "terminal" in _values(text):
        raise ConfigurationError(f"format={text}: terminal is the screen's; leave to= out, or choose a file's format")
    asked = [_one_of("format", value, (*FORMATS[1:], "all")) for value in _values(text)]
    return list(FORMATS[1:]) if "all" in asked else asked


def _figures(options: dict[str, str]) -> list[str] | None:
    """Names of figures; empty: each layout's own; None: no figures."""
    asked = options.get("figures")
    if asked is None:
        return [] if "all" in _values(options.get("format", "all")) else None
    if asked == "none":
        return None
    names = [_one_of("figures", name, get_args(Figure)) for name in _values(asked)]
    if "to" not in options:
        raise ConfigurationError(f"figures={asked}: figures are files; write them with to=<folder>")
    return names
