"""The console program as a user meets it: help without delay, one line for every mistake, sweeps, exit statuses."""

import json
import logging
import os
import shlex
import subprocess
import sys
from importlib.metadata import entry_points

import pyarrow as pa
import pytest
import torch
from contracts.test_methods import METHODS
from glue_folder import not_utf8, rows, write, write_task

from peftbench import __version__, cli
from peftbench.guide import first_comment, listing

QUICK = ["--help", "list", "list methods", "--version", "method=srora", "optimzer.lr=1", "method.rnak=4"]


def program(*words: str, code: str | None = None, **settings) -> subprocess.CompletedProcess:
    """The program in a process of its own, or `code` with the words as its arguments."""
    start = ["-c", code] if code else ["-m", "peftbench"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *words], capture_output=True, text=True, timeout=120, env=environment, **settings
    )


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The program in this process, in an empty folder: exit status, lines of standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["peftbench"])  # Hydra reads it; a sweep sets it.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def call(*words: str):
        status = cli.exit_status(list(words))
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return call


@pytest.mark.parametrize("words", QUICK)
def test_help_lists_and_hydras_errors_come_without_torch(words):
    code = (
        "import sys; from peftbench.cli import exit_status; exit_status(sys.argv[1:]);"
        "sys.exit(','.join({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = program(*words.split(), code=code)
    # sys.exit of a text prints it to standard error and exits with 1, of an empty one prints an empty line.
    assert done.stderr.splitlines()[-1] == ""


def test_the_installed_command_is_main():
    (command,) = entry_points(group="console_scripts", name="peftbench")
    assert command.load() is cli.main


def test_main_exits_with_the_status(run, capsys):
    for words, status in ((["--version"], 0), (["method=srora"], 2)):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == status


def test_version(run):
    assert run("--version") == (0, [f"peftbench {__version__}"], [])


@pytest.mark.parametrize("words", ["--help", "-h", "list --help", "doctor -h", "inspect --help", "method=lora --help"])
def test_help_teaches_groups_and_examples(run, words):
    status, out, err = run(*words.split())
    text = "\n".join(out)
    assert (status, err) == (0, [])
    assert "\nGroups (group=choice picks a file of conf/<group>/)\n" in text
    assert "\n  method     " + ", ".join(sorted(METHODS))[:60] in text
    assert "\nExamples\n  peftbench method=sora task=mrpc data=sample" in text
    assert max(map(len, out)) <= 120


def test_the_examples_of_the_help_compose(run):
    from peftbench.compose import compose_run

    text = "\n".join(run("--help")[1])
    examples = [
        line.partition("peftbench ")[2] for line in text.partition("\nExamples\n")[2].splitlines() if line[:3] == "  p"
    ]
    assert len(examples) >= 4
    for line in examples:
        # A sweep's lists become their first item; the words after two blanks are the explanation.
        command = line.partition("  ")[0].replace("<folder>", "folder")
        words = [w for w in shlex.split(command) if w not in ("-m", "--cfg", "job", "inspect")]
        compose_run([word if "[" in word else word.partition(",")[0] for word in words])


def test_list_methods_is_one_line_each_the_name_first(run):
    status, out, err = run("list", "methods")
    assert (status, err) == (0, [])
    assert [line.split()[0] for line in out] == sorted(METHODS)
    assert all(len(line.split()) > 3 for line in out)


def test_list_alone_lists_every_kind_under_its_heading(run):
    out = run("list")[1]
    for kind, member in (("methods", "sora"), ("tasks", "mrpc"), ("models", "minilm"), ("experiments", "")):
        assert kind in out
        after = out[out.index(kind) + 1 :]
        assert any(line.startswith(member) for line in after[: after.index("") if "" in after else None])


def test_a_first_comment_skips_hydras_own(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("# @package _global_\n# what it is\n# more\nkey: 1\n")
    assert first_comment(file) == "what it is"
    file.write_text("key: 1\n# late\n")
    assert first_comment(file) == ""


@pytest.mark.parametrize("kind", ["methods", "tasks", "models"])
def test_every_listed_choice_says_what_it_is(kind):
    assert all(len(line.split(maxsplit=1)) == 2 for line in listing([kind]).splitlines())


# Wrong in the words or in the typed configuration: {root} is a sound folder of data, {tiny} a tiny model's.
WRONG = [
    ("method=srora", "method=srora: no such method; did you mean sora?"),
    ("data=sampel", "data=sampel: no such data; did you mean sample?"),
    ("preset=sora/mrpc/nothing", "preset=sora/mrpc/nothing: no such preset"),
    ("method=null", "method=null: method takes a name"),
    ("method.rnak=4", "method.rnak: unknown key or group; did you mean method.rank?"),
    ("+method.rnak=4", "method.rnak: unknown key; did you mean method.rank? (conf/method/sora.yaml)"),
    ("optimzer.lr=1", "did you mean optimizer.lr?"),
    ("method=lora,sora", "To sweep over it, add --multirun"),
    ("method.rank=abc", "method.rank: 'abc' is not a whole number (conf/method/sora.yaml)"),
    ("method.rank=true", "method.rank: True is not a whole number"),
    ("method.dropout=1.5", "method.dropout: 1.5 is too large, at most 0.99"),
    ("method.rank=0", "method.rank: 0 is too small, at least 1"),
    ("optimizer.lr=nan", "optimizer.lr: nan is not a finite number"),
    ("sparsity.lambda=1 sparsity.xi=1e-3", "lambda and xi are both set"),
    ("sparsity=exp_linear sparsity.start=0", "exp_linear spaces logarithms, so it must start above 0"),
    ("sparsity=log_linear sparsity.start=3", "start: 3 is above the last level, 2"),
    ("sparsity=algorithm1 sparsity.restart=official", "set xi"),
    ("seed=-1", "seed: -1 is not a whole number from 0"),
    ("seed=abc", "seed: 'abc' is not a whole number from 0"),
    ("experiment_name=a/b", "experiment_name: 'a/b' is not a name"),
    ("experiment_name=..", "experiment_name: '..' is not a name"),
    ("task.selection_metric=acuracy", "'acuracy' is not a metric of mrpc; did you mean accuracy?"),
    ("task.selection_split=test", "task.selection_split: 'test' is not one of validation"),
    ("trainer.batch_size=8 trainer.micro_batch_size=16", "micro_batch_size 16 exceeds batch_size 8"),
    ("method=linear_probe trainer.head=freeze", "trainer.head=freeze: this method trains only the head"),
    ("method=adalora method.rank=4 method.target_rank=8", "target_rank 8 exceeds rank 4"),
    ("method=adalora method.t_initial=900 method.t_final=900", "leave no step of 4 for the budget to shrink in"),
    ("method.sites=[]", "method.sites: an empty list, name one at least"),
    ("method.sites=[qury]", "method.sites[0]: 'qury' is not one of query, key, value, attention_output"),
    ("method=peft method.sites=[]", "method.sites: an empty list, name one at least"),
    ("method.sites=[query,query]", "method.sites: query, query names one twice"),
    ("task.max_length=200", "task.max_length: inputs of up to 200 tokens exceed the backbone's 140 positions"),
    ("data=folder", "data=folder needs data.root=<folder> or the environment variable PEFTBENCH_DATA"),
    ("data=folder data.root=/no/such/folder", "data.root: /no/such/folder is not a folder"),
    ("model.path=/no/such/model", "model.path: /no/such/model has no config.json"),
    ("outputs=/dev/null/x", "outputs: cannot write to /dev/null/x"),
    ("methd=lora sora", "sora: neither a verb nor key=value"),
    ("lsit", "lsit: neither a verb nor key=value; did you mean list?"),
    ("--sweep", "--sweep: unknown option"),
    ("list method", "list method: unknown; did you mean methods?"),
    ("list methods tasks", "list methods tasks: unknown"),
    ("doctor now", "doctor takes no arguments, got now"),
    ("fetch smolm2", "fetch smolm2: nothing of that name can be fetched; did you mean smollm2?"),
    ("fetch data mprc root=data", "fetch data mprc: no such task; did you mean mrpc?"),
    ("fetch data mrpc", "fetch data: into which folder? Give root=<folder> or set PEFTBENCH_DATA"),
    ("inspect method=srora", "method=srora: no such method"),
    ("inspect sora", "sora: neither a verb nor key=value"),
    ("inspect model.path=/no/such/model data=sample", "model.path: /no/such/model has no config.json"),
    ("-m --bogus seed=0,1", "unrecognized arguments: --bogus"),
    ("-m sora seed=0,1", "sora: neither a verb nor key=value"),
    ("--cfg jobs", "invalid choice: 'jobs'"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=[words for words, _ in WRONG])
def test_a_wrong_invocation_is_one_line_and_leaves_nothing(run, tmp_path, tiny_run, words, message):
    words = words.split()
    verb = words[0] in ("list", "doctor", "fetch", "inspect", "--cfg", "-m")
    given = {word.partition("=")[0] for word in words}
    settings = [] if verb else [word for word in tiny_run if word.partition("=")[0] not in given]
    status, out, err = run(*words, *settings)
    assert (status, out, len(err)) == (2, [], 1), err
    assert err[0].startswith("peftbench: error: ")
    assert message in err[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_one_line(run, tmp_path, tiny_run):
    status, _, err = run("trainer.device=cuda", *tiny_run)
    assert (status, err) == (
        2,
        ["peftbench: error: trainer.device=cuda: torch sees no CUDA device; use trainer.device=cpu or auto"],
    )
    assert list(tmp_path.iterdir()) == []


def break_parquet(root):
    file = root / "glue" / "mrpc" / "train.parquet"
    file.write_bytes(file.read_bytes()[:100])


def drop_column(root):
    columns = rows("mrpc", "train", 40)
    write(root, "mrpc", "train", {name: columns[name] for name in columns if name != "sentence2"})


def misspell_text(root):
    columns = {name: pa.array(values) for name, values in rows("mrpc", "train", 1).items()}
    write(root, "mrpc", "train", pa.table(columns | {"sentence1": not_utf8([b"na\xefve"])}))


def put(split, **columns):
    return lambda root: write(root, "mrpc", split, pa.table(rows("mrpc", split, 3) | columns))


BROKEN = {
    "a broken Parquet file": (break_parquet, "not a readable Parquet file"),
    "a missing column": (drop_column, "glue/mrpc train (folder): no column sentence2; it has sentence1, label, idx"),
    "text that is not UTF-8": (misspell_text, "text is not UTF-8"),
    "a label out of range": (put("validation", label=[0, 2, 1]), "label of row 1 is 2, not a class from 0 to 1"),
    "a label that is text": (put("train", label=["0", "1", "1"]), "label of row 0 is '0', not a number"),
    "a missing text": (put("train", sentence1=["a", None, "b"]), "column sentence1, row 1: None is not text"),
    "hidden labels": (put("validation", label=[-1, -1, -1]), "every label is hidden (-1)"),
    "an empty split": (
        lambda root: write(root, "mrpc", "validation", rows("mrpc", "validation", 0)),
        "glue/mrpc validation (folder): no rows",
    ),
    "a missing split": (
        lambda root: (root / "glue" / "mrpc" / "validation.parquet").unlink(),
        "glue/mrpc: no validation split at ",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_is_one_line_and_leaves_nothing(run, tmp_path, tmp_path_factory, tiny_run, case):
    root = write_task(tmp_path_factory.mktemp("data"), "mrpc")
    harm, message = BROKEN[case]
    harm(root)
    settings = [word for word in tiny_run if not word.startswith("data=")]
    status, out, err = run("data=folder", f"data.root={root}", *settings)
    assert (status, out, len(err)) == (2, [], 1), err
    assert message in err[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("method.rnak=4", "peftbench: error: method.rnak: unknown key or group; did you mean method.rank?"),
        ("seed=-1", "peftbench: error: seed: -1 is not a whole number"),
        ("method.rank=4.5", "peftbench: error: method.rank: 4.5 is not a whole number (conf/method/sora.yaml)"),
        ("-m method=lora,srora", "peftbench: error: method=srora: no such method; did you mean sora?"),
    ],
)
def test_a_wrong_invocation_in_a_process_of_its_own(tmp_path, words, message):
    done = program(*words.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
    assert not list(tmp_path.rglob("record.json"))
    assert "-m" in words or list(tmp_path.iterdir()) == []


def records(folder) -> list[dict]:
    return [json.loads(file.read_text()) for file in sorted(folder.rglob("record.json"))]


def test_a_run_prints_its_result_and_the_records_path_last(run, tiny_run, tmp_path):
    status, out, _ = run("method=lora", *tiny_run, "trainer.progress=false")
    assert status == 0
    (record,) = records(tmp_path / "outputs")
    assert record["status"] == "completed"
    (file,) = (tmp_path / "outputs").rglob("record.json")
    assert out[-1] == f"record: {file}"
    assert "SAMPLE" in out[0]


@pytest.mark.long
def test_a_sweep_runs_every_job(tmp_path, tiny_run):
    done = program("method=lora", *tiny_run, "-m", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    found = records(tmp_path / "outputs")
    assert sorted(record["seed"] for record in found) == [0, 1]
    assert {record["status"] for record in found} == {"completed"}
    assert done.stdout.count("record.json") == 2


def test_a_sweep_leaves_the_packages_log_alone(run, tiny_run):
    """Each job of a sweep configures logging anew; `run.log` of the second must not fall silent."""
    package = logging.getLogger("peftbench")
    assert run("-m", "method=lora", "method.rank=0,-1", *tiny_run)[0] == 2
    assert not package.disabled


@pytest.mark.parametrize("words", ["method.rnak=1,2", "method=lora,srora", "seed=[1", "preset=null"])
def test_a_sweep_that_does_not_compose_is_one_line(run, words):
    status, out, err = run("-m", words)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("peftbench: error: ")


def test_cfg_prints_the_composed_configuration_and_runs_nothing(run, tmp_path):
    status, out, err = run("method=lora", "--cfg", "job", "method.rank=3")
    assert (status, err) == (0, [])
    assert "  rank: 3" in out
    assert list(tmp_path.iterdir()) == []


def test_an_unforeseen_failure_is_one_line_that_says_where_the_traceback_is(run, tiny_run, monkeypatch, tmp_path):
    from peftbench.training.loop import Loop

    def explode(*_):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(Loop, "run", explode)
    status, out, err = run(*tiny_run, "trainer.progress=false")
    (log,) = (tmp_path / "outputs").rglob("run.log")
    assert (status, out) == (1, [])
    assert err[-1] == f"peftbench: error: ZeroDivisionError: by nothing (traceback in {log})"
    assert len([line for line in err if "rror" in line]) == 1
    assert "Traceback" in log.read_text()
    (record,) = records(tmp_path / "outputs")
    assert (record["status"], record["error"]["message"]) == ("failed", "by nothing")


def test_an_interruption_is_one_line_and_status_1(run, tiny_run, monkeypatch):
    from peftbench import experiment

    def interrupt(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run_experiment", interrupt)
    assert run(*tiny_run)[::2] == (
        1,
        ["peftbench: error: interrupted; the same command goes on from the last checkpoint"],
    )


def number(out: list[str], name: str) -> int:
    """The number beside `name` in a printed table."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out if line.startswith("│")]
    (found,) = [row[1] for row in rows if row[0] == name]
    return int(found.replace(",", ""))


def test_inspect_counts_the_model_of_the_folder_and_writes_nothing(run, tmp_path, tiny_run):
    status, out, err = run("inspect", "method=sora", "method.rank=4", *tiny_run)
    assert (status, err) == (0, [])
    # Two layers of 32: four square maps and 32 to 64 and back, with a gate for every rank.
    assert number(out, "trained") == 2 * 4 * (4 * 64 + 2 * 96) + 2 * 6 * 4
    assert number(out, "train") == 4  # 64 rows in batches of 16.
    assert number(out, "training rows") == 64
    assert any("Σ λη_t" in line for line in out)
    assert list(tmp_path.iterdir()) == []


def test_inspect_needs_no_data_for_a_task_of_the_hub(run, tmp_path):
    status, out, _ = run("inspect", "method=lora", "task=rte", "data=hub")
    assert status == 0
    assert number(out, "training rows") == 2490
    assert any("official row count" in line for line in out)


def test_doctor_tells_versions_and_what_is_reachable(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    status, out, _ = run("doctor")
    text = "\n".join(out)
    assert status == (0 if out[-1] == "ready" else 1)
    assert torch.__version__ in text
    assert "not reachable: cached files, folders and wheels still work" in text
    assert "smollm2: not here: peftbench fetch smollm2" in text


def test_a_sweep_into_a_file_is_one_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = run("-m", "method=lora,sora", "data=sample", f"outputs={tmp_path / 'file'}")
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("peftbench: error: outputs: cannot write")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-m", "task=[1,2]"], "task=[1,2]: task takes a name, e.g. task=boolq"),
        (["-m", "method=[1],[2]"], "method=[1],[2]: method takes a name"),
        (["task=[1,2]", "--cfg", "job"], "task=[1,2]: task takes a name"),
        (["task=[1,2]"], "task=[1,2]: task takes a name"),
        (["method=null"], "method=null: method takes a name"),
        (["-m", "method=lora,null"], "method=lora,null: method takes a name"),
        (["-m", "method=lora,sora", "--cfg", "job"], "--multirun and --cfg do not go together"),
        (["-c", "job", "-i"], "--cfg and --info do not go together"),
        (["-m", "--resolve"], "--resolve goes with --cfg alone"),
        (["--package", "nope", "--cfg", "job"], "unrecognized arguments: --package"),
        (["-m", "hydra/sweeper=random", "hydra.sweeper.trials=0"], "hydra.sweeper.trials: 0 is not a whole number"),
        (["-m", "hydra.sweeper.params=3"], "hydra.sweeper.params: 3 is not a mapping"),
        (["-m", "method=lora,sora", "seed=glob(*)"], "seed: lists no value"),
        ([""], "'': neither a verb nor key=value"),
        (["preset=sora/rte/minilm"], "preset=sora/rte/minilm: no such preset (see conf/preset)"),
    ],
)
def test_what_hydra_tells_at_length_is_one_line(words, told, run):
    status, out, err = run(*words)
    assert (status, out) == (2, [])
    (line,) = err
    assert line.startswith(f"peftbench: error: {told}")
