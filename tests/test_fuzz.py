"""Whatever comes in: configurations, rows, records end in a result or in one line; and laws that hold for any numbers.

A few dozen cases of each here, thousands in `make test-long`, which also tells how they ended.
"""

import json
import math
import os
import statistics

import numpy as np
import pytest
import scipy.stats
import torch
from conftest import tiny_model
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from report_records import synthetic_record

from peftbench.compose import compose_run, known_keys
from peftbench.config import RunConfig
from peftbench.doors import Context
from peftbench.durable import write_text
from peftbench.errors import ConfigurationError
from peftbench.layers.proximal import official_threshold_, soft_threshold_
from peftbench.methods.sora import SoRA
from peftbench.report.records import find
from peftbench.report.statistics import Summary, holm, permutation_p
from peftbench.tasks.registry import TASKS
from peftbench.tasks.sources import Source, load_split
from peftbench.training.batching import evaluation_plan, micro_batches, plan_epoch

CASES = int(os.environ.get("PEFTBENCH_FUZZ", "1"))
"""Times as many cases as usual."""


def cases(number):
    return settings(
        max_examples=number * CASES,
        deadline=None,
        derandomize=CASES == 1,  # A change is not to fail at what it did not touch.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def outcome(work):
    """What the work gives, and the one line in which it is refused: one of the two."""
    try:
        result = work()
    except ConfigurationError as error:
        told = str(error)
    else:
        event("taken")
        return result, None
    event("refused in one line")
    assert told.strip()
    assert "\n" not in told
    return None, told


KEYS = sorted({*known_keys(), "sed", "trainer", "trainer.epoch", "a.b", "+new", "~task"})
PLAUSIBLE = st.sampled_from(["1", "2", "8", "0.5", "1e-3", "true", "false", "null", "best", "bf16", "rte", "lora", "x"])
ODD = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.sampled_from(
        ["null", "true", "[]", "{}", "[1,2]", "{a:1}", "''", "1e999", "../..", "/etc/passwd", "${seed}", "~"]
    ),
    st.text(max_size=30),
    st.lists(st.integers(-3, 3), max_size=3).map(str),
)


@cases(30)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(PLAUSIBLE, ODD)), min_size=1, max_size=3))
def test_a_configuration_is_a_run_or_one_line(pairs):
    config, refusal = outcome(
        lambda: compose_run(["method=sora", "task=rte", *(f"{key}={value}" for key, value in pairs)])
    )
    if refusal:
        return
    assert isinstance(config, RunConfig)
    # What was accepted stays below the outputs folder, and is plain data.
    assert os.sep not in config.experiment_name
    assert not config.experiment_name.startswith(".")
    json.dumps(config.resolved(), allow_nan=True)


TEXT = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(categories=["Cc", "Cf", "Co", "Zs"]), max_size=8),
    st.sampled_from(
        ["", " ", "\x00", "\ufeff", "a" * 50_000, "[SEP]" * 20, "👩‍👩‍👧‍👦" * 50, "\u202eright to left", "\n\t\r"]
    ),
)
LABEL = st.one_of(
    st.integers(-3, 5), st.floats(), st.none(), st.booleans(), st.text(max_size=3), st.binary(max_size=2),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
ANY = st.one_of(TEXT, LABEL)


@cases(150)
@given(st.sampled_from(["cola", "mrpc", "stsb", "mnli"]), st.data())
def test_rows_become_a_split_or_one_line(name, data):
    spec = TASKS[name]
    clean = data.draw(st.booleans())
    kind = TEXT if clean else ANY
    rows = data.draw(st.integers(0, 6))
    columns = {column: data.draw(st.lists(kind, min_size=rows, max_size=rows)) for column in spec.text_columns}
    columns["label"] = data.draw(st.lists(st.integers(0, 1) if clean else LABEL, min_size=rows, max_size=rows))
    split, refusal = outcome(lambda: load_split(Source("folder", lambda *_: columns, {}), spec, "train"))
    if refusal:
        assert not (clean and rows)
        return
    assert split is not None
    assert len(split) == rows
    assert all(isinstance(text, str) for column in split.texts for text in column)
    if split.labels is not None:
        assert np.isfinite(split.labels).all()


@cases(60)
@given(st.lists(TEXT, min_size=1, max_size=5), st.integers(3, 24))
def test_any_text_becomes_tokens_within_the_length(tiny_tokenizer, texts, limit):
    from peftbench.training.batching import tokenise

    rows = tokenise([texts], None, tiny_tokenizer, limit)
    assert len(rows) == len(texts)
    assert (rows.lengths <= limit).all()
    assert (rows.lengths >= 1).all()


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=12,
)


@cases(120)
@given(st.data())
def test_a_record_of_anything_is_read_or_told(tmp_path, data):
    record = synthetic_record()
    for _ in range(data.draw(st.integers(1, 4))):
        place, path = record, []
        while True:
            path.append(data.draw(st.sampled_from(sorted(place))))
            inner = place[path[-1]]
            if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
                break
            place = inner
        if data.draw(st.booleans()):
            place[path[-1]] = data.draw(JSON)
        else:
            del place[path[-1]]
        if not record:
            break
    write_text(tmp_path / "x" / "record.json", json.dumps(record))
    found, _ = outcome(lambda: find([tmp_path]))
    for run in found.runs if found else ():
        assert isinstance(run.status, str)
        assert all(isinstance(flag, str) for flag in run.flags)


NUMBER = st.floats(-1e6, 1e6, width=64)
XI = st.floats(0, 1e3, width=64)


@cases(200)
@given(st.lists(NUMBER, min_size=1, max_size=20), XI, st.lists(NUMBER, min_size=20, max_size=20))
def test_the_proximal_operator_is_the_minimiser_and_no_expansion(values, xi, others):
    x = torch.tensor(values, dtype=torch.float64)
    y = torch.tensor(others[: len(values)], dtype=torch.float64)
    shrunk, other = x.clone(), y.clone()
    soft_threshold_([shrunk], xi)
    soft_threshold_([other], xi)

    def objective(z):  # Each element's own problem: 1/2 (z - x)^2 + xi |z|.
        return 0.5 * (z - x).square() + xi * z.abs()

    best = objective(shrunk)
    slack = 1e-9 * (1 + x.square() + xi * x.abs())
    for rival in (x, y, torch.zeros_like(x), shrunk * 1.01, shrunk * 0.99, shrunk + 1e-3, shrunk - 1e-3):
        assert (best <= objective(rival) + slack).all()
    assert ((shrunk - other).abs() <= (x - y).abs() * (1 + 1e-12) + 1e-9).all()
    assert (shrunk.abs() <= x.abs()).all()
    assert (shrunk[x.abs() <= xi] == 0).all()
    # The released code's zone is twice as wide: it zeroes all that the paper's zeroes but |x| = xi.
    official = x.clone()
    official_threshold_([official], xi)
    assert (official[(x.abs() < xi)] == 0).all()
    assert (official[x.abs() > 2 * xi + 1e-6 * (1 + xi)] != 0).all()


@cases(25)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_effective_parameters_are_what_a_hand_counts(seed, rank):
    model = tiny_model("bert").requires_grad_(False)
    attachment = SoRA(rank=rank).attach(model, Context(torch.Generator().manual_seed(0), 1, "tiny"))
    draw = torch.Generator().manual_seed(seed)
    by_hand = 0
    with torch.no_grad():
        for layer in attachment.layers.values():
            assert layer.gate is not None
            layer.gate.mul_((torch.rand(rank, generator=draw) > 0.5).float())
            live = sum(float(g) != 0.0 for g in layer.gate)
            by_hand += live * (layer.linear.in_features + layer.linear.out_features)
    before = attachment.count()
    attachment.finalize()
    after = attachment.count()
    assert before.effective == after.effective == by_hand
    assert before.stored == after.stored
    left = sum(p.numel() for x in attachment.layers.values() for p in (x.lora_A, x.lora_B))
    assert left == by_hand


@cases(150)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8))
def test_aggregates_are_the_standard_librarys(values):
    summary = Summary(tuple(values))
    assert summary.mean == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert summary.median == pytest.approx(statistics.median(values), abs=1e-9)
    if len(values) == 1:
        assert summary.std is summary.t_interval is summary.bootstrap_interval is None
        return
    assert summary.std == pytest.approx(statistics.stdev(values), abs=1e-7)
    low, high = summary.t_interval  # type: ignore[misc]
    assert low <= summary.mean <= high
    assert min(values) - 1e-9 <= summary.bootstrap_interval[0] <= summary.bootstrap_interval[1] <= max(values) + 1e-9  # type: ignore[index]
    if summary.std > 1e-6:  # type: ignore[operator]
        theirs = scipy.stats.t.interval(0.95, len(values) - 1, summary.mean, scipy.stats.sem(values))
        assert (low, high) == pytest.approx(theirs, rel=1e-6, abs=1e-9)


@cases(100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.lists(st.floats(-50, 50), min_size=3, max_size=9))
def test_corrected_p_values_are_ordered_probabilities(p_values, differences):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.asarray(adjusted)[order]) >= 0).all()
    p = permutation_p(differences)
    assert 2 ** -len(differences) <= p <= 1
    assert p == permutation_p([-d for d in differences])


@cases(150)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 70), st.booleans(), st.integers(1, 9))
def test_every_row_is_in_one_batch_of_an_epoch_and_of_an_evaluation(lengths, size, bucket, micro):
    rows = np.asarray(lengths)
    epoch = plan_epoch(rows, size, bucket, np.random.default_rng(0))
    assert sorted(np.concatenate(epoch).tolist()) == list(range(len(rows)))
    assert len(epoch) == math.ceil(len(rows) / size)
    for batch in epoch:
        assert 1 <= len(batch) <= size
        pieces = list(micro_batches(batch, rows, micro))
        assert sorted(np.concatenate(pieces).tolist()) == sorted(batch.tolist())
        assert all(1 <= len(piece) <= max(micro, 1) for piece in pieces) or len(batch) <= micro
    plan = evaluation_plan(rows, size, rows)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(rows)))
    assert all(len(batch) == 1 or rows[batch].sum() <= size for batch in plan)
