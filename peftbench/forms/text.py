"""Text in, text out: the language model's own projection, loss on the target only, beam search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.heads import Head
from peftbench.config import GenerationTask, TaskConfig
from peftbench.forms.base import Form
from peftbench.forms.decoding import Decoding, generate
from peftbench.forms.text_rows import TextRows, Wording
from peftbench.tasks.base import Predictions, Split, TaskSpec
from peftbench.tasks.scores import Scores, score
from peftbench.training.batching import Rows, evaluation_plan

LIKELIHOOD = ("log_likelihood", "perplexity")
"""What is known without a text being written: of the references, given the sources."""
_ANSWER_TOKENS = 32
"""Of an answer that is a class's name or a phrase of the source, at most."""


class Text(Form):
    """Text in, text out.

    The loss is the mean cross-entropy per target token; sources and padding carry none, whatever the padding token is.
    Vocabulary logits are computed at the target's positions alone.
    """

    name: ClassVar[str] = "text"
    head: ClassVar[Head] = "language"

    def __init__(self, spec: TaskSpec, task: TaskConfig, model: nn.Module, tokenizer: Any):
        super().__init__(spec, task, model, tokenizer)
        assert spec.text is not None
        self.format = spec.text
        self.wording = Wording(model, tokenizer)
        self.decoding = self._decoding()
        self._asked: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._narrow)  # type: ignore[operator]

    def _decoding(self) -> Decoding:
        task = self.task
        if isinstance(task, GenerationTask):
            return Decoding(task.max_new_tokens, task.beams, task.length_penalty, task.no_repeat_ngram)
        longest = max(
            (len(row) for row in self.wording.targets(self.format.targets, _ANSWER_TOKENS)), default=_ANSWER_TOKENS
        )
        return Decoding(longest)

    @staticmethod
    def positions(task: TaskConfig, causal: bool) -> int:
        """Of a decoder source, separator and target in one row; else the longer one."""
        target = _ANSWER_TOKENS
        if isinstance(task, GenerationTask):
            target = max(task.max_new_tokens, task.max_target_length)
        return task.max_length + 1 + target if causal else max(task.max_length, target)

    def tokenise(self, split: Split) -> Rows:
        """Sources cut to `max_length`; of a split that has targets also its examples."""
        prompts = self.wording.prompts(self.format.sources(split), self.task.max_length)
        row_of, targets = np.zeros(0, np.int64), []
        if split.labels is not None or not self.spec.labels:
            row_of, targets = self.format.pairs(split)
        limit = self.task.max_target_length if isinstance(self.task, GenerationTask) else _ANSWER_TOKENS
        return TextRows.of(self.wording, prompts, row_of, self.wording.targets(targets, limit))

    def _narrow(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Hidden states (B, S, D) at the positions asked for, as (1, T, D)."""
        if self._asked is None:
            return None
        hidden = args[0][:, -self._asked.shape[1] :]  # A prompt of PEFT's own lies before the input's tokens.
        return (hidden[self._asked][None], *args[1:])

    def _target_logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Of every target token of the batch, row after row, (T, V)."""
        tokens = {k: v for k, v in inputs.items() if k not in ("positions", "target_ids")}
        self._asked = inputs["positions"]
        try:
            return self.model(**tokens).logits[0].float()
        finally:
            self._asked = None

    def loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean over the batch's target tokens of -log P(token)."""
        return F.cross_entropy(self._target_logits(inputs), inputs["target_ids"])

    @torch.no_grad()
    def numbers(self, rows: Rows) -> np.ndarray:
        """Mean log-likelihood per target token of every example, shape (E,), in nats."""
        assert isinstance(rows, TextRows)
        was_training = self.model.training
        self.model.eval()
        found = np.empty(len(rows))
        for which in evaluation_plan(rows.lengths, self.batch_size):
            inputs = rows.batch(which, self.accelerator.device)
            with self.accelerator.autocast():
                logits = self._target_logits(inputs)
            values = -F.cross_entropy(logits, inputs["target_ids"], reduction="none")
            counts = rows.targets.lengths[which]
            begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
            found[which] = np.add.reduceat(values.double().cpu().numpy(), begins) / counts
        self.model.train(was_training)
        return found

    def predict(self, split: Split, rows: Rows, numbers: np.ndarray | None = None) -> Predictions:
        """What the model writes, as the task reads it."""
        assert isinstance(rows, TextRows)
        texts = generate(
            self.model, rows.prompts, self.decoding, self.tokenizer, self.accelerator, self.batch_size, self.meter,
            lambda done: self.progress(split.name, done, len(split)),
        )  # fmt: skip
        self.written[split.name] = texts
        return self.format.read(texts, split)

    def scores(self, split: Split, rows: Rows, numbers: np.ndarray, predictions: Predictions) -> dict[str, Scores]:
        """The task's metrics, and the likelihood of the references where the task is to write."""
        found = score(self.spec, split, predictions)
        if self.spec.kind == "generate":
            found[split.name] |= likelihood(rows, numbers)
        return found

    def lines(self, split: Split, texts: list[str]) -> str:
        """Source, output and references of every row, as JSON lines."""
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
        predictions = self.predict(split, rows)
        return score(self.spec, split, predictions)[split.name]


def likelihood(rows: Rows, numbers: np.ndarray) -> dict[str, float]:
    """`log_likelihood`, mean per target token over all examples, in nats, and `perplexity`, exp of its negative."""
    assert isinstance(rows, TextRows)
    mean = float(np.average(numbers, weights=rows.targets.lengths))
    return {"log_likelihood": mean, "perplexity": float(np.exp(min(-mean, 700.0)))}
