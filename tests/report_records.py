"""Records as runs leave them, made here: a report needs no training to be tested."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

SIX_SITES = ["query", "key", "value", "attention_output", "ffn_in", "ffn_out"]
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "bitfit": {"biases": ["query", "ffn_in"]},
    "houlsby": {"size": 32},
    "pfeiffer": {"size": 64},
    "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0},
    "adalora": {"rank": 12, "target_rank": 8, "alpha": 16.0},
    "sora": {"rank": 8, "alpha": 16.0, "gate_l1": 0.0, "sites": SIX_SITES},
    "prefix_tuning": {"length": 10},
    "prompt_tuning": {"length": 20, "init": "vocabulary"},
    "unipelt": {"length": 10},
}
"""Each method's own keys, as a configuration holds them."""

ROLES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}
"""Roles of a BERT layer's six matrices, each with the end of its path."""

METRICS = {"cola": "matthews_correlation", "stsb": "pearson", "e2e": "bleu", "webnlg": "bleu", "dart": "bleu"}
"""Selecting metrics that are not accuracy."""

CONF = Path(__file__).parents[1] / "conf"
MODELS = {file.stem: yaml.safe_load(file.read_text()) for file in sorted((CONF / "model").glob("*.yaml"))}
COMMIT = "f8a0d7110c89de6b17148faac3658baabe2ec813"


def sites(layers: int = 6, rank: int = 8) -> dict[str, int]:
    """Every adapted matrix of a BERT with its rank."""
    return {f"bert.encoder.layer.{layer}.{end}": rank for layer in range(layers) for end in ROLES.values()}


def synthetic_record(
    method: str = "lora",
    task: str = "mrpc",
    model: str = "minilm",
    seed: int = 0,
    scores: Mapping[str, Mapping[str, float]] | float = 0.85,
    status: str = "completed",
    experiment: str = "default",
    protocol: str = "glue_dev",
    kind: str = "benchmark",
    source: str = "folder",
    settings: Mapping[str, Any] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    metric: str | None = None,
    split: str = "validation",
    parameters: Mapping[str, Any] | None = None,
    ranks: Mapping[str, Mapping[str, int]] | None = None,
    stages: Iterable[Mapping[str, Any]] = (),
    epoch_s: Iterable[float] = (10.0, 12.0, 11.0),
    commit: str = COMMIT,
    dirty: bool = False,
    weights: str = "wheel",
    repo: str | None = None,
    fingerprint: str = "row",
    started: str = "2026-11-24T08:00:00+00:00",
) -> dict[str, Any]:
    """A record as `experiment.py` writes it.

    Args:
        method: a key of `METHODS`, or another.
        task: the task's name.
        model: the backbone's.
        seed: the run's.
        scores: by split and metric; a number is the selecting metric's on `split`.
        status: other than `completed` the record has no metrics, and an error.
        experiment: `experiment_name`.
        protocol: the split protocol.
        kind: `benchmark`, `partial`, `sample` or `unchecked`.
        source: where rows came from.
        settings: added to the method's own keys.
        config: added to the configuration's sections, `{"sparsity": {"lambda": 2.0}}`.
        metric: the selecting metric; None: the task's.
        split: the split that selected.
        parameters: added to the counts.
        ranks: `initial` and `final` by site; None: for methods with ranks, 8 each.
        stages: Algorithm 1's.
        epoch_s: seconds of each epoch.
        commit: the code's.
        dirty: whether the code differed from it.
        weights: where the backbone came from; `random` are no weights.
        repo: on the hub; None: the one that the backbone's name stands for.
        fingerprint: stands for the rows.
        started: ISO 8601.
    """
    repo = repo or MODELS.get(model, {}).get("repo", f"hub/{model}")
    metric = metric or METRICS.get(task, "accuracy")
    metrics = {s: dict(m) for s, m in scores.items()} if isinstance(scores, Mapping) else {split: {metric: scores}}
    if ranks is None and method in ("lora", "adalora", "sora"):
        ranks = {"initial": sites(), "final": sites()}
    epochs = list(epoch_s)
    full = {
        "data": {"source": "folder", "root": "/data", "max_train_rows": None, "max_eval_rows": None},
        "experiment_name": experiment,
        "method": {"name": method, **METHODS.get(method, {}), **(settings or {})},
        "model": {"name": model, "repo": repo, "weights": "pretrained", "quantization": None},
        "optimizer": {"name": "adamw", "lr": 1e-3, "schedule": "linear", "warmup_ratio": 0.06},
        "outputs": "outputs",
        "preset": None,
        "seed": seed,
        "sparsity": {"lambda": 2.0, "xi": None, "operator": "soft", "schedule": "constant"}
        if method == "sora"
        else None,
        "task": {"name": task, "protocol": protocol, "max_length": 128, "form": "auto"},
        "trainer": {
            "epochs": 3,
            "batch_size": 32,
            "head": "train",
            "selection": "best",
            "threads": None,
            "precision": "fp32",
        },
    }
    for section, values in (config or {}).items():
        full[section] = {**(full.get(section) or {}), **values}
    record = {
        "schema": 1,
        "status": status,
        "run_id": hashlib.sha256(json.dumps([full, kind, commit, fingerprint]).encode()).hexdigest()[:12],
        "config": full,
        "task": task,
        "method": method,
        "model": {"name": model, "source": weights, "repo": repo, "weights_sha256": "0" * 64},
        "seed": seed,
        "form": "classification",
        "data": {
            "kind": kind,
            "source": source,
            "protocol": protocol,
            "notes": [],
            "splits": {
                "train": {"rows": 3668, "fingerprint": f"{fingerprint}-{task}-train"},
                split: {"rows": 408, "fingerprint": f"{fingerprint}-{task}-{split}"},
            },
        },
        "environment": {
            "git": {"commit": commit, "dirty": dirty},
            "hardware": {"cores": 2, "cpu": "Intel(R) Xeon(R) Processor", "gpus": [], "memory_mb": 25276},
            "threads": 2,
            "platform": "Linux",
            "versions": {"peftbench": "0.1.0", "torch": "2.13.0+cpu"},
        },
        "parameters": {
            "backbone": 22565376,
            "trained": 332064,
            "effective": 331776,
            "stored": 331776,
            "head": 148610,
            "paper": None,
            **(parameters or {}),
        },
        "steps": {"train": 345},
        "stages": list(stages),
        "started": started,
        "ended": "2026-11-24T09:00:00+00:00",
        "memory": {"peak_rss_mb": 1507.0, "peak_cuda_mb": None, "backbone_weights_mb": 90.26},
        "timing": {
            "setup_s": 1.5,
            "train_s": sum(epochs),
            "epoch_s": epochs,
            "epoch_median_s": statistics.median(epochs) if epochs else None,
            "eval_s": 4.0,
            "step_mean_s": 0.1,
            "tokens_per_s": 1500.0,
        },
        "error": None,
    }
    if status != "completed":
        return record | {"error": {"type": "RunError", "message": f"{status} at step 7", "step": 7}}
    return record | {
        "flags": [],
        "baselines": {},
        "metrics": metrics,
        "objective": metrics[split][metric],
        "selection": {
            "rule": "best",
            "split": split,
            "metric": metric,
            "step": 300,
            "stage": "train",
            "value": metrics[split][metric],
        },
        "ranks": ranks,
        "checks": {"finalize_max_logit_difference": 1e-7},
    }


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """The root of results."""
    return tmp_path / "outputs"


@pytest.fixture
def write_run(outputs: Path) -> Callable[..., Path]:
    """Write a run and say where its `record.json` is.

    Takes what `synthetic_record` takes, and `history` (lines of `history.jsonl`) and `analysis` (`analysis.json`).
    """

    def write(history: Iterable[Mapping[str, Any]] = (), analysis: Mapping[str, Any] | None = None, **about) -> Path:
        record = synthetic_record(**about)
        group = f"{record['task']}-{record['method']}-{record['model']['name']}"
        folder = outputs / record["config"]["experiment_name"] / group / record["run_id"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        lines = "".join(json.dumps(line) + "\n" for line in history)
        (folder / "history.jsonl").write_text(lines, encoding="utf-8")
        if analysis is not None:
            (folder / "analysis.json").write_text(json.dumps(analysis), encoding="utf-8")
        return folder / "record.json"

    return write
