"""One row per run, split and metric: what every table was made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.report.budgets import Budgets
from peftbench.report.labels import label_settings
from peftbench.report.records import Run

COLUMNS: Mapping[str, type] = {
    "run_id": str, "experiment": str, "task": str, "method": str, "label": str, "model": str, "seed": int,
    "status": str, "protocol": str, "data_kind": str, "data_source": str, "weights_source": str, "form": str,
    "split": str, "metric": str, "value": float, "selects": bool, "only_trial": bool, "trials": int,
    "parameters_trained": int, "parameters_effective": int, "parameters_stored": int, "parameters_head": int,
    "parameters_paper": int, "ranks_initial": int, "ranks_final": int, "epoch_median_s": float, "train_s": float,
    "peak_rss_mb": float, "peak_cuda_mb": float, "commit": str, "dirty": bool, "hardware": str, "started": str,
    "flags": str, "record": str,
}  # fmt: skip
"""The columns in order, each with its type; an unknown value is empty."""


def tidy(runs: Sequence[Run], budgets: Budgets) -> list[dict[str, Any]]:
    """A row for each metric of each split of each run; of a run without metrics one row with both empty."""
    labels = label_settings(runs)
    return [row for run in runs for row in _rows(run, labels[run.setting_id], budgets)]


def _rows(run: Run, label: str, budgets: Budgets) -> Iterator[dict[str, Any]]:
    told = _told(run) | {"label": label, "only_trial": budgets.is_trial(run), "trials": budgets.of(run)}
    if not run.completed:
        yield told | {"split": None, "metric": None, "value": None, "selects": False}
        return
    selection = run.record["selection"]
    for split, metrics in run.record["metrics"].items():
        for metric, value in metrics.items():
            selects = (split, metric) == (selection["split"], selection["metric"])
            yield told | {"split": split, "metric": metric, "value": value, "selects": selects}


def _told(run: Run) -> dict[str, Any]:
    record, environment = run.record, run.record.get("environment") or {}
    git, memory = environment.get("git") or {}, record.get("memory") or {}
    ranks = record.get("ranks") or {"initial": None, "final": None}
    return {
        "run_id": run.run_id,
        "experiment": run.experiment,
        "task": run.task,
        "method": run.method,
        "model": run.model,
        "seed": run.seed,
        "status": run.status,
        "protocol": run.protocol,
        "data_kind": run.data_kind,
        "data_source": record["data"].get("source"),
        "weights_source": record["model"].get("source"),
        "form": record.get("form"),
        **{f"parameters_{key}": record["parameters"].get(key) for key in _COUNTS},
        **{f"ranks_{when}": sum(of.values()) if of else None for when, of in ranks.items()},
        "epoch_median_s": record["timing"].get("epoch_median_s"),
        "train_s": record["timing"].get("train_s"),
        "peak_rss_mb": memory.get("peak_rss_mb"),
        "peak_cuda_mb": memory.get("peak_cuda_mb"),
        "commit": git.get("commit"),
        "dirty": git.get("dirty"),
        "hardware": run.hardware or None,
        "started": record.get("started"),
        "flags": "; ".join(run.flags) or None,
        "record": str(run.file),
    }


_COUNTS = ("trained", "effective", "stored", "head", "paper")


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """RFC 4180 with lines ended by a line feed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_parquet(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The same table, typed."""
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()])
    columns = [pa.array([row[name] for row in rows], types[kind]) for name, kind in COLUMNS.items()]
    parquet.write_table(pa.Table.from_arrays(columns, schema=schema), file)
