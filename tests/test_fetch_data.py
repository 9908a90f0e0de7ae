"""`peftbench fetch data <task>`: the hub's splits in a folder, each whole or not at all. The hub is a fake here."""

import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from glue_folder import rows
from tasks.test_generation import entry

from peftbench import cli
from peftbench.config import DataConfig
from peftbench.errors import HubUnreachableError
from peftbench.fetch.data import data_lines
from peftbench.tasks import sources
from peftbench.tasks.registry import TASKS
from peftbench.tasks.sample import sample_split
from peftbench.tasks.sources import HUB, load_split, open_source

MISSING = ("wnli", "test")
ON_THE_HUB = {"rte": "superglue_rte"}
NESTED = {
    "passage": ["a b", "c"],
    "query": ["@placeholder x", "@placeholder y"],
    "entities": [["a", "b"], ["c"]],
    "answers": [["b"], ["c"]],
    "idx": [{"passage": 0, "query": 0}, {"passage": 0, "query": 1}],
}


@pytest.fixture
def hub(monkeypatch):
    """What was read, in order; `hub.fail` names a split at which the network goes, `hub.instead` a task's columns."""

    class Hub(list):
        def __init__(self):
            super().__init__()
            self.fail, self.instead = None, {}

    asked = Hub()

    def reader(place):
        def read(task, split):
            assert place in HUB.values()
            asked.append((place.repo.partition("/")[2], task, split))
            if split == asked.fail:
                raise HubUnreachableError("gone")
            if (task, split) == MISSING:
                raise FileNotFoundError(split)
            if task in asked.instead:
                return asked.instead[task]
            if "super" in place.repo:
                return NESTED if task == "record" else sample_split(ON_THE_HUB.get(task, task), split)
            return rows(task, split, 6)

        return read

    monkeypatch.setattr(sources, "_hub_reader", reader)
    return asked


def fetch(capsys, *words):
    status = cli.exit_status(["fetch", "data", *words])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_every_split_a_task_knows_is_written_and_reads_as_from_the_hub(hub, tmp_path, capsys):
    status, out, err = fetch(capsys, "mrpc", "mnli", f"root={tmp_path}")
    assert (status, err) == (0, [])
    matched = [f"mnli/{kind}_{which}" for kind in ("test", "validation") for which in ("matched", "mismatched")]
    names = ["ax/test", *matched, "mnli/train", "mrpc/test", "mrpc/train", "mrpc/validation"]
    assert files(tmp_path) == sorted(f"glue/{name}.parquet" for name in names)
    assert out[0] == f"{tmp_path}/glue/mrpc/train.parquet: 6 rows, the official release has 3668"
    for task, split in (("mrpc", "train"), ("mnli", "validation_mismatched"), ("mnli", "test_matched")):
        spec = TASKS[task]
        found = load_split(open_source(spec, DataConfig("folder", str(tmp_path))), spec, split)
        assert found.fingerprint == load_split(open_source(spec, DataConfig("hub")), spec, split).fingerprint


def test_a_task_goes_where_its_benchmark_has_it_with_nested_columns(hub, tmp_path, capsys):
    assert fetch(capsys, "record", "superglue_rte", f"root={tmp_path}")[0] == 0
    folders = {file.rpartition("/")[0] for file in files(tmp_path)}
    assert folders == {f"super_glue/{name}" for name in ("record", "rte", "axb", "axg")}
    assert {task for _, task, _ in hub} == {"record", "rte", "axb", "axg"}
    source = open_source(TASKS["record"], DataConfig("folder", str(tmp_path)))
    assert source.read("record", "train") == NESTED


def test_a_mixture_is_its_tasks(hub, tmp_path, capsys):
    assert fetch(capsys, "superglue_mixture", f"root={tmp_path}")[0] == 0
    folders = Counter(file.rpartition("/")[0] for file in files(tmp_path))
    tasks = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
    assert folders == {**{f"super_glue/{name}": 3 for name in tasks}, "super_glue/axb": 1, "super_glue/axg": 1}


def columns_of(entries):
    return {name: [row[name] for row in entries] for name in entries[0]}


def test_the_mixture_is_here_once_each_of_its_training_sets_is(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_DATA", str(tmp_path))

    def here():
        return data_lines()[-1].partition(": ")[2].split(", ")

    members = ["boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc"]
    for name in members:
        assert "superglue_mixture" not in here()
        (tmp_path / "super_glue" / name).mkdir(parents=True)
        (tmp_path / "super_glue" / name / "train.parquet").touch()
    assert "superglue_mixture" in here()


def test_a_release_has_a_folder_of_its_own(hub, tmp_path, capsys):
    hub.instead = {"release_v2.1": columns_of([entry("City", ["a | b | c"], ["A text."])])}
    status, out, _ = fetch(capsys, "webnlg", "release=release_v2.1", f"root={tmp_path}")
    assert status == 0
    assert files(tmp_path) == [f"webnlg/release_v2.1/{split}.parquet" for split in ("test", "train", "validation")]
    assert {task for _, task, _ in hub} == {"release_v2.1"}
    assert "the official release has 12876" in out[0]


def test_a_setting_is_for_the_tasks_that_have_it(hub, tmp_path, capsys):
    hub.instead = {"release_v2": columns_of([entry("City", ["a | b | c"], ["A text."])])}
    assert fetch(capsys, "webnlg", "mrpc", "release=release_v2", f"root={tmp_path}")[0] == 0
    assert {task for _, task, _ in hub} == {"release_v2", "mrpc"}


def test_the_rows_of_a_test_set_are_counted_without_those_that_are_not_scored(hub, tmp_path, capsys):
    """WebNLG 2017 on the hub: the scored entries, the same ones without texts, and the unseen ones a second time."""
    scored = [entry("City", [f"a | b | {i}"], ["A text."], place="testdata_with_lex.xml") for i in range(1862)]
    bare = [entry("City", [f"a | b | {i}"], [], place="testdata_no_lex.xml") for i in range(1862)]
    again = [entry("Film", [f"a | b | {i}"], ["A text."], place="testdata_unseen_with_lex.xml") for i in range(891)]
    hub.instead = {"challenge_2017": columns_of(scored + bare + again)}
    status, out, _ = fetch(capsys, "webnlg", f"root={tmp_path}")
    assert status == 0
    train, _, test = out
    assert test == f"{tmp_path}/webnlg/challenge_2017/test.parquet: 4615 rows, 1862 of them the split's"
    assert train.endswith("4615 rows, 1862 of them the split's, the official release has 6940")


def test_rows_of_another_schema_are_one_line_and_leave_nothing(hub, tmp_path, capsys):
    hub.instead = {"cb": NESTED}
    status, out, err = fetch(capsys, "cb", f"root={tmp_path}")
    assert (status, out) == (2, [])
    assert err == ["peftbench: error: super_glue/cb train (hub): no column premise, hypothesis, label; it has passage,"
                   " query, entities, answers, idx"]  # fmt: skip
    assert files(tmp_path) == []


def test_what_is_there_stays_and_is_not_read_again(hub, tmp_path, capsys):
    fetch(capsys, "mrpc", f"root={tmp_path}")
    mine = tmp_path / "glue" / "mrpc" / "test.parquet"
    mine.write_bytes(b"mine")
    (tmp_path / "glue" / "mrpc" / "train.parquet").unlink()
    hub.clear()
    status, out, _ = fetch(capsys, "mrpc", f"root={tmp_path}")
    assert status == 0
    assert hub == [("glue", "mrpc", "train")]
    assert [line.rpartition(": ")[2] for line in out[1:]] == ["already here", "already here"]
    assert mine.read_bytes() == b"mine"


def test_the_environment_names_the_folder(hub, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_DATA", str(tmp_path / "new"))
    assert fetch(capsys, "cola")[0] == 0
    assert len(files(tmp_path / "new")) == 3
    lines = fetch(capsys)[1]
    assert lines[-1] == f"  here, in {tmp_path / 'new'}: cola"
    assert "cola, sst2, mrpc" in lines[-2]


def test_a_split_that_the_hub_has_not_is_said(hub, tmp_path, capsys):
    status, out, _ = fetch(capsys, "wnli", f"root={tmp_path}")
    assert status == 0
    assert out[-1] == f"{tmp_path}/glue/wnli/test.parquet: the hub has no such split"
    assert files(tmp_path) == ["glue/wnli/train.parquet", "glue/wnli/validation.parquet"]


def test_when_the_network_goes_what_is_whole_stays_and_nothing_else(hub, tmp_path, capsys):
    hub.fail = "validation"
    status, out, err = fetch(capsys, "mrpc", f"root={tmp_path}")
    assert (status, len(out)) == (2, 1)
    assert err == [
        "peftbench: error: fetch data mrpc: nyu-mll/glue cannot be read from the hub; connect to the network and run"
        " it again (validation and what follows was not fetched)"
    ]
    assert files(tmp_path) == ["glue/mrpc/train.parquet"]
    hub.fail = None
    assert fetch(capsys, "mrpc", f"root={tmp_path}")[0] == 0
    assert len(files(tmp_path)) == 3


def test_a_write_that_breaks_off_leaves_nothing(hub, tmp_path, capsys, monkeypatch):
    def half(table, out):
        out.write(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    status, _, err = fetch(capsys, "mrpc", f"root={tmp_path}")
    assert status == 2
    assert err == [
        f"peftbench: error: fetch data: cannot write {tmp_path}/glue/mrpc/train.parquet (No space left on device)"
    ]
    assert files(tmp_path) == []


def test_a_root_that_is_a_file_is_one_line(hub, tmp_path, capsys):
    (tmp_path / "root").write_text("")
    status, _, (line,) = fetch(capsys, "mrpc", f"root={tmp_path / 'root'}")
    assert status == 2
    assert "cannot write" in line


def test_an_unreachable_hub_is_one_line_and_leaves_nothing(tmp_path, capsys):
    """No fake: what the hub's library says where it cannot be asked."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    status, out, err = fetch(capsys, "mrpc", f"root={tmp_path}")
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("peftbench: error: fetch data mrpc: nyu-mll/glue cannot be read from the hub; connect")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mprc root=x", "fetch data mprc: no such task; did you mean mrpc?"),
        ("mrpc rot=x", "fetch data rot=x: expected task names, root=<folder>, and release or corpus=<name>"),
        ("mrpc", "into which folder? Give root=<folder> or set PEFTBENCH_DATA"),
        (
            "lm corpus=tiny_shakespeare root=x",
            "text/tiny_shakespeare: not on the hub, which has wikitext2, wikitext2_raw",
        ),
        ("webnlg release=v9 root=x", "task.release: 'v9' is not one of challenge_2017, release_v2, release_v2.1,"),
        ("mrpc release=release_v2.1 root=x", "fetch data release=release_v2.1: nothing to choose for mrpc"),
    ],
)
def test_a_wrong_word_is_one_line_before_anything_is_read(hub, words, message, capsys):
    status, out, (line,) = fetch(capsys, *words.split())
    assert (status, out, hub) == (2, [], [])
    assert message in line
