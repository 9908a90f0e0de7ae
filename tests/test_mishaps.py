"""What a machine may do to a run: a full disk, a read-only folder, lost data, a hundred writers; and secrets."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from glue_folder import write_task
from report_records import synthetic_record
from test_experiment import FAST, run, same_result
from test_reliability import at_step, in_child

from peftbench import cli, experiment
from peftbench.errors import BusyError, ConfigurationError, PeftbenchError, RunError
from peftbench.record import RunFolder, read_record
from peftbench.report.records import find
from peftbench.report.shape import wrong_in
from peftbench.scoring import check_pruning

SORA = ["method=sora", *FAST["sora"], "trainer.epochs=2", "trainer.checkpoint_every=2"]
WRITERS, LINES = 100, 10


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "most", [0, pytest.param(1_000, marks=pytest.mark.long), 4_000, pytest.param(40_000, marks=pytest.mark.long)]
)
def test_a_disk_that_takes_no_more_is_told_and_the_same_command_goes_on(most, tiny_run, tmp_path, capfd):
    """No file may grow beyond so many bytes: the kernel's own error, wherever that strikes."""
    whole = run(tiny_run, *SORA, f"outputs={tmp_path / 'whole'}")
    told = tmp_path / "told"
    told.touch()

    def work():
        pipe = os.open(told, os.O_RDWR)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        try:
            run(tiny_run, *SORA)
        except PeftbenchError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            os.write(pipe, str(error).encode())
            sys.stderr.flush()
            os._exit(error.exit_status)

    capfd.readouterr()
    assert in_child(work) == 1
    message = told.read_text()
    assert "outputs: cannot write to" in message
    assert "large" in message
    assert "\n" not in message
    assert "Traceback" not in capfd.readouterr().err
    left = files(tmp_path / "outputs")
    records = [json.loads(file.read_text())["status"] for file in tmp_path.glob("outputs/**/record.json")]
    assert records == (["interrupted"] if most == 40_000 else [])  # So that a sweep goes on too.
    assert not [path for path in left if path.parent.name != "checkpoint.partial" and path.name.endswith(".partial")]
    for path in left:
        if path.suffix == ".json" and path.parent.name != "checkpoint.partial":
            json.loads(path.read_text())
    same_result(whole, run(tiny_run, *SORA))


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tiny_run):
    # The one place that refuses root too.
    with pytest.raises(ConfigurationError, match=r"outputs: cannot write to /proc/outputs"):
        run(tiny_run, "method=lora", "outputs=/proc/outputs")


def test_data_that_vanish_between_two_starts_are_told_and_nothing_is_lost(tiny_run, mrpc_folder, tmp_path):
    words = [*SORA, "task=mrpc", "data=folder", f"data.root={mrpc_folder}"]
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")

    def work():
        at_step(4)()
        run(tiny_run, *words)

    in_child(work)
    before = {path: path.read_bytes() for path in files(tmp_path / "outputs")}
    assert any(path.parent.name == "checkpoint" for path in before)
    train = mrpc_folder / "glue" / "mrpc" / "train.parquet"
    train.rename(train.with_suffix(".away"))
    with pytest.raises(ConfigurationError, match=r"train"):
        run(tiny_run, *words)
    assert {path: path.read_bytes() for path in files(tmp_path / "outputs")} == before
    train.with_suffix(".away").rename(train)
    same_result(whole, run(tiny_run, *words))


@pytest.fixture
def mrpc_folder(tmp_path) -> Path:
    return write_task(tmp_path / "data", "mrpc")


@pytest.mark.long
def test_a_hundred_writers_lose_nothing_and_one_run_has_one_writer(tmp_path):
    """A hundred processes, each with a run of its own, and all of them after the same one as well."""
    gate, children = tmp_path / "gate", []
    for number in range(WRITERS):
        child = os.fork()
        if child == 0:
            status = 9
            try:
                while not gate.exists():
                    time.sleep(0.01)
                status = _write(tmp_path / "outputs", number)
            finally:
                os._exit(status)
        children.append(child)
    gate.touch()
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(ended) <= {0, 1}
    assert ended.count(0) >= 1
    records = find([tmp_path / "outputs"]).runs
    own = [r for r in records if r.folder.name.startswith("own")]
    assert sorted(r.record["seed"] for r in own) == list(range(WRITERS))
    for number in range(WRITERS):
        (history,) = tmp_path.glob(f"outputs/e/t-m-b/own{number}/history.jsonl")
        assert [json.loads(line)["step"] for line in history.read_text().splitlines()] == list(range(LINES))
    # Those who held the shared run one after the other each wrote it whole; nobody wrote while another did.
    (shared,) = tmp_path.glob("outputs/e/t-m-b/shared/history.jsonl")
    steps = [json.loads(line)["step"] for line in shared.read_text().splitlines()]
    assert steps == list(range(LINES)) * ended.count(0)
    assert not list(tmp_path.glob("outputs/**/*.partial"))


def _write(outputs: Path, number: int) -> int:
    """0: had the shared run for itself once; 1: another was at it."""
    own = RunFolder(outputs / "e" / "t-m-b" / f"own{number}")
    with own.claimed():
        for step in range(LINES):
            own.append_history(kind="step", stage=0, step=step)
            own.write_record(synthetic_record(seed=number))
    shared = RunFolder(outputs / "e" / "t-m-b" / "shared")
    try:
        with shared.claimed():
            for step in range(LINES):
                shared.append_history(kind="step", stage=0, step=step)
                shared.write_record(synthetic_record(seed=number))
        return 0
    except BusyError:
        return 1


SECRETS = {
    "HF_TOKEN": "hf_ThisIsNotARealTokenButMustNotBeSeen",
    "HUGGING_FACE_HUB_TOKEN": "hf_AnotherThatMustNotBeSeen",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-that-must-not-be-seen",
}


@pytest.mark.parametrize("value", ["${oc.env:HF_TOKEN}", "${ oc.env:HF_TOKEN}", '"${oc.${trainer.head}:HF_TOKEN}"'])
def test_a_configuration_takes_nothing_from_the_environment(value, tiny_run, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    words = ["method=lora", "++trainer.head=env", f"experiment_name={value}"]
    assert cli.exit_status([*tiny_run, *words]) == 2
    shown = capsys.readouterr()
    assert "the environment may hold secrets" in shown.err
    assert SECRETS["HF_TOKEN"] not in shown.out + shown.err


def test_code_beside_weights_is_never_run(tiny_run, tiny_folder, tmp_path, monkeypatch, capsys):
    """Not even where somebody at the terminal says yes to transformers' question."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "own.Own", "AutoModelForSequenceClassification": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": names}))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    words = [w for w in tiny_run if not w.startswith("model.path")]
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    assert cli.exit_status([*words, "method=lora", f"model.path={folder}"]) == 2
    assert "code of its own, which is never run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_brackets_in_a_name_are_shown_as_they_are(tiny_run, tmp_path, capsys):
    words = [w for w in tiny_run if not w.startswith("outputs")]
    place = tmp_path / "[old] [/usr]"
    assert cli.exit_status([*words, "method=lora", f"outputs='{place}'"]) == 0
    assert f"record: {place}/default/" in capsys.readouterr().out


@pytest.mark.parametrize("how", [pytest.param("completed", marks=pytest.mark.long), "failed"])
def test_secrets_of_the_environment_are_in_no_file_and_no_line(how, tiny_run, tmp_path):
    words = [*tiny_run, "method=lora", "tracker=tensorboard", "trainer.max_steps=8", "tracker.project=p"]
    words += ["optimizer.lr=1e30"] if how == "failed" else []
    done = subprocess.run(
        [sys.executable, "-m", "peftbench", *words], env=os.environ | SECRETS, capture_output=True, text=True
    )
    assert done.returncode == (how == "failed"), done.stderr
    (record,) = tmp_path.glob("outputs/**/record.json")
    assert (json.loads(record.read_text())["status"] == "completed") == (how == "completed")
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr
        assert not [path for path in files(tmp_path / "outputs") if secret.encode() in path.read_bytes()]


def test_a_folder_that_takes_no_lock_is_told(tiny_run, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("peftbench.record.fcntl.flock", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be locked \(No locks available\); use a file system"):
        run(tiny_run, "method=lora")


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS"])
def test_every_word_of_a_disk_that_takes_no_more_is_understood(code, tiny_run, monkeypatch):
    def refuse(*_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("peftbench.run.save_checkpoint", refuse)
    with pytest.raises(RunError, match=r"outputs: cannot write to .*; make room there, and the same command goes on"):
        run(tiny_run, "method=lora")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_a_backbone_that_does_not_fit_is_one_line(error, tiny_run, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", refuse)
    with pytest.raises(RunError, match=r"out of memory: (MemoryError|Default)") as raised:
        run(tiny_run, "method=lora")
    record = read_record(raised.value.folder / "record.json")
    assert record["status"] == "out_of_memory"
    assert wrong_in(record) is None
    assert "Traceback" in (raised.value.folder / "run.log").read_text()


def test_a_world_that_accelerate_does_not_see_is_refused(tiny_run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 1)
    monkeypatch.setattr("accelerate.Accelerator.__init__", lambda self, **_: None)
    with pytest.raises(ConfigurationError, match="WORLD_SIZE is 2, but accelerate makes a run of 1"):
        run(tiny_run, "method=lora")


def test_a_rank_without_a_world_is_no_launchers(tiny_run, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "")
    assert cli.exit_status([*tiny_run, "method=lora"]) == 0
    assert "record: " in capsys.readouterr().out


@pytest.mark.parametrize("method", ["lora", "full"])
def test_logits_that_are_not_finite_have_no_score(method, tiny_run, tmp_path):
    """The only step is finite, and what it leaves is not: nothing looks at a loss after it."""
    with pytest.raises(RunError, match=r"diverged: in an evaluation the logits of \d+ of 64 rows are not finite"):
        run(tiny_run, f"method={method}", "trainer.max_steps=1", "optimizer.lr=1e38", "optimizer.warmup_ratio=0")
    (record,) = tmp_path.glob("outputs/**/record.json")
    assert json.loads(record.read_text())["status"] == "diverged"


def test_pruning_that_changes_a_number_is_an_error_and_rounding_is_none():
    before = np.array([[0.5, -np.inf], [1.0, 2.0]])
    assert check_pruning(before, before + 5e-4, halved=False) == pytest.approx(5e-4)
    assert check_pruning(before, before + 5e-2, halved=True) == pytest.approx(5e-2)
    with pytest.raises(RunError, match=r"pruning changed a logit by 0\.05, more than 0\.001"):
        check_pruning(before, before + 5e-2, halved=False)
    with pytest.raises(RunError, match="nan"):
        check_pruning(before, before * np.nan, halved=True)
    with pytest.raises(RunError, match="nan"):
        check_pruning(before * np.nan, before * np.nan, halved=True)


def test_the_untrained_score_is_measured_once(tiny_run, tmp_path):
    words = ["method=sora", "trainer.epochs=3", "trainer.score_untrained=true", *FAST["sora"]]

    def work():
        at_step(4)()
        run(tiny_run, *words)

    assert in_child(work) == -signal.SIGKILL
    (file,) = tmp_path.glob("outputs/**/untrained.json")
    scores = json.loads(file.read_text())
    scores["validation"]["accuracy"] = 0.125  # A later start takes the first one's word.
    file.write_text(json.dumps(scores))
    record, _ = run(tiny_run, *words)
    assert record["untrained"] == scores


def test_bfloat16_on_a_processor_without_it_is_told_once(tiny_run, monkeypatch, capsys):
    experiment._warn_of_bf16.cache_clear()
    monkeypatch.setattr(experiment, "multiplies_bf16", lambda: False)
    for seed in (1, 2):
        assert cli.exit_status([*tiny_run, "method=lora", "trainer.precision=bf16", f"seed={seed}"]) == 0
    told = "trainer.precision=bf16 is many times slower than fp32 on this processor"
    assert capsys.readouterr().err.count(told) == 1
