"""Time one training step of every method on one backbone, side by side: python scripts/step_times.py [--repeats 10].

All methods are attached to copies of the same pretrained MiniLM and take their steps in turn, so that whatever the
machine does meanwhile falls on all alike. A step is forward, penalty, backward, optimizer and the method's own door, on
one batch of 32 rows of 64 tokens. Prints JSON: medians in seconds and as a ratio to LoRA's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from peftbench.assembly import attach
from peftbench.backbones.loading import load_backbone
from peftbench.compose import compose_run, conf_folder
from peftbench.doors import Clock
from peftbench.errors import ConfigurationError
from peftbench.sparsity import Strength
from peftbench.training.optimizers import Optimizers

ROWS, TOKENS, STEPS = 32, 64, 1000


class Stepper:
    """One method on its own copy of the backbone."""

    def __init__(self, name: str):
        config = compose_run([f"method={name}", "preset=none"])
        backbone = load_backbone(config.model, 2, seed=0)
        self.model = backbone.model.train()
        self.attachment, groups = attach(
            config, self.model, "minilm", STEPS, config.task.max_length, backbone.tokenizer
        )
        self.optimizers = Optimizers(groups, config.optimizer, config.lr)
        self.taken = 0

    def step(self, batch: dict[str, torch.Tensor]) -> float:
        """One optimizer step; its seconds."""
        began = time.perf_counter()
        loss = self.model(**batch).loss
        penalty = self.attachment.penalty()
        (loss if penalty is None else loss + penalty).backward()
        self.optimizers.step()
        self.taken += 1
        self.attachment.after_step(Clock(self.taken, STEPS, 0, self.optimizers.lrs, Strength(2.0, scales_with_lr=True)))
        self.optimizers.zero_grad()
        return time.perf_counter() - began


def main() -> None:
    """Time the methods in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("methods", nargs="*", help="default: every method of conf/method")
    arguments = parser.parse_args()
    names = arguments.methods or sorted(file.stem for file in (conf_folder() / "method").glob("*.yaml"))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (ROWS, TOKENS), generator=generator)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.arange(ROWS) % 2}
    steppers = {}
    for name in names:
        try:
            steppers[name] = Stepper(name)
        except ConfigurationError as error:
            print(f"{name}: {error}")
    times: dict[str, list[float]] = {name: [] for name in steppers}
    for repeat in range(arguments.repeats + 2):
        for name, stepper in steppers.items():
            seconds = stepper.step(batch)
            if repeat >= 2:  # The first steps warm up.
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians.get("lora", min(medians.values()))
    result = {name: {"step_s": round(m, 4), "over_lora": round(m / reference, 3)} for name, m in medians.items()}
    threads = torch.get_num_threads()
    print(json.dumps({"rows": ROWS, "tokens": TOKENS, "threads": threads, "methods": result}, indent=1))


if __name__ == "__main__":
    main()
