"""Split protocols: which rows train, select and are scored, against the permutations computed here."""

import datasets
import numpy as np
import pytest
import torch
from conftest import SHARED
from glue_folder import DEV, TEXTS, rows, write, write_task

from peftbench.compose import compose_run
from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError
from peftbench.task_config import TaskConfig
from peftbench.tasks.protocols import load_task, memorization_rows
from peftbench.tasks.registry import TASKS

HALVED = ["cola", "mrpc", "rte", "stsb", "wnli"]
HELD_OUT = ["sst2", "qnli", "qqp"]


def load(root, task, protocol="glue_dev", submission=False, max_train_rows=None, **settings):
    data = DataConfig("folder", str(root), max_train_rows)
    return load_task(TASKS[task], TaskConfig(task, protocol=protocol, **settings), data, submission)


def lines(split) -> list[tuple]:
    """Rows as tuples of texts and label."""
    labels = [None] * len(split) if split.labels is None else split.labels.tolist()
    return list(zip(*split.texts, labels, strict=True))


def official(task, split, count) -> list[tuple]:
    columns = rows(task, split, count)
    labels = np.asarray(columns["label"], np.float32).tolist() if task == "stsb" else columns["label"]
    return list(zip(*(columns[name] for name in TEXTS[task]), labels, strict=True))


def torch_permutation(count) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(42)).tolist()


@pytest.mark.parametrize("task", [task for task in TEXTS if task != "ax"])
def test_glue_dev_trains_on_train_and_scores_the_official_dev_sets(tmp_path, task):
    data = load(write_task(tmp_path, task), task)
    assert lines(data.train) == official(task, "train", 40)
    assert {name: lines(split) for name, split in data.evaluations.items()} == {
        name: official(task, name, 12) for name in DEV[task]
    }
    assert data.selection_split == DEV[task][0]
    assert data.hidden == {}
    assert data.provenance["protocol"] == "glue_dev"


@pytest.mark.parametrize("task", HALVED)
@pytest.mark.parametrize("count", [12, 13])
def test_sora_halves_the_dev_set_by_torchs_permutation_with_seed_42(tmp_path, task, count):
    data = load(write_task(tmp_path, task, dev=count), task, "sora")
    dev, order = official(task, "validation", count), torch_permutation(count)
    validation, test = lines(data.evaluations["validation"]), lines(data.evaluations["test"])
    assert validation == [dev[i] for i in order[: count // 2]]
    assert test == [dev[i] for i in order[count // 2 :]]
    assert list(data.evaluations) == ["validation", "test"]
    assert not set(validation) & set(test)
    assert set(validation) | set(test) == set(dev)
    assert lines(data.train) == official(task, "train", 40)
    assert data.provenance["protocol"] == "sora"


def test_sora_halves_both_of_mnlis_dev_sets(tmp_path):
    data = load(write_task(tmp_path, "mnli", dev=13), "mnli", "sora")
    assert list(data.evaluations) == ["validation_matched", "validation_mismatched", "test_matched", "test_mismatched"]
    for kind in ("matched", "mismatched"):
        dev, order = official("mnli", f"validation_{kind}", 13), torch_permutation(13)
        assert lines(data.evaluations[f"validation_{kind}"]) == [dev[i] for i in order[:6]]
        assert lines(data.evaluations[f"test_{kind}"]) == [dev[i] for i in order[6:]]


@pytest.mark.parametrize("task", HELD_OUT)
def test_sora_holds_out_a_thousand_training_rows_and_tests_on_the_dev_set(tmp_path, task):
    data = load(write_task(tmp_path, task, train=1203), task, "sora")
    train, order = official(task, "train", 1203), torch_permutation(1203)
    assert lines(data.evaluations["validation"]) == [train[i] for i in order[:1000]]
    assert lines(data.train) == [train[i] for i in order[1000:]]
    assert lines(data.evaluations["test"]) == official(task, "validation", 12)
    assert list(data.evaluations) == ["validation", "test"]
    assert not set(lines(data.train)) & set(lines(data.evaluations["validation"]))


@pytest.mark.parametrize("count", [999, 1000])
def test_sora_needs_more_training_rows_than_it_holds_out(tmp_path, count):
    write_task(tmp_path, "sst2", train=count)
    with pytest.raises(ConfigurationError, match=rf"holds out 1000 of sst2's training rows; only {count}"):
        load(tmp_path, "sst2", "sora")


def test_the_memorization_rows_are_those_of_the_datasets_library():
    table = datasets.Dataset.from_dict({"row": list(range(3000))})
    expected = table.shuffle(seed=42).select(range(1000))["row"]
    assert memorization_rows(3000).tolist() == list(expected)
    assert sorted(memorization_rows(300).tolist()) == list(range(300))


@pytest.mark.parametrize("protocol", ["glue_dev", "sora"])
def test_the_memorization_set_is_a_thousand_rows_that_are_trained_on(tmp_path, protocol):
    data = load(write_task(tmp_path, "qnli", train=3000), "qnli", protocol)
    trained = lines(data.train)
    assert len(data.memorization) == 1000
    assert lines(data.memorization) == [trained[i] for i in memorization_rows(len(trained))]
    assert set(lines(data.memorization)) <= set(trained)


def test_a_limited_training_set_is_memorised_from_too(tmp_path):
    data = load(write_task(tmp_path, "mrpc", train=200), "mrpc", max_train_rows=50)
    assert sorted(lines(data.memorization)) == sorted(lines(data.train))


def test_max_train_rows_takes_a_fixed_random_subset_in_order(tmp_path):
    write_task(tmp_path, "mrpc", train=200)
    whole = official("mrpc", "train", 200)
    taken = lines(load(tmp_path, "mrpc", max_train_rows=30).train)
    positions = [whole.index(row) for row in taken]
    assert len(set(positions)) == 30
    assert positions == sorted(positions)
    assert positions[-1] > 100  # Drawn from all of it, not its beginning.
    np.random.seed(7)  # Global state is nothing to it.
    torch.manual_seed(7)
    assert lines(load(tmp_path, "mrpc", max_train_rows=30).train) == taken


def test_smaller_subsets_lie_within_larger_ones(tmp_path):
    write_task(tmp_path, "mrpc", train=200)
    small, large = (set(lines(load(tmp_path, "mrpc", max_train_rows=n).train)) for n in (20, 60))
    assert small < large


def test_max_train_rows_is_the_same_for_every_seed_of_a_run(tmp_path):
    write_task(tmp_path, "mrpc", train=200)
    prints = set()
    for seed in (0, 1, 42):
        where = ["data=folder", f"data.root={tmp_path}", "data.max_train_rows=30", f"seed={seed}"]
        config = compose_run(where)
        prints.add(load_task(TASKS["mrpc"], config.task, config.data).train.fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("limit", [200, 201, None])
def test_max_train_rows_beyond_the_rows_changes_nothing(tmp_path, limit):
    data = load(write_task(tmp_path, "mrpc", train=200), "mrpc", max_train_rows=limit)
    assert lines(data.train) == official("mrpc", "train", 200)
    assert not [note for note in data.provenance["notes"] if "limited" in note]


def test_max_train_rows_limits_what_the_sora_protocol_leaves(tmp_path):
    data = load(write_task(tmp_path, "sst2", train=1203), "sst2", "sora", max_train_rows=100)
    assert len(data.train) == 100
    assert len(data.evaluations["validation"]) == 1000
    assert not set(lines(data.train)) & set(lines(data.evaluations["validation"]))


def test_fewer_rows_than_the_official_release_are_partial(tmp_path):
    provenance = load(write_task(tmp_path, "mrpc"), "mrpc").provenance
    assert provenance["kind"] == "partial"
    assert provenance["notes"] == [
        "train has 40 rows, the official release 3668",
        "validation has 12 rows, the official release 408",
    ]


def test_the_official_rows_are_the_benchmark(tmp_path):
    write_task(tmp_path, "wnli", train=635, dev=71)
    assert load(tmp_path, "wnli").provenance["kind"] == "benchmark"
    assert load(tmp_path, "wnli", "sora").provenance["kind"] == "benchmark"
    assert load(tmp_path, "wnli").provenance["notes"] == []


def test_submission_and_extra_sets_are_held_against_their_own_rows(tmp_path):
    write_task(tmp_path, "wnli", train=635, dev=71)
    assert load(tmp_path, "wnli", submission=True).provenance["notes"] == ["test has 6 rows, the official release 146"]
    write(tmp_path, "wnli", "test", rows("wnli", "test", 146))
    assert load(tmp_path, "wnli", submission=True).provenance["kind"] == "benchmark"
    write_task(tmp_path, "mnli")
    write_task(tmp_path, "ax")
    provenance = load(tmp_path, "mnli").provenance
    assert provenance["notes"][-1] == "ax has 6 rows, the official release 1104"
    write(tmp_path, "ax", "test", rows("ax", "test", 1104))
    assert not [note for note in load(tmp_path, "mnli").provenance["notes"] if note.startswith("ax")]


def test_one_row_too_many_or_a_limit_is_partial_again(tmp_path):
    write_task(tmp_path, "wnli", train=635, dev=71)
    limited = load(tmp_path, "wnli", max_train_rows=634).provenance
    assert (limited["kind"], limited["notes"]) == ("partial", ["train limited to 634 rows"])
    write(tmp_path, "wnli", "validation", rows("wnli", "validation", 72))
    assert load(tmp_path, "wnli").provenance["kind"] == "partial"


WRITTEN = [name for name, spec in TASKS.items() if spec.kind in ("generate", "lm")]
MIXED = [name for name, spec in TASKS.items() if spec.members]
UNDER_EVERY_PROTOCOL = [
    *((name, protocol) for name in TASKS if name not in (*WRITTEN, *MIXED) for protocol in ("glue_dev", "sora")),
    *((name, "official") for name in WRITTEN),
]


@pytest.mark.parametrize(("task", "protocol"), UNDER_EVERY_PROTOCOL)
def test_the_sample_serves_every_task_and_says_that_it_is_a_sample(task, protocol):
    data = load_task(TASKS[task], TaskConfig(task, protocol=protocol), DataConfig("sample"), submission=True)
    assert (data.provenance["kind"], data.provenance["source"]) == ("sample", "sample")
    assert not [note for note in data.provenance["notes"] if "official" in note]
    if task in WRITTEN:
        assert list(data.evaluations) == ["validation", "test"]
        assert not data.hidden
    else:
        assert all(split.labels is not None for split in data.evaluations.values())
        assert data.hidden


def test_provenance_names_every_split_that_is_read(tmp_path):
    write_task(tmp_path, "mnli")
    write_task(tmp_path, "ax")
    data = load(tmp_path, "mnli", submission=True)
    assert {name: split["rows"] for name, split in data.provenance["splits"].items()} == {
        "train": 40, "validation_matched": 12, "validation_mismatched": 12,
        "submission test_matched": 6, "submission test_mismatched": 6, "submission ax": 6,
    }  # fmt: skip
    assert data.provenance["splits"]["train"]["fingerprint"] == data.train.fingerprint


def test_ax_is_predicted_with_mnli_and_scored_only_where_it_has_labels(tmp_path):
    write_task(tmp_path, "mnli")
    assert load(tmp_path, "mnli").provenance["notes"][-1] == "ax: not in this source, so not evaluated"
    write_task(tmp_path, "ax")
    hidden = load(tmp_path, "mnli")
    assert "ax" not in hidden.evaluations
    assert set(hidden.hidden) == {"ax"}
    write(tmp_path, "ax", "test", rows("ax", "test", 6) | {"label": [0, 1, 2, 0, 1, 2]})
    labelled = load(tmp_path, "mnli")
    assert list(labelled.evaluations) == ["validation_matched", "validation_mismatched", "ax"]
    assert labelled.selection_split == "validation_matched"


@pytest.mark.parametrize(
    ("task", "sets"), [("mrpc", {"mrpc"}), ("stsb", {"stsb"}), ("mnli", {"mnli_matched", "mnli_mismatched", "ax"})]
)
def test_a_submission_reads_the_hidden_test_sets(tmp_path, task, sets):
    write_task(tmp_path, task)
    write_task(tmp_path, "ax")
    assert set(load(tmp_path, task, submission=True).hidden) == sets
    assert {len(split) for split in load(tmp_path, task, submission=True).hidden.values()} == {6}


@pytest.mark.parametrize("lost", ["train", "validation_mismatched", "test_matched"])
def test_a_missing_split_is_named_with_its_file(tmp_path, lost):
    write_task(tmp_path, "mnli")
    file = tmp_path / "glue" / "mnli" / f"{lost}.parquet"
    file.unlink()
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, "mnli", submission=True)
    assert str(caught.value) == f"glue/mnli: no {lost} split at {file}"


def test_test_sets_are_needed_for_submissions_only(tmp_path):
    write_task(tmp_path, "mrpc")
    (tmp_path / "glue" / "mrpc" / "test.parquet").unlink()
    assert load(tmp_path, "mrpc").hidden == {}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_training_and_selecting_need_labels(tmp_path, split):
    write_task(tmp_path, "mrpc")
    write(tmp_path, "mrpc", split, rows("mrpc", split, 5) | {"label": [-1] * 5})
    with pytest.raises(ConfigurationError, match=rf"^glue/mrpc {split} \(folder\): every label is hidden"):
        load(tmp_path, "mrpc")


def test_another_split_can_select(tmp_path):
    write_task(tmp_path, "mnli")
    data = load(tmp_path, "mnli", selection_split="validation_mismatched")
    assert data.selection_split == "validation_mismatched"
    assert set(data.evaluations) == {"validation_matched", "validation_mismatched"}


@pytest.mark.parametrize(
    ("protocol", "split", "complaint"),
    [
        ("glue_dev", "validaton", r"'validaton' is not one of validation \(protocol glue_dev\)"),
        ("glue_dev", "test", r"'test' is not one of validation"),
        ("sora", "test", r"'test' is a test split; select on validation"),
    ],
)
def test_a_test_half_never_selects(tmp_path, protocol, split, complaint):
    write_task(tmp_path, "mrpc")
    with pytest.raises(ConfigurationError, match=rf"^task\.selection_split: {complaint}"):
        load(tmp_path, "mrpc", protocol, selection_split=split)


real_data = pytest.mark.skipif(
    not (SHARED / "data" / "glue").is_dir(), reason="real GLUE data is not beside this checkout"
)


@real_data
@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "sst2", "stsb"])
def test_the_real_data_is_the_benchmark(task):
    provenance = load(SHARED / "data", task).provenance
    assert (provenance["kind"], provenance["notes"]) == ("benchmark", [])


@real_data
@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        ("cola", (8551, 521, 522)),
        ("mrpc", (3668, 204, 204)),
        ("rte", (2490, 138, 139)),
        ("stsb", (5749, 750, 750)),
        ("sst2", (66349, 1000, 872)),
    ],
)
def test_the_sora_protocol_has_the_papers_sizes_on_real_data(task, sizes):
    data = load(SHARED / "data", task, "sora")
    assert (len(data.train), len(data.evaluations["validation"]), len(data.evaluations["test"])) == sizes
