from __future__ import annotations

import json

import pytest
from scipy import stats

from peftbench.errors import ConfigurationError
from peftbench.report.comparisons import compare, corrected
from peftbench.report.contents import make
from peftbench.report.records import find

SORA = (0.86, 0.88, 0.83, 0.91)
LORA = (0.84, 0.85, 0.84, 0.86)


@pytest.fixture
def grid(outputs):
    def fill():
        found = find([outputs])
        (grid,) = make(found, found.runs).grids
        return grid

    return fill


def run_both(write_run, task="rte", n=4, **about):
    for seed in range(n):
        write_run(method="sora", task=task, seed=seed, scores=SORA[seed], **about)
        write_run(method="lora", task=task, seed=seed, scores=LORA[seed], **about)


def test_pairs_are_of_one_task_and_seed(write_run, grid):
    run_both(write_run)
    (found,) = compare(grid(), "permutation")
    assert {found.first, found.second} == {"SoRA", "LoRA"}
    sign = 1 if found.first == "SoRA" else -1
    by_hand = [100 * (a - b) * sign for a, b in zip(SORA, LORA, strict=True)]
    assert found.difference.values == pytest.approx(by_hand)
    expected = stats.permutation_test(
        (by_hand, [0] * 4), lambda a, b: sum(a) - sum(b), permutation_type="samples", n_resamples=10_000
    )
    assert found.p == pytest.approx(expected.pvalue)


def test_tasks_add_pairs(write_run, grid):
    run_both(write_run, "rte", 3)
    run_both(write_run, "cola", 3)
    (found,) = compare(grid(), "wilcoxon")
    assert found.difference.n == 6
    assert found.p == pytest.approx(stats.wilcoxon(found.difference.values).pvalue)


def test_below_three_seeds_it_is_refused_in_words_of_however_many_tasks(write_run, grid):
    for task in ("rte", "cola", "mrpc"):
        run_both(write_run, task, 2)
    (found,) = compare(grid(), "permutation")
    assert (found.difference.n, found.p, found.refused) == (6, None, "too few seeds: n=2 on CoLA, 3 needed")


def test_a_task_on_which_one_failed_is_not_left_out(write_run, grid):
    run_both(write_run, "cola", 3)
    for seed in range(3):
        write_run(method="lora", task="rte", seed=seed, scores=LORA[seed])
        write_run(method="sora", task="rte", seed=seed, status="diverged")
    (found,) = compare(grid(), "permutation")
    assert (found.difference.n, found.p, found.refused) == (3, None, "too few seeds: n=0 on RTE, 3 needed")


def test_seeds_are_counted_task_by_task(write_run, grid):
    """Three seeds in all, of which no task has two, are no three seeds."""
    for seed, task in enumerate(("rte", "cola", "mrpc")):
        for method in ("sora", "lora"):
            write_run(method=method, task=task, seed=seed, scores=0.8)
    (found,) = compare(grid(), "permutation")
    assert (found.difference.n, found.p, found.refused) == (3, None, "too few seeds: n=1 on CoLA, 3 needed")


def test_other_weights_of_one_name_do_not_compare(write_run, grid):
    for seed in range(4):
        write_run(method="sora", task="rte", seed=seed, scores=0.9)
        file = write_run(method="lora", task="rte", seed=seed, scores=0.8)
        file.write_text(file.read_text().replace("0" * 64, "1" * 64))
    assert compare(grid(), "permutation") == []


def test_a_failed_seed_makes_no_pair(write_run, grid):
    run_both(write_run, n=3)
    write_run(method="sora", task="rte", seed=3, status="diverged")
    write_run(method="lora", task="rte", seed=3, scores=0.1)
    (found,) = compare(grid(), "permutation")
    assert found.difference.n == 3


def test_other_models_and_other_data_do_not_compare(write_run, grid):
    run_both(write_run)
    for seed in range(4):
        write_run(method="sora", task="rte", seed=seed, model="bert_base", scores=0.5)
        write_run(method="full", task="rte", seed=seed, fingerprint="other", scores=0.5)
    assert [{one.first, one.second} for one in compare(grid(), "permutation")] == [{"SoRA (minilm)", "LoRA"}]


def test_lower_is_better_turns_the_sign(write_run, outputs):
    for seed in range(3):
        write_run(method="sora", task="dart", seed=seed, metric="ter", scores=0.4)
        write_run(method="lora", task="dart", seed=seed, metric="ter", scores=0.5)
    found = find([outputs])
    (grid,) = make(found, found.runs).grids
    (one,) = compare(grid, "permutation", against="sora")
    assert (one.first, one.second) == ("SoRA", "LoRA")
    assert one.difference.mean > 0


def test_holm_runs_over_what_was_tested(write_run, grid):
    run_both(write_run)
    for seed in range(4):
        write_run(method="bitfit", task="rte", seed=seed, scores=0.5 + seed / 100)
    write_run(method="full", task="rte", seed=0, scores=0.9)
    found = corrected(compare(grid(), "permutation"))
    tested = [one for one in found if one.p is not None]
    assert (len(found), len(tested)) == (6, 3)
    assert all(one.p_holm == pytest.approx(min(1.0, one.p * 3)) for one in tested if one.p == min(t.p for t in tested))
    assert all(one.p_holm is None for one in found if one.refused)


def test_against_an_unknown_row_is_an_error(write_run, outputs):
    run_both(write_run)
    found = find([outputs])
    with pytest.raises(ConfigurationError, match="against=sorra: no such row; did you mean sora"):
        make(found, found.runs, against="sorra")


def test_what_the_difference_says_nothing_of_is_told(write_run, outputs):
    run_both(write_run, "rte", 3)
    run_both(write_run, "mrpc", 3)
    for seed in range(3):
        write_run(method="lora", task="cola", seed=seed, scores=0.9, fingerprint="other")
        write_run(method="sora", task="cola", seed=seed, scores=0.5)
        write_run(method="sora", task="wnli", seed=seed, scores=0.5)
    found = find([outputs])
    contents = make(found, found.runs)
    told = {note for table in contents.comparisons for note in table.notes if note.startswith("Not compared on")}
    assert {note.partition(":")[0] for note in told} == {
        "Not compared on CoLA, whose models, weights or rows differ",
        "Not compared on WNLI, run with one of the two alone",
    }


def test_of_several_columns_of_one_run_the_whole_test_split_is_compared(write_run, outputs):
    """WebNLG's categories come first in the paper's table, and say less than all of it."""
    of_sora = {"test_seen": {"bleu": 0.61}, "test_unseen": {"bleu": 0.10}, "test": {"bleu": 0.30}}
    of_lora = {"test_seen": {"bleu": 0.60}, "test_unseen": {"bleu": 0.50}, "test": {"bleu": 0.55}}
    for scores in (of_sora, of_lora):
        scores["validation"] = {"bleu": 0.5}
    for seed in range(3):
        write_run(method="sora", task="webnlg", seed=seed, scores=of_sora, experiment="prefix_webnlg")
        write_run(method="lora", task="webnlg", seed=seed, scores=of_lora, experiment="prefix_webnlg")
    found = find([outputs])
    contents = make(found, found.runs, against="sora")
    (one,) = compare(contents.grids[0], "permutation", against="sora")
    assert (one.difference.mean, one.columns) == (pytest.approx(-25.0), ("BLEU A",))
    assert "Columns compared, one of each run: BLEU A." in contents.comparisons[0].notes


def test_runs_that_a_column_tells_apart_are_all_compared(write_run, outputs):
    """MNLI's two scores of SoRA's table are of two runs each, which selected on their own split."""
    for method, matched, mismatched in (("sora", 0.8, 0.6), ("lora", 0.7, 0.7)):
        for seed in range(3):
            about = {"method": method, "task": "mnli", "seed": seed, "experiment": "sora_table1", "model": "minilm"}
            for split, score, chosen in (("matched", matched, None), ("mismatched", mismatched, "mismatched")):
                scores = {f"test_{split}": {"accuracy": score}, "validation": {"accuracy": score}}
                selection = {"task": {"selection_split": chosen and f"validation_{chosen}"}}
                write_run(**about, scores=scores, config=selection)
    found = find([outputs])
    (one,) = compare(make(found, found.runs).grids[0], "permutation", against="sora")
    assert one.columns == ("MNLI-m", "MNLI-mm")
    assert sorted(one.difference.values) == pytest.approx([-10.0] * 3 + [10.0] * 3)


def test_seeds_with_rows_of_their_own_are_paired_on_the_same_rows(write_run, grid):
    """As where each seed draws its own thousand rows; no cell has a mean then, and every pair is fair."""
    for seed in range(3):
        for method, scores in (("sora", SORA), ("lora", LORA)):
            write_run(method=method, task="rte", seed=seed, scores=scores[seed], fingerprint=f"draw {seed}")
    write_run(method="sora", task="rte", seed=3, scores=SORA[3], fingerprint="one draw")
    write_run(method="lora", task="rte", seed=3, scores=LORA[3], fingerprint="another draw")
    (found,) = compare(grid(), "permutation")
    sign = 1 if found.first == "SoRA" else -1
    by_hand = [100 * (a - b) * sign for a, b in zip(SORA[:3], LORA[:3], strict=True)]
    assert found.difference.values == pytest.approx(by_hand)
    assert found.refused == ""


def test_other_lengths_of_training_are_told(write_run, outputs):
    for method, epochs in (("sora", 3), ("lora", 9)):
        for seed in range(3):
            write_run(method=method, task="rte", seed=seed, config={"trainer": {"epochs": epochs}})
            write_run(method=method, task="cola", seed=seed)
    found = find([outputs])
    table, _ = make(found, found.runs, against="sora").comparisons
    assert not any(note.startswith("Not trained for the same length") for note in table.notes), "the record says: 345"
    for file in outputs.rglob("record.json"):
        record = json.loads(file.read_text())
        del record["steps"]
        file.write_text(json.dumps(record))
    found = find([outputs])
    table, _ = make(found, found.runs, against="sora").comparisons
    assert "Not trained for the same length: SoRA with LoRA (RTE accuracy)." in table.notes


def test_steps_of_other_batches_are_other_lengths(write_run, outputs):
    for method, batch in (("sora", 8), ("lora", 32)):
        for seed in range(3):
            config = {"trainer": {"max_steps": 345, "batch_size": batch}}
            write_run(method=method, task="rte", seed=seed, config=config)
    found = find([outputs])
    table, _ = make(found, found.runs, against="sora").comparisons
    assert "Not trained for the same length: SoRA with LoRA (RTE accuracy)." in table.notes


def test_tasks_that_a_pair_lacks_are_one_note(write_run, outputs):
    run_both(write_run, "rte", 3)
    for task in ("cola", "mrpc"):
        write_run(method="sora", task=task)
    found = find([outputs])
    table, _ = make(found, found.runs, against="sora").comparisons
    told = [note for note in table.notes if note.startswith("Not compared on ")]
    assert told == ["Not compared on CoLA, MRPC, run with one of the two alone: SoRA with LoRA."]


def test_a_p_is_never_printed_as_nothing(write_run, outputs):
    for seed in range(20):
        write_run(method="sora", task="rte", seed=seed, scores=0.9 + seed / 1000)
        write_run(method="lora", task="rte", seed=seed, scores=0.8)
    found = find([outputs])
    for test, told in (("wilcoxon", "< 0.0001"), ("permutation", "0.0001")):
        table, _ = make(found, found.runs, test=test).comparisons
        assert [cell.text for cell in table.rows[0]][-2:] == [told, told]
        assert any("and 0.0001 beyond 16" in note for note in table.notes) == (test == "permutation")
