"""SuperGLUE's sample data: schema, labels that follow from the texts, and no way to solve it by counting words."""

import re
from collections import Counter

import pytest
from test_sample import digest, word_overlap

from peftbench.config import DataConfig
from peftbench.task_config import TaskConfig
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS
from peftbench.tasks.sample import SAMPLE_TASKS, sample_split

# The hub's columns, spelled out here rather than read from the package.
COLUMNS = {
    "boolq": {"question", "passage", "idx", "label"},
    "cb": {"premise", "hypothesis", "idx", "label"},
    "copa": {"premise", "choice1", "choice2", "question", "idx", "label"},
    "multirc": {"paragraph", "question", "answer", "idx", "label"},
    "record": {"passage", "query", "entities", "entity_spans", "answers", "idx"},
    "superglue_rte": {"premise", "hypothesis", "idx", "label"},
    "wic": {"word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "idx", "label"},
    "wsc": {"text", "span1_index", "span2_index", "span1_text", "span2_text", "idx", "label"},
    "axb": {"sentence1", "sentence2", "idx", "label"},
    "axg": {"premise", "hypothesis", "idx", "label"},
}
TRAINED = [task for task in COLUMNS if not task.startswith("ax")]
TEXT_PAIRS = {
    "boolq": ("question", "passage"),
    "cb": ("premise", "hypothesis"),
    "multirc": ("paragraph", "answer"),
    "superglue_rte": ("premise", "hypothesis"),
    "wic": ("sentence1", "sentence2"),
}


def splits(task):
    return ["test"] if task.startswith("ax") else ["train", "validation", "test"]


def texts(task, split):
    data = sample_split(task, split)
    columns = [values for values in data.values() if isinstance(values[0], str)]
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("task", COLUMNS)
def test_columns_are_the_hubs(task):
    assert task in SAMPLE_TASKS
    for split in splits(task):
        data = sample_split(task, split)
        assert set(data) == COLUMNS[task]
        assert len({len(values) for values in data.values()}) == 1


@pytest.mark.parametrize("task", COLUMNS)
def test_no_row_is_repeated_within_or_across_splits(task):
    rows = [row for split in splits(task) for row in texts(task, split)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("task", COLUMNS)
def test_texts_are_clean(task):
    for text in (text for split in splits(task) for row in texts(task, split) for text in row):
        assert re.fullmatch(r"[\w ,;.'?@\n-]+", text), text
        assert "  " not in text, text
        assert text == text.strip(), text


@pytest.mark.parametrize("task", [task for task in TRAINED if task != "record"])
def test_labels_are_balanced_and_hidden_in_the_test_set(task):
    labels = Counter(sample_split(task, "train")["label"])
    classes = len(TASKS[task].labels)
    assert set(labels) == set(range(classes))
    # MultiRC has fewer right answers than wrong ones, as the benchmark has.
    margin = 0.13 if task == "multirc" else 0.04
    assert all(count / labels.total() == pytest.approx(1 / classes, abs=margin) for count in labels.values())
    assert set(sample_split(task, "test")["label"]) == {-1}


@pytest.mark.parametrize("task", ["axb", "axg"])
def test_diagnostic_labels_are_public(task):
    assert set(sample_split(task, "test")["label"]) == {0, 1}


@pytest.mark.parametrize("task", TRAINED)
def test_the_sample_is_loaded_as_the_task(task):
    data = load_task(TASKS[task], TaskConfig(task), DataConfig("sample"), submission=True)
    assert data.provenance["kind"] == "sample"
    assert data.train.labels is not None
    assert data.hidden[task].labels is None
    assert len(data.train) == data.train.source_rows


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("record", "4ffb618012d4174317e0a248e115e2425d42c4dded1c1d9cb5bd30cc1f3420b3"),
        ("wic", "8a94703f646ad45cd81ba7a0cf9dcaf0c6dbd6f55d5d3dd7a404408c6b8640a2"),
    ],
)
def test_content_is_pinned(task, expected):
    assert digest(task, "train") == expected


def overlap_accuracy(task):
    """Of the majority label per tenth of the training overlaps."""
    one, two = TEXT_PAIRS[task]

    def overlaps(split):
        data = sample_split(task, split)
        return [word_overlap(*pair) for pair in zip(data[one], data[two], strict=True)], data["label"]

    train, labels = overlaps("train")
    cuts = [sorted(train)[len(train) * tenth // 10] for tenth in range(1, 10)]
    votes: dict[int, Counter] = {}
    for overlap, label in zip(train, labels, strict=True):
        votes.setdefault(sum(overlap >= cut for cut in cuts), Counter())[label] += 1
    found, truth = overlaps("validation")
    guesses = [votes[sum(overlap >= cut for cut in cuts)].most_common(1)[0][0] for overlap in found]
    return sum(guess == label for guess, label in zip(guesses, truth, strict=True)) / len(truth)


@pytest.mark.parametrize("task", TEXT_PAIRS)
def test_word_overlap_does_not_solve_it(task):
    assert overlap_accuracy(task) <= 0.75


def test_the_alternative_nearer_in_words_is_not_the_right_one_more_often():
    data = sample_split("copa", "train")
    near = [
        word_overlap(premise, second) > word_overlap(premise, first)
        for premise, first, second in zip(data["premise"], data["choice1"], data["choice2"], strict=True)
    ]
    assert sum(map(int.__eq__, map(int, near), data["label"])) / len(near) <= 0.65


def test_wic_marks_the_word_in_both_sentences():
    data = sample_split("wic", "train")
    for number in "12":
        columns = (data[f"{name}{number}"] for name in ("sentence", "start", "end"))
        for word, sentence, start, end in zip(data["word"], *columns, strict=True):
            assert sentence[start:end] == word


def test_wsc_numbers_the_words_of_its_spans():
    data = sample_split("wsc", "train")
    for row, text in enumerate(data["text"]):
        words = text.split()
        for number in "12":
            span, place = data[f"span{number}_text"][row], data[f"span{number}_index"][row]
            assert " ".join(words[place : place + len(span.split())]) == span


def test_records_answers_are_entities_of_the_passage_and_its_spans_theirs():
    data = sample_split("record", "train")
    for passage, query, entities, spans, answers in zip(
        *(data[name] for name in ("passage", "query", "entities", "entity_spans", "answers")), strict=True
    ):
        assert query.count("@placeholder") == 1
        assert set(answers) <= set(entities) == set(spans["text"])
        assert not any(answer in query for answer in answers)
        for text, start, end in zip(spans["text"], spans["start"], spans["end"], strict=True):
            assert passage[start:end] == text


def test_multirc_questions_have_right_and_wrong_answers_and_numbers_of_their_own():
    data = sample_split("multirc", "train")
    found: dict[tuple, set] = {}
    for place, (idx, paragraph, question, label) in enumerate(
        zip(data["idx"], data["paragraph"], data["question"], data["label"], strict=True)
    ):
        assert idx["answer"] == place
        found.setdefault((idx["paragraph"], paragraph, idx["question"], question), set()).add(label)
    assert len({key[2] for key in found}) == len(found)
    assert all(labels == {0, 1} for labels in found.values())


def test_winogenders_pairs_differ_in_the_pronoun_only():
    data = sample_split("axg", "test")
    for row in range(0, len(data["idx"]), 2):
        first, second = data["premise"][row : row + 2]
        assert first.replace(" he ", " she ") == second
        assert data["hypothesis"][row] == data["hypothesis"][row + 1]
        assert data["label"][row] == data["label"][row + 1]
