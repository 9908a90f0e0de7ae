"""`peftbench report <folder> ... [key=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import ConfigurationError
from peftbench.report.contents import Contents, make
from peftbench.report.records import Found, Run, find
from peftbench.report.tables.writing import WRITERS, show
from peftbench.report.tidy import tidy, to_csv, write_parquet
from peftbench.strict import did_you_mean

FORMATS = ("terminal", *WRITERS, "csv", "parquet")
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
    found = find(folders)
    for file, reason in found.unreadable:
        print(f"peftbench: note: {file}: {reason}; left out", file=sys.stderr)
    runs = _wanted(found, options)
    test = _one_of("test", options.get("test", "permutation"), ("permutation", "wilcoxon"))
    contents = make(
        found, runs, options.get("layout"), _values(options.get("metric", "")), test, options.get("against")
    )
    if "to" in options:
        folder = Path(options["to"])
        _write(contents, folder, _formats(options.get("format", "all")))
        if "figures" in options or options.get("format", "all") == "all":
            _draw(contents, options.get("figures"), folder / "figures")
    else:
        _print(contents, _one_of("format", options.get("format", "terminal"), FORMATS))
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


def _values(text: str) -> list[str]:
    return [value for value in text.split(",") if value]


def _one_of(key: str, value: str, known: Sequence[str]) -> Any:
    if value not in known:
        raise ConfigurationError(f"{key}={value}: unknown{did_you_mean(value, known)} (known: {', '.join(known)})")
    return value


def _formats(text: str) -> list[str]:
    if text == "all":
        return list(FORMATS[1:])
    return [_one_of("format", value, (*FORMATS[1:], "all")) for value in _values(text)]


def _print(contents: Contents, format_name: str) -> None:
    tables = [*contents.tables, *(table for table in contents.comparisons if table.name.endswith("_comparisons"))]
    if format_name == "terminal":
        show(tables)
    elif format_name in WRITERS:
        sys.stdout.write(WRITERS[format_name][1]([*contents.tables, *contents.comparisons]))
    elif format_name == "csv":
        sys.stdout.write(to_csv(tidy(contents.runs, contents.budgets)))
    else:
        raise ConfigurationError(f"format={format_name} is not text; write it with to=<folder>")


def _write(contents: Contents, folder: Path, formats: Sequence[str]) -> None:
    """Write files and say where each is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"to: cannot write to {folder} ({error.strerror})") from error
    for name in formats:
        if name in WRITERS:
            ending, write = WRITERS[name]
            for stem, tables in (("table", contents.tables), ("comparisons", contents.comparisons)):
                _written(folder / f"{stem}.{ending}", write(tables))
    rows = tidy(contents.runs, contents.budgets)
    if "csv" in formats:
        _written(folder / "tidy.csv", to_csv(rows))
    if "parquet" in formats:
        write_parquet(rows, folder / "tidy.parquet")
        print(folder / "tidy.parquet")


def _draw(contents: Contents, asked: str | None, folder: Path) -> None:
    """Each experiment's figures in a folder of its own: those asked for, or its layout's, or all it has data for."""
    if asked == "none":
        return
    from peftbench.report.figures import available, draw

    for grid in contents.grids:
        names = _values(asked or "") or grid.layout.figures or available(grid.runs)
        drawn = draw(grid.runs, names, folder / grid.layout.name)
        for file in drawn.files:
            print(file)
        for name, need in drawn.skipped.items():
            print(f"peftbench: note: {grid.layout.name}: no figure {name}: {need}", file=sys.stderr)


def _written(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    print(file)
