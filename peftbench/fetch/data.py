"""Tasks' splits from the hub into a folder of Parquet files, each whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError, HubUnreachableError
from peftbench.strict import did_you_mean
from peftbench.tasks.base import Columns, TaskSpec
from peftbench.tasks.registry import TASKS


def fetch_data(words: Sequence[str]) -> None:
    """`peftbench fetch data <task> ... [root=<folder>]`: write `<root>/<suite>/<task>/<split>.parquet`.

    A file that is there already stays; a split that the hub has not is said and left out.

    Raises:
        ConfigurationError: an unknown word, task or root; the hub cannot be reached; the folder cannot be written.
    """
    names, root = _read(words)
    if not names:
        print("\n".join(data_lines()))
        return
    specs = [_task(name) for name in names]
    folder = _root(root)
    from peftbench.hub import settle_offline

    settle_offline()
    for spec in specs:
        for part, split in _splits(spec):
            _fetch_split(part, split, folder)


def data_lines() -> list[str]:
    """Which tasks' data can be fetched, and which training sets are in the folder that PEFTBENCH_DATA names."""
    from peftbench.tasks.sources import HUB

    can = [name for name, spec in TASKS.items() if spec.suite in HUB]
    root = os.environ.get("PEFTBENCH_DATA")
    lines = [
        "data, as Parquet files",
        "  peftbench fetch data <task> ... [root=<folder>]",
        f"  tasks: {', '.join(can)}",
    ]
    if not root:
        return [*lines, "  here: PEFTBENCH_DATA names no folder"]
    here = [name for name, spec in TASKS.items() if _place(spec, "train", Path(root).expanduser()).is_file()]
    return [*lines, f"  here, in {root}: {', '.join(here) or 'none'}"]


def _read(words: Sequence[str]) -> tuple[list[str], str | None]:
    names, root = [], None
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            names.append(word)
        elif key == "root" and value:
            root = value
        else:
            raise ConfigurationError(f"fetch data {word}: expected task names and root=<folder>")
    return names, root


def _task(name: str) -> TaskSpec:
    from peftbench.tasks.sources import HUB

    if name not in TASKS:
        raise ConfigurationError(f"fetch data {name}: no such task{did_you_mean(name, TASKS)}")
    spec = TASKS[name]
    if spec.suite not in HUB:
        place = "/".join(part for part in (spec.suite, spec.folder or "", "<split>.parquet") if part)
        raise ConfigurationError(
            f"fetch data {name}: no hub data set is known for it; put its files into the folder yourself, {place}"
        )
    return spec


def _root(given: str | None) -> Path:
    root = given or os.environ.get("PEFTBENCH_DATA")
    if not root:
        raise ConfigurationError("fetch data: into which folder? Give root=<folder> or set PEFTBENCH_DATA")
    return Path(root).expanduser()


def _splits(spec: TaskSpec) -> Iterator[tuple[TaskSpec, str]]:
    """Every split that the task knows, with the task whose it is."""
    for split in dict.fromkeys(("train", *spec.dev_splits, *spec.test_splits)):
        yield spec, split
    for extra in spec.extras:
        for split in extra.official_rows:
            yield extra, split


def _place(spec: TaskSpec, split: str, root: Path) -> Path:
    return root / spec.suite / (spec.name if spec.folder is None else spec.folder) / f"{split}.parquet"


def _fetch_split(spec: TaskSpec, split: str, root: Path) -> None:
    from peftbench.tasks.sources import HUB, open_source

    file = _place(spec, split, root)
    if file.exists():
        print(f"{file}: already here")
        return
    source = open_source(spec, DataConfig(source="hub"))
    try:
        columns = source.read(spec.name if spec.folder is None else spec.folder, split)
    except FileNotFoundError:
        print(f"{file}: the hub has no such split")
        return
    except HubUnreachableError as error:
        raise HubUnreachableError(
            f"fetch data {spec.name}: {HUB[spec.suite].repo} cannot be read from the hub; connect to the network and run"
            f" it again ({split} and what follows was not fetched)"
        ) from error
    rows = _write(file, columns)
    official = spec.official_rows.get(split, rows)
    print(f"{file}: {rows} rows" + ("" if rows == official else f", the official release has {official}"))


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
