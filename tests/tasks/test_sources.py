"""Reading splits: what arrives, what is refused with one clear error, what a fingerprint depends on."""

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED
from glue_folder import CLASSES, DEV, TEST, TEXTS, not_utf8, rows, write, write_task

from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError
from peftbench.tasks.glue import AX
from peftbench.tasks.registry import TASKS
from peftbench.tasks.sources import HUB, load_split, open_source

SPECS = TASKS | {"ax": AX}


def folder(root):
    return DataConfig(source="folder", root=str(root))


def load(root, task, split):
    return load_split(open_source(SPECS[task], folder(root)), SPECS[task], split)


def refusal(root, task="mrpc", split="train") -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(root, task, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("task", TEXTS)
def test_every_labelled_split_arrives_as_written(tmp_path, task):
    write_task(tmp_path, task)
    for split in ["train", *DEV[task]] if task != "ax" else []:
        expected = pq.read_table(tmp_path / "glue" / task / f"{split}.parquet").to_pydict()
        found = load(tmp_path, task, split)
        assert found.name == split
        assert [list(column) for column in found.texts] == [expected[name] for name in TEXTS[task]]
        assert found.labels.dtype == (np.float32 if task == "stsb" else np.int64)
        np.testing.assert_array_equal(found.labels, np.asarray(expected["label"], dtype=found.labels.dtype))
        assert len(found) == len(expected["label"])


@pytest.mark.parametrize("task", [task for task in TEXTS if task != "mrpc"])
def test_hidden_labels_are_none(tmp_path, task):
    write_task(tmp_path, task)
    for split in TEST[task]:
        found = load(tmp_path, task, split)
        assert found.labels is None
        assert len(found) == 6


def test_mrpcs_public_test_labels_are_kept(tmp_path):
    write_task(tmp_path, "mrpc")
    assert load(tmp_path, "mrpc", "test").labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize("task", [task for task in TEXTS if task != "stsb"])
def test_every_class_of_a_task_is_in_range_and_the_next_one_is_not(tmp_path, task):
    split, last = "test" if task == "ax" else "train", CLASSES[task] - 1
    columns = rows(task, split, 4)
    write(tmp_path, task, split, columns | {"label": [0, last, 0, last]})
    assert load(tmp_path, task, split).labels.tolist() == [0, last, 0, last]
    write(tmp_path, task, split, columns | {"label": [0, last, last + 1, 0]})
    message = refusal(tmp_path, task, split)
    assert message == (f"glue/{task} {split} (folder): label of row 2 is {last + 1}, not a class from 0 to {last}")


@pytest.mark.parametrize("labels", [[0, -1, 1, 0], [0, -2, 1, 0], [0, 0.5, 1, 0], [0, float("nan"), 1, 0]])
def test_a_label_between_or_below_the_classes_is_refused(tmp_path, labels):
    write(tmp_path, "mrpc", "train", pa.table(rows("mrpc", "train", 4) | {"label": labels}))
    assert f"label of row 1 is {labels[1]}, not a class from 0 to 1" in refusal(tmp_path)


@pytest.mark.parametrize("score", [-0.1, 5.01, float("nan"), float("inf"), -1.0])
def test_a_score_outside_zero_to_five_is_refused(tmp_path, score):
    write(tmp_path, "stsb", "train", rows("stsb", "train", 3) | {"label": [0.0, 5.0, score]})
    assert "label of row 2 is" in refusal(tmp_path, "stsb")
    assert "not a score from 0 to 5" in refusal(tmp_path, "stsb")


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([0, None, 1], "None"),
        (["0", "1", "1"], "'0'"),
        ([True, False, True], "True"),
        ([[0], [1], [1]], "[0]"),
        ([b"0", b"1", b"1"], "b'0'"),
    ],
)
@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_a_label_that_is_no_number_is_refused(tmp_path, task, labels, shown):
    write(tmp_path, task, "train", pa.table(rows(task, "train", 3) | {"label": labels}))
    row = labels.index(None) if None in labels else 0
    assert refusal(tmp_path, task) == f"glue/{task} train (folder): label of row {row} is {shown}, not a number"


@pytest.mark.parametrize("task", [task for task in TEXTS if task != "ax"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, task):
    for lost in (*TEXTS[task], "label"):
        columns = rows(task, "train", 3)
        del columns[lost]
        write(tmp_path, task, "train", columns)
        message = refusal(tmp_path, task)
        assert message == f"glue/{task} train (folder): no column {lost}; it has {', '.join(columns)}"


def test_an_empty_split_is_refused(tmp_path):
    write(tmp_path, "mrpc", "train", rows("mrpc", "train", 0))
    assert refusal(tmp_path) == "glue/mrpc train (folder): no rows"


@pytest.mark.parametrize(
    ("texts", "shown"), [(["a", None, "b"], "None"), ([1, 2, 3], "1"), ([b"a", b"b", b"c"], "b'a'")]
)
def test_text_that_is_no_text_is_refused(tmp_path, texts, shown):
    write(tmp_path, "mrpc", "train", pa.table(rows("mrpc", "train", 3) | {"sentence2": texts}))
    row = texts.index(None) if None in texts else 0
    assert refusal(tmp_path) == f"glue/mrpc train (folder): column sentence2, row {row}: {shown} is not text"


def test_text_that_is_not_utf8_is_refused(tmp_path):
    columns = {name: pa.array(values) for name, values in rows("mrpc", "train", 2).items()}
    file = write(tmp_path, "mrpc", "train", pa.table(columns | {"sentence1": not_utf8([b"fine", b"na\xefve"])}))
    assert refusal(tmp_path) == f"{file}: text is not UTF-8; write the file again as UTF-8"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    file = write(tmp_path, "mrpc", "train", rows("mrpc", "train", 500))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    assert refusal(tmp_path) == f"{file}: not a readable Parquet file; copy or download it again"


def test_a_damaged_page_is_refused(tmp_path):
    file = write(tmp_path, "mrpc", "train", rows("mrpc", "train", 500))
    whole = bytearray(file.read_bytes())
    whole[4:400] = bytes(396)
    file.write_bytes(bytes(whole))
    assert refusal(tmp_path).startswith(f"{file}: ")


def test_a_file_of_another_kind_is_refused_also_where_its_path_says_utf8(tmp_path):
    file = tmp_path / "utf8" / "glue" / "mrpc" / "train.parquet"
    file.parent.mkdir(parents=True)
    file.write_text("sentence1,sentence2,label\na,b,1\n")
    assert refusal(tmp_path / "utf8") == f"{file}: not a readable Parquet file; copy or download it again"


def test_a_split_that_is_not_there_is_a_file_not_found(tmp_path):
    (tmp_path / "glue" / "mrpc" / "train.parquet").mkdir(parents=True)  # A folder is not a split either.
    for split in ("train", "validation"):
        with pytest.raises(FileNotFoundError, match=rf"{split}\.parquet"):
            load(tmp_path, "mrpc", split)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^data\.root: .*nowhere is not a folder$"):
        open_source(TASKS["mrpc"], folder(tmp_path / "nowhere"))


def test_folder_without_a_folder_says_how_to_name_one(monkeypatch):
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    with pytest.raises(ConfigurationError, match=r"data=folder needs data\.root=<folder> or .* PEFTBENCH_DATA"):
        open_source(TASKS["mrpc"], DataConfig(source="folder"))


def test_the_environment_can_name_the_folder_and_the_command_line_outranks_it(tmp_path, monkeypatch):
    for name, count in (("one", 3), ("two", 5)):
        write(tmp_path / name, "mrpc", "train", rows("mrpc", "train", count))
    monkeypatch.setenv("PEFTBENCH_DATA", str(tmp_path / "one"))
    for config, count in ((DataConfig("folder"), 3), (DataConfig("auto"), 3), (folder(tmp_path / "two"), 5)):
        assert len(load_split(open_source(TASKS["mrpc"], config), TASKS["mrpc"], "train")) == count


def test_auto_is_the_folder_where_one_is_named_else_the_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("PEFTBENCH_DATA", raising=False)
    assert open_source(TASKS["mrpc"], DataConfig("auto", str(tmp_path))).kind == "folder"
    assert open_source(TASKS["mrpc"], DataConfig("auto")).kind == "hub"
    assert open_source(TASKS["mrpc"], DataConfig("hub", str(tmp_path))).kind == "hub"
    assert open_source(TASKS["mrpc"], DataConfig("sample", str(tmp_path))).kind == "sample"


def test_the_record_names_the_hubs_commit_and_no_local_folder(tmp_path):
    repo, revision = HUB["glue"].repo, HUB["glue"].revision
    assert open_source(TASKS["mrpc"], DataConfig("hub")).described == {
        "source": "hub", "repo": repo, "revision": revision,
    }  # fmt: skip
    assert (repo, revision) == ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
    assert open_source(TASKS["mrpc"], folder(tmp_path)).described == {"source": "folder"}


@pytest.mark.parametrize("task", ["mrpc", "stsb", "cola"])
def test_a_fingerprint_follows_the_content(tmp_path, task):
    columns = rows(task, "train", 4)
    name = TEXTS[task][-1]
    changed = {
        "as it was": {},
        "a text": {name: [*columns[name][:3], "other"]},
        "a label": {"label": [1, *columns["label"][1:]]},
        "the order": {key: values[::-1] for key, values in columns.items()},
        "a row less": {key: values[:3] for key, values in columns.items()},
        "hidden labels": {"label": [-1] * 4},
    }
    found = {}
    for what, change in changed.items():
        write(tmp_path, task, "train", columns | change)
        found[what] = load(tmp_path, task, "train").fingerprint
    assert len(set(found.values())) == len(changed)
    assert all(len(value) == 64 for value in found.values())


def test_a_fingerprint_knows_which_column_a_text_is_in(tmp_path):
    columns = rows("mrpc", "train", 4)
    write(tmp_path, "mrpc", "train", columns)
    swapped = columns | {"sentence1": columns["sentence2"], "sentence2": columns["sentence1"]}
    write(tmp_path / "swapped", "mrpc", "train", swapped)
    assert load(tmp_path, "mrpc", "train").fingerprint != load(tmp_path / "swapped", "mrpc", "train").fingerprint


def test_a_fingerprint_knows_where_one_column_ends(tmp_path):
    prints = set()
    for first, second in ((["a", "b"], ["c", "d"]), (["a", "bc"], ["", "d"]), (["ab", ""], ["c", "d"])):
        write(tmp_path, "mrpc", "train", {"sentence1": first, "sentence2": second, "label": [0, 1]})
        prints.add(load(tmp_path, "mrpc", "train").fingerprint)
    assert len(prints) == 3


def test_a_fingerprint_does_not_follow_place_compression_or_other_columns(tmp_path):
    file = write(tmp_path, "mrpc", "train", rows("mrpc", "train", 40))
    first = load(tmp_path, "mrpc", "train").fingerprint
    shutil.copytree(tmp_path / "glue", tmp_path / "moved" / "glue")
    assert load(tmp_path / "moved", "mrpc", "train").fingerprint == first
    table = pq.read_table(file).drop_columns(["idx"])
    table = table.set_column(2, "label", table["label"].cast(pa.int8()))
    pq.write_table(table, file, compression="zstd", row_group_size=7)
    assert load(tmp_path, "mrpc", "train").fingerprint == first


def test_taking_rows_keeps_texts_and_labels_together(tmp_path):
    write(tmp_path, "mrpc", "train", rows("mrpc", "train", 10))
    whole = load(tmp_path, "mrpc", "train")
    part = whole.take(np.array([7, 2]), "part")
    assert part.name == "part"
    assert [list(column) for column in part.texts] == [[column[7], column[2]] for column in whole.texts]
    assert part.labels.tolist() == [whole.labels[7], whole.labels[2]]
    assert part.fingerprint == load_rows_fingerprint(tmp_path, [7, 2])


def load_rows_fingerprint(root, positions):
    columns = rows("mrpc", "train", 10)
    write(root / "part", "mrpc", "train", {key: [values[i] for i in positions] for key, values in columns.items()})
    return load(root / "part", "mrpc", "train").fingerprint


def assert_names_three_remedies(message):
    assert "connect to the network" in message
    assert "data=folder data.root=" in message
    assert "data=sample" in message


def test_an_unreachable_hub_is_one_error_with_three_remedies():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    began = time.perf_counter()
    with pytest.raises(ConfigurationError) as caught:
        load_split(open_source(TASKS["mrpc"], DataConfig("hub")), TASKS["mrpc"], "train")
    assert time.perf_counter() - began < 5
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("mrpc: cannot load nyu-mll/glue from the hub")
    assert_names_three_remedies(str(caught.value))


def test_the_program_finds_out_by_itself_within_seconds(tmp_path):
    """Nothing listens at the hub's address here, and nothing told the program to stay offline."""
    proxies = ("HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "HF_HUB_OFFLINE")
    environment = {key: value for key, value in os.environ.items() if key.upper() not in proxies}
    environment |= {"HF_HOME": str(tmp_path / "empty"), "OMP_NUM_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "peftbench", "data=hub", f"outputs={tmp_path / 'outputs'}"],
        # Importing torch and datasets takes most of it; the libraries' own retries alone would take minutes.
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert_names_three_remedies(line)
    assert not (tmp_path / "outputs").exists()


OFFICIAL = {
    "cola": (8551, 1043, 1063),
    "mrpc": (3668, 408, 1725),
    "rte": (2490, 277, 3000),
    "sst2": (67349, 872, 1821),
    "stsb": (5749, 1500, 1379),
}


@pytest.mark.skipif(not (SHARED / "data" / "glue").is_dir(), reason="real GLUE data is not beside this checkout")
@pytest.mark.parametrize("task", OFFICIAL)
def test_the_real_benchmark_is_sound_and_complete(task):
    splits = [load(SHARED / "data", task, split) for split in ("train", "validation", "test")]
    assert tuple(len(split) for split in splits) == OFFICIAL[task]
    assert [split.labels is None for split in splits] == [False, False, task != "mrpc"]
