"""Records that are not as a run writes them: a report is made all the same, or says which it left out."""

from __future__ import annotations

import copy
import itertools
import json

import pytest

from peftbench.report.contents import make
from peftbench.report.figures import FIGURES
from peftbench.report.page import write_page
from peftbench.report.records import find
from peftbench.report.shape import wrong_in
from peftbench.report.tables.writing import WRITERS
from peftbench.report.tidy import tidy, write_parquet

WRONG = [None, "x", -1.5, [], {}, [[1]], "\ud800", float("nan"), True, 10**30]
STAGE = {
    "name": "dense", "steps": 10, "parameters": {"effective": 9}, "generalization": 100.0, "memorization": 100.0,
    "metrics": {"validation": {"accuracy": 0.8}}, "ranks": {"bert.encoder.layer.0.attention.self.query": 8},
}  # fmt: skip


@pytest.fixture
def record(write_run):
    """A good record's file, beside another run's."""
    scores = {split: {"accuracy": 0.8, "f1": 0.85} for split in ("validation", "test")}
    about = {"experiment": "sora_table1_small", "task": "mrpc", "protocol": "sora", "scores": scores}
    write_run(method="lora", **about)
    return write_run(method="sora", stages=[STAGE, STAGE], **about)


def paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    # One site's rank is as good as all 36.
    for key, below in itertools.islice(items, 1 if path[:1] == ("ranks",) and len(path) > 1 else None):
        yield from paths(below, (*path, key))


def put(file, record, path, value):
    changed = copy.deepcopy(record)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(changed))


def everything(outputs, folder):
    found = find([outputs])
    contents = make(found, found.runs)
    for _, text_of in WRITERS.values():
        text_of(contents.every_table).encode()
    write_parquet(tidy(found.runs, contents.budgets), folder / "tidy.parquet")
    write_page(found, folder / "report.html", "title", [], [])
    for kind in FIGURES.values():
        kind.rows(found.runs)
    return found


def test_no_wrong_value_anywhere_stops_a_report(record, outputs, tmp_path):
    good = json.loads(record.read_text())
    places = [path for path in paths(good) if path]
    assert len(places) > 100
    # Each place gets one of the wrong values, and the next place the next.
    for path, value in zip(places, itertools.cycle(WRONG), strict=False):
        put(record, good, path, value)
        try:
            found = everything(outputs, tmp_path)
        except Exception as error:
            raise AssertionError(f"{'.'.join(map(str, path))} = {value!r}") from error
        assert len(found.runs) + len(found.unreadable) == 2


@pytest.mark.parametrize("value", ["x", [1], 5, None])
def test_sections_that_are_no_mappings_stop_no_report(record, outputs, tmp_path, value):
    good = json.loads(record.read_text())
    for section in ("trainer", "task", "method", "optimizer"):
        put(record, good, ("config", section), value)
        everything(outputs, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("seed", "1", "seed is not a whole number"),
        ("seed", True, "seed is not a whole number"),
        ("parameters.effective", 1.5, "parameters.effective is not a count"),
        ("metrics.validation", 0.8, "metrics is not a mapping to a mapping to a number or null"),
        ("timing.epoch_median_s", "11", "timing.epoch_median_s is not a number or null"),
        ("config.experiment_name", "../../escaped", "config.experiment_name is not a name of letters"),
        ("config.experiment_name", "..", "config.experiment_name is not a name of letters"),
        ("config.experiment_name", "/tmp/x", "config.experiment_name is not a name of letters"),
    ],
)
def test_what_is_wrong_is_told(record, outputs, path, value, told):
    put(record, json.loads(record.read_text()), path.split("."), value)
    ((_, reason),) = find([outputs]).unreadable
    assert reason.startswith(told)


def test_what_an_old_record_lacks_is_no_mistake(record):
    good = json.loads(record.read_text())
    assert wrong_in(good) is None
    for key in ("environment", "memory", "ranks", "stages", "started", "form"):
        del good[key]
    assert wrong_in(good) is None


def test_nothing_is_written_outside(record, outputs, tmp_path):
    put(record, json.loads(record.read_text()), ("config", "experiment_name"), "../../escaped")
    from peftbench.report.verb import report

    report([str(outputs), f"to={tmp_path / 'a' / 'b'}"])
    assert not list(tmp_path.rglob("*escaped*"))


def test_control_characters_and_half_pairs_become_spaces(record, outputs):
    put(record, json.loads(record.read_text()), ("model", "name"), "a\r\x1b[31m\u202e\udc80b")
    assert "a  [31m  b" in {run.model for run in find([outputs]).runs}


def test_a_file_nested_without_end_is_no_record(record, outputs):
    record.write_text('{"status": ' + "[" * 200_000)
    assert [reason for _, reason in find([outputs]).unreadable] in (["nested too deeply"], ["not a JSON record"])
