"""A language model's likelihood of target tokens: what is trained, and what selects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.heads import Head
from peftbench.forms.base import Form
from peftbench.forms.text_rows import TextRows, Wording
from peftbench.task_config import GenerationTask, TaskConfig
from peftbench.tasks.base import TaskSpec
from peftbench.training.batching import Rows, evaluation_plan
from peftbench.training.devices import Devices
from peftbench.training.guard import fitting


class Likelihood(Form):
    """Target tokens by the language model's own projection.

    The loss is the mean cross-entropy per target token; sources and padding carry none, whatever the padding token is.
    Vocabulary logits are computed at the target's positions alone.
    """

    head: ClassVar[Head] = "language"

    def __init__(self, spec: TaskSpec, task: TaskConfig, model: nn.Module, tokenizer: Any):
        super().__init__(spec, task, model, tokenizer)
        self.wording = Wording(model, tokenizer)
        self._asked: Tensor | None = None
        self._smoothing = task.label_smoothing if isinstance(task, GenerationTask) else 0.0
        model.get_output_embeddings().register_forward_pre_hook(self._narrow)  # type: ignore[operator]

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
        """Mean over the batch's target tokens of -log P(token), labels smoothed where the task says so."""
        logits = self._target_logits(inputs)
        return F.cross_entropy(logits, inputs["target_ids"], label_smoothing=self._smoothing)

    @torch.no_grad()
    def numbers(self, rows: Rows) -> np.ndarray:
        """Mean log-likelihood per target token of every example, shape (E,), in nats."""
        assert isinstance(rows, TextRows)
        if not len(rows):  # WSC's rows whose noun phrase is a wrong one say nothing to be likely.
            return np.zeros(0)
        was_training = self.model.training
        self.model.eval()
        plan, devices = evaluation_plan(rows.lengths, self.batch_size), Devices(self.accelerator)
        means = []
        for which in devices.share(plan):
            inputs = rows.batch(which, self.accelerator.device)
            with self.accelerator.autocast(), fitting(*inputs["input_ids"].shape):
                logits = self._target_logits(inputs)
            values = -F.cross_entropy(logits, inputs["target_ids"], reduction="none")
            counts = rows.targets.lengths[which]
            begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
            means.append(np.add.reduceat(values.double().cpu().numpy(), begins) / counts)
        self.model.train(was_training)
        found = np.empty(len(rows))
        found[np.concatenate(plan)] = np.concatenate(devices.together(means))
        return found


def likelihood(rows: Rows, numbers: np.ndarray) -> dict[str, float]:
    """`log_likelihood`, mean per target token, in nats, of every example, and `perplexity`, exp of its negative."""
    assert isinstance(rows, TextRows)
    mean = float(np.average(numbers, weights=rows.targets.lengths))
    return {"log_likelihood": mean, "perplexity": float(np.exp(min(-mean, 700.0)))}
