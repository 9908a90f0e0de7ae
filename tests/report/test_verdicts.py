from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from report_records import MODELS, SIX_SITES
from scipy import stats

from peftbench import report
from peftbench.report.contents import make
from peftbench.report.named_weights import is_another
from peftbench.report.records import find
from peftbench.report.verdicts import judge

PUBLISHED = 0.8520  # LoRA r=8 on RTE, AdaLoRA's Table 1


@pytest.fixture
def verdicts(outputs):
    def of():
        found = find([outputs])
        (grid,) = make(found, found.runs).grids
        return {(one.row, one.column): one for one in judge(grid)}

    return of


EIGHT_AT_SIX = {"rank": 8, "sites": SIX_SITES}
TWO_SITES = {"rank": 8, "sites": ["query", "value"]}
ALL_BIASES = {"biases": "all", "control": None}
MEDIAN = "the paper's number is a median of seeds"
QUOTED = "the paper quotes the number, and what it is of its seeds is not known"


def run(write_run, scores, **about):
    for seed, score in enumerate(scores):
        about = {"task": "rte", "model": "deberta_v3_base", "experiment": "adalora_table1", **about}
        about.setdefault("settings", EIGHT_AT_SIX)
        write_run(seed=seed, scores=score, **about)


def only(verdicts):
    (one,) = verdicts().values()
    return one


def test_a_backbones_name_stands_for_the_weights_of_its_configuration():
    told = yaml.safe_load((Path(report.__file__).parent / "weights.yaml").read_text())
    assert told == {name: f"{model['repo']}@{model['revision']}" for name, model in MODELS.items()}


def test_another_revision_is_other_weights():
    model = {"name": "bert_base", "repo": MODELS["bert_base"]["repo"], "revision": MODELS["bert_base"]["revision"]}
    assert not is_another(model)
    assert is_another({**model, "revision": "0123456789"})
    assert not is_another({"name": "ours", "repo": "our/own"}), "of a name of nobody's nothing is known"


def test_the_published_mean_in_our_interval_is_reproduced(write_run, verdicts):
    run(write_run, (0.848, 0.853, 0.861))
    found = only(verdicts)
    low, high = stats.t.interval(0.95, 2, loc=85.4, scale=stats.sem([84.8, 85.3, 86.1]))
    assert low < 85.2 < high
    assert (found.published.value, found.verdict) == (85.2, "reproduced")
    assert found.difference == pytest.approx(0.2)
    assert found.measured.t_interval == pytest.approx((low, high))


def test_outside_it_is_not(write_run, verdicts):
    run(write_run, (0.80, 0.801, 0.802))
    assert only(verdicts).verdict == "not reproduced"


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(236 / 277, "reproduced"), (0.85190, "not reproduced"), (0.85196, "reproduced"), (0.85210, "not reproduced")],
)
def test_a_number_is_as_exact_as_it_is_printed(write_run, verdicts, score, verdict):
    """236 of 277 right is 85.1986, which a paper prints as 85.20."""
    run(write_run, (score, score, score))
    assert only(verdicts).verdict == verdict


def test_two_seeds_are_too_few(write_run, verdicts):
    run(write_run, (PUBLISHED, PUBLISHED))
    assert only(verdicts).verdict == "too few seeds: n=2, 3 needed"


def test_failed_seeds_do_not_count_as_seeds(write_run, verdicts):
    run(write_run, (PUBLISHED, 0.853))
    about = {"task": "rte", "model": "deberta_v3_base", "experiment": "adalora_table1", "settings": EIGHT_AT_SIX}
    write_run(seed=2, status="diverged", **about)
    found = only(verdicts)
    assert (found.verdict, found.failed) == ("too few seeds: n=2, 3 needed", "1/3 failed")


@pytest.mark.parametrize(
    ("about", "verdict"),
    [
        ({"model": "minilm"}, "not comparable: model (here minilm, there deberta_v3_base)"),
        ({"protocol": "sora"}, "not comparable: protocol (here sora, there glue_dev)"),
        ({"kind": "sample", "source": "sample"}, "sample data: no verdict"),
        ({"kind": "partial"}, "partial data: no verdict"),
        ({"kind": "unchecked"}, "unchecked data: no verdict"),
        ({"weights": "folder"}, "not comparable: weights from a folder"),
        ({"repo": "someone/tuned-on-rte"}, "not comparable: weights of someone/tuned-on-rte"),
        (
            {"config": {"model": {"quantization": "nf4", "double_quant": False}}},
            "not comparable: backbone quantised to nf4",
        ),
        ({"weights": "random"}, "random weights: no verdict"),
        (
            {"config": {"trainer": {"max_steps": 10}}},
            "not comparable: training (here 10 steps, there by epochs)",
        ),
    ],
)
def test_what_differs_gets_no_verdict(write_run, verdicts, about, verdict):
    run(write_run, (PUBLISHED, PUBLISHED, PUBLISHED), **about)
    assert only(verdicts).verdict == verdict


def test_another_split_is_not_comparable(write_run, verdicts):
    for seed in range(3):
        about = {"method": "full", "settings": {}, "experiment": "sora_table1", "protocol": "sora"}
        write_run(task="rte", model="deberta_v3_base", seed=seed, **about)
    assert only(verdicts).verdict == "not comparable: split of RTE"


def test_a_setting_that_the_paper_has_not_has_no_published_number(write_run, verdicts):
    run(write_run, (PUBLISHED, PUBLISHED, PUBLISHED), settings={"rank": 3})
    assert verdicts() == {}


@pytest.mark.parametrize(
    ("about", "budget"),
    [
        ({"method": "adalora"}, {"rank": 12, "target_rank": 8, "sites": SIX_SITES}),
        ({"method": "adalora"}, {"rank": 4, "target_rank": 2, "sites": SIX_SITES}),
        (
            {"method": "adalora", "experiment": "sora_table1"},
            {"rank": 12, "target_rank": 8, "sites": SIX_SITES},
        ),
        ({"method": "sora", "experiment": "sora_table2"}, {**EIGHT_AT_SIX, "rank": 4}),
        (
            {"method": "prompt_tuning", "experiment": "prompt_size", "model": "t5_lm_adapt_xxl", "task": "boolq"},
            {"length": 100, "init": "labels"},
        ),
    ],
)
def test_a_published_number_is_of_the_whole_budget(write_run, verdicts, about, budget):
    run(write_run, (PUBLISHED,), **about, settings=budget)
    assert only(verdicts)
    others = {"rank": 16, "sites": ["query", "value"], "length": 20, "init": "random"}
    for key in budget.keys() & others.keys():
        run(write_run, (PUBLISHED,), **about, settings={**budget, key: others[key]})
        assert only(verdicts), "the run beside it has another budget, and a row of its own"


def test_what_the_paper_did_otherwise_is_told(write_run, verdicts):
    run(write_run, (0.866, 0.866, 0.866), experiment="lora_glue", model="roberta_base", settings=TWO_SITES)
    assert only(verdicts).verdict == f"not comparable: the paper starts from its MNLI checkpoint; {MEDIAN}"


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (
            {"method": "bitfit", "experiment": "bitfit_glue", "model": "bert_large_cased", "task": "qnli"},
            "the paper trains BERT's pooler in its bias alone",
        ),
        ({"protocol": "sora", "experiment": "sora_table1"}, "trainer.head (here train, there freeze)"),
        (
            {"protocol": "sora", "experiment": "sora_table2", "method": "sora"},
            "trainer.head (here train, there freeze)",
        ),
        ({"protocol": "sora", "experiment": "sora_table1", "method": "adalora"}, "whose code has no AdaLoRA"),
    ],
)
def test_what_the_paper_trains_otherwise_is_told(write_run, verdicts, about, reason):
    budgets = {"bitfit": ALL_BIASES, "adalora": {**EIGHT_AT_SIX, "rank": 12}, "sora": {**EIGHT_AT_SIX, "rank": 4}}
    settings = budgets.get(about.get("method", ""), EIGHT_AT_SIX)
    splits = {split: {"accuracy": 0.914} for split in ("validation", "test")}
    run(write_run, (splits, splits, splits), **about, settings=settings)
    found = only(verdicts).verdict
    assert found.startswith("not comparable: ")
    assert found.endswith((reason, f"{reason}: whether its head was trained there is not known"))


@pytest.mark.parametrize(
    ("method", "experiment", "rank", "score"),
    [("lora", "sora_table1", 8, 0.8532), ("lora", "sora_table2", 8, 0.8532), ("sora", "sora_table2", 4, 0.8604)],
)
def test_the_head_of_soras_code_can_be_had(write_run, verdicts, method, experiment, rank, score):
    splits = {split: {"accuracy": score} for split in ("validation", "test")}
    about = {"protocol": "sora", "experiment": experiment, "method": method, "settings": {**EIGHT_AT_SIX, "rank": rank}}
    run(write_run, (splits, splits, splits), **about, config={"trainer": {"head": "freeze"}})
    assert only(verdicts).verdict == "reproduced"


def test_a_frozen_head_is_no_other_papers(write_run, verdicts):
    run(write_run, (PUBLISHED, PUBLISHED, PUBLISHED), config={"trainer": {"head": "freeze"}})
    assert only(verdicts).verdict == "not comparable: trainer.head (here freeze, there train)"


def test_a_median_is_no_mean(write_run, verdicts):
    about = {"experiment": "mam", "model": "roberta_base", "task": "sst2"}
    run(write_run, (0.942, 0.942, 0.942), **about, settings={**TWO_SITES, "rank": 16})
    run(write_run, (0.946, 0.946, 0.946), **about, settings={}, method="full")
    told = {row: one.verdict for (row, _), one in verdicts().items()}
    assert told == {"LoRA": f"not comparable: {MEDIAN}", "Full FT": f"not comparable: {QUOTED}"}


def test_roberta_large_starts_where_the_papers_marked_rows_start(write_run, verdicts):
    run(write_run, (0.85, 0.86, 0.87), experiment="lora_glue", model="roberta_large", settings=TWO_SITES)
    found = only(verdicts)
    assert (found.published.value, found.verdict) == (85.2, f"not comparable: {MEDIAN}")


def test_a_quoted_spearman_is_no_pearson(write_run, verdicts):
    about = {"experiment": "lora_glue", "model": "roberta_base", "task": "stsb", "method": "bitfit"}
    run(write_run, (0.908, 0.908, 0.908), **about, settings=ALL_BIASES)
    assert only(verdicts).verdict == f"not comparable: the number is a Spearman correlation in BitFit; {QUOTED}"


def test_a_published_number_that_is_another_metric_is_told(write_run, verdicts):
    for seed in range(3):
        about = {"method": "bitfit", "settings": ALL_BIASES, "experiment": "lora_glue", "model": "roberta_base"}
        write_run(task="mrpc", seed=seed, scores=0.927, **about)
    assert only(verdicts).verdict.startswith("not comparable: value equals the F1 reported by BitFit")


BITFIT = {"sst2": 0.937, "mrpc": 0.89, "cola": 0.62, "qnli": 0.918, "qqp": 0.88, "rte": 0.815, "stsb": 0.908}


def test_an_average_has_no_verdict_where_a_cell_of_it_has_none(write_run, verdicts):
    both = [f"validation_{part}" for part in ("matched", "mismatched")]
    for seed in range(3):
        about = {"method": "bitfit", "experiment": "lora_glue", "model": "roberta_base", "seed": seed}
        about["settings"] = ALL_BIASES
        write_run(task="mnli", split=both[0], scores={part: {"accuracy": 0.84 + seed / 100} for part in both}, **about)
        for task, score in BITFIT.items():
            write_run(task=task, scores=score + seed / 100, **about)
    found = {column: one.verdict for (_, column), one in verdicts().items()}
    assert found["MRPC"].startswith("not comparable: value equals the F1")
    reasons = {column: set(verdict.removeprefix("not comparable: ").split("; ")) for column, verdict in found.items()}
    assert reasons["average"] == reasons["MRPC"] | reasons["STS-B"]


def test_secondary_sources_stay_marked(write_run, verdicts):
    for seed in range(3):
        write_run(task="rte", model="deberta_v3_base", experiment="sora_table1", protocol="sora", seed=seed,
                  method="full",
                  scores={"validation": {"accuracy": 0.82}, "test": {"accuracy": 0.823 + seed / 500}})  # fmt: skip
    found = only(verdicts)
    assert (found.verdict, found.published.secondary) == ("reproduced", True)


def test_runs_without_a_mean_say_why(write_run, verdicts):
    for seed in range(3):
        run_about = {
            "task": "rte",
            "model": "deberta_v3_base",
            "experiment": "adalora_table1",
            "settings": EIGHT_AT_SIX,
        }
        write_run(seed=seed, scores=PUBLISHED, fingerprint=f"draw {seed}", **run_about)
    found = only(verdicts)
    assert (found.measured, found.verdict) == (None, "not averaged: its runs have different rows of data")


def test_sample_data_without_a_mean_are_sample_data(write_run, verdicts):
    about = {"task": "rte", "model": "deberta_v3_base", "experiment": "adalora_table1", "settings": EIGHT_AT_SIX}
    for seed in range(3):
        write_run(seed=seed, kind="sample", source="sample", fingerprint=f"draw {seed}", **about)
    assert only(verdicts).verdict == "sample data: no verdict"


@pytest.mark.parametrize("experiment", ["sora_table1", "sora_table2"])
@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_a_column_whose_metric_the_source_does_not_name(write_run, verdicts, experiment, task):
    splits = {split: {"accuracy": 0.9, "pearson": 0.9} for split in ("validation", "test")}
    about = {"task": task, "experiment": experiment, "protocol": "sora", "config": {"trainer": {"head": "freeze"}}}
    run(write_run, (splits, splits, splits), **about)
    assert only(verdicts).verdict == "not comparable: the source does not name the metric"
