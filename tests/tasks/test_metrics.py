"""Metrics of classes and numbers against scikit-learn and SciPy, at their edges, and as `evaluate` metrics."""

import re
import time
from pathlib import Path

import evaluate
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from peftbench.tasks import metrics
from peftbench.tasks.metrics import METRICS, classification, compute_metrics, describe

PLAIN = [name for name, metric in METRICS.items() if not metric.needs]
TWO_CLASS = ("accuracy", "f1", "matthews_correlation")
CORRELATIONS = ("pearson", "spearman")
EXACT = {"rel": 0, "abs": 1e-12}


def score(name, predictions, references):
    return compute_metrics([name], predictions, references)[name]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("share_of_ones", [0.5, 0.03])
def test_two_class_metrics_equal_scikit_learn(seed, share_of_ones):
    random = np.random.default_rng(seed)
    y = (random.random(400) < share_of_ones).astype(int)
    p = np.where(random.random(400) < 0.2, 1 - y, y)
    assert compute_metrics(TWO_CLASS, p, y) == pytest.approx(
        {
            "accuracy": oracle.accuracy_score(y, p),
            "f1": oracle.f1_score(y, p),
            "matthews_correlation": oracle.matthews_corrcoef(y, p),
        },
        **EXACT,
    )


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_takes_any_number_of_classes(seed):
    random = np.random.default_rng(seed)
    p, y = random.integers(0, 3, 300), random.integers(0, 3, 300)
    assert score("accuracy", p, y) == pytest.approx(oracle.accuracy_score(y, p), **EXACT)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimals", [12, 1, 0], ids=["no ties", "some ties", "many ties"])
def test_correlations_equal_scipy(seed, decimals):
    random = np.random.default_rng(seed)
    y = np.round(5 * random.random(300), decimals)
    p = np.round(y + random.normal(size=300), decimals)
    scores = compute_metrics(CORRELATIONS, p, y)
    expected = {"pearson": stats.pearsonr(p, y).statistic, "spearman": stats.spearmanr(p, y).statistic}
    assert scores == pytest.approx(expected, **EXACT)


def test_ties_share_the_mean_of_their_ranks():
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: covariance 4.5, squared lengths 4.5 and 5.
    assert score("spearman", [1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / 22.5**0.5, **EXACT)


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("rows", ["00 00", "000 011", "110 000", "11 11", "01 10", "1 1"])
def test_two_class_edges_equal_scikit_learn(rows):
    p, y = ([int(label) for label in labels] for labels in rows.split())
    assert score("f1", p, y) == oracle.f1_score(y, p, zero_division=0)
    assert score("matthews_correlation", p, y) == oracle.matthews_corrcoef(y, p)


def test_f1_counts_class_one_only():
    assert score("f1", [0, 0, 0, 1], [0, 0, 0, 0]) == 0.0
    assert score("f1", [1, 1, 1, 0], [1, 1, 1, 1]) == pytest.approx(6 / 7, **EXACT)


def test_matthews_survives_sums_whose_product_exceeds_64_bits():
    y = np.arange(400_000) % 2
    p = y.copy()
    p[:40_000] = 1 - p[:40_000]
    assert score("matthews_correlation", p, y) == pytest.approx(0.8, **EXACT)


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.parametrize("constant", [[0.1] * 3, [1e300] * 3, [0] * 3])
def test_the_correlation_of_a_constant_vector_is_zero(name, constant):
    assert score(name, constant, [1, 2, 3]) == 0.0
    assert score(name, [1, 2, 3], constant) == 0.0
    assert score(name, constant[:1], [1]) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_pearson_neither_over_nor_underflows(scale):
    random = np.random.default_rng(0)
    p, y = random.normal(size=50), random.normal(size=50)
    assert score("pearson", p * scale, y) == pytest.approx(stats.pearsonr(p, y).statistic, **EXACT)


def test_a_perfect_correlation_does_not_exceed_one():
    vectors = [np.random.default_rng(seed).random(7) for seed in range(200)]
    assert max(score("pearson", v, v) for v in vectors) == 1.0
    assert min(score("pearson", v, -v) for v in vectors) == -1.0


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([], [], "predictions are empty: there is nothing to score"),
        ([1, 0, 1], [1, 0], "3 predictions cannot be scored against 2 references"),
        ([0.0, float("nan")], [0, 1], "predictions must be finite, but row 1 is nan"),
        ([0, 1], [float("-inf"), 1], "references must be finite, but row 0 is -inf"),
        ([[0.0], [1.0]], [0, 1], "predictions must be one number per row, but have shape (2, 1)"),
    ],
)
def test_unusable_input_is_refused_in_one_sentence(name, p, y, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compute_metrics([name], p, y)


@pytest.mark.parametrize("name", TWO_CLASS)
def test_scores_in_place_of_labels_are_refused(name):
    with pytest.raises(ValueError, match=r"predictions must be .*, but row 1 is 0\.7$"):
        compute_metrics([name], [0, 0.7], [0, 1])


@pytest.mark.parametrize("name", ["f1", "f1a"])
def test_a_third_class_is_refused_where_only_two_are_defined(name):
    with pytest.raises(ValueError, match=r"^references must be 0 or 1 for a two-class metric, but row 1 is 2"):
        compute_metrics([name], [0, 1], [0, 2])
    with pytest.raises(ValueError, match=r"^predictions must be -1, 0 or 1 for a two-class metric, but row 0 is 2"):
        compute_metrics([name], [2, 1], [0, 1])


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("illegal", [0.0, 0.2])
def test_metrics_of_classes_equal_scikit_learn_with_predictions_that_name_no_class(seed, classes, illegal):
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, 300)
    p = np.where(random.random(300) < 0.4, random.integers(0, classes, 300), y)
    p[random.random(300) < illegal] = -1
    legal = sorted(set(range(classes)) & (set(y) | set(p)))
    expected = {
        "accuracy": oracle.accuracy_score(y, p),
        "macro_f1": oracle.f1_score(y, p, labels=legal, average="macro", zero_division=0),
        "matthews_correlation": oracle.matthews_corrcoef(y, p),
    }
    if classes == 2:
        wrong = np.where(p == -1, 1 - y, p)  # T5's f1_score_with_invalid.
        expected |= dict.fromkeys(("f1", "f1a"), oracle.f1_score(y, wrong))
    assert compute_metrics(list(expected), p, y) == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize("name", ["accuracy", "f1", "f1a", "macro_f1", "matthews_correlation"])
def test_nothing_but_illegal_predictions_scores_zero(name):
    assert score(name, [-1, -1, -1], [1, 0, 1]) == 0.0


def test_scores_are_flat_plain_floats_in_the_order_asked_for():
    scores = compute_metrics(("f1", "accuracy"), [1, 0], [1, 1])
    assert list(scores) == ["f1", "accuracy"]
    assert {type(value) for value in compute_metrics(PLAIN, [1, 0, 0], [1, 1, 0]).values()} == {float}


def test_an_unknown_metric_is_named_with_the_known_ones():
    message = rf"^unknown metric 'recall'; known metrics: {', '.join(METRICS)}$"
    for call in (lambda: compute_metrics(["recall"], [1], [1]), lambda: describe(["recall"])):
        with pytest.raises(ValueError, match=message):
            call()


def test_each_metric_is_built_once_per_process(monkeypatch):
    built = []

    class Counted(classification.Accuracy):
        def __init__(self):
            built.append(self)
            super().__init__()

    monkeypatch.setitem(METRICS, "accuracy", Counted)
    assert [score("accuracy", [p], [1]) for p in (0, 1)] == [0.0, 1.0]
    assert len(built) == 1


def test_describe_states_module_and_version(monkeypatch):
    monkeypatch.setattr(classification.F1, "version", "7")
    assert describe(["f1", "spearman"]) == {
        "f1": "peftbench.tasks.metrics.classification 7",
        "spearman": "peftbench.tasks.metrics.correlation 1",
    }


@pytest.mark.parametrize("name", PLAIN)
def test_the_classes_work_as_evaluate_metrics(name):
    random = np.random.default_rng(1)
    if name in CORRELATIONS:
        p, y = random.normal(size=99), random.normal(size=99)
    else:
        p, y = random.integers(0, 2, 99), random.integers(0, 2, 99)
    expected = pytest.approx({name: score(name, p, y)}, **EXACT)
    metric = METRICS[name]()
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert metric.compute(predictions=p, references=y) == expected
    metric.add_batch(predictions=p[:40].tolist(), references=y[:40].tolist())
    metric.add_batch(predictions=p[40:].tolist(), references=y[40:].tolist())
    assert metric.compute() == expected


@pytest.mark.parametrize("name", PLAIN)
def test_a_refused_batch_does_not_leak_into_the_next_one(name):
    metric = METRICS[name]()
    for p, y in (([], []), ([1, 0, 1], [0]), ([float("nan"), 0.0], [0, 1])):
        with pytest.raises(ValueError, match="predictions"):
            metric.compute(predictions=p, references=y)
    assert metric.compute(predictions=[0, 1], references=[0, 1]) == {name: pytest.approx(1.0)}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_carries_definition_and_source_and_no_address(name):
    info = METRICS[name]().info
    assert " = " in info.description
    assert "Source" not in info.description
    assert re.search(r"\b(18|19|20)\d\d\b", info.citation)
    assert info.codebase_urls == info.reference_urls == []
    assert "http" not in info.description + info.citation + info.homepage


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    for name in PLAIN:
        assert METRICS[name]().compute(predictions=[0, 1, 1], references=[0, 1, 0])[name] > 0
    assert not list(tmp_path.iterdir())


def test_on_disk_use_still_cleans_up_its_rows(tmp_path):
    metric = classification.Accuracy(keep_in_memory=False, cache_dir=str(tmp_path))
    assert metric.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1.0}
    assert not list(tmp_path.rglob("*.arrow"))


def test_the_oracles_are_not_imported_at_run_time():
    for file in Path(metrics.__file__).parent.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) (sklearn|scipy)", source, re.MULTILINE)


def test_forty_thousand_rows_are_scored_within_a_second():
    random = np.random.default_rng(0)
    p, y = random.integers(0, 2, 40_000), random.integers(0, 2, 40_000)
    started = time.perf_counter()
    compute_metrics(PLAIN, p, y)
    assert time.perf_counter() - started < 1.0
