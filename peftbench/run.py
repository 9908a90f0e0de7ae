"""A run with everything loaded: training, pruning, evaluation, record."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from omegaconf import OmegaConf

from peftbench.artifacts import write_analysis, write_merged, write_predictions, write_texts
from peftbench.assembly import (
    DROPOUT,
    TokenisedSplits,
    counts,
    stream_seed,
)
from peftbench.config import RunConfig
from peftbench.console import RunReporter, warned
from peftbench.doors import Attachment, ParameterGroup
from peftbench.durable import write_text
from peftbench.environment import environment
from peftbench.placing import selection
from peftbench.processes import is_main
from peftbench.record import SCHEMA, RunFolder, utc_now
from peftbench.scoring import NO_RANK, Scorer, at_chance, check_pruning
from peftbench.stages import stage_result
from peftbench.tasks.base import TaskData, TaskSpec
from peftbench.tracking import Tracking
from peftbench.training.checkpoint import (
    delete_checkpoint,
    load_checkpoint,
    random_states,
    save_checkpoint,
    seed_everything,
    set_random_states,
)
from peftbench.training.devices import Devices
from peftbench.training.guard import failure
from peftbench.training.interruption import Interruption
from peftbench.training.loop import Loop, LoopState, Plan, Selected
from peftbench.training.meter import Meter
from peftbench.training.optimizers import Optimizers
from peftbench.training.snapshot import fingerprints, restore, snapshot, unmoved

log = logging.getLogger("peftbench")


def opening(config: RunConfig, folder: RunFolder, weights: dict[str, Any], form: str, data: TaskData) -> dict[str, Any]:
    """What a record says before anything is loaded: what the run is of, and where.

    Args:
        config: the run's.
        folder: its own.
        weights: what `origin` says of the backbone.
        form: name of the form.
        data: its rows.
    """
    return {
        "schema": SCHEMA,
        "status": "failed",
        "run_id": folder.path.name,
        "config": config.resolved(),
        "task": config.task.name,
        "method": config.method_name,
        "model": {"name": config.model.name, **weights},
        "seed": config.seed,
        "form": form,
        "data": data.provenance,
        "environment": environment(),
        "parameters": {},
        "timing": {},
        "error": None,
    }


@dataclass
class Run:
    """A run with everything loaded; `carry_out` is the rest of the story."""

    config: RunConfig
    spec: TaskSpec
    data: TaskData
    folder: RunFolder
    origin: dict[str, Any]
    accelerator: Accelerator
    model: torch.nn.Module
    memory: dict[str, float]
    attachment: Attachment
    groups: list[ParameterGroup]
    rows: TokenisedSplits
    plans: list[Plan]
    meter: Meter
    brief: bool = False

    def __post_init__(self):
        self.selection = selection(self.config, self.data)
        self.devices = Devices(self.accelerator)
        self.initial_ranks = self.attachment.ranks()
        self.at_start = fingerprints(self.model)
        self.stages: list[dict[str, Any]] = []
        self.scorer = Scorer(self.rows, self.selection[1])
        self.record: dict[str, Any] = self._opening()

    def carry_out(self, began: float) -> dict[str, Any]:
        """Train every stage, prune, evaluate, export, write the record; on failure the record says what failed."""
        started = utc_now()
        write_text(self.folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self.config.resolved())))
        try:
            shown = (self.folder, self.config.trainer, self.plans, self.selection[1], self.record)
            with (
                Tracking(self.accelerator, self.config, self.folder) as tracking,
                RunReporter(*shown, tracking, self.brief) as reporter,
            ):
                self.rows.form.progress = reporter.writing
                self._score_untrained()
                with Interruption(warned) as interruption:
                    selected = self._train(reporter, interruption, began)
                self._conclude(selected)
            self.record["status"] = "completed"
        except BaseException as error:
            self.record |= failure(error)
            log.error("%s", "".join(traceback.format_exception(error)))
            raise
        finally:
            self.record |= {"started": started, "ended": utc_now(), "memory": self.meter.memory() | self.memory}
            self.record["timing"] = {**self.record["timing"], **self.meter.timing()}
            self.folder.write_record(self.record)
        delete_checkpoint(self.folder.checkpoint)
        return self.record

    def _opening(self) -> dict[str, Any]:
        return opening(self.config, self.folder, self.origin, self.rows.form.name, self.data) | {
            "parameters": dataclasses.asdict(counts(self.attachment, self.groups)),
            "steps": {plan.name: plan.total_steps for plan in self.plans},
            "stages": self.stages,
            "timing": {"setup_s": None},
        }

    def _described(self) -> str:
        """What the merged model is: `full on lm, 10,000 steps, run 0123456789ab`."""
        steps = sum(plan.total_steps for plan in self.plans)
        return f"{self.config.method_name} on {self.config.task.name}, {steps:,} steps, run {self.folder.path.name}"

    def _score_untrained(self) -> None:
        """The attached model before its first step, where that is asked for; known from the first start afterwards."""
        if self.config.trainer.score_untrained:
            self.meter.enter("evaluation")
            file = self.folder.path / "untrained.json"
            scores = self.devices.agreed(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None)
            if scores is None:
                scores, _ = self.scorer.result(self.selection[0])
                write_texts(self.folder.path, self.rows, "untrained-")
                write_text(file, json.dumps(scores, indent=1) + "\n")
            self.record["untrained"] = scores

    def _train(self, reporter: RunReporter, interruption: Interruption, began: float) -> Selected:
        """Every stage in turn, going on from a checkpoint where there is one."""
        saved = self.devices.agreed(load_checkpoint(self.folder.checkpoint, warned))
        optimizers = self._optimizers()
        seed_everything(stream_seed(self.config.seed, DROPOUT))
        state, first = LoopState(), 0
        if saved is not None:
            state, first = self._resume(saved, optimizers)
        self.folder.trim_history(first, state.step)
        self.record["timing"]["setup_s"] = round(time.perf_counter() - began, 3)
        selected = None
        for plan in self.plans[first:]:
            if plan.index > first and plan.lr_steps is None:
                optimizers = self._optimizers()
            reporter.stage(plan, state)
            self.meter.enter("training")
            loop = Loop(
                model=self.model,
                attachment=self.attachment,
                optimizers=optimizers,
                rows=self.rows["train"],
                loss=self.rows.form.loss,
                settings=self.config.trainer,
                accelerator=self.accelerator,
                evaluate=lambda: self.scorer.metrics(self.selection[0]),
                metric=self.selection[1],
                meter=self.meter,
                reporter=reporter,
                seed=self.config.seed,
                save=self._saver(plan, optimizers),
                state=state,
                interruption=interruption,
            )
            selected = loop.run(plan)
            if len(self.plans) > 1:
                self._end_stage(plan)
            state = LoopState()
        assert selected is not None
        return selected

    def _optimizers(self) -> Optimizers:
        return Optimizers(self.groups, self.config.optimizer, self.config.lr)

    def _saver(self, plan: Plan, optimizers: Optimizers) -> Callable[[LoopState], None]:
        def save(state: LoopState) -> None:
            random = self.devices.gathered(random_states(self.accelerator.device))
            if not is_main():
                return
            save_checkpoint(
                self.folder.checkpoint,
                {
                    "stage": plan.index,
                    "stages": self.stages,
                    "loop": vars(state) | {"best": vars(state.best) if state.best else None},
                    "live": snapshot(self.model, self.attachment),
                    "optimizers": optimizers.state_dict(),
                    "random": random,
                    "meter": {k: v for k, v in vars(self.meter).items() if k not in ("device", "phase")},
                },
            )

        return save

    def _resume(self, saved: dict[str, Any], optimizers: Optimizers) -> tuple[LoopState, int]:
        self.stages.extend(saved["stages"])
        restore(self.model, self.attachment, saved["live"])
        optimizers.load_state_dict(saved["optimizers"])
        set_random_states(saved["random"][self.devices.rank % len(saved["random"])], self.accelerator.device)
        vars(self.meter).update(saved["meter"])
        best = saved["loop"].pop("best")
        return LoopState(**saved["loop"], best=Selected(**best) if best else None), saved["stage"]

    def _end_stage(self, plan: Plan) -> None:
        """A stage's metrics, counts and adapter."""
        self.meter.enter("evaluation")
        metrics = self.scorer.all_metrics([*self.data.evaluations, "memorization"])
        adapter = Path("stages") / str(plan.index)
        self.attachment.export(self.folder.path / adapter)
        parameters = dataclasses.asdict(counts(self.attachment, self.groups))
        measured = {"adapter": str(adapter), "ranks": self.attachment.ranks(), "parameters": parameters}
        self.stages.append(stage_result(plan, self.stages, metrics, self.selection, **measured))

    def _conclude(self, selected: Selected) -> None:
        """Prune, evaluate, count and export: all of the one selected checkpoint."""
        split, metric = self.selection
        self.meter.enter("evaluation")
        before = self.scorer.numbers(split)
        final = counts(self.attachment, self.groups)
        final_ranks = self.attachment.ranks()
        stayed = unmoved(self.at_start, fingerprints(self.model))
        self.attachment.finalize()
        numbers = self.scorer.numbers(split)
        halved = self.config.trainer.precision == "bf16" or self.config.model.quantization is not None
        difference = check_pruning(before, numbers, halved)
        submission = self.config.trainer.predictions
        found, predictions = self.scorer.results(self.spec, self.data, {split: numbers}, submission)
        if final_ranks is not None and not any(final_ranks.values()):
            found["flags"].append(NO_RANK)
        found["flags"] += at_chance(found["metrics"], found["baselines"], split, metric)
        found["flags"] += stayed + self.attachment.flags()
        if self.meter.skipped_steps:
            found["flags"].append(f"{self.meter.skipped_steps} steps skipped: loss or gradient not finite")
        self.attachment.export(self.folder.adapter)
        write_analysis(self.folder.path, self.attachment)
        write_texts(self.folder.path, self.rows)
        if submission:
            write_predictions(self.folder.path, self.data, predictions)
        if self.config.trainer.merge:  # Last of all: nothing is left of the method's modules afterwards.
            self.attachment.merge()
            write_merged(self.folder.path, self.model, self.rows.form, self._described())
        self.record |= found | {
            "selection": {
                "rule": self.plans[-1].selection, "split": split, "metric": metric,
                "step": selected.step, "stage": self.plans[-1].name, "value": selected.value,
            },
            "objective": found["metrics"][split][metric],
            "parameters": dataclasses.asdict(final),
            "ranks": None if final_ranks is None else {"initial": self.initial_ranks, "final": final_ranks},
            "checks": {"finalize_max_logit_difference": difference},
        }  # fmt: skip
