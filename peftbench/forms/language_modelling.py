"""Language modelling on plain text, in blocks of one length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from peftbench.errors import ConfigurationError
from peftbench.forms.likelihood import Likelihood, likelihood
from peftbench.forms.text_rows import TextRows
from peftbench.task_config import LanguageModellingTask
from peftbench.tasks.base import Predictions, Split, TaskSpec
from peftbench.tasks.scores import Scores
from peftbench.training.batching import Rows

_CUTS = 20231206


class LanguageModelling(Likelihood):
    """The next token of running text: of every token (`plain`), or of those after a random prefix (`prefix`).

    Prefix language modelling is how T5 v1.1 was adapted for prompt tuning (Lester et al., 2021, §3.2): the encoder
    reads the prefix and the decoder writes the rest. A block's prefix ends where a fixed random draw says.
    """

    name: ClassVar[str] = "language_modelling"

    @staticmethod
    def examples(spec: TaskSpec, split: Split) -> int | None:
        """Blocks of tokens."""
        return None

    def tokenise(self, split: Split) -> Rows:
        """The texts end to end, an end token after each, cut into blocks of `max_length` tokens.

        Raises:
            ConfigurationError: `plain` on an encoder-decoder, or too little text.
        """
        blocks = self._blocks(split.texts[0])
        if not blocks:
            raise ConfigurationError(f"{self.spec.name} {split.name}: not two tokens of text")
        task = self.task
        assert isinstance(task, LanguageModellingTask)
        if task.objective == "plain":
            if self.wording.start is not None:
                raise ConfigurationError(
                    "task.objective=plain needs a decoder; an encoder-decoder reads a prefix: task.objective=prefix"
                )
            cuts = np.ones(len(blocks), np.int64)
        else:
            cuts = np.random.default_rng(_CUTS).integers(1, [len(block) for block in blocks])
        sources = [block[:cut] for block, cut in zip(blocks, cuts, strict=True)]
        targets = [block[cut:] for block, cut in zip(blocks, cuts, strict=True)]
        return TextRows.of(self.wording, sources, np.arange(len(blocks)), targets)

    def _blocks(self, texts: list[str]) -> list[list[int]]:
        end = self.tokenizer.eos_token_id
        stream = [token for ids in self.wording.plain(texts) if ids for token in (*ids, end)]
        length = self.task.max_length
        blocks = [stream[start : start + length] for start in range(0, len(stream), length)]
        return [block for block in blocks if len(block) > 1]

    def predict(self, split: Split, rows: Rows, numbers: np.ndarray | None = None) -> Predictions:
        """Nothing is predicted: the likelihood is all that is asked for."""
        return []

    def scores(
        self, split: Split, rows: Rows, predictions: Predictions, numbers: np.ndarray | None = None
    ) -> dict[str, Scores]:
        """`log_likelihood` and `perplexity` per token."""
        return {split.name: dict(likelihood(rows, self.numbers(rows) if numbers is None else numbers))}

    def monitored(self, split: Split, rows: Rows, metric: str) -> Mapping[str, Any]:
        """The same."""
        return likelihood(rows, self.numbers(rows))
