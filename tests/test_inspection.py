"""`peftbench inspect` on tasks whose examples are not their rows, with and without their data."""

import math
import re

import pytest
from conftest import SHARED

from peftbench import cli

BRIEF = ["task.max_length=64", "task.max_target_length=32", "task.max_new_tokens=32"]
real_data = pytest.mark.skipif(not (SHARED / "data" / "webnlg").is_dir(), reason="real data is not beside it")


@pytest.fixture
def inspect(capsys, tiny_folder_of):
    """Family and overrides -> exit status, standard output in one line, lines of standard error."""

    def call(family, *words):
        line = ["inspect", f"model.path={tiny_folder_of(family)}", "method=lora", "preset=none", *words]
        status = cli.exit_status(line)
        out, err = capsys.readouterr()
        return status, re.sub(r"[│\s]+", " ", out), err.splitlines()

    return call


def told(out, name):
    """The number beside a name in a table."""
    return int(re.search(rf" {re.escape(name)} ([\d,]+) ", out)[1].replace(",", ""))


@real_data
@pytest.mark.parametrize(
    ("family", "task", "rows", "examples"),
    [("t5", "wsc", 554, 259), ("bert", "wsc", 554, 554), ("gpt2", "webnlg", 18025, 18025), ("t5", "boolq", 9427, 9427)],
)
def test_steps_are_of_examples(family, task, rows, examples, inspect):
    where = ["data=folder", f"data.root={SHARED / 'data'}", "trainer.batch_size=16"]
    status, out, _ = inspect(family, f"task={task}", *where, *(BRIEF if task == "webnlg" else []), "trainer.epochs=3")
    assert status == 0
    assert told(out, "training rows") == rows
    assert told(out, "training examples") == examples
    assert told(out, "train") == 3 * math.ceil(examples / 16)


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("gpt2", ["task=lm", "data=sample"]),
        ("t5", ["task=wsc", "data=hub"]),
        ("gpt2", ["task=webnlg", "data=hub", *BRIEF]),
    ],
)  # fmt: skip
def test_steps_that_are_not_known_are_left_out(family, words, inspect):
    status, out, _ = inspect(family, *words)
    assert status == 0
    assert "not known before they are read and tokenised, and so are the steps" in out
    assert "stage" not in out
    status, out, _ = inspect(family, *words, "trainer.max_steps=7")
    assert told(out, "train") == 7


def test_a_corpus_of_unknown_size_that_cannot_be_read_is_one_line(inspect):
    status, out, (line,) = inspect("gpt2", "task=lm", "task.corpus=wikitext103_raw", "data=hub")
    assert (status, out) == (2, "")
    assert "cannot load Salesforce/wikitext from the hub" in line


def test_memory_counts_targets_and_candidates(inspect):
    assert "8 rows of 97 tokens)" in inspect(
        "gpt2", "task=e2e", "data=sample", *BRIEF, "task.max_new_tokens=24", "trainer.batch_size=8"
    )[1]  # fmt: skip
    assert "8 rows of 64 tokens and 2 candidates)" in inspect(
        "bert", "task=copa", "data=hub", "task.max_length=64", "trainer.batch_size=8"
    )[1]  # fmt: skip
    one, two = (
        inspect("bert", f"task={task}", "data=sample", "task.max_length=128", "trainer.batch_size=512")[1]
        for task in ("cb", "copa")
    )
    assert told(two, "activations") == pytest.approx(2 * told(one, "activations"), abs=1)


def test_no_example_is_refused_as_a_run_would(inspect):
    status, out, (line,) = inspect("t5", "task=wsc", "data=sample", "data.max_train_rows=1")
    assert (status, out) == (2, "")
    assert "none of the 1 training rows gives an example to train on" in line
