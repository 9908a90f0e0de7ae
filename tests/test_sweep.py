"""Sweeps as users type them: points, states, what jobs share, tuning, and what is left when one breaks off."""

import json
import sys

import numpy as np
import pytest
import torch

from peftbench import cli
from peftbench.kept import SWEEP, Kept
from peftbench.sweep.search import RandomSampler, TPESampler, Uniform


@pytest.fixture
def sweep(capsys, monkeypatch, tmp_path, tiny_run):
    """Words -> exit status, lines of standard output and of standard error, of `peftbench -m` on the tiny backbone."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capsys.readouterr()
        status = cli.exit_status(["-m", *tiny_run, *words])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


def records(root):
    found = [json.loads(file.read_text()) for file in root.rglob("record.json")]
    return {(r["method"], r["config"]["method"].get("rank"), r["seed"]): r for r in found}


def manifest(root):
    (file,) = root.rglob("sweeps/*.json")
    return json.loads(file.read_text())


def values(record):
    keys = ("metrics", "selection", "parameters", "ranks", "objective", "run_id")
    return {key: record[key] for key in keys}


def test_a_broken_off_sweep_finishes_with_the_same_command(sweep, tmp_path, monkeypatch):
    from peftbench.training.loop import Loop

    words = ("method=lora,sora", "seed=0,1,2")
    done, whole = [], Loop.run

    def break_off(self, plan):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(plan)
        return whole(self, plan)

    monkeypatch.setattr(Loop, "run", break_off)
    status, _, err = sweep(*words)
    assert status == 1
    assert "the same command goes on" in err[-1]
    before = {key: record["ended"] for key, record in records(tmp_path).items() if record["status"] == "completed"}
    assert len(before) == 3
    monkeypatch.setattr(Loop, "run", lambda self, plan: done.append(plan) or whole(self, plan))
    status, out, _ = sweep(*words)
    assert status == 0
    assert len(done) == 6
    after = records(tmp_path)
    assert len(after) == 6
    assert {record["status"] for record in after.values()} == {"completed"}
    assert {key: after[key]["ended"] for key in before} == before
    assert out[-1] == "6 of 6 done (3 before)"


def test_the_first_runs_line_names_what_tells_it_from_those_to_come(sweep):
    _, _, err = sweep("method=sora", "sparsity.lambda=1,2", "seed=0")
    lines = [line for line in err if "  |  " in line]
    assert [line.partition("  |  ")[2].partition(":")[0].split()[-1] for line in lines] == [
        "sparsity.lambda=1", "sparsity.lambda=2",
    ]  # fmt: skip


def test_a_changed_value_runs_what_has_changed_alone(sweep, tmp_path):
    sweep("method=lora,sora", "method.rank=2", "seed=0,1")
    ended = {key: record["ended"] for key, record in records(tmp_path).items()}
    status, out, _ = sweep("method=lora,sora", "method.rank=2,3", "seed=0,1")
    assert status == 0
    assert out[-1] == "8 of 8 done (4 before)"
    after = records(tmp_path)
    assert len(after) == 8
    assert {key: after[key]["ended"] for key in ended} == ended


def test_jobs_of_a_sweep_equal_runs_of_their_own(sweep, tmp_path, tiny_run, capsys):
    """Full fine-tuning and BitFit change what they were given; who comes after them finds it as it was."""
    words = ["seed=1", "trainer.max_steps=3"]
    assert sweep("method=full,bitfit,lora,full", *words)[0] == 0
    together = {method: values(record) for (method, _, _), record in records(tmp_path / "outputs").items()}
    assert set(together) == {"full", "bitfit", "lora"}
    for method in together:
        assert cli.exit_status([*tiny_run, *words, f"method={method}", f"outputs={tmp_path / 'alone'}"]) == 0
    alone = {method: values(record) for (method, _, _), record in records(tmp_path / "alone").items()}
    assert together == alone


def test_weights_are_read_once_and_every_model_has_its_own(tiny_folder, monkeypatch):
    from peftbench.backbones.loading import load_backbone
    from peftbench.compose import compose_run

    config = compose_run([f"model.path={tiny_folder}", "task=mrpc"]).model
    kept = Kept(SWEEP)
    first = load_backbone(config, 2, 5, kept=kept).model
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.fill_(7.0)
    second = load_backbone(config, 2, 5, kept=kept).model.state_dict()
    fresh = load_backbone(config, 2, 5).model.state_dict()
    assert set(second) == set(fresh)
    assert all(torch.equal(second[name], fresh[name]) for name in fresh)


def test_a_second_model_writes_by_the_same_settings(tiny_folder_of):
    """They come from a file of their own, which weights that are held do not bring."""
    from peftbench.backbones.loading import load_backbone
    from peftbench.compose import compose_run

    folder = tiny_folder_of("bart")
    own = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(own | {"forced_bos_token_id": 0, "eos_token_id": [2, 5]}))
    config = compose_run([f"model.path={folder}", "task=e2e"]).model
    kept = Kept(SWEEP)
    first, second = (load_backbone(config, 1, 0, "language", kept).model.generation_config for _ in range(2))
    assert (first.forced_bos_token_id, first.eos_token_id) == (0, [2, 5])
    assert second.to_dict() == first.to_dict()
    assert second is not first


def test_rows_are_tokenised_once(sweep, monkeypatch):
    from peftbench.forms.classification import Classification

    calls, whole = [], Classification.tokenise
    monkeypatch.setattr(Classification, "tokenise", lambda self, split: calls.append(split.name) or whole(self, split))
    sweep("method=lora,bitfit", "seed=0,1")
    assert sorted(calls) == ["train", "validation"]


def test_what_failed_is_told_kept_and_tried_again_on_request(sweep, tmp_path, monkeypatch):
    from peftbench.training.loop import Loop

    tried, whole = [], Loop.run

    def fail_once(self, plan):
        tried.append(self.seed)
        if tried == [0]:
            raise ValueError("the disk is gone")
        return whole(self, plan)

    monkeypatch.setattr(Loop, "run", fail_once)
    status, out, err = sweep("method=lora", "seed=0,1")
    assert status == 1
    (line,) = [line for line in err if line.startswith("peftbench: error: ")]
    assert "ValueError: the disk is gone" in line
    assert out[-1] == "1 of 2 done, 1 failed"
    assert records(tmp_path)[("lora", 8, 0)]["status"] == "failed"
    status, out, _ = sweep("method=lora", "seed=0,1")
    assert (status, tried) == (1, [0, 1])
    assert out[-1] == "1 of 2 done (1 before), 1 failed"
    assert any("sweep.retry=true tries again" in line for line in out)
    status, out, _ = sweep("method=lora", "seed=0,1", "sweep.retry=true")
    assert (status, tried) == (0, [0, 1, 0])
    assert out[-1] == "2 of 2 done (1 before)"


def test_a_sweep_stops_at_the_first_failure_where_that_is_asked_for(sweep, tmp_path, monkeypatch):
    from peftbench.training.loop import Loop

    monkeypatch.setattr(Loop, "run", lambda *_: 1 / 0)
    status, out, _ = sweep("method=lora", "seed=0,1,2", "sweep.on_error=stop")
    assert status == 1
    assert len(records(tmp_path)) == 1
    assert out[-1] == "0 of 3 done, 1 failed, 2 left"
    assert [run["status"] for run in manifest(tmp_path)["runs"]] == ["failed"]
    status, out, _ = sweep("method=lora", "seed=0,1,2", "sweep.on_error=stop")
    assert out[-1] == "0 of 3 done, 2 failed, 1 left"  # What failed before is told, and does not stop it again.


def test_every_run_is_checked_before_the_first_one_starts(sweep, tmp_path):
    status, out, err = sweep("method=lora", "method.rank=2,0")
    assert (status, out) == (2, [])
    (line,) = err
    assert "method.rank: 0 is too small" in line
    assert "method.rank=0; nothing was run" in line
    assert not list(tmp_path.rglob("record.json"))


def test_explicit_points_are_united_and_the_command_line_wins(sweep, tmp_path):
    points = "hydra.sweeper.points=['method=lora method.rank=2,3','method=bitfit','method=lora method.rank=3']"
    status, out, _ = sweep(points, "+hydra.sweeper.params.seed='0,1'", "seed=4")
    assert status == 0
    assert set(records(tmp_path)) == {("lora", 2, 4), ("lora", 3, 4), ("bitfit", None, 4)}
    assert out[-1] == "3 of 3 done"


def test_a_group_on_the_command_line_keeps_the_points_that_have_it(sweep, tmp_path):
    points = "hydra.sweeper.points=['task=mrpc,rte method=lora method.rank=2','task=cola method=bitfit,lora']"
    status, _, _ = sweep(points, "task=cola,rte", "method=lora")
    assert status == 0
    found = {(r["task"], r["config"]["method"]["rank"]) for r in records(tmp_path).values()}
    assert len(list(tmp_path.rglob("record.json"))) == 2
    assert found <= {("rte", 2), ("cola", 8)}
    status, _, (line,) = sweep(points, "task=sst2")
    assert status == 2
    assert "none of them fits the command line's groups" in line


@pytest.mark.parametrize("sampler", [pytest.param("random", marks=pytest.mark.long), "tpe"])
def test_tuning_gives_every_method_as_many_trials_and_runs_the_best_with_every_seed(sampler, sweep, tmp_path):
    status, out, _ = sweep(
        f"hydra/sweeper={sampler}", "hydra.sweeper.trials=3", "method=lora,bitfit", "seed=5,6",
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    )  # fmt: skip
    assert status == 0
    found = manifest(tmp_path)
    assert (found["sweeper"], found["trials"]) == (sampler, 3)
    assert [(cell["method"], cell["task"]) for cell in found["cells"]] == [("lora", "mrpc"), ("bitfit", "mrpc")]
    for cell in found["cells"]:
        assert len(cell["trials"]) == 3
        assert {trial["seed"] for trial in cell["trials"]} == {5}
        best = max(cell["trials"], key=lambda trial: trial["objective"])
        assert cell["chosen"]["objective"] == best["objective"]
        assert set(cell["chosen"]["overrides"]) <= set(best["overrides"])
        assert [run["seed"] for run in cell["runs"]] == [5, 6]
        assert cell["runs"][0]["run_id"] == best["run_id"]
    rates = [[trial["overrides"] for trial in cell["trials"]] for cell in found["cells"]]
    assert len({word for words in rates[0] for word in words if word.startswith("optimizer.lr=")}) == 3
    assert out[-1].startswith("8 of 8 done")


def test_random_draws_are_the_same_in_every_cell_and_cover_the_range():
    ranges = {"optimizer.lr": Uniform(1e-4, 1e-1, log=True), "method.rank": ("2", "4"), "n": Uniform(1, 9, whole=True)}
    one, two = RandomSampler(ranges, 3), RandomSampler(ranges, 3)
    drawn = [one.ask() for _ in range(200)]
    assert drawn == [two.ask() for _ in range(200)]
    rates = np.array([float(point[0].partition("=")[2]) for point in drawn])
    assert (rates >= 1e-4).all()
    assert (rates <= 1e-1).all()
    assert abs(np.log10(rates).mean() + 2.5) < 0.2
    assert {point[1] for point in drawn} == {"method.rank=2", "method.rank=4"}
    assert {point[2] for point in drawn} == {f"n={i}" for i in range(1, 10)}


def test_tpe_is_optunas(monkeypatch):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
    ours = TPESampler({"optimizer.lr": Uniform(1e-4, 1e-1, log=True)}, 1)
    for _ in range(15):
        trial = study.ask()
        rate = trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True)
        assert ours.ask() == [f"optimizer.lr={rate:.4g}"]
        value = -abs(np.log10(rate) + 2)
        study.tell(trial, value)
        ours.tell(value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra/sweeper=random", "method=lora,bitfit"], "tuning has nothing to draw"),
        (["hydra/sweeper=tpe", "optimizer.lr=tag(log,interval(0,1))"], "is not a range above 0"),
        (["method=lora", "optimizer.lr=interval(0,1)"], "a grid needs values, not a range"),
        (["hydra/sweeper=optuna", "method=lora,sora", "optimizer.lr=interval(0,1)"], "unequal trials"),
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.direction=minimize", "method=lora", "optimizer.lr=interval(0,1)"],
            "hydra.sweeper.direction=maximize is the only one",
        ),
        (["hydra/sweeper=random", "hydra.sweeper.trials=0", "optimizer.lr=interval(0.1,1)"], "hydra.sweeper.trials: 0"),
        (
            ["hydra/sweeper=random", "hydra.sweeper.trials=x", "optimizer.lr=interval(0.1,1)"],
            "hydra.sweeper.trials: 'x'",
        ),
        (["hydra.sweeper.max_batch_size=0", "seed=0,1"], "hydra.sweeper.max_batch_size: 0"),
        (["hydra.sweeper.max_batch_size=1", "method=lora", "method.rank=2,0"], "nothing was run"),
        (["hydra/sweeper=random", "optimizer.lr=interval(0.1,1)", "seed=interval(0,3)"], "seed: tuning takes seeds"),
        (["sweep.on_error=panic", "seed=0,1"], "sweep.on_error"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_one_line(words, message, sweep, tmp_path):
    status, _, err = sweep(*words)
    assert status == 2
    (line,) = err
    assert line.startswith("peftbench: error: ")
    assert message in line
    assert not list(tmp_path.rglob("record.json"))


def test_hydras_optuna_sweeper_leaves_a_study_and_its_best_trial(sweep, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    status, out, _ = sweep(
        "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
        "method=lora", "optimizer.lr=interval(1e-4,1e-2)",
    )  # fmt: skip
    assert status == 0, out
    assert len(list(tmp_path.rglob("record.json"))) == 2
    found = manifest(tmp_path)
    assert (found["sweeper"], found["trials"]) == ("optuna", 2)
    (cell,) = found["cells"]
    assert (cell["method"], len(cell["trials"])) == ("lora", 2)
    assert cell["runs"] == [max(cell["trials"], key=lambda trial: trial["objective"])]


def test_hydras_optuna_sweeper_is_told_to_maximise():
    words = cli._comparable(["-m", "hydra/sweeper=optuna", "method=lora", "optimizer.lr=interval(1e-4,1e-2)"])
    assert "hydra.sweeper.direction=maximize" in words


@pytest.mark.parametrize("words", [[], ["hydra.sweeper.direction=maximize"]])
def test_without_the_plugin_optuna_itself_takes_the_same_words(words, monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_optuna_sweeper", None)
    found = cli._comparable(["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", *words])
    assert found == ["hydra/sweeper=tpe", "hydra.sweeper.trials=3"]


def test_hydras_basic_sweeper_tunes_nothing(sweep, tmp_path):
    status, out, _ = sweep("hydra/sweeper=basic", "method=lora", "seed=0,1")
    assert status == 0, out
    found = manifest(tmp_path)
    assert (found["trials"], found["cells"]) == (None, [])
    assert sorted(seed for _, _, seed in records(tmp_path)) == [0, 1]


def test_a_secret_names_no_folder(sweep, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "hidden")
    status, _, err = sweep("method=lora", "seed=0,1", f"outputs={tmp_path}/${{oc.env:SECRET}}")
    assert status == 2
    assert "the environment may hold secrets" in err[0]
    assert not list(tmp_path.rglob("*hidden*"))


def test_kept_things_are_made_once_and_the_oldest_goes_first():
    made = []

    def make(name):
        return lambda: made.append(name) or name

    kept = Kept({"rows": 2})
    for name in ("a", "b", "a", "c", "a", "b"):
        assert kept.get("rows", name, make(name)) == name
    assert made == ["a", "b", "c", "b"]
    assert Kept().get("rows", "a", make("x")) == "x"
    assert not Kept().holds("rows")


def test_a_jobs_peak_memory_is_its_own_and_so_is_a_phases():
    from peftbench.training.meter import Meter, reset_peak_memory

    reset_peak_memory()
    meter = Meter(torch.device("cpu"))
    meter.enter("training")
    block = np.ones(50_000_000)
    meter.enter("evaluation")
    del block
    reset_peak_memory()
    memory = meter.memory()
    by_phase = memory["peak_rss_mb_by_phase"]
    assert by_phase["training"] >= by_phase["setup"] + 390
    assert by_phase["evaluation"] < by_phase["setup"] + 100
    assert memory["peak_rss_mb"] == by_phase["training"]


def test_an_experiment_is_the_sweep_that_it_says_with_or_without_m(tiny_run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["+experiment=sora_table1_small", "task=mrpc", "method=lora,bitfit", "seed=3", *tiny_run]
    assert cli.exit_status(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 done"
    assert cli.exit_status(["-m", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 done (2 before)"


def test_a_drawn_point_that_is_no_configuration_is_a_failed_trial(sweep, tmp_path):
    status, _, err = sweep("hydra/sweeper=random", "hydra.sweeper.trials=6", "method=lora", "seed=0,1",
                           "trainer.micro_batch_size=choice(16,64)")  # fmt: skip
    assert status == 1
    assert any("micro_batch_size 64 exceeds batch_size 16" in line for line in err)
    (cell,) = manifest(tmp_path)["cells"]
    assert {trial["status"] for trial in cell["trials"]} == {"completed", "refused"}
    assert len(cell["trials"]) == 6
    assert cell["chosen"]["overrides"] == ["trainer.micro_batch_size=16"]
    assert [run["seed"] for run in cell["runs"]] == [0, 1]


def test_a_run_that_another_process_has_is_left_to_it(sweep, tmp_path, monkeypatch):
    from peftbench.record import RunFolder

    sweep("method=lora", "seed=0")
    (file,) = tmp_path.rglob("record.json")
    file.unlink()
    with RunFolder(file.parent).claimed():
        status, out, _ = sweep("method=lora", "seed=0,1")
    assert status == 1
    assert out[-1] == "1 of 2 done, 1 elsewhere"
    assert sweep("method=lora", "seed=0,1")[1][-1] == "2 of 2 done (1 before)"
