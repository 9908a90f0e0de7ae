from __future__ import annotations

import csv
import io

import pytest
from pyarrow import parquet

from peftbench.report.budgets import read_budgets
from peftbench.report.records import find
from peftbench.report.tidy import COLUMNS, tidy, to_csv, write_parquet

SCORES = {"validation": {"accuracy": 0.86, "f1": 0.9}, "test": {"accuracy": 0.84, "f1": 0.88}}


@pytest.fixture
def rows(write_run, outputs):
    write_run(method="sora", scores=SCORES, seed=3)
    write_run(method="lora", status="diverged")
    return tidy(find([outputs]).runs, read_budgets([]))


def test_a_row_per_split_and_metric(rows):
    told = {(r["split"], r["metric"]): (r["value"], r["selects"]) for r in rows if r["method"] == "sora"}
    assert told == {
        ("validation", "accuracy"): (0.86, True),
        ("validation", "f1"): (0.9, False),
        ("test", "accuracy"): (0.84, False),
        ("test", "f1"): (0.88, False),
    }


def test_a_failed_run_is_one_row_without_metric(rows):
    (failed,) = [row for row in rows if row["method"] == "lora"]
    assert (failed["status"], failed["metric"], failed["value"]) == ("diverged", None, None)
    assert (failed["ranks_initial"], failed["label"]) == (None, "LoRA")


def test_counts_ranks_and_origin(rows):
    row = next(row for row in rows if row["method"] == "sora")
    assert (row["ranks_initial"], row["ranks_final"]) == (6 * 6 * 8, 6 * 6 * 8)
    assert (row["parameters_effective"], row["parameters_paper"]) == (331776, None)
    assert (row["data_kind"], row["data_source"], row["protocol"]) == ("benchmark", "folder", "glue_dev")
    assert row["record"].endswith("record.json")
    assert set(row) == set(COLUMNS)


def test_csv_and_parquet_read_back_the_same(rows, tmp_path):
    back = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [row["value"] for row in back] == ["" if r["value"] is None else str(r["value"]) for r in rows]
    write_parquet(rows, tmp_path / "tidy.parquet")
    table = parquet.read_table(tmp_path / "tidy.parquet")
    assert table.to_pylist() == [{name: row[name] for name in COLUMNS} for row in rows]
    assert str(table.schema.field("seed").type) == "int64"
