"""Text in, text out: loss on the target only, scored by what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from peftbench.forms.decoding import Decoding, generate
from peftbench.forms.likelihood import Likelihood, likelihood
from peftbench.forms.text_rows import TextRows
from peftbench.task_config import GenerationTask, TaskConfig
from peftbench.tasks.base import LIKELIHOOD, Predictions, Split, TaskSpec
from peftbench.tasks.mixture import parts
from peftbench.tasks.scores import Scores, score
from peftbench.training.batching import Rows

_ANSWER_TOKENS = 32
"""Of an answer that is a class's name or a phrase of the source, at most."""


class Text(Likelihood):
    """Text in, text out: trained by the target's likelihood, scored by what the model writes."""

    name: ClassVar[str] = "text"

    def __init__(self, spec: TaskSpec, task: TaskConfig, model: nn.Module, tokenizer: Any):
        super().__init__(spec, task, model, tokenizer)
        assert spec.text is not None
        self.format = spec.text
        self.decoding = self._decoding()

    def _decoding(self) -> Decoding:
        task = self.task
        if isinstance(task, GenerationTask):
            return Decoding(task.max_new_tokens, task.beams, task.length_penalty, task.no_repeat_ngram)
        longest = max((len(row) for row in self.wording.targets(self.format.targets)), default=_ANSWER_TOKENS)
        return Decoding(longest)

    @staticmethod
    def examples(spec: TaskSpec, split: Split) -> int | None:
        """The pairs of a row and a target."""
        return len(_pairs(spec, split)[1])

    @staticmethod
    def positions(task: TaskConfig, causal: bool) -> int:
        """Of a decoder source, separator and target in one row; else the longer one."""
        target = _ANSWER_TOKENS
        if isinstance(task, GenerationTask):
            target = max(task.max_new_tokens, task.max_target_length)
        return task.max_length + 1 + target if causal else max(task.max_length, target)

    def tokenise(self, split: Split) -> Rows:
        """Sources cut to `max_length`, and the examples of a split that has targets."""
        prompts, cut = self.wording.prompts(self.format.sources(split), self.task.max_length, self.format.cut)
        self._tell(f"sources of {split.name} cut to {self.task.max_length} tokens", cut, len(prompts))
        row_of, targets = _pairs(self.spec, split)
        limit = self.task.max_target_length if isinstance(self.task, GenerationTask) else _ANSWER_TOKENS
        wanted = self.wording.targets(targets)
        self._tell(
            f"targets of {split.name} cut to {limit} tokens", sum(len(row) > limit for row in wanted), len(wanted)
        )
        return TextRows.of(self.wording, prompts, row_of, [row[:limit] for row in wanted])

    def predict(self, split: Split, rows: Rows, numbers: np.ndarray | None = None) -> Predictions:
        """What the model writes, as the task reads it."""
        assert isinstance(rows, TextRows)
        texts, unfinished = generate(
            self.model, rows.prompts, self.decoding, self.tokenizer, self.accelerator, self.batch_size, self.meter,
            lambda done: self.progress(split.name, done, len(split)),
        )  # fmt: skip
        self.written[split.name] = texts
        limit = f"{self.decoding.max_new_tokens} tokens"
        self._tell(f"texts on {split.name} stopped at {limit} without an end", unfinished, len(texts))
        return self.format.read(texts, split)

    def scores(
        self, split: Split, rows: Rows, predictions: Predictions, numbers: np.ndarray | None = None
    ) -> dict[str, Scores]:
        """The task's metrics, and the likelihood of the references where the task is to write."""
        found = score(self.spec, split, predictions)
        if self.spec.kind == "generate":
            found[split.name] |= likelihood(rows, self.numbers(rows) if numbers is None else numbers)
        return found

    def _tell(self, what: str, count: int, total: int) -> None:
        """Note how many of a split are concerned, the last word on it being the one that stands."""
        self.told.pop(what, None)
        if count:
            self.told[what] = f"{what}: {count} of {total}"

    def illegal(self, splits: Mapping[str, Split]) -> dict[str, int]:
        """How many texts are none of the task's answers (Lester et al., 2021, §3.2 on models that never emit one).

        Of a mixture those of each of its tasks stand under its name too.
        """
        legal = self.format.legal
        if legal is None:
            return {}
        found = {}
        for name, texts in self.written.items():
            verdicts = legal(texts, splits[name])
            found[name] = verdicts.count(False)
            for member, places, _ in parts(self.spec.members, splits[name]):
                found[member.name] = [verdicts[place] for place in places].count(False)
        return found

    def written_lines(self, splits: Mapping[str, Split]) -> dict[str, str]:
        """Source, output and references of every row, as JSON lines, by split."""
        return {name: self._lines(splits[name], texts) for name, texts in self.written.items()}

    def _lines(self, split: Split, texts: list[str]) -> str:
        sources = self.format.sources(split)
        references: list[list[str]] = [[] for _ in sources]
        if split.labels is not None or not self.spec.labels:
            for row, target in zip(*self.format.pairs(split), strict=True):
                references[row].append(target)
        rows = zip(sources, texts, references, strict=True)
        return "".join(
            json.dumps({"source": s, "output": t, "references": r}, ensure_ascii=False) + "\n" for s, t, r in rows
        )

    def monitored(self, split: Split, rows: Rows, metric: str) -> Mapping[str, Any]:
        """The likelihood alone where that selects: writing every text takes many times longer."""
        if metric in LIKELIHOOD:
            return likelihood(rows, self.numbers(rows))
        # Of written texts the one metric: METEOR's program alone takes as long as everything else.
        spec = replace(self.spec, metrics=(metric,), subset=None) if self.spec.convention else self.spec
        return score(spec, split, self.predict(split, rows))[split.name]


def _pairs(spec: TaskSpec, split: Split) -> tuple[np.ndarray, list[str]]:
    """The row of each example, (E,), and its target; none where the labels are hidden."""
    assert spec.text is not None
    if split.labels is None and spec.labels:
        return np.zeros(0, np.int64), []
    row_of, targets = spec.text.pairs(split)
    if spec.kind == "generate":
        # Training rows have one reference each. Of a row with several the first stands for it: a row then counts once
        # in the likelihood, however many people have described it.
        row_of, first = np.unique(row_of, return_index=True)
        targets = [targets[i] for i in first]
    return row_of, targets
