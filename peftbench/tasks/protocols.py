"""Split protocols: which rows train, which select a checkpoint, which are scored."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError
from peftbench.task_config import GenerationTask, MixtureTask, TaskConfig
from peftbench.tasks.base import Split, TaskData, TaskSpec
from peftbench.tasks.mixture import joined
from peftbench.tasks.sources import Source, load_split, open_source

MEMORIZATION_ROWS = 1000
_SORA_SEED = 42
_SORA_HOLDOUT_ROWS = 1000
_SUBSET_SEED = 20231206
_HELD_OUT = 0.05


def load_task(spec: TaskSpec, task: TaskConfig, data: DataConfig, submission: bool = False) -> TaskData:
    """Read, check and split a task's data under the configured protocol.

    `glue_dev` trains on the training set; the official development set both selects and is reported. `sora` follows
    the released SoRA code (`processor.py`): a development set is halved by `torch.randperm` with seed 42, or, for
    SST-2, QNLI and QQP, 1,000 training rows so drawn become validation and the development set is the test set.
    `official` selects on the development set and also reports the test set, whose references are public. A mixture has
    its tasks' training sets and their development sets, each as one split; those that the source has not are told.

    Args:
        spec: the task.
        task: its configuration.
        data: where rows come from.
        submission: also read the benchmark's test sets, to be predicted and never scored.

    Raises:
        ConfigurationError: a split is missing or unsound.
    """
    source = open_source(spec, data)
    if isinstance(task, MixtureTask):
        return _mixture(source, spec, task, data)
    train = _required(source, spec, "train", training=True)
    if spec.kind == "lm":
        train, developed, held_out = _corpus(source, spec, train)
    else:
        wanted = [name for name in spec.dev_splits if name != "test" or _writes_test(task)]
        developed, held_out = {name: _required(source, spec, name) for name in wanted}, []
    hidden = {name: _required(source, spec, name, hidden=True) for name in spec.test_splits if submission}
    extra, notes = _extras(source, spec)
    official = _row_differences(spec, {"train": train, **developed, **hidden})
    official += [line for one in spec.extras if one.name in extra for line in _row_differences(one, extra)]
    if task.protocol == "sora":
        train, evaluations = _sora_splits(spec, train, developed)
    else:
        evaluations = developed
    train = _as_many_as_wanted(train, data, official)
    memorization = train.take(memorization_rows(len(train)), "memorization")
    evaluations = _selecting_first(evaluations, task)
    notes += held_out
    if (limit := data.max_eval_rows) is not None:
        longer = [name for name, split in (evaluations | extra).items() if len(split) > limit]
        evaluations = {name: _limited(split, limit) for name, split in evaluations.items()}
        extra = {name: _limited(split, limit) for name, split in extra.items()}
        official += [f"{name} limited to {limit} rows" for name in longer]
    provenance = _provenance(
        source, spec, task, official, notes, {"train": train, **evaluations, **_named_apart(hidden | extra)}
    )
    evaluations |= {name: split for name, split in extra.items() if split.labels is not None}
    return TaskData(train, evaluations, _submission_sets(spec, hidden | extra), memorization, provenance)


def _mixture(source: Source, spec: TaskSpec, task: MixtureTask, data: DataConfig) -> TaskData:
    """The members' rows; `data.max_train_rows` is of all of them together, `data.max_eval_rows` of each."""
    limits = {"train": task.max_rows_per_task, "validation": data.max_eval_rows}
    taken: dict[str, list[tuple[TaskSpec, Split]]] = {name: [] for name in limits}
    differences: list[str] = []
    notes: list[str] = []
    for member in spec.members:
        try:
            found = {name: _labelled(source, member, name, training=name == "train") for name in limits}
        except FileNotFoundError:
            differences.append(f"{member.name}: not in this source, so not in the mixture")
            continue
        differences += [f"{member.name}: {line}" for line in _row_differences(member, found)]
        for name, split in found.items():
            kept = _limited(split, limits[name] or len(split))
            taken[name].append((member, kept))
            if len(kept) < len(split):  # A mixture without the rows above its limit is as it should be, not partial.
                told = notes if name == "train" else differences
                told.append(f"{member.name}: {len(kept)} of {len(split)} {name} rows")
    if not taken["train"]:
        names = ", ".join(member.name for member in spec.members)
        raise ConfigurationError(f"{spec.suite}/{spec.name}: this source has none of its tasks ({names})")
    train, validation = (joined(members, name) for name, members in taken.items())
    train = _as_many_as_wanted(train, data, differences)
    memorization = train.take(memorization_rows(len(train)), "memorization")
    evaluations = _selecting_first({"validation": validation}, task)
    splits = {"train": train, **evaluations}
    provenance = _provenance(source, spec, task, differences, notes, splits)
    provenance["members"] = {name: dict(Counter(split.columns["task"])) for name, split in splits.items()}
    return TaskData(train, evaluations, {}, memorization, provenance)


def _as_many_as_wanted(train: Split, data: DataConfig, differences: list[str]) -> Split:
    """The training rows within `data.max_train_rows`; where that leaves some out it is said."""
    if data.max_train_rows is None or data.max_train_rows >= len(train):
        return train
    train = _limited(train, data.max_train_rows)
    differences.append(f"train limited to {len(train)} rows")
    return train


def _corpus(source: Source, spec: TaskSpec, train: Split) -> tuple[Split, dict[str, Split], list[str]]:
    """A corpus's training and other splits; of one that has no validation split the last rows are held out for it."""
    found = {}
    for name in spec.dev_splits:
        with contextlib.suppress(FileNotFoundError):
            found[name] = load_split(source, spec, name)
    if "validation" in found:
        return train, found, []
    cut = len(train) - max(1, round(len(train) * _HELD_OUT))
    if cut < 1:
        raise ConfigurationError(f"{spec.suite}/{spec.folder}: one row of text cannot be split in two")
    validation = train.take(np.arange(cut, len(train)), "validation")
    rest = dataclasses.replace(train.take(np.arange(cut), "train"), source_rows=train.source_rows)
    return rest, {"validation": validation, **found}, [f"validation is the last {len(validation)} rows of train"]


def _limited(split: Split, rows: int) -> Split:
    """A fixed random subset, in the split's order; rows that are scored together stay together."""
    if len(split) <= rows:
        return split
    units = _units(split)
    order = np.random.default_rng(_SUBSET_SEED).permutation(len(units))
    sizes = np.cumsum([len(units[i]) for i in order])
    kept = max(1, int(np.searchsorted(sizes, rows, side="right")))
    return split.take(np.sort(_rows_of(units, order[:kept])), split.name)


def _units(split: Split) -> list[list[int]]:
    """Positions of the rows that belong together by the column `group`, in order of appearance; else each row alone."""
    if "group" not in split.columns:
        return [[row] for row in range(len(split))]
    found: dict[Any, list[int]] = {}
    for row, name in enumerate(split.columns["group"]):
        found.setdefault(name, []).append(row)
    return list(found.values())


def _rows_of(units: list[list[int]], chosen: np.ndarray) -> np.ndarray:
    return np.asarray([row for unit in chosen for row in units[unit]], dtype=np.int64)


def memorization_rows(rows: int) -> np.ndarray:
    """Positions of the memorization subset: `datasets`' `shuffle(seed=42).select(range(1000))`."""
    return np.random.default_rng(_SORA_SEED).permutation(rows)[:MEMORIZATION_ROWS]


def _sora_permutation(rows: int) -> np.ndarray:
    import torch

    return torch.randperm(rows, generator=torch.Generator().manual_seed(_SORA_SEED)).numpy()


def _sora_splits(spec: TaskSpec, train: Split, developed: dict[str, Split]) -> tuple[Split, dict[str, Split]]:
    if spec.sora_holdout:
        order = _sora_permutation(len(train))
        if len(train) <= _SORA_HOLDOUT_ROWS:
            raise ConfigurationError(
                f"task.protocol=sora holds out {_SORA_HOLDOUT_ROWS} of {spec.name}'s training rows; only {len(train)}"
            )
        validation = train.take(order[:_SORA_HOLDOUT_ROWS], "validation")
        rest = train.take(order[_SORA_HOLDOUT_ROWS:], "train")
        (test,) = developed.values()
        return rest, {"validation": validation, "test": test}
    halves: dict[str, dict[str, Split]] = {"validation": {}, "test": {}}
    for name, split in developed.items():
        units = _units(split)
        order = _sora_permutation(len(units))
        cut = len(units) // 2
        for half, chosen in (("validation", order[:cut]), ("test", order[cut:])):
            new_name = name.replace("validation", half)
            halves[half][new_name] = split.take(_rows_of(units, chosen), new_name)
    return train, halves["validation"] | halves["test"]


def _selecting_first(evaluations: dict[str, Split], task: TaskConfig) -> dict[str, Split]:
    chosen = task.selection_split or next(iter(evaluations))
    if chosen not in evaluations:
        raise ConfigurationError(
            f"task.selection_split: {chosen!r} is not one of {', '.join(evaluations)} (protocol {task.protocol})"
        )
    if chosen.startswith("test"):
        raise ConfigurationError(f"task.selection_split: {chosen!r} is a test split; select on validation")
    return {chosen: evaluations[chosen]} | evaluations


def _required(source: Source, spec: TaskSpec, split: str, hidden: bool = False, training: bool = False) -> Split:
    try:
        return _labelled(source, spec, split, hidden, training)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{spec.suite}/{spec.name}: no {split} split at {error}") from error


def _labelled(source: Source, spec: TaskSpec, split: str, hidden: bool = False, training: bool = False) -> Split:
    found = load_split(source, spec, split, training)
    if spec.kind in ("classify", "choose", "spans") and found.labels is None and not hidden:
        raise ConfigurationError(f"{spec.suite}/{spec.name} {split} ({source.kind}): every label is hidden (-1)")
    return found


def _extras(source: Source, spec: TaskSpec) -> tuple[dict[str, Split], list[str]]:
    """The extra evaluation sets that the source has, and a note on each that it has not."""
    found, notes = {}, []
    for extra in spec.extras:
        try:
            # Under its own name it is scored by its own metrics.
            found[extra.name] = replace(load_split(source, extra, "test"), name=extra.name)
        except FileNotFoundError:
            notes.append(f"{extra.name}: not in this source, so not evaluated")
    return found, notes


def _named_apart(hidden: dict[str, Split]) -> dict[str, Split]:
    """Submission sets under names of their own: under `sora`, `test` is half of the development set."""
    return {f"submission {name}": split for name, split in hidden.items()}


def _submission_sets(spec: TaskSpec, splits: dict[str, Split]) -> dict[str, Split]:
    """Hidden splits under the submission's names: `mrpc`, `mnli_matched`, `ax`."""
    names = {name: name.replace("test", spec.name) for name in splits}
    return {names[name]: replace(split, name=names[name]) for name, split in splits.items()}


def _row_differences(spec: TaskSpec, splits: dict[str, Split]) -> list[str]:
    """Where the rows of the source are not those of the official release; an extra set goes by its own name."""
    differences = []
    for split, rows in spec.official_rows.items():
        name = spec.name if spec.name in splits else split
        found = splits[name].source_rows if name in splits else None
        if found is not None and found != rows:
            differences.append(f"{name} has {found} rows, the official release {rows}")
        if found is None and spec.kind == "lm":  # Of a corpus what is there is taken; other tasks need every split.
            differences.append(f"{name} is not in this source")
    return differences


def _writes_test(task: TaskConfig) -> bool:
    return not isinstance(task, GenerationTask) or task.test


def _provenance(
    source: Source, spec: TaskSpec, task: TaskConfig, differences: list[str], notes: list[str], splits: dict[str, Split]
) -> dict[str, Any]:
    """What the record says of the data. `kind` is `benchmark` where every split has the official release's rows.

    It is `unchecked` where no release says how many there are.
    Their number is what is checked here; the fingerprints tell two versions of the same size apart.
    """
    checked = "benchmark" if spec.official_rows else "unchecked"
    kind = "sample" if source.kind == "sample" else "partial" if differences else checked
    return {
        **source.described,
        "kind": kind,
        "protocol": task.protocol,
        "notes": ([] if kind == "sample" else differences) + notes,
        "splits": {name: {"rows": len(s), "fingerprint": s.fingerprint} for name, s in splits.items()},
    }
