from __future__ import annotations

import shutil

import pytest
from report_records import SIX_SITES

from peftbench.report.contents import make
from peftbench.report.records import find


@pytest.fixture
def grid(outputs):
    def fill(**options):
        found = find([outputs])
        (grid,) = make(found, found.runs, **options).grids
        return grid

    return fill


def only_cell(grid):
    ((cell,),) = [line.cells for line in grid.lines]
    return cell


def test_seeds_of_one_setting_share_a_cell(write_run, grid):
    for seed, score in enumerate((0.8, 0.9, 0.85)):
        write_run(seed=seed, scores=score)
    assert only_cell(grid()).values == {0: 0.8, 1: 0.9, 2: 0.85}


def test_settings_are_apart_and_in_order(write_run, grid):
    for rank in (16, 4, 8):
        write_run(settings={"rank": rank}, scores=rank / 100)
    assert [line.label for line in grid().lines] == ["LoRA r=4", "LoRA r=8", "LoRA r=16"]


@pytest.mark.parametrize(
    ("method", "about"),
    [
        ("sora", {"settings": {"sites": SIX_SITES[::-1]}}),
        ("full", {"config": {"trainer": {"max_steps": 100, "epochs": 9}}}),
        ("bitfit", {"config": {"trainer": {"micro_batch_size": 32}}}),
        ("lora", {"config": {"task": {"beams": 1, "length_penalty": 0.5}}}),
    ],
)
def test_other_words_for_the_same_run_are_no_other_setting(write_run, grid, method, about):
    """What a run's identity holds for the same the report does too: sites, length, micro-batches, beams."""
    other = {
        "trainer": {"max_steps": 100 if method == "full" else None, "micro_batch_size": None},
        "task": {"beams": 1},
    }
    config = {section: values | about.get("config", {}).get(section, {}) for section, values in other.items()}
    write_run(method=method, seed=0, scores=0.8, **{**about, "config": config})
    write_run(method=method, seed=1, scores=0.9, config=other)
    assert only_cell(grid()).summary.n == 2


def test_a_rows_sites_are_in_any_order(write_run, grid):
    write_run(task="rte", experiment="sora_table1", settings={"rank": 8, "sites": SIX_SITES[::-1]})
    assert [line.label for line in grid().lines] == ["LoRA r=8"]


@pytest.mark.parametrize("key", ["gradient_checkpointing", "score_untrained", "device", "merge"])
def test_what_changes_no_result_is_no_setting(write_run, grid, key):
    write_run(seed=0, scores=0.8, config={"trainer": {key: True}})
    write_run(seed=1, scores=0.9, config={"trainer": {key: False}})
    assert only_cell(grid()).summary.n == 2


def test_models_are_apart(write_run, grid):
    write_run(model="minilm", scores=0.7)
    write_run(model="bert_base", scores=0.9)
    assert [line.label for line in grid().lines] == ["LoRA (bert_base)", "LoRA (minilm)"]


def test_sample_and_benchmark_are_never_one_mean(write_run, grid):
    write_run(seed=0, scores=0.8)
    write_run(seed=1, scores=0.4, kind="sample", source="sample")
    found = {line.label: dict(line.cells[0].values) for line in grid().lines}
    assert found == {"LoRA [benchmark]": {0: 0.8}, "LoRA [sample data]": {1: 0.4}}


def test_weights_of_one_name_are_apart(write_run, outputs, grid):
    import json

    for seed, digest in enumerate(("aaaaaaaabb", "ccccccccdd")):
        file = write_run(seed=seed, scores=0.8)
        record = json.loads(file.read_text())
        record["model"] |= {"weights_sha256": digest} | ({"described": "full on lm, 10 steps"} if seed else {})
        file.write_text(json.dumps(record))
    told = ["LoRA [weights aaaaaaaa]", "LoRA [weights cccccccc: full on lm, 10 steps]"]
    assert [line.label for line in grid().lines] == told


def test_runs_that_a_column_tells_apart_share_a_row(write_run, grid):
    parts = [f"{split}_{part}" for split in ("validation", "test") for part in ("matched", "mismatched")]
    splits = {part: {"accuracy": 0.9} for part in parts}
    for chosen in (None, "validation_mismatched"):
        write_run(task="mnli", scores=splits, split=chosen or "validation_matched", experiment="sora_table1",
                  config={"task": {"selection_split": chosen}}, protocol="sora",
                  settings={"rank": 8, "sites": SIX_SITES})  # fmt: skip
    found = grid()
    assert [line.label for line in found.lines] == ["LoRA r=8"]
    chosen = [cell.runs[0].record["selection"]["split"] for cell in found.lines[0].cells]
    assert chosen == ["validation_matched", "validation_mismatched"]


def test_runs_that_no_column_takes_are_counted(write_run, grid):
    splits = {f"{split}_matched": {"accuracy": 0.9} for split in ("validation", "test")}
    for seed, chosen in enumerate(("validation_matched", "validation_other", "validation_other")):
        write_run(task="mnli", scores=splits, split="validation_matched", experiment="sora_table1", seed=seed,
                  config={"task": {"selection_split": chosen}}, protocol="sora",
                  settings={"rank": 8, "sites": SIX_SITES})  # fmt: skip
    told = "Not in this table: 2 runs on MNLI with task.selection_split=validation_other, which no column is of."
    assert told in grid().notes


def test_tasks_that_a_layout_has_not_are_counted(write_run, grid):
    write_run(task="rte", scores=0.6)
    write_run(task="boolq", scores=0.6)
    assert "Not in this table: 1 run on BoolQ." in grid(layout="sora_table1").notes


def test_rows_of_a_submission_are_not_what_is_scored(write_run, grid):
    import json

    write_run(seed=0, scores=0.8)
    file = write_run(seed=1, scores=0.9)
    record = json.loads(file.read_text())
    record["data"]["splits"]["submission test"] = {"rows": 1725, "fingerprint": "unlabelled"}
    file.write_text(json.dumps(record))
    assert only_cell(grid()).summary.mean == pytest.approx(0.85)


def test_partial_where_it_is_cut_and_whole_elsewhere_is_one_row(write_run, grid):
    write_run(task="cola", kind="partial", scores=0.5)
    write_run(task="rte", scores=0.6)
    assert [line.label for line in grid().lines] == ["LoRA"]


def test_sample_data_on_one_task_and_the_benchmark_on_another_are_two_rows(write_run, grid):
    write_run(task="cola", kind="sample", source="sample", scores=0.5)
    write_run(task="rte", scores=0.6)
    assert [line.label for line in grid().lines] == ["LoRA [benchmark]", "LoRA [sample data]"]
    write_run(task="mrpc", kind="partial", scores=0.7)
    told = ["LoRA [benchmark and partial data]", "LoRA [sample data]"]
    assert [line.label for line in grid().lines] == told, "whole and cut tasks stand in one row all the same"


def test_other_rows_of_data_are_told_and_not_averaged(write_run, grid):
    write_run(seed=0, scores=0.8)
    write_run(seed=1, scores=0.9, fingerprint="other")
    found = grid()
    assert only_cell(found).summary is None
    assert any("not averaged, for the runs have different rows of data" in note for note in found.notes)


def test_other_commits_are_averaged_and_told(write_run, grid):
    write_run(seed=0, scores=0.8)
    write_run(seed=1, scores=0.9, commit="0" * 40)
    found = grid()
    assert only_cell(found).summary.mean == pytest.approx(0.85)
    assert any("runs of 2 states of the code in one mean" in note for note in found.notes)


def test_what_several_cells_say_is_said_once(write_run, grid):
    for task in ("rte", "cola"):
        for method in ("lora", "sora"):
            write_run(method=method, task=task, seed=0)
            write_run(method=method, task=task, seed=1, commit="0" * 40)
    told = [note for note in grid().notes if "states of the code" in note]
    where = "SoRA, CoLA matthews_correlation, RTE accuracy; LoRA, CoLA matthews_correlation, RTE accuracy"
    assert sorted("; ".join(told).partition(":")[0].split("; ")) == sorted(where.split("; "))


def test_failures_are_counted_beside_the_score(write_run, grid):
    write_run(seed=0, scores=0.8)
    write_run(seed=1, status="failed")
    write_run(seed=2, status="diverged")
    cell = only_cell(grid())
    assert dict(cell.ended) == {"failed": 1, "diverged": 1}
    assert (cell.tried, cell.summary.n) == (3, 1)


def test_a_retried_failure_is_forgotten(write_run, grid):
    write_run(seed=0, status="failed", commit="0" * 40)
    write_run(seed=0, scores=0.8)
    cell = only_cell(grid())
    assert (dict(cell.ended), dict(cell.values)) == ({}, {0: 0.8})


def sora_run(write_run, task, scores, seed=0, **about):
    splits = {"validation": scores, "test": scores}
    if task == "mnli":
        splits = {f"{split}_{part}": scores for split in splits for part in ("matched", "mismatched")}
    metric = next(iter(scores))
    for split in [name for name in splits if name.startswith("validation")]:
        chosen = {"task": {"selection_split": split if split.endswith("mismatched") else None}}
        write_run(task=task, scores=splits, metric=metric, split=split, seed=seed, protocol="sora", config=chosen,
                  experiment="sora_table1", **about)  # fmt: skip


EIGHT = {
    "cola": {"matthews_correlation": 0.7},
    "sst2": {"accuracy": 0.95},
    "mrpc": {"accuracy": 0.9, "f1": 0.93},
    "qnli": {"accuracy": 0.94},
    "stsb": {"pearson": 0.92},
    "rte": {"accuracy": 0.87},
    "mnli": {"accuracy": 0.91},
    "qqp": {"accuracy": 0.92, "f1": 0.89},
}


def test_average_of_eight_tasks_by_hand(write_run, grid):
    for task, scores in EIGHT.items():
        sora_run(write_run, task, scores)
    found = grid()
    by_hand = (70 + 95 + 90 + 94 + 92 + 87 + 91 + (92 + 89) / 2) / 8
    assert found.average(found.lines[0]).mean == pytest.approx(by_hand)


def test_no_average_where_a_column_is_not_there(write_run, grid):
    for task in list(EIGHT)[:-1]:
        sora_run(write_run, task, EIGHT[task])
    found = grid()
    assert found.average(found.lines[0]) is None
    assert any(note.startswith("Columns without runs: QQP acc, QQP F1") for note in found.notes)


def test_without_a_layout_the_test_split_is_scored_where_every_run_has_it(write_run, grid):
    scores = {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.7}}
    write_run(task="rte", protocol="sora", scores=scores)
    write_run(task="wnli", protocol="sora", scores=scores)
    write_run(task="wnli", scores=0.8, seed=1)
    found = grid()
    assert [(column.task, column.split) for column in found.columns] == [("rte", "test"), ("wnli", None)]
    values = [value for line in found.lines for cell in line.cells for value in cell.values.values()]
    assert sorted(values) == [0.7, 0.8, 0.9]


def test_without_a_layout_mnli_is_scored_on_its_test_split_too(write_run, grid):
    splits = {f"{split}_{part}": {"accuracy": 0.7 if split == "test" else 0.9}
              for split in ("validation", "test") for part in ("matched", "mismatched")}  # fmt: skip
    write_run(task="mnli", protocol="sora", scores=splits, split="validation_matched")
    found = grid()
    assert [column.split for column in found.columns] == ["test_matched"]
    assert only_cell(found).values == {0: 0.7}


def test_a_whole_glue_is_averaged_over_test_splits_where_every_task_has_one(write_run, grid):
    for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"):
        ends = ("_matched", "_mismatched") if task == "mnli" else ("",)
        names = ("accuracy", "f1", "pearson", "spearman", "matthews_correlation")
        splits = {f"{split}{end}": dict.fromkeys(names, 0.7 if split == "test" else 0.9)
                  for split in ("validation", "test") for end in ends}  # fmt: skip
        write_run(task=task, protocol="sora", scores=splits, split=f"validation{ends[0]}")
    found = grid()
    assert {column.split for column in found.columns} == {"test", "test_matched", "test_mismatched"}
    assert found.average(found.lines[0]).mean == pytest.approx(70)


def test_values_that_print_alike_are_settings_of_their_own(write_run, grid):
    for xi, score in ((3e-4, 0.8), (3.000001e-4, 0.6)):
        write_run(method="sora", config={"sparsity": {"xi": xi}}, scores=score)
    assert [line.label for line in grid().lines] == ["SoRA ξ=0.0003", "SoRA ξ=0.0003000001"]


def test_a_key_that_an_earlier_release_had_not_is_as_it_was_then(write_run, grid):
    write_run(seed=0, scores=0.8)
    write_run(seed=1, scores=0.9, config={"model": {"dtype": "float32"}, "trainer": {"skip_nonfinite": 0}})
    assert only_cell(grid()).summary.n == 2
    write_run(seed=2, scores=0.9, config={"model": {"dtype": "bfloat16"}})
    assert [line.label for line in grid().lines] == ["LoRA dtype=bfloat16", "LoRA dtype=float32"]


def test_a_copied_record_is_one_run(write_run, outputs):
    write_run(seed=0)
    shutil.copytree(outputs, outputs.parent / "copy")
    write_run(seed=1)
    assert [run.seed for run in find([outputs, outputs.parent / "copy"]).runs] in ([0, 1], [1, 0])


def test_the_average_is_over_the_seeds_that_every_column_has(write_run, grid):
    for task, scores in EIGHT.items():
        sora_run(write_run, task, scores, seed=0)
        sora_run(write_run, task, scores, seed=1, **({"status": "failed"} if task == "rte" else {}))
    found = grid()
    assert found.average(found.lines[0]).n == 1


def test_a_split_that_no_run_has_gives_way_to_the_selecting_one(write_run, grid):
    write_run(task="rte", experiment="sora_table1", scores=0.6)
    found = grid()
    assert only_cell(found).values == {0: 0.6}
    assert found.moved == {"RTE"}


def test_a_task_that_the_layout_lacks_gets_a_column(write_run, grid):
    write_run(task="rte", experiment="sora_table1_small", scores=0.6)
    write_run(task="boolq", experiment="sora_table1_small", scores=0.7)
    found = grid()
    assert [column.title for column in found.columns] == ["RTE", "BoolQ accuracy"]
    assert not any(note.startswith("Columns without runs") for note in found.notes)


def test_a_small_twin_averages_what_it_has(write_run, grid):
    scores = {"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.6}}
    write_run(task="rte", experiment="sora_table1_small", protocol="sora", scores=scores)
    scores = {"validation": {"accuracy": 0.5, "f1": 0.6}, "test": {"accuracy": 0.7, "f1": 0.8}}
    write_run(task="mrpc", experiment="sora_table1_small", protocol="sora", scores=scores)
    found = grid()
    assert found.average(found.lines[0]).mean == pytest.approx(65)


def test_a_metric_that_was_measured_and_has_no_column_gets_one(write_run, grid):
    scores = {split: {"accuracy": 0.7, "f1": 0.8} for split in ("validation", "test")}
    write_run(task="mrpc", experiment="sora_table1", protocol="sora", scores=scores)
    found = grid(metrics=["f1"])
    assert [(column.task, column.metric) for column in found.columns] == [("mrpc", "f1")]
    assert only_cell(found).values == {0: 0.8}


def test_runs_of_two_forms_are_apart(write_run, outputs, grid):
    file = write_run(seed=0, scores=0.8)
    write_run(seed=1, scores=0.9)
    file.write_text(file.read_text().replace('"form": "classification"', '"form": "text"'))
    assert len(grid().lines) == 2


SUPERGLUE = {
    "boolq": {"accuracy": 0.8}, "cb": {"accuracy": 0.9, "macro_f1": 0.7}, "copa": {"accuracy": 0.6},
    "multirc": {"f1a": 0.7, "exact_match": 0.3}, "record": {"record_f1": 0.5, "record_em": 0.4},
    "superglue_rte": {"accuracy": 0.75}, "wic": {"accuracy": 0.65}, "wsc": {"accuracy": 0.6},
}  # fmt: skip


def test_all_tasks_of_superglue_have_its_average(write_run, grid):
    for task, scores in SUPERGLUE.items():
        for seed in (0, 1):
            moved = {metric: score + 0.02 * seed for metric, score in scores.items()}
            write_run(task=task, seed=seed, scores={"validation": moved}, metric=next(iter(scores)))
    filled = grid()
    assert len(filled.columns) == 11
    (line,) = filled.lines
    by_hand = (0.8 + 0.8 + 0.6 + 0.5 + 0.45 + 0.75 + 0.65 + 0.6) / 8
    assert filled.average(line).values == pytest.approx((100 * by_hand, 100 * (by_hand + 0.02)))


def test_seven_tasks_of_eight_have_none(write_run, grid):
    for task in list(SUPERGLUE)[1:]:
        write_run(task=task, scores={"validation": SUPERGLUE[task]}, metric=next(iter(SUPERGLUE[task])))
    filled = grid()
    assert len(filled.columns) == 7
    assert filled.average(filled.lines[0]) is None


def test_of_mnli_both_sets_count_in_glues_average(write_run, grid):
    for task in ("cola", "sst2", "mrpc", "stsb", "qqp", "qnli", "rte"):
        metric = {"cola": "matthews_correlation", "stsb": "pearson"}.get(task, "accuracy")
        write_run(task=task, scores={"validation": {metric: 0.8, "f1": 0.6}}, metric=metric)
    both = {"validation_matched": {"accuracy": 0.7}, "validation_mismatched": {"accuracy": 0.9}}
    write_run(task="mnli", scores=both, split="validation_matched")
    filled = grid()
    assert len(filled.columns) == 10
    assert filled.average(filled.lines[0]).values == pytest.approx((100 * (6 * 0.8 + 0.7 + 0.8) / 8,))
