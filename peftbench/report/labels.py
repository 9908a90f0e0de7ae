"""What people call a method and its settings in a table."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from peftbench.report.records import Run

METHOD_NAMES = {
    "full": "Full FT", "linear_probe": "Linear probe", "bitfit": "BitFit", "diff_pruning": "Diff pruning",
    "houlsby": "Adapter (Houlsby)", "pfeiffer": "Adapter (Pfeiffer)", "parallel_adapter": "Parallel adapter",
    "scaled_parallel_adapter": "Scaled parallel adapter",
    "adapter_drop": "AdapterDrop", "compacter": "Compacter",
    "ia3": "(IA)³", "prefix_tuning": "Prefix tuning", "p_tuning_v2": "P-Tuning v2", "prompt_tuning": "Prompt tuning",
    "p_tuning": "P-Tuning", "lora": "LoRA", "sora": "SoRA", "adalora": "AdaLoRA", "qlora": "QLoRA",
    "mam": "MAM adapter", "unipelt": "UniPELT", "peft": "HF PEFT",
}  # fmt: skip
"""Methods as papers write them; one that is not here goes by its name."""

TASK_NAMES = {
    "cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qqp": "QQP", "mnli": "MNLI", "qnli": "QNLI",
    "rte": "RTE", "wnli": "WNLI", "boolq": "BoolQ", "cb": "CB", "copa": "COPA", "multirc": "MultiRC",
    "record": "ReCoRD", "superglue_rte": "RTE (SuperGLUE)", "wic": "WiC", "wsc": "WSC",
    "superglue_mixture": "SuperGLUE (multi-task)", "e2e": "E2E",
    "webnlg": "WebNLG", "dart": "DART", "lm": "Language modelling",
}  # fmt: skip
"""Tasks as papers write them; one that is not here goes by its name."""

_SYMBOLS = {
    "method.rank": "r", "sparsity.lambda": "λ", "sparsity.xi": "ξ", "optimizer.lr": "lr",
    "method.size": "m", "method.length": "length", "method.init": "init", "data.max_train_rows": "K",
}  # fmt: skip
_LEADING = (*_SYMBOLS, "method.", "sparsity.", "task.", "optimizer.", "trainer.", "model.", "data.")
"""Of two keys that tell settings apart equally well the earlier one is the label."""


def runs_of(count: int) -> str:
    """`1 run`, `1,000 runs`."""
    return f"{count:,} run{'s' * (count != 1)}"


def method_name(name: str) -> str:
    """`sora` to `SoRA`."""
    return METHOD_NAMES.get(name, name)


def task_name(name: str) -> str:
    """`stsb` to `STS-B`."""
    return TASK_NAMES.get(name, name)


def training_length(run: Run) -> str:
    """`3 epochs`, `1,000 steps`, `10 epochs and 5 stages of 1 epoch`."""
    steps, epochs = run.settings.get("trainer.max_steps"), run.settings.get("trainer.epochs")
    length = _counted(epochs, "epoch") if steps is None else _counted(steps, "step")
    sparser = len(run.record.get("stages") or ()) - 1  # Of Algorithm 1; the first stage is the dense one.
    if sparser < 1:
        return length
    each = run.settings.get("sparsity.stage_epochs")
    return f"{length} and {_counted(sparser, 'stage')} of {_counted(each, 'epoch')}"


def _counted(count: Any, unit: str) -> str:
    return f"{count:,} {unit}{'s' * (count != 1)}" if isinstance(count, int) else f"{count} {unit}s"


def natural(label: str) -> list[str | float]:
    """Sorts `r=8` before `r=16`."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", label)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def label_settings(runs: Iterable[Run], besides: Collection[str] = ()) -> dict[str, str]:
    """Every setting's label, `SoRA r=8 λ=2`, by `Run.setting_id`; the same on every task.

    A label names the method, and as few of its values as tell its settings on one task and model apart.

    Args:
        runs: the runs.
        besides: keys that no label holds, as what a figure's axis shows: settings that differ in them alone share one.
    """
    by_method: dict[str, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        by_method[run.method][run.setting_id] = run
    found = {}
    for name, settings in by_method.items():
        keys = _telling(list(settings.values()), besides)
        alike = {key for key in keys if _alike([run.settings[key] for run in settings.values() if key in run.settings])}
        for setting_id, run in settings.items():
            values = [
                f"{_symbol(key)}={repr(run.settings[key]) if key in alike else _shown(run.settings[key])}"
                for key in keys
                if key in run.settings
            ]
            found[setting_id] = " ".join([method_name(name), *values])
    return found


def _telling(runs: Sequence[Run], besides: Collection[str]) -> list[str]:
    """The keys whose values tell runs of one task and model apart, as few as do."""
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.task, run.model].append(run)
    keys: list[str] = []
    parts = list(groups.values())
    candidates = sorted({key for run in runs for key in run.settings} - set(besides), key=_priority)
    for key in candidates:
        if all(len(part) == 1 for part in parts):
            break
        finer = [piece for part in parts for piece in _split(part, key)]
        if len(finer) > len(parts):
            keys, parts = [*keys, key], finer
    return keys


def _split(runs: Sequence[Run], key: str) -> list[list[Run]]:
    pieces: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        pieces[repr(run.settings.get(key))].append(run)
    return list(pieces.values())


def _priority(key: str) -> tuple[int, str]:
    return next((i for i, start in enumerate(_LEADING) if key.startswith(start)), len(_LEADING)), key


def _symbol(key: str) -> str:
    return _SYMBOLS.get(key, key.rpartition(".")[2])


def _alike(values: Sequence[Any]) -> bool:
    """Whether two of the values are shown as one."""
    return len(set(map(_shown, values))) < len(set(map(repr, values)))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "+".join(map(str, value))
    return str(value)
