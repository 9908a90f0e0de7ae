"""Predictions on GLUE's and SuperGLUE's hidden test sets, in the files their leaderboards accept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peftbench.tasks.base import Predictions, Split

# Class numbers follow the order of the names in the benchmarks' data sets.
_MNLI = ("entailment", "neutral", "contradiction")
_PAIR = ("entailment", "not_entailment")
_BINARY = ("0", "1")

# None stands for STS-B's similarity, the one task that is not a choice between labels.
_SETS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "cola": ("CoLA.tsv", _BINARY),
    "sst2": ("SST-2.tsv", _BINARY),
    "mrpc": ("MRPC.tsv", _BINARY),
    "stsb": ("STS-B.tsv", None),
    "qqp": ("QQP.tsv", _BINARY),
    "mnli_matched": ("MNLI-m.tsv", _MNLI),
    "mnli_mismatched": ("MNLI-mm.tsv", _MNLI),
    "qnli": ("QNLI.tsv", _PAIR),
    "rte": ("RTE.tsv", _PAIR),
    "wnli": ("WNLI.tsv", _BINARY),
    "ax": ("AX.tsv", _MNLI),
}


_TRUTH = ("false", "true")

# None stands for ReCoRD's answers, which are texts.
_JSON_SETS: dict[str, tuple[str, tuple[str | int, ...] | None]] = {
    "boolq": ("BoolQ.jsonl", _TRUTH),
    "cb": ("CB.jsonl", ("entailment", "contradiction", "neutral")),
    "copa": ("COPA.jsonl", (0, 1)),
    "multirc": ("MultiRC.jsonl", (0, 1)),
    "record": ("ReCoRD.jsonl", None),
    "superglue_rte": ("RTE.jsonl", _PAIR),
    "wic": ("WiC.jsonl", _TRUTH),
    "wsc": ("WSC.jsonl", ("False", "True")),
    "axb": ("AX-b.jsonl", _PAIR),
    "axg": ("AX-g.jsonl", _PAIR),
}


def write_submission(
    folder: Path, set_name: str, predictions: Sequence[float | int] | Predictions, split: Split | None = None
) -> Path:
    r"""Write one test set's predictions, in the order of its rows, as its benchmark's submission file.

    GLUE's file has the header `index\tprediction` and one row per prediction: a class name for MNLI, AX, QNLI
    and RTE, a class number for CoLA, SST-2, MRPC, QQP and WNLI, and for STS-B a number clipped to [0, 5]
    with three decimals. SuperGLUE's has one JSON object a line: the row's `idx`, and as `label` "true" or "false" for
    BoolQ and WiC, "True" or "False" for WSC, a class number for COPA, the answer for ReCoRD, else a class name;
    MultiRC's has a paragraph a line, its answers inside its questions. The file appears whole or not at all, replacing
    an older one.

    A leaderboard takes no row without a class, so that -1, where a text named none, is written as the first class.

    Source: the submission formats of GLUE (Wang et al., 2018) and SuperGLUE (Wang et al., 2019), the latter as jiant
    writes it.

    Args:
        folder: where the file goes; created if need be.
        set_name: a task, mnli_matched, mnli_mismatched, ax, axb or axg.
        predictions: class numbers; similarities for stsb; texts for record.
        split: the rows, with their column `idx`; SuperGLUE's files need it.

    Returns:
        The path of the file.

    Raises:
        ValueError: the set is unknown, there are no predictions, or one of them is not a label of the set.
    """
    if not len(predictions):
        raise ValueError(f"{set_name}: there are no predictions to write")
    if set_name in _SETS:
        file_name, labels = _SETS[set_name]
        rows = [
            f"{index}\t{_similarity(value, where) if labels is None else _label(value, labels, where)}\n"
            for index, value, where in _placed(predictions, set_name)
        ]
        return _write_atomically(Path(folder) / file_name, "index\tprediction\n" + "".join(rows))
    if set_name not in _JSON_SETS:
        raise ValueError(f"unknown test set {set_name!r}; known test sets: {', '.join((*_SETS, *_JSON_SETS))}")
    if split is None or len(split.columns.get("idx", ())) != len(predictions):
        raise ValueError(f"{set_name}: a submission needs the idx of each of the {len(predictions)} rows")
    file_name, names = _JSON_SETS[set_name]
    answers = [
        _text(value, where) if names is None else _label(value, names, where)
        for _, value, where in _placed(predictions, set_name)
    ]
    objects = _objects(set_name, split.columns["idx"], answers)
    return _write_atomically(Path(folder) / file_name, "".join(f"{json.dumps(one)}\n" for one in objects))


def _placed(predictions: Sequence | Predictions, set_name: str) -> Iterable[tuple[int, Any, str]]:
    return ((index, value, f"{set_name}, row {index}") for index, value in enumerate(predictions))


def _objects(set_name: str, idx: Sequence[Any], answers: Sequence[str | int]) -> list[dict[str, Any]]:
    """One object per line, from the hub's `idx`: a number, or numbers by name for MultiRC and ReCoRD."""
    if set_name == "record":
        return [{"idx": place["query"], "label": answer} for place, answer in zip(idx, answers, strict=True)]
    if set_name != "multirc":
        return [{"idx": place, "label": answer} for place, answer in zip(idx, answers, strict=True)]
    paragraphs: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for place, answer in zip(idx, answers, strict=True):
        questions = paragraphs.setdefault(place["paragraph"], {})
        questions.setdefault(place["question"], []).append({"idx": place["answer"], "label": answer})
    return [
        {"idx": paragraph, "passage": {"questions": [{"idx": one, "answers": found} for one, found in asked.items()]}}
        for paragraph, asked in paragraphs.items()
    ]


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: prediction {value!r} cannot be read as a number") from None


def _similarity(value: Any, where: str) -> str:
    number = _number(value, where)
    if not math.isfinite(number):
        raise ValueError(f"{where}: a similarity must be finite, but the prediction is {value!r}")
    return f"{min(5.0, max(0.0, number)):.3f}"


def _label(value: Any, labels: Sequence[str | int], where: str) -> str | int:
    number = _number(value, where)
    # The range comes first, for it turns away nan and infinity, of which int() makes nothing.
    if not -1 <= number < len(labels) or number != int(number):
        last = len(labels) - 1
        raise ValueError(f"{where}: a label must be a whole number from 0 to {last}, but is {value!r}")
    return labels[max(0, int(number))]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: an answer must be a text, but is {value!r}")
    return value


def _write_atomically(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
