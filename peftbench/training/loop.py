"""The training loop. It knows a method only by its doors and a task only by the number that selects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peftbench.config import TrainerConfig
from peftbench.doors import Attachment, Clock
from peftbench.errors import is_out_of_memory
from peftbench.sparsity import Strength
from peftbench.training.batching import Rows, micro_batches, plan_epoch
from peftbench.training.checkpoint import random_states, set_random_states
from peftbench.training.devices import Devices
from peftbench.training.guard import Diverged, OutOfMemory, not_finite
from peftbench.training.interruption import Interruption
from peftbench.training.meter import Meter
from peftbench.training.optimizers import Optimizers
from peftbench.training.snapshot import restore, snapshot

DATA_ORDER = 2
"""Stream of the run's seed that orders the data, apart from those of the head, the method and dropout."""


class Reporter(Protocol):
    """Who is told what happens: the progress bar and the history file."""

    def step(self, progress: LoopState, loss: float, status: Mapping[str, Any]) -> None:
        """A logged step."""

    def advance(self, steps: int) -> None:
        """Steps taken since the last call."""

    def evaluation(self, progress: LoopState, metrics: Mapping[str, float], status: Mapping[str, Any]) -> None:
        """An evaluation."""

    def epoch(self, progress: LoopState, seconds: float) -> None:
        """The end of an epoch."""


@dataclass(frozen=True)
class Plan:
    """What one stage of training does.

    Attributes:
        name: `train`, or the stage's name. index: from 0; each stage has its own data order.
        total_steps: optimizer steps.
        strength: the sparsity schedule, (step, total steps) to λ or ξ.
        lr_offset: steps already taken of the learning-rate schedule. lr_steps: its whole length.
        selection: `best` or `last`.
    """

    name: str
    index: int
    total_steps: int
    strength: Callable[[int, int], Strength]
    selection: str
    lr_offset: int = 0
    lr_steps: int | None = None


@dataclass
class Selected:
    """A checkpoint chosen, with a copy of all that training changes."""

    step: int
    value: float
    snapshot: dict[str, Any]


@dataclass
class LoopState:
    """Where the loop stands: all that a resumable checkpoint adds to parameters, optimizers and random states.

    Attributes:
        step: optimizer steps taken. epoch: from 0. in_epoch: steps taken of this epoch.
        epoch_s: seconds of training spent in this epoch so far. since_best: evaluations without a new best.
        latest: the selecting metric at the last evaluation. evaluated: that evaluation's step and metrics.
    """

    step: int = 0
    epoch: int = 0
    in_epoch: int = 0
    epoch_s: float = 0.0
    since_best: int = 0
    latest: float = float("nan")
    evaluated: dict[str, Any] | None = None
    stopped: bool = False
    best: Selected | None = None


@dataclass
class Loop:
    """Trains one stage.

    Attributes:
        model: with the method attached. attachment: its doors. optimizers: over all trained parameters.
        rows: the tokenised training split. loss: the mean task loss of a batch of them. settings: the trainer's.
        accelerator: device and precision.
        evaluate: metrics on the selection split. metric: which of them selects; larger is better.
        save: writes a resumable checkpoint. seed: the run's. penalty: the last step's, logged apart from the loss.
        interruption: asks for an early end. micro: rows of a forward pass; None: all of a batch's.
    """

    model: nn.Module
    attachment: Attachment
    optimizers: Optimizers
    rows: Rows
    loss: Callable[[Mapping[str, Tensor]], Tensor]
    settings: TrainerConfig
    accelerator: Accelerator
    evaluate: Callable[[], Mapping[str, float]]
    metric: str
    meter: Meter
    reporter: Reporter
    seed: int
    save: Callable[[LoopState], None]
    state: LoopState = field(default_factory=LoopState)
    penalty: Tensor | None = None
    interruption: Interruption = field(default_factory=Interruption)
    micro: int | None = field(init=False)

    def __post_init__(self):
        self.micro = self.meter.micro_batch_size or self.settings.micro_batch_size
        self.devices = Devices(self.accelerator)
        self._asked = False

    def run(self, plan: Plan) -> Selected:
        """Train the stage to its end and leave the model as the selected checkpoint.

        Raises:
            Diverged: loss or gradient not finite, before the weights moved.
            OutOfMemory: a step did not fit.
            RunError: what the method promises did not happen.
            KeyboardInterrupt: a signal came; the checkpoint is of its moment.
        """
        self.model.train()
        while self.state.step < plan.total_steps and not self.state.stopped:
            self._epoch(plan)
        self.attachment.check_finished()
        if plan.selection == "last" or self.state.best is None:
            # Without a best, evaluations all fell before the method allowed selection. The last step is evaluated.
            return Selected(self.state.step, self.state.latest, self._snapshot())
        restore(self.model, self.attachment, self.state.best.snapshot)
        return self.state.best

    def _epoch(self, plan: Plan) -> None:
        state = self.state
        rng = np.random.default_rng([self.seed, DATA_ORDER, plan.index, state.epoch])
        lengths = self.rows.lengths
        batches = plan_epoch(lengths, self.settings.batch_size, self.settings.bucket_by_length, rng)
        began = self.meter.now()
        for batch in batches[state.in_epoch :]:
            loss = self._step(plan, batch, lengths)
            state.step += 1
            state.in_epoch += 1
            self.meter.steps += 1
            self.reporter.advance(1)
            if loss is not None and state.step % self.settings.log_every == 0:
                apart = {} if self.penalty is None else {"penalty": float(self.penalty)}
                self.reporter.step(state, float(loss), self.attachment.status() | apart)
            ended = state.in_epoch == len(batches) or state.step == plan.total_steps
            due = self._is_due(self.settings.eval_every, ended) or state.step == plan.total_steps
            save = self._is_due(self.settings.checkpoint_every, ended)
            # Of several processes each has to stop at the same step: where all learnt of it.
            stop = self.interruption.asked if self.devices.size == 1 else self._asked
            if ended or due or save or stop:
                seconds = self.meter.now() - began
                state.epoch_s += seconds
                self.meter.train_s += seconds
                if state.in_epoch == len(batches):
                    self._end_epoch()
                if due:
                    self._consider(plan)
                    stop = any(self.devices.gathered(self.interruption.asked))  # An evaluation may take long.
                if save or stop:
                    self._checkpoint()
                if stop:
                    raise KeyboardInterrupt
                began = self.meter.now()
            if state.stopped or state.step == plan.total_steps:
                return

    def _is_due(self, every: int | None, ended: bool) -> bool:
        """Whether something that happens every so many steps (None: every epoch) happens now."""
        return ended if every is None else self.state.step % every == 0

    def _end_epoch(self) -> None:
        state = self.state
        self.meter.epoch_s.append(state.epoch_s)
        self.reporter.epoch(state, state.epoch_s)
        state.epoch, state.in_epoch, state.epoch_s = state.epoch + 1, 0, 0.0

    def _step(self, plan: Plan, batch: np.ndarray, lengths: np.ndarray) -> Tensor | None:
        """One optimizer step over the rows of `batch`; the mean task loss, on the device. None: it was skipped."""
        step = self.state.step
        lr_steps = plan.total_steps if plan.lr_steps is None else plan.lr_steps
        self.optimizers.set_lr(step + plan.lr_offset, lr_steps)
        own = self._gradients(batch, lengths)
        total, self._asked = self.devices.add(self.optimizers.parameters, own, self.interruption.asked)
        self._count(batch, lengths)
        if (what := not_finite(total, self._clip())) is not None:
            self.meter.skipped_steps += 1
            self.optimizers.zero_grad()
            if self.meter.skipped_steps > self.settings.skip_nonfinite:
                raise Diverged(step + 1, what, self.state.evaluated)
            return None
        self.optimizers.step()
        strength = plan.strength(step, plan.total_steps)
        clock = Clock(step + 1, plan.total_steps, self.state.epoch, self.optimizers.lrs, strength)
        self.attachment.after_step(clock)
        self.optimizers.zero_grad()
        return total

    def _gradients(self, batch: np.ndarray, lengths: np.ndarray) -> Tensor:
        """Gradients of the mean loss and the penalty; the loss, on the device. In smaller pieces where it must be."""
        before = random_states(self.accelerator.device) if self.settings.auto_micro_batch else None
        while True:
            try:
                return self._accumulate(batch, lengths)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Outside the handler, whose error holds on to the tensors of the pass that failed.
            self.optimizers.zero_grad()
            rows = min(len(batch), self.micro or len(batch))
            if rows == 1 or not self.settings.auto_micro_batch:
                left = [k for k in ("auto_micro_batch", "gradient_checkpointing") if not getattr(self.settings, k)]
                raise OutOfMemory(self.state.step + 1, rows, int(lengths[batch].max()), left)
            self.micro = self.meter.micro_batch_size = rows // 2
            assert before is not None
            set_random_states(before, self.accelerator.device)  # As if the pass that failed had never been.
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulate(self, batch: np.ndarray, lengths: np.ndarray) -> Tensor:
        total = torch.zeros((), device=self.accelerator.device)
        # The penalty depends on no row: one backward pass of one process carries the whole of it.
        first, weight = self.devices.rank == 0, self.rows.weight(batch)
        for rows in micro_batches(batch[self.devices.rank :: self.devices.size], lengths, self.micro):
            inputs = self.rows.batch(rows, self.accelerator.device)
            with self.accelerator.autocast():
                loss = self.loss(inputs) * (self.rows.weight(rows) / weight)
            total += loss.detach()
            if first:
                penalty, first = self.attachment.penalty(), False
                self.penalty = None if penalty is None else penalty.detach()
                loss = loss if penalty is None else loss + penalty
            self.accelerator.backward(loss)
        return total

    def _count(self, batch: np.ndarray, lengths: np.ndarray) -> None:
        """The tokens of all processes, padded as each of them does."""
        for rank in range(self.devices.size):
            for rows in micro_batches(batch[rank :: self.devices.size], lengths, self.micro):
                self.meter.tokens += int(lengths[rows].sum())
                self.meter.padded_tokens += int(lengths[rows].max()) * len(rows)

    def _clip(self) -> Tensor:
        """The norm of all gradients before they are clipped."""
        parameters, limit = self.optimizers.parameters, self.settings.max_grad_norm
        if limit is None:
            return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return nn.utils.clip_grad_norm_(parameters, limit)

    def _consider(self, plan: Plan) -> None:
        """Evaluate, and keep a copy where this is the best so far."""
        state, began = self.state, self.meter.now()
        self.meter.enter("evaluation")
        metrics = self.evaluate()
        self.meter.enter("training")
        self.meter.eval_s += self.meter.now() - began
        self.reporter.evaluation(state, metrics, self.attachment.status())
        state.latest = value = float(metrics[self.metric])
        state.evaluated = {"step": state.step, **metrics}
        if plan.selection == "last" or not self.attachment.selectable:
            return
        if state.best is None or value > state.best.value:
            state.best, state.since_best = Selected(state.step, value, self._snapshot()), 0
            return
        state.since_best += 1
        state.stopped = self.settings.patience is not None and state.since_best >= self.settings.patience

    def _checkpoint(self) -> None:
        began = self.meter.now()
        self.save(self.state)
        self.meter.checkpoint_s += self.meter.now() - began

    def _snapshot(self) -> dict[str, Any]:
        return snapshot(self.model, self.attachment)
