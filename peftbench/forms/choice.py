"""A choice among candidates: one score for each, by the same head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from peftbench.backbones.heads import Head
from peftbench.forms.base import Form
from peftbench.tasks.base import Predictions, Split
from peftbench.training.batching import Rows, TokenRows, collate, evaluation_plan, tokenise
from peftbench.training.devices import Devices
from peftbench.training.guard import fitting


@dataclass(frozen=True)
class ChoiceRows:
    """Rows of several candidates each.

    Attributes:
        candidates: context and candidate, tokenised, of all rows end to end.
        starts: shape (N + 1,), where each row's candidates begin.
        right: of each candidate whether it is a right one; None where hidden.
    """

    candidates: TokenRows
    starts: np.ndarray
    right: np.ndarray | None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of all of a row's candidates, shape (N,)."""
        return np.add.reduceat(self.candidates.lengths, self.starts[:-1])

    def weight(self, which: np.ndarray) -> float:
        """Every row counts once."""
        return float(len(which))

    def batch(self, which: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """The candidates of the rows, (ΣC, S); `choices`, (B, C): where each row's are, -1 beyond; `right`, (B, C)."""
        counts = np.diff(self.starts)[which]
        inside = np.arange(counts.max()) < counts[:, None]
        flat = (self.starts[which][:, None] + np.arange(counts.max()))[inside]
        places = np.full(inside.shape, -1, np.int64)
        places[inside] = np.arange(len(flat))
        batch = collate(self.candidates, flat, device) | {"choices": torch.from_numpy(places).to(device)}
        if self.right is not None:
            right = np.zeros(inside.shape, bool)
            right[inside] = self.right[flat]
            batch["right"] = torch.from_numpy(right).to(device)
        return batch


class Choice(Form):
    """The candidate with the highest score (SuperGLUE, Wang et al., 2019, §4.1: a projection to a scalar each).

    The loss is the cross-entropy over a row's candidates; of several right ones their joint probability counts. The
    baselines of that paper score ReCoRD's candidates independently of each other instead.
    """

    name: ClassVar[str] = "choice"
    head: ClassVar[Head] = "classifier"

    def tokenise(self, split: Split) -> Rows:
        """The row's text with each of its candidates, cut to `max_length`."""
        choices = split.columns["choices"]
        counts = [len(row) for row in choices]
        contexts = [text for text, count in zip(split.texts[0], counts, strict=True) for _ in range(count)]
        candidates = tokenise(
            [contexts, [text for row in choices for text in row]], None, self.tokenizer, self.task.max_length
        )
        starts = np.concatenate([[0], np.cumsum(counts)])
        return ChoiceRows(candidates, starts, None if split.labels is None else _right(split, starts))

    def loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean of -log P(a right candidate)."""
        scores = self._scores(inputs).float()
        right = scores.masked_fill(~inputs["right"], float("-inf"))
        return (scores.logsumexp(1) - right.logsumexp(1)).mean()

    def _scores(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Of every candidate, (B, C); -inf where a row has fewer."""
        places = inputs["choices"]
        tokens = {k: v for k, v in inputs.items() if k not in ("choices", "right")}
        flat = self.model(**tokens).logits[:, 0]
        return flat[places.clamp(min=0)].masked_fill(places < 0, float("-inf"))

    @torch.no_grad()
    def numbers(self, rows: Rows) -> np.ndarray:
        """Scores, shape (N, C), -inf where a row has fewer candidates. Leaves the model's mode as it was."""
        assert isinstance(rows, ChoiceRows)
        was_training = self.model.training
        self.model.eval()
        numbers = np.full((len(rows), int(np.diff(rows.starts).max())), -np.inf, np.float32)
        plan, devices = evaluation_plan(rows.lengths, self.batch_size, np.diff(rows.starts)), Devices(self.accelerator)
        own = []
        for which in devices.share(plan):
            inputs = rows.batch(which, self.accelerator.device)
            with self.accelerator.autocast(), fitting(*inputs["input_ids"].shape):
                own.append(self._scores(inputs).float().cpu().numpy())
        for which, scores in zip(plan, devices.together(own), strict=True):
            numbers[which, : scores.shape[1]] = scores
        self.model.train(was_training)
        return numbers

    def predict(self, split: Split, rows: Rows, numbers: np.ndarray | None = None) -> Predictions:
        """The best candidate's index; its words, where the task wants words (the column `entities`)."""
        best = (self.numbers(rows) if numbers is None else numbers).argmax(1)
        if "entities" in split.columns:
            return [entities[i] for entities, i in zip(split.columns["entities"], best, strict=True)]
        return best


def _right(split: Split, starts: np.ndarray) -> np.ndarray:
    assert split.labels is not None
    right = np.zeros(starts[-1], bool)
    several = split.columns.get("correct") or [[int(label)] for label in split.labels]
    for start, chosen in zip(starts, several, strict=False):
        right[start + np.asarray(chosen, np.int64)] = True
    return right
