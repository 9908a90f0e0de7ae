"""Is it the gates that choose well? Score a pruned SoRA adapter beside the same one with random ranks removed.

    python scripts/random_rank_control.py outputs/default/mrpc-sora-minilm/<run id> [--draws 5] [--data-root <folder>]

Reads a completed SoRA run. Loads its export with HF PEFT, checks that PEFT scores what the record says, then puts the
full rank count back in mind and removes as many ranks, drawn at random over all sites, as SoRA's gates had removed.
A drawn rank that the gates had removed already costs nothing; the others are taken from the live ones. The head stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel

from peftbench.backbones.loading import load_backbone
from peftbench.config import DataConfig, ModelConfig, TaskConfig
from peftbench.strict import build
from peftbench.tasks.metrics import compute_metrics
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import task_spec
from peftbench.training.batching import tokenise
from peftbench.training.evaluation import logits_of, predictions_of


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--draws", type=int, default=5)
    arguments.add_argument("--data-root", default=None)
    given = arguments.parse_args()
    record = json.loads((given.run / "record.json").read_text(encoding="utf-8"))
    score = Scorer(record, given.run / "adapter", given.data_root)
    split = record["selection"]["split"]
    print(f"{'record':<28}{line(record['metrics'][split])}")
    print(f"{'export, loaded by PEFT':<28}{line(score())}")
    initial, final = record["ranks"]["initial"], record["ranks"]["final"]
    removed = sum(initial.values()) - sum(final.values())
    results = [score.without_random_ranks(initial, final, removed, seed) for seed in range(given.draws)]
    mean = {k: statistics.mean(r[k] for r in results) for k in results[0]}
    print(f"{f'{removed} random ranks removed':<28}{line(mean)}  (mean of {given.draws} draws)")


def line(metrics: dict[str, float]) -> str:
    """Metrics on one line."""
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


class Scorer:
    """The run's selection split, scored by the run's export as PEFT loads it."""

    def __init__(self, record: dict, adapter: Path, data_root: str | None):
        config = record["config"]
        self.spec = task_spec(record["task"])
        task = build(TaskConfig, config["task"], "task", "record")
        data = dataclasses.replace(build(DataConfig, config["data"], "data", "record"))
        data = dataclasses.replace(data, root=data_root or data.root, source=record["data"]["source"])
        rows = load_task(self.spec, task, data).evaluations[record["selection"]["split"]]
        backbone = load_backbone(build(ModelConfig, config["model"], "model", "record"), self.spec.num_outputs, seed=0)
        self.rows = tokenise(rows.texts, rows.labels, backbone.tokenizer, task.max_length)
        self.model = PeftModel.from_pretrained(backbone.model, adapter)
        self.accelerator = Accelerator(cpu=True)

    def __call__(self) -> dict[str, float]:
        """Metrics of the adapter as it is now."""
        logits = logits_of(self.model, self.rows, 64, self.accelerator)
        return compute_metrics(self.spec.metrics, predictions_of(logits), self.rows.labels)

    @torch.no_grad()
    def without_random_ranks(
        self, initial: dict[str, int], final: dict[str, int], removed: int, seed: int
    ) -> dict[str, float]:
        """Metrics with `removed` of all ranks drawn and silenced; the adapter is whole again afterwards."""
        ranks = [(site, i) for site, count in initial.items() for i in range(count)]
        order = torch.randperm(len(ranks), generator=torch.Generator().manual_seed(seed))[:removed]
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        for site, i in (ranks[k] for k in order.tolist()):
            if i < final[site]:
                column = self.model.get_submodule(f"base_model.model.{site}").lora_B["default"].weight[:, i]
                kept.append((column, column.clone()))
                column.zero_()
        metrics = self()
        for column, values in kept:
            column.copy_(values)
        return metrics


if __name__ == "__main__":
    main()
