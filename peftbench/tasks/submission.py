"""Predictions on GLUE's and SuperGLUE's hidden test sets, in the files their leaderboards accept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from peftbench.tasks.base import Predictions, Split
from peftbench.tasks.glue import AX, GLUE
from peftbench.tasks.superglue import AXB, AXG, SUPERGLUE

Spelling = Literal["names", "lower", "digits", "numbers", "values"]
"""How a prediction is written: the class's name, that in lower case, its number as text or as a number, or itself."""

_SETS: dict[str, tuple[str, Spelling]] = {
    "cola": ("CoLA.tsv", "digits"),
    "sst2": ("SST-2.tsv", "digits"),
    "mrpc": ("MRPC.tsv", "digits"),
    "stsb": ("STS-B.tsv", "values"),
    "qqp": ("QQP.tsv", "digits"),
    "mnli_matched": ("MNLI-m.tsv", "names"),
    "mnli_mismatched": ("MNLI-mm.tsv", "names"),
    "qnli": ("QNLI.tsv", "names"),
    "rte": ("RTE.tsv", "names"),
    "wnli": ("WNLI.tsv", "digits"),
    "ax": ("AX.tsv", "names"),
}

_JSON_SETS: dict[str, tuple[str, Spelling]] = {
    "boolq": ("BoolQ.jsonl", "lower"),
    "cb": ("CB.jsonl", "names"),
    "copa": ("COPA.jsonl", "numbers"),
    "multirc": ("MultiRC.jsonl", "numbers"),
    "record": ("ReCoRD.jsonl", "values"),
    "superglue_rte": ("RTE.jsonl", "names"),
    "wic": ("WiC.jsonl", "lower"),
    "wsc": ("WSC.jsonl", "names"),
    "axb": ("AX-b.jsonl", "names"),
    "axg": ("AX-g.jsonl", "names"),
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
        file_name, spelling = _SETS[set_name]
        labels = _labels(set_name, spelling)
        rows = [
            f"{index}\t{_similarity(value, where) if spelling == 'values' else _label(value, labels, where)}\n"
            for index, value, where in _placed(predictions, set_name)
        ]
        return _write_atomically(Path(folder) / file_name, "index\tprediction\n" + "".join(rows))
    if set_name not in _JSON_SETS:
        raise ValueError(f"unknown test set {set_name!r}; known test sets: {', '.join((*_SETS, *_JSON_SETS))}")
    if split is None or len(split.columns.get("idx", ())) != len(predictions):
        raise ValueError(f"{set_name}: a submission needs the idx of each of the {len(predictions)} rows")
    file_name, spelling = _JSON_SETS[set_name]
    labels = _labels(set_name, spelling)
    answers = [
        _text(value, where) if spelling == "values" else _label(value, labels, where)
        for _, value, where in _placed(predictions, set_name)
    ]
    objects = _objects(set_name, split.columns["idx"], answers)
    return _write_atomically(Path(folder) / file_name, "".join(f"{json.dumps(one)}\n" for one in objects))


def _labels(set_name: str, spelling: Spelling) -> Sequence[str | int]:
    """The set's classes in the order of their numbers, as its file spells them."""
    specs = {spec.name: spec for spec in (*GLUE, *SUPERGLUE, AX, AXB, AXG)}
    names = specs[set_name.removesuffix("_matched").removesuffix("_mismatched")].labels
    if spelling in ("digits", "numbers"):
        return [str(place) if spelling == "digits" else place for place in range(len(names))]
    return [name.lower() for name in names] if spelling == "lower" else names


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
