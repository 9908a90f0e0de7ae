"""What a run writes beside its record: the model's texts, submissions, the merged model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.assembly import TokenisedSplits
from peftbench.backbones.origin import MERGED_BY
from peftbench.backbones.projections import fuse
from peftbench.doors import Attachment
from peftbench.durable import write_text
from peftbench.forms.base import Form
from peftbench.tasks.base import Predictions, TaskData
from peftbench.tasks.submission import write_submission


def write_analysis(folder: Path, attachment: Attachment) -> None:
    """`analysis.json`: what the method's paper looks at inside it, for a method that has such a thing."""
    if analysis := attachment.analysis():
        write_text(folder / "analysis.json", json.dumps(analysis, indent=1) + "\n")


def write_texts(folder: Path, rows: TokenisedSplits, mark: str = "") -> None:
    """What the model wrote, `written/<split>.jsonl`: a row a line, with source, output and references.

    Args:
        folder: the run's.
        rows: the splits, and the form that the texts were written in.
        mark: begins the files' names.
    """
    for name, lines in rows.form.written_lines(rows.splits).items():
        write_text(_apart(folder, "written", rows.kind) / f"{mark}{name}.jsonl", lines)


def write_predictions(folder: Path, data: TaskData, predictions: Mapping[str, Predictions]) -> None:
    """The hidden test sets' predictions, by set, in the benchmark's own files."""
    for name, split in data.hidden.items():
        write_submission(_apart(folder, "predictions", data.provenance["kind"]), name, predictions[name], split)


def _apart(folder: Path, name: str, kind: str) -> Path:
    """What is not the benchmark's cannot be mistaken for a submission to it."""
    return folder / (name if kind == "benchmark" else f"{name}-{kind}")


def write_merged(folder: Path, model: Any, form: Form, described: str) -> None:
    """A transformers model, `merged/`, of one whose method has folded itself in; `docs/tasks.md` loads it.

    Args:
        folder: the run's.
        model: the model.
        form: has its tokenizer, and the task's labels.
        described: what the model is, for records of runs that start from it.
    """
    fuse(model)
    # Two unnamed classes are not written down, and BART would be read back with its default three.
    if form.head != "language" and (names := dict(enumerate(form.spec.labels))):
        model.config.update({"id2label": names, "label2id": {v: k for k, v in names.items()}})
    model.save_pretrained(folder / "merged")
    form.tokenizer.save_pretrained(folder / "merged")
    write_text(folder / "merged" / MERGED_BY, json.dumps({"described": described}) + "\n")
