"""Where rows come from (the hub, a folder of Parquet files, the built-in sample) and whether they are sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError, HubUnreachableError, first_line
from peftbench.tasks.base import Columns, Parsed, Split, TaskSpec, fingerprint


@dataclass(frozen=True)
class Hub:
    """Where the hub has a suite's Parquet files; `datasets` no longer runs loading scripts.

    Attributes:
        repo: the data set.
        revision: a commit; or a branch, whose rows can change: the one on which the hub itself keeps a script's data as
            Parquet, or `main`. The record's fingerprints tell two versions apart.
        configs: of the folders that it has, the data set's configuration; empty: every one, under its own name.
        splits: our name of a split to the data set's, where the two differ.
    """

    repo: str
    revision: str
    configs: Mapping[str, str] = field(default_factory=dict)
    splits: Mapping[str, str] = field(default_factory=dict)


_CONVERTED = "refs/convert/parquet"
HUB = {
    "glue": Hub("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"),
    "super_glue": Hub("aps/super_glue", "3de24cf8022e94f4ee4b9d55a6f539891524d646"),
    # GEM's copies of the next three have another schema: one reference a row, and their own row order.
    "e2e_nlg": Hub("tuetschek/e2e_nlg", _CONVERTED, {"": "default"}),
    "webnlg": Hub(
        "webnlg-challenge/web_nlg",
        _CONVERTED,
        {
            "challenge_2017": "webnlg_challenge_2017",
            "release_v2": "release_v2",
            "release_v2.1": "release_v2.1",
            "release_v3.0_en": "release_v3.0_en",
        },
        {"validation": "dev"},
    ),
    "dart": Hub("Yale-LILY/dart", _CONVERTED, {"": "default"}),
    "text": Hub(
        "Salesforce/wikitext",
        "main",
        {
            "wikitext2": "wikitext-2-v1",
            "wikitext2_raw": "wikitext-2-raw-v1",
            "wikitext103": "wikitext-103-v1",
            "wikitext103_raw": "wikitext-103-raw-v1",
        },
    ),
}
"""Suite to its place on the hub."""


@dataclass(frozen=True)
class Source:
    """A place to read splits from.

    Attributes:
        kind: `hub`, `folder` or `sample`.
        read: (task's folder, split) to columns; raises FileNotFoundError where the source has no such split.
        described: what the record says of it; no local path.
    """

    kind: str
    read: Callable[[str, str], Columns]
    described: dict[str, Any]


def open_source(spec: TaskSpec, config: DataConfig) -> Source:
    """The configured source; `auto` is the folder where one is named, else the hub. Reads nothing yet.

    Raises:
        ConfigurationError: `folder` without a folder, a folder that is not there, or a corpus that the hub has not.
    """
    root = config.root or os.environ.get("PEFTBENCH_DATA") or None
    kind = config.source
    if kind == "auto":
        kind = "folder" if root else "hub"
    if kind == "sample":
        from peftbench.tasks.sample import sample_split

        return Source("sample", sample_split, {"source": "sample"})
    if kind == "hub":
        hub, folder = HUB[spec.suite], spec.name if spec.folder is None else spec.folder
        if hub.configs and folder not in hub.configs:
            raise ConfigurationError(
                f"{spec.suite}/{folder}: not on the hub, which has {', '.join(hub.configs)}; give a folder of Parquet"
                " files (data=folder data.root=...)"
            )
        return Source("hub", _hub_reader(hub), {"source": "hub", "repo": hub.repo, "revision": hub.revision})
    if root is None:
        raise ConfigurationError("data=folder needs data.root=<folder> or the environment variable PEFTBENCH_DATA")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ConfigurationError(f"data.root: {folder} is not a folder")
    return Source("folder", _folder_reader(folder / spec.suite), {"source": "folder"})


def _folder_reader(suite: Path) -> Callable[[str, str], Columns]:
    def read(task: str, split: str) -> Columns:
        import pyarrow.parquet

        file = suite / task / f"{split}.parquet"
        if not file.is_file():
            raise FileNotFoundError(file)
        try:
            table = pyarrow.parquet.read_table(file)
            table.validate(full=True)
            return {name: table.column(name).to_pylist() for name in table.column_names}
        except (UnicodeDecodeError, pyarrow.ArrowInvalid) as error:
            if "utf" in str(error).replace(str(file), "").lower():
                raise ConfigurationError(f"{file}: text is not UTF-8; write the file again as UTF-8") from error
            raise ConfigurationError(f"{file}: not a readable Parquet file; copy or download it again") from error
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigurationError(f"{file}: cannot be read ({first_line(error)})") from error

    return read


def _hub_reader(hub: Hub) -> Callable[[str, str], Columns]:
    def read(task: str, split: str) -> Columns:
        import datasets

        datasets.disable_progress_bars()
        config, name = hub.configs.get(task, task), hub.splits.get(split, split)
        try:
            if hub.revision == _CONVERTED:
                files = f"hf://datasets/{hub.repo}@{quote(hub.revision, safe='')}/{config}/{name}/*.parquet"
                found = datasets.load_dataset("parquet", data_files={name: files}, split=name)
            else:
                found = datasets.load_dataset(hub.repo, config, split=name, revision=hub.revision)
            return found.to_dict()  # type: ignore[union-attr]
        except (OSError, ValueError) as error:
            if "Unknown split" in str(error):
                raise FileNotFoundError(f"{hub.repo} {config} {split}") from error
            raise HubUnreachableError(
                f"{config}: cannot load {hub.repo} from the hub ({type(error).__name__}). Either connect to the network"
                " and run again, or give a folder of Parquet files (data=folder data.root=...), or try the built-in"
                " sample (data=sample)"
            ) from error

    return read


def load_split(source: Source, spec: TaskSpec, split: str, training: bool = False) -> Split:
    """One split, checked: columns there, text is text, labels in range, at least one row.

    Args:
        source: where from.
        spec: the task.
        split: its name.
        training: whether its rows are trained on.

    Raises:
        FileNotFoundError: the source has no such split.
        ConfigurationError: the rows are not sound.
    """
    # The sample knows tasks by name; elsewhere a task lies where its benchmark has put it.
    columns = source.read(spec.name if source.kind == "sample" or spec.folder is None else spec.folder, split)
    where = f"{spec.suite}/{spec.name} {split} ({source.kind})"
    named = ("label",) if spec.labels or spec.is_regression else ()
    missing = [c for c in (*spec.text_columns, *named) if c not in columns]
    if missing:
        raise ConfigurationError(f"{where}: no column {', '.join(missing)}; it has {', '.join(columns)}")
    rows = len(next(iter(columns.values()), []))
    if not rows:
        raise ConfigurationError(f"{where}: no rows")
    for name in spec.text_columns:
        bad = next((i for i, text in enumerate(columns[name]) if not isinstance(text, str)), None)
        if bad is not None:
            raise ConfigurationError(f"{where}: column {name}, row {bad}: {columns[name][bad]!r} is not text")
    parsed = _parsed(spec, columns, training, where)
    classes = len(spec.labels) or max(map(len, parsed.columns.get("choices", ())), default=0)
    labels = None if parsed.labels is None else _labels(spec, parsed.labels, classes, where)
    marks = fingerprint(parsed.texts, labels, parsed.columns)
    return Split(split, parsed.texts, labels, marks, parsed.columns, parsed.source_rows or rows)


def _parsed(spec: TaskSpec, columns: Columns, training: bool, where: str) -> Parsed:
    if spec.parse is None:
        return Parsed(tuple(columns[name] for name in spec.text_columns), columns["label"])
    try:
        return spec.parse(columns, training)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        told = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigurationError(f"{where}: not rows of {spec.name}'s schema ({told})") from error


def _labels(spec: TaskSpec, values: Sequence[Any], classes: int, where: str) -> np.ndarray | None:
    """Labels as an array, or None where every one is the benchmark's -1."""
    bad = next((i for i, v in enumerate(values) if isinstance(v, bool) or not isinstance(v, (int, float))), None)
    if bad is not None:
        raise ConfigurationError(f"{where}: label of row {bad} is {values[bad]!r}, not a number")
    labels = np.asarray(values, dtype=np.float32 if spec.is_regression else np.float64)
    if bool((labels == -1).all()):
        return None
    low, high = (0, 5) if spec.is_regression else (0, classes - 1)
    with np.errstate(invalid="ignore"):
        outside = ~((labels >= low) & (labels <= high))
        if not spec.is_regression:
            outside |= labels != np.floor(labels)
    if outside.any():
        row = int(outside.argmax())
        kind = f"a score from {low} to {high}" if spec.is_regression else f"a class from {low} to {high}"
        raise ConfigurationError(f"{where}: label of row {row} is {values[row]}, not {kind}")
    return labels if spec.is_regression else labels.astype(np.int64)
