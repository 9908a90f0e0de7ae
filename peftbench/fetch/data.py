"""Tasks' splits from the hub into a folder of Parquet files, each whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError, HubUnreachableError
from peftbench.hub import settle_offline
from peftbench.strict import build, did_you_mean
from peftbench.task_config import TASK_CONFIGS, TaskConfig
from peftbench.tasks.base import Columns, TaskSpec
from peftbench.tasks.registry import TASKS, configured
from peftbench.tasks.sources import HUB, Source, load_split, open_source


def fetch_data(words: Sequence[str]) -> None:
    """`peftbench fetch data <task> ... [root=<folder>]`: write `<root>/<suite>/<task>/<split>.parquet`.

    Of a task with several releases or corpora `release=<name>` or `corpus=<name>` chooses another one.
    A file that is there already stays; a split that the hub has not is said and left out.

    Raises:
        ConfigurationError: an unknown word, task or root; the hub cannot be reached; its rows are not the task's; the
            folder cannot be written.
    """
    names, root, settings = _read(words)
    if not names:
        print("\n".join(data_lines()))
        return
    specs = _tasks(names, settings)
    folder = _root(root)
    sources = [open_source(spec, DataConfig(source="hub")) for spec in specs]
    settle_offline()
    for spec, source in zip(specs, sources, strict=True):
        for part, split in _splits(spec):
            _fetch_split(source, part, split, folder)


def data_lines() -> list[str]:
    """Which tasks' data can be fetched, and which training sets are in the folder that PEFTBENCH_DATA names."""
    root = os.environ.get("PEFTBENCH_DATA")
    lines = [
        "data, as Parquet files",
        "  peftbench fetch data <task> ... [root=<folder>]",
        f"  tasks: {', '.join(TASKS)}",
    ]
    if not root:
        return [*lines, "  here: PEFTBENCH_DATA names no folder"]
    folder = Path(root).expanduser()
    here = [name for name in TASKS if all(file.is_file() for file in _training_sets(_configured(name, {}), folder))]
    return [*lines, f"  here, in {root}: {', '.join(here) or 'none'}"]


_CHOOSING = ("release", "corpus")


def _read(words: Sequence[str]) -> tuple[list[str], str | None, dict[str, str]]:
    names, root, settings = [], None, {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            names.append(word)
        elif key == "root" and value:
            root = value
        elif key in _CHOOSING and value:
            settings[key] = value
        else:
            raise ConfigurationError(
                f"fetch data {word}: expected task names, root=<folder>, and {' or '.join(_CHOOSING)}=<name>"
            )
    return names, root, settings


def _configured(name: str, settings: Mapping[str, str]) -> TaskSpec:
    return configured(build(TASK_CONFIGS.get(name, TaskConfig), {"name": name, **settings}, "task", "fetch data"))


def _tasks(names: Sequence[str], settings: Mapping[str, str]) -> list[TaskSpec]:
    """The tasks named, each with those of the settings that it has; one that none of them has is a mistake."""
    for name in names:
        if name not in TASKS:
            raise ConfigurationError(f"fetch data {name}: no such task{did_you_mean(name, TASKS)}")
    keys = {name: {field.name for field in fields(TASK_CONFIGS.get(name, TaskConfig))} for name in names}
    for key, value in settings.items():
        if not any(key in of_task for of_task in keys.values()):
            raise ConfigurationError(f"fetch data {key}={value}: nothing to choose for {', '.join(names)}")
    return [_configured(name, {k: v for k, v in settings.items() if k in keys[name]}) for name in names]


def _root(given: str | None) -> Path:
    root = given or os.environ.get("PEFTBENCH_DATA")
    if not root:
        raise ConfigurationError("fetch data: into which folder? Give root=<folder> or set PEFTBENCH_DATA")
    return Path(root).expanduser()


def _splits(spec: TaskSpec) -> Iterator[tuple[TaskSpec, str]]:
    """Every split that the task knows, with the task whose it is."""
    for member in spec.members:
        yield from _splits(member)
    if spec.members:
        return
    for split in dict.fromkeys(("train", *spec.dev_splits, *spec.test_splits)):
        yield spec, split
    for extra in spec.extras:
        for split in extra.official_rows:
            yield extra, split


def _place(spec: TaskSpec, split: str, root: Path) -> Path:
    return root / spec.suite / (spec.name if spec.folder is None else spec.folder) / f"{split}.parquet"


def _training_sets(spec: TaskSpec, root: Path) -> list[Path]:
    """Where the task's own, or its members', would be."""
    return [_place(part, split, root) for part, split in _splits(spec) if split == "train"]


def _fetch_split(source: Source, spec: TaskSpec, split: str, root: Path) -> None:
    file = _place(spec, split, root)
    if file.exists():
        print(f"{file}: already here")
        return
    try:
        columns = source.read(spec.name if spec.folder is None else spec.folder, split)
    except FileNotFoundError:
        print(f"{file}: the hub has no such split")
        return
    except HubUnreachableError as error:
        raise HubUnreachableError(
            f"fetch data {spec.name}: {HUB[spec.suite].repo} cannot be read from the hub; connect to the network and"
            f" run it again ({split} and what follows was not fetched)"
        ) from error
    # A file may hold more rows than its split has (WebNLG's test sets), so that those are counted as a run counts them.
    counted = load_split(Source("hub", lambda *_: columns, {}), spec, split, split == "train").source_rows
    rows = _write(file, columns)
    official = spec.official_rows.get(split, counted)
    others = "" if rows == counted else f", {counted} of them the split's"
    print(f"{file}: {rows} rows{others}" + ("" if counted == official else f", the official release has {official}"))


def _write(file: Path, columns: Columns) -> int:
    """The file, put in place whole; how many rows it has."""
    import pyarrow
    import pyarrow.parquet

    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pyarrow.table(columns)
        with partial.open("wb") as out:
            pyarrow.parquet.write_table(table, out)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, file)
    except (OSError, pyarrow.ArrowException) as error:
        first = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        raise ConfigurationError(f"fetch data: cannot write {file} ({first})") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return table.num_rows
