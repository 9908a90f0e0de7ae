"""Submission files: names, labels, refusals, and that a failure leaves no half-written file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from peftbench.tasks.base import Split
from peftbench.tasks.submission import write_submission

BINARY = ["0", "1"]
PAIR = ["entailment", "not_entailment"]
THREE = ["entailment", "neutral", "contradiction"]
CLASS_SETS = {
    "cola": ("CoLA.tsv", BINARY),
    "sst2": ("SST-2.tsv", BINARY),
    "mrpc": ("MRPC.tsv", BINARY),
    "qqp": ("QQP.tsv", BINARY),
    "mnli_matched": ("MNLI-m.tsv", THREE),
    "mnli_mismatched": ("MNLI-mm.tsv", THREE),
    "qnli": ("QNLI.tsv", PAIR),
    "rte": ("RTE.tsv", PAIR),
    "wnli": ("WNLI.tsv", BINARY),
    "ax": ("AX.tsv", THREE),
}


@pytest.mark.parametrize("set_name", CLASS_SETS)
def test_a_class_set_is_written_as_glue_wants_it(tmp_path, set_name):
    file_name, labels = CLASS_SETS[set_name]
    path = write_submission(tmp_path, set_name, range(len(labels)))
    rows = "".join(f"{index}\t{label}\n" for index, label in enumerate(labels))
    assert path == tmp_path / file_name
    assert path.read_bytes() == b"index\tprediction\n" + rows.encode()


def test_similarities_are_clipped_and_have_three_decimals(tmp_path):
    path = write_submission(tmp_path, "stsb", [-0.2, -0.0, 2.34567, 5, 5.01, 1e9])
    assert path.name == "STS-B.tsv"
    written = [line.split("\t")[1] for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    assert written == ["0.000", "0.000", "2.346", "5.000", "5.000", "5.000"]


def test_a_prediction_that_names_no_class_is_written_as_the_first(tmp_path):
    path = write_submission(tmp_path, "rte", np.array([1, -1]))
    assert path.read_text(encoding="utf-8").endswith("0\tnot_entailment\n1\tentailment\n")


@pytest.mark.parametrize("values", [np.array([1, 0]), np.array([1.0, 0.0], dtype=np.float32), (1.0, 0), [True, False]])
def test_any_kind_of_whole_number_is_a_label(tmp_path, values):
    assert (
        write_submission(tmp_path, "rte", values)
        .read_text(encoding="utf-8")
        .endswith("0\tnot_entailment\n1\tentailment\n")
    )


@pytest.mark.parametrize(
    ("set_name", "predictions", "message"),
    [
        ("rte", [0, 2], "rte, row 1: a label must be a whole number from 0 to 1, but is 2"),
        ("ax", [3], "ax, row 0: a label must be a whole number from 0 to 2, but is 3"),
        ("ax", [-2], "ax, row 0: a label must be a whole number from 0 to 2, but is -2"),
        ("ax", [-0.5], "ax, row 0: a label must be a whole number from 0 to 2, but is -0.5"),
        ("cola", [0.5], "cola, row 0: a label must be a whole number from 0 to 1, but is 0.5"),
        ("cola", [float("nan")], "cola, row 0: a label must be a whole number from 0 to 1, but is nan"),
        ("cola", [float("inf")], "cola, row 0: a label must be a whole number from 0 to 1, but is inf"),
        ("stsb", [1.0, float("nan")], "stsb, row 1: a similarity must be finite, but the prediction is nan"),
        ("stsb", [float("inf")], "stsb, row 0: a similarity must be finite, but the prediction is inf"),
        ("qnli", ["entailment"], "qnli, row 0: prediction 'entailment' cannot be read as a number"),
        ("qnli", [None], "qnli, row 0: prediction None cannot be read as a number"),
        ("stsb", [10**400], f"stsb, row 0: prediction {10**400} cannot be read as a number"),
        ("qnli", [], "qnli: there are no predictions to write"),
        ("mnli", [0], "unknown test set 'mnli'; known test sets: cola, sst2, mrpc, stsb, qqp, mnli_matched, "
         "mnli_mismatched, qnli, rte, wnli, ax, boolq, cb, copa, multirc, record, superglue_rte, wic, wsc, axb, axg"),
        ("boolq", [0, 1], "boolq: a submission needs the idx of each of the 2 rows"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_in_one_sentence_and_writes_nothing(tmp_path, set_name, predictions, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        write_submission(tmp_path / "new", set_name, predictions)
    assert not list(tmp_path.iterdir())


def test_the_folder_is_made_and_an_older_file_replaced(tmp_path):
    folder = tmp_path / "a" / "b"
    write_submission(folder, "wnli", [0, 0, 0])
    path = write_submission(folder, "wnli", [1])
    assert path.read_text(encoding="utf-8") == "index\tprediction\n0\t1\n"
    assert list(folder.iterdir()) == [path]


def rows(idx):
    return Split("test", ([""] * len(idx),), None, "", {"idx": idx})


# What jiant's `super_glue_format_preds` and T5's evaluation script write.
@pytest.mark.parametrize(
    ("set_name", "file_name", "labels"),
    [
        ("boolq", "BoolQ.jsonl", ["false", "true"]),
        ("cb", "CB.jsonl", ["entailment", "contradiction", "neutral"]),
        ("copa", "COPA.jsonl", [0, 1]),
        ("superglue_rte", "RTE.jsonl", ["entailment", "not_entailment"]),
        ("wic", "WiC.jsonl", ["false", "true"]),
        ("wsc", "WSC.jsonl", ["False", "True"]),
        ("axb", "AX-b.jsonl", ["entailment", "not_entailment"]),
        ("axg", "AX-g.jsonl", ["entailment", "not_entailment"]),
    ],
)
def test_a_superglue_set_is_one_object_a_line_under_the_rows_own_idx(tmp_path, set_name, file_name, labels):
    predictions = np.array([*range(len(labels)), -1])
    path = write_submission(tmp_path, set_name, predictions, rows(list(range(7, 8 + len(labels)))))
    assert path == tmp_path / file_name
    expected = [{"idx": 7 + place, "label": label} for place, label in enumerate([*labels, labels[0]])]
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == expected


def test_multirc_nests_answers_in_questions_in_paragraphs(tmp_path):
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3), (1, 2, 4)]
    idx = [dict(zip(("paragraph", "question", "answer"), place, strict=True)) for place in places]
    path = write_submission(tmp_path, "multirc", np.array([1, 0, -1, 0, 1]), rows(idx))
    assert path.name == "MultiRC.jsonl"
    assert path.read_text(encoding="utf-8") == (
        '{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},'
        ' {"idx": 1, "answers": [{"idx": 2, "label": 0}]}]}}\n'
        '{"idx": 1, "passage": {"questions": [{"idx": 2, "answers": [{"idx": 3, "label": 0},'
        ' {"idx": 4, "label": 1}]}]}}\n'
    )


def test_record_writes_the_answer_under_the_querys_idx(tmp_path):
    split = rows([{"passage": 3, "query": 10}, {"passage": 3, "query": 11}])
    path = write_submission(tmp_path, "record", ["New York", "Caf\u00e9"], split)
    assert path.name == "ReCoRD.jsonl"
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"idx": 10, "label": "New York"},
        {"idx": 11, "label": "Caf\u00e9"},
    ]
    with pytest.raises(ValueError, match=r"^record, row 1: an answer must be a text, but is 1$"):
        write_submission(tmp_path, "record", ["a", 1], split)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_failure_keeps_the_older_file_and_leaves_no_temporary_one(tmp_path, monkeypatch, step, error):
    path = write_submission(tmp_path, "wnli", [0])
    before = path.read_bytes()
    original = Path.write_text

    def fail(self, *args, **kwargs):
        assert self.parent == tmp_path
        original(self, "half a li", encoding="utf-8")
        raise error

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(type(error)):
        write_submission(tmp_path, "wnli", [1])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_users_may_read_the_file_where_the_umask_lets_them(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    assert write_submission(tmp_path, "wnli", [0]).stat().st_mode == plain.stat().st_mode
