from __future__ import annotations

import csv
from pathlib import Path

import pytest

from peftbench.errors import ConfigurationError
from peftbench.report import layouts
from peftbench.report.layouts import FOLDER, load, names, read
from peftbench.report.published import FILE, find_published

ADALORA = {"paper": "AdaLoRA (arXiv 2303.10512, ICLR 2023)", "table": "Table 1"}
AVERAGES = {"adalora_table1": 0.02, "lora_glue": 0.06, "unipelt_low_data": 0.06}
"""Layouts whose papers print every column and the average, and what printing may round off."""


@pytest.mark.parametrize("name", names())
def test_every_layout_reads_and_picks_single_numbers(name):
    layout = load(name)
    picked = [
        find_published(where)
        for row in layout.rows
        for column in (*layout.columns, None)
        if (where := layout.published_at(row, column)) is not None
    ]
    found = [published for published in picked if published is not None]
    # Of SoRA's own row only the average is known.
    assert len(found) == len(picked) or name == "sora_table1"


@pytest.mark.parametrize(("name", "rounding"), AVERAGES.items())
def test_the_papers_own_averages_follow_from_their_columns(name, rounding):
    """That rows, columns and the way of averaging are read off the right cells."""
    layout = load(name)
    for row in layout.rows:
        cells = [find_published(where) for c in layout.columns if (where := layout.published_at(row, c))]
        average = find_published(layout.published_at(row, None))
        by_task: dict[str, list[float]] = {}
        for column, cell in zip(layout.columns, cells, strict=True):
            by_task.setdefault(column.task, []).append(cell.value)
        mean = sum(sum(values) / len(values) for values in by_task.values()) / len(by_task)
        assert average.value == pytest.approx(mean, abs=rounding), row.label


def test_a_number_by_hand():
    found = find_published({**ADALORA, "method": "LoRA r=8", "task": "rte"})
    assert (found.value, found.secondary) == (85.2, False)


def test_every_row_has_a_value_a_source_and_a_known_confidence():
    with FILE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 1000
    assert all(row["source"] and float(row["value"]) is not None for row in rows)
    assert {row["confidence"] for row in rows} == {"primary", "official repository", "secondary"}
    secondary = {row["paper"] for row in rows if row["confidence"] == "secondary"}
    assert all(any(name in paper for paper in secondary) for name in ("SoRA", "AFLoRA", "BitFit"))


def test_several_numbers_are_an_error():
    with pytest.raises(ConfigurationError, match="picks 11 numbers"):
        find_published({**ADALORA, "method": "Full FT"})
    with pytest.raises(ConfigurationError, match="no column to pick by"):
        find_published({"papr": "x"})


GOOD = "title: A\nrows: [{label: a, method: lora}]\ncolumns: [{task: rte, metric: accuracy}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "colour: red\n", "layout.colour: unknown key"),
        (GOOD.replace("label: a", "label: a, metod: x"), r"rows\[0\].metod: unknown key"),
        (GOOD.replace("task: rte", "taks: rte"), r"columns\[0\].taks: unknown key"),
        (GOOD + "average: median\n", "'median' is not one of glue, mean, none"),
        (GOOD + "figures: [pie]\n", "'pie' is not one of"),
        (GOOD + "reference: b\n", "'b' is no row's label"),
        (GOOD.replace("rows: [", "rows: [{label: a, method: sora}, "), "the label 'a' stands twice"),
        ("title: A\ncolumns: [{task: rte}]\n", "rows: a list of mappings is expected"),
        ("- 1\n", "a mapping is expected"),
    ],
)
def test_a_wrong_layout_is_one_line(tmp_path, text, message):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read(file)


def test_an_unknown_layout_names_the_nearest():
    with pytest.raises(ConfigurationError, match="did you mean sora_table1"):
        load("sora_tabel1")


def test_a_small_twin_has_its_papers_layout():
    assert layouts.layout_for("sora_table1_small") == load("sora_table1")
    assert layouts.layout_for("my_experiment") is None


def test_every_papers_experiment_has_a_layout():
    folder = Path(__file__).resolve().parents[2] / "conf" / "experiment"
    experiments = {file.stem.removesuffix("_small") for file in folder.glob("*.yaml")}
    # Makes checkpoints for prompt_adaptation_steps, and is no table.
    assert experiments - {"lm_adaptation"} == set(names())


def test_layouts_say_what_they_are():
    assert all(file.read_text(encoding="utf-8").startswith("# ") for file in FOLDER.glob("*.yaml"))
