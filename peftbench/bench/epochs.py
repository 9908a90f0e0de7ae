"""A training epoch of ours against HF Trainer with HF PEFT, on the same rows with as many optimizer steps."""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from peftbench.backbones.loading import load_backbone
from peftbench.backbones.origin import locate
from peftbench.bench.measure import Ratio
from peftbench.bench.models import PEFT_SITES
from peftbench.compose import compose_run
from peftbench.config import RunConfig
from peftbench.environment import multiplies_bf16
from peftbench.experiment import run_experiment
from peftbench.kept import SWEEP, Kept
from peftbench.tasks.base import Split, TaskSpec
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import configured
from peftbench.tasks.scores import score
from peftbench.training.batching import encode
from peftbench.training.evaluation import predictions_of

TASKS = {"mrpc": None, "rte": None, "cola": None, "sst2": 10_000}
"""Tasks, and the fixed random training rows that are taken of each; None: all."""
OURS = {"lora": ("method.rank=8",), "sora": ("method.rank=8", "sparsity.lambda=5"), "adalora": ()}
METHODS = (*OURS, "HF lora", "HF adalora")
JUDGED = ("lora", "sora", "HF lora")
"""Whose scores are compared: those train with every seed, the others, of which seconds are told, with the first."""
_SHORTLY = ("data.max_train_rows=32", "data.max_eval_rows=32", "trainer.epochs=1")
RANKS = "rank 8, AdaLoRA's 12 to 8"
TABLE_4 = "SoRA's Table 4: an epoch against AdaLoRA's"
MARGIN = 0.01
"""By how much a score may be lower; where its standard error is larger nothing is decided."""


@dataclass(frozen=True)
class Epoch:
    """What a training took: median seconds of an epoch, optimizer steps of one, and the selecting metric at its end."""

    seconds: float
    steps: int
    score: float


def measure(
    tasks: Sequence[str],
    source: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    progress: Callable[[], None] = lambda: None,
    rows: int | None = None,
) -> list[Ratio]:
    """Ratios of seconds per epoch; where the data are real and the epochs whole, scores and verdicts too.

    Args:
        tasks: some of `TASKS`.
        source: overrides that say where the data are.
        seeds: the methods train in turn, every second time in the opposite order; see `JUDGED`.
        epochs: of each training.
        progress: called after every training.
        rows: training rows of every task, instead of those of `TASKS`.
    """
    found = []
    for name in ("lora", "HF lora"):  # What a process does once is no part of any training.
        _train(name, [f"task={tasks[0]}", *source, *_SHORTLY, f"trainer.precision={_precision()}"], Kept())
    for task in tasks:
        limit = rows or TASKS[task]
        words = [
            f"task={task}",
            *source,
            f"trainer.epochs={epochs}",
            f"trainer.precision={_precision()}",
            "trainer.selection=last",
            "optimizer.warmup_ratio=0",  # As HF Trainer has it.
        ]
        words += [f"data.max_train_rows={limit}"] if limit else []
        words += ["data.max_eval_rows=64"] if rows else []  # Of so short a training no score is told.
        taken: dict[str, list[Epoch]] = {name: [] for name in METHODS}
        kept = Kept(SWEEP)
        for turn, seed in enumerate(seeds):
            for name in (JUDGED if turn else METHODS)[:: -1 if turn % 2 else 1]:
                taken[name].append(_train(name, [*words, f"seed={seed}"], kept))
                progress()
        data = "sample" if "data=sample" in source else f"{rows} rows" if rows else ""
        found += _ratios(task, taken, data)
    return sorted(found, key=lambda ratio: ratio.section.startswith(TABLE_4))


def _train(name: str, words: list[str], kept: Kept) -> Epoch:
    train = _theirs if name.startswith("HF") else _ours
    return train(name.removeprefix("HF "), words, kept)


def _ratios(task: str, taken: dict[str, list[Epoch]], part: str = "") -> list[Ratio]:
    """Of whole epochs on real data; else `part` says of what, and nothing is judged."""
    of = f"{task}{part and f' ({part})'}"
    how = f"{_precision()}, batch 32, {RANKS}"
    section = f"an epoch of {of}, {how}"
    steps = {e.steps for epochs in taken.values() for e in epochs}
    assert len(steps) == 1, f"{task}: {steps} optimizer steps an epoch; all must take as many"

    def over(name: str, other: str, section: str, what: str, target: float | None = None) -> Ratio:
        pairs = list(zip(taken[name], taken[other], strict=False))  # Of the seeds that both trained with.
        ours, theirs = (statistics.median(epoch.seconds for epoch in epochs) for epochs in zip(*pairs, strict=True))
        told = f"{ours:.1f} against {theirs:.1f} s, {min(steps)} steps, seeds: {len(pairs)}"
        return Ratio(section, what, other, ours / theirs, None if part else target, detail=told)

    found = [over(name, "HF lora", section, name, 0.55) for name in ("lora", "sora")]
    found += [_not_worse(section, taken, name, "HF lora") for name in ("lora", "sora") if not part]
    pairs = (("sora", "adalora"), ("sora", "HF adalora"), ("adalora", "HF adalora"))
    return found + [over(name, other, f"{TABLE_4}, {how}", f"{name}, {of}") for name, other in pairs]


def _not_worse(section: str, taken: Mapping[str, Sequence[Epoch]], name: str, other: str) -> Ratio:
    """Mean score less mean score, of which either may be 0; judged where their standard error is below the margin."""
    ours, theirs = ([epoch.score for epoch in taken[method]] for method in (name, other))
    told, target = f"{_listed(ours)} against {_listed(theirs)}", None
    if len(ours) > 1:
        error = math.sqrt(sum(statistics.variance(scores) / len(scores) for scores in (ours, theirs)))
        told += f", standard error {error:.3f}"
        target = -MARGIN if error < MARGIN else None
    value = statistics.mean(ours) - statistics.mean(theirs)
    return Ratio(section, f"score of {name}, difference", other, value, target, at_least=True, detail=told)


def _listed(scores: Sequence[float]) -> str:
    return ", ".join(f"{score:.3f}" for score in scores)


def _precision() -> str:
    """That of the comparison, where the processor has instructions for it."""
    return "bf16" if multiplies_bf16() else "fp32"


def _ours(name: str, words: list[str], kept: Kept) -> Epoch:
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*words, f"method={name}", *OURS[name], f"outputs={folder}", "preset=none"]
        record, _ = run_experiment(compose_run(overrides), kept, brief=True)
    steps = sum(record["steps"].values()) // record["config"]["trainer"]["epochs"]
    return Epoch(record["timing"]["epoch_median_s"], steps, record["objective"])


def _theirs(kind: str, words: list[str], _: Kept) -> Epoch:
    """HF Trainer as `run_glue.py` has it: HF PEFT's model, its collator's padding, its own batches."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    config = compose_run([*words, "preset=none"])
    spec = configured(config.task)
    data = load_task(spec, config.task, config.data)
    backbone = load_backbone(config.model, spec.num_outputs, config.seed)
    model = _stock_with_peft(config, spec, kind, _steps(len(data.train), config))
    train, validation = (_dataset(split, config, backbone.tokenizer) for split in
                         (data.train, data.evaluations["validation"]))  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=32, per_device_eval_batch_size=64,
            bf16=config.trainer.precision == "bf16", use_cpu=True, learning_rate=1e-3,
            num_train_epochs=config.trainer.epochs, seed=config.seed, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, warmup_steps=0,
        )  # fmt: skip
        clock = _clock(kind)
        trainer = Trainer(model=model, args=arguments, train_dataset=train, callbacks=[clock],
                          data_collator=DataCollatorWithPadding(backbone.tokenizer))  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        torch.manual_seed(config.seed)
        trainer.train()
        logits: Any = trainer.predict(validation).predictions  # type: ignore[arg-type]
    predicted = predictions_of(logits if isinstance(logits, np.ndarray) else logits[0])
    found = score(spec, data.evaluations["validation"], predicted)["validation"]
    steps = trainer.state.global_step // config.trainer.epochs
    return Epoch(statistics.median(clock.epochs), steps, float(found[spec.metrics[0]] or 0.0))


def _steps(rows: int, config: RunConfig) -> int:
    return -(-rows // config.trainer.batch_size) * config.trainer.epochs


def _stock_with_peft(config: RunConfig, spec: TaskSpec, kind: str, steps: int) -> Any:
    import peft
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(config.seed)
    where = str(locate(config.model).folder or config.model.repo)
    model = AutoModelForSequenceClassification.from_pretrained(where, num_labels=spec.num_outputs, dtype=torch.float32)
    shared: dict[str, Any] = {"target_modules": PEFT_SITES, "modules_to_save": ["classifier", "pooler"]}
    if kind == "lora":
        return peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, **shared))
    # Our defaults, so that both allocate as often and train as long at the final ranks.
    budget = {"init_r": 12, "target_r": 8, "tinit": int(0.15 * steps), "tfinal": int(0.45 * steps), "deltaT": 1}
    return peft.get_peft_model(model, peft.AdaLoraConfig(lora_alpha=32, total_step=steps, **budget, **shared))


def _dataset(split: Split, config: RunConfig, tokenizer: Any) -> Any:
    from datasets import Dataset

    encoded = dict(encode(split.texts, tokenizer, config.task.max_length))
    return Dataset.from_dict(encoded | {"labels": np.asarray(split.labels)})


def _clock(kind: str) -> Any:
    """A callback that times epochs, and moves AdaLoRA's budget as PEFT's documentation has it."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.epochs: list[float] = []

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self.epochs.append(time.perf_counter() - self.began)

        def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if kind == "adalora":
                model.base_model.update_and_allocate(state.global_step)

    return Clock()
