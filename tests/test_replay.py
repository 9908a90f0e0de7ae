"""`peftbench replay`: the same run again, told apart from another."""

import json

import pytest
from test_experiment import run

from peftbench import cli
from peftbench.durable import write_text
from peftbench.replay import Number, judged, numbers


@pytest.fixture
def recorded(tiny_run):
    return run(tiny_run, "method=sora", "sparsity.lambda=60")


def changed(path, change):
    record = json.loads((path / "record.json").read_text())
    change(record)
    write_text(path / "record.json", json.dumps(record))


def test_a_replay_says_the_same_to_the_bit(recorded, tmp_path, capsys):
    record, path = recorded
    for _ in range(2):  # A second replay takes the place of the first.
        capsys.readouterr()
        assert cli.exit_status(["replay", str(path), f"outputs={tmp_path / 'again'}"]) == 0
        shown = capsys.readouterr()
        assert "mrpc · sora · identical" in shown.out
        assert "warning" not in shown.err
    (file,) = tmp_path.glob("again/replay/*/*/record.json")
    again = json.loads(file.read_text())
    assert again["run_id"] == record["run_id"]
    assert again["metrics"] == record["metrics"]
    assert again["ranks"] == record["ranks"]


def test_another_score_and_another_machine_are_told(recorded, tmp_path, capsys):
    _, path = recorded

    def other(record):
        record["metrics"]["validation"]["accuracy"] += 0.25
        record["environment"]["versions"]["torch"] = "1.0"

    changed(path, other)
    assert cli.exit_status(["replay", str(path / "record.json"), f"outputs={tmp_path / 'again'}"]) == 1
    shown = capsys.readouterr()
    assert "different" in shown.out
    assert "0.25" in shown.out
    assert "versions.torch: 1.0 then," in shown.err


def test_what_makes_it_another_run_is_refused(recorded, tmp_path, capsys):
    _, path = recorded
    for word, told in {
        "seed=4": "this is not run",
        "data.max_train_rows=9": "other rows of train",
        "trainer.epoch=4": "trainer.epoch",
        "experiment_name=mine": "a replay's is replay",
        "more": "expected key=value",
    }.items():
        assert cli.exit_status(["replay", str(path), f"outputs={tmp_path / 'again'}", word]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert told in line
    assert not list(tmp_path.glob("again/**/record.json"))


def test_no_record_and_a_failed_one_are_refused(recorded, tmp_path, capsys):
    _, path = recorded
    assert cli.exit_status(["replay"]) == 2
    assert cli.exit_status(["replay", str(tmp_path / "nothing.json")]) == 2
    changed(path, lambda record: record.update(status="failed"))
    assert cli.exit_status(["replay", str(path)]) == 2
    assert "is failed, not completed" in capsys.readouterr().err


def test_a_replay_is_not_replayed_onto_itself(recorded, tmp_path, capsys):
    _, path = recorded
    words = [f"outputs={tmp_path / 'again'}"]
    assert cli.exit_status(["replay", str(path), *words]) == 0
    (file,) = tmp_path.glob("again/replay/**/record.json")
    before = file.read_bytes()
    for place in (file, file.parent):
        assert cli.exit_status(["replay", str(place), *words]) == 2
        assert "is a replay itself" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert (file.parent / "adapter").is_dir()


@pytest.mark.parametrize(("verb", "runs"), [("replay", 1), ("mixed", 2)])
def test_half_a_record_is_one_line(verb, runs, tiny_run, capsys):
    record, folder = run(tiny_run, "method=prompt_tuning")  # Which can be mixed.
    capsys.readouterr()
    for lacking in ("config", "data", "metrics", "selection", "model", "run_id", "status"):
        write_text(folder / "record.json", json.dumps({key: record[key] for key in record if key != lacking}))
        assert cli.exit_status([verb, *[str(folder)] * runs]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        told = "is no record" if lacking == "status" else f"has no {lacking}"
        assert line.startswith(f"peftbench: error: {verb}: ")
        assert told in line


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([("validation f1", 0.5, 0.5), ("ranks left", 3, 3)], "identical"),
        ([("validation f1", 0.5, 0.5004), ("ranks left", 3, 4)], "equal to 0.0004, other ranks left"),
        ([("validation f1", 0.5, 0.502)], "different"),
        ([("validation f1", None, 0.5)], "different"),
        ([("validation f1", None, None)], "identical"),
        ([("validation ter", None, None), ("validation f1", 0.5, 0.5004)], "equal to 0.0004"),
    ],
)
def test_the_verdict(pairs, verdict):
    assert judged([Number(*pair) for pair in pairs]) == verdict


def test_scores_of_stages_and_of_the_untrained_model_are_compared():
    def record(value):
        scores = {"validation": {"f1": value}}
        return {
            "metrics": {}, "untrained": scores, "stages": [{"metrics": scores}], "selection": {"step": 1},
            "parameters": {"trained": 1, "effective": 1},
        }  # fmt: skip

    found = [number for number in numbers(record(0.5), record(0.75)) if number.recorded != number.replayed]
    assert [number.what for number in found] == ["untrained validation f1", "stage 1 validation f1"]
