"""The built-in sample data: schema, determinism, labels, and no way to solve it by counting words."""

import hashlib
import json
import re
from collections import Counter

import pytest
from glue_folder import TEXTS

from peftbench.tasks.sample import SAMPLE_TASKS, sample_split

USUAL_SPLITS = {"train": 2000, "validation": 400, "test": 400}
SPLITS = dict.fromkeys(TEXTS, USUAL_SPLITS) | {
    "mnli": {
        "train": 2000,
        "validation_matched": 400,
        "validation_mismatched": 400,
        "test_matched": 400,
        "test_mismatched": 400,
    },
    "wnli": {"train": 400, "validation": 80, "test": 80},
    "ax": {"test": 400},
}
EVERY_SPLIT = [(task, split) for task, splits in SPLITS.items() for split in splits]
# The share of label 1 in the two tasks that are not balanced on the hub either.
SKEWED = {"cola": 0.70, "mrpc": 0.67}


def rows_of(task: str, split: str) -> list[tuple[str, ...]]:
    data = sample_split(task, split)
    return list(zip(*(data[column] for column in TEXTS[task]), strict=True))


def digest(task: str, split: str) -> str:
    return hashlib.sha256(json.dumps(sample_split(task, split)).encode()).hexdigest()


def test_every_task_of_glue_has_a_sample():
    assert set(TEXTS) <= set(SAMPLE_TASKS)


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_schema_and_sizes(task, split):
    data = sample_split(task, split)
    size = SPLITS[task][split]
    assert list(data) == [*TEXTS[task], "label", "idx"]
    assert {len(values) for values in data.values()} == {size}
    assert data["idx"] == list(range(size))
    assert {type(label) for label in data["label"]} == {float if task == "stsb" else int}


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_texts_are_sentences_of_natural_length(task, split):
    for text in (text for row in rows_of(task, split) for text in row):
        assert 8 <= len(text.split()) <= 30, text
        assert re.fullmatch(r"[A-Z0-9][\w ,;.'-]*[.?]", text), text
        assert "  " not in text, text


@pytest.mark.parametrize(
    ("task", "split", "expected"),
    [
        ("mrpc", "train", "0dd0e9022d418f4516719aac4f9db3b9174105b357d2b5b9d3b3d2527e47d2d3"),
        ("mnli", "validation_mismatched", "433bb569027214a1a9ca1bd3b7a72cd5dde13a31d6df8bdef687aeadf0d4bd06"),
    ],
)
def test_content_is_pinned(task, split, expected):
    assert digest(task, split) == expected


def test_calls_do_not_share_lists():
    sample_split("sst2", "train")["label"][0] = 99
    assert 99 not in sample_split("sst2", "train")["label"]


@pytest.mark.parametrize("task", [task for task in TEXTS if task not in ("stsb", "ax")])
def test_train_labels_are_in_range_and_balanced(task):
    labels = Counter(sample_split(task, "train")["label"])
    size = sum(labels.values())
    assert set(labels) == ({0, 1, 2} if task == "mnli" else {0, 1})
    if task in SKEWED:
        assert labels[1] / size == pytest.approx(SKEWED[task], abs=0.03)
    else:
        assert all(count / size == pytest.approx(1 / len(labels), abs=0.03) for count in labels.values())


def test_similarity_scores_are_graded_from_zero_to_five():
    scores = sample_split("stsb", "train")["label"]
    assert all(score == round(score * 5) / 5 for score in scores)
    assert (min(scores), max(scores)) == (0.0, 5.0)
    assert len(set(scores)) == 26


@pytest.mark.parametrize(("task", "split"), [pair for pair in EVERY_SPLIT if pair[1].startswith("test")])
def test_test_labels_are_hidden_but_for_mrpc(task, split):
    labels = set(sample_split(task, split)["label"])
    assert labels == ({0, 1} if task == "mrpc" else {-1.0} if task == "stsb" else {-1})


@pytest.mark.parametrize("task", TEXTS)
def test_no_row_is_repeated_within_or_across_splits(task):
    rows = [row for split in SPLITS[task] for row in rows_of(task, split)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("task", [task for task in TEXTS if len(TEXTS[task]) == 2])
def test_no_pair_repeats_one_text(task):
    assert all(one != two for split in SPLITS[task] for one, two in rows_of(task, split))


def word_overlap(one: str, two: str) -> float:
    first, second = (set(re.findall(r"\w+", text.lower())) for text in (one, two))
    return len(first & second) / len(first | second)


def overlap_accuracy(task: str, validation: str) -> float:
    """Accuracy of the majority label per tenth of the train overlaps, which no single threshold beats by much."""
    train = [word_overlap(*row) for row in rows_of(task, "train")]
    cuts = [sorted(train)[len(train) * tenth // 10] for tenth in range(1, 10)]

    def tenth_of(overlap: float) -> int:
        return sum(overlap >= cut for cut in cuts)

    labels: dict[int, Counter] = {}
    for overlap, label in zip(train, sample_split(task, "train")["label"], strict=True):
        labels.setdefault(tenth_of(overlap), Counter())[label] += 1
    majority = {tenth: counts.most_common(1)[0][0] for tenth, counts in labels.items()}
    guesses = [majority[tenth_of(word_overlap(*row))] for row in rows_of(task, validation)]
    truth = sample_split(task, validation)["label"]
    return sum(guess == label for guess, label in zip(guesses, truth, strict=True)) / len(truth)


@pytest.mark.parametrize("task", ["mrpc", "qqp", "mnli", "rte", "qnli", "wnli"])
def test_word_overlap_does_not_solve_it(task):
    assert overlap_accuracy(task, "validation_matched" if task == "mnli" else "validation") <= 0.75


def test_mismatched_premises_come_from_another_genre():
    def vocabulary(split: str) -> Counter:
        return Counter(word for row in rows_of("mnli", split) for text in row for word in text.split())

    train = vocabulary("train")

    def unknown_share(split: str) -> float:
        words = vocabulary(split)
        return sum(count for word, count in words.items() if word not in train) / sum(words.values())

    assert unknown_share("validation_matched") < 0.02
    assert unknown_share("validation_mismatched") > 0.3


def test_unknown_task_names_the_known_ones():
    with pytest.raises(KeyError, match=r"'cols'.*cola, sst2"):
        sample_split("cols", "train")


@pytest.mark.parametrize(("task", "split", "known"), [("ax", "train", "test"), ("mnli", "validation", "_mismatched")])
def test_unknown_split_names_the_known_ones(task, split, known):
    with pytest.raises(KeyError, match=known):
        sample_split(task, split)
