"""Experiments: every run of every sweep composes; what they say of themselves; twins that run, and their reports."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from peftbench.compose import compose_run, conf_folder

ROOT = Path(__file__).resolve().parents[1]
FILES = {file.stem: file for file in sorted((conf_folder() / "experiment").glob("*.yaml"))}
FULL = [name for name in FILES if not name.endswith("_small")]
LOCAL_MODELS = {"minilm", "smollm2"}
ASKED_FOR = {
    *(f"sora_{part}" for part in ("table1", "table2", "table4", "figure3", "figure4")),
    *("adalora_table1", "lora_glue", "lora_e2e", "bitfit_glue", "p_tuning_v2_superglue"),
    *(f"prefix_{part}" for part in ("e2e", "webnlg", "dart", "length", "reparametrisation")),
    *(
        f"prompt_{part}"
        for part in ("size", "multitask", "length", "initialisation", "lm_adaptation", "adaptation_steps")
    ),
    *("unipelt_low_data", "mam", "qlora"),
}
every_experiment = pytest.mark.parametrize("name", FILES)
every_full_one = pytest.mark.parametrize("name", FULL)


def read(name: str) -> Any:
    return OmegaConf.to_container(OmegaConf.load(FILES[name]))


def told(name: str) -> str:
    """The comment on top, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), FILES[name].read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


def spread(words: list[str]) -> list[list[str]]:
    """The values of every key, as `key=value`; of a key that stands there twice the last."""
    found = {}
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element()
        several = override.is_sweep_override()
        values = override.sweep_string_iterator() if several else [override.get_value_element_as_str()]
        found[key] = [f"{key}={value}" for value in values]
    return list(found.values())


def points(name: str) -> list[list[list[str]]]:
    """Of every point, the values of every key."""
    sweeper = read(name)["hydra"]["sweeper"]
    own = [f"{key}={value}" for key, value in sweeper.get("params", {}).items()]
    return [spread([*own, *point.split()]) for point in sweeper.get("points", [""])]


def runs(name: str) -> list[tuple[str, ...]]:
    return [run for values in points(name) for run in itertools.product(*values)]


def some_runs(name: str) -> list[tuple[str, ...]]:
    """As few runs of one seed as every other value of every key of every point is in."""
    some = []
    for values in points(name):
        values = [choices[:1] if choices[0].startswith("seed=") else choices for choices in values]
        for i in range(max(map(len, values))):
            some.append(tuple(choices[i % len(choices)] for choices in values))
    return some


def test_all_that_were_asked_for_are_there():
    assert set(FULL) == ASKED_FOR | {"lm_adaptation"}


@every_experiment
def test_its_first_run_composes(name):
    composes(name, [tuple(choices[0] for choices in points(name)[0])])


@pytest.mark.long
@every_experiment
def test_it_composes_for_every_value_of_every_point(name):
    composes(name, some_runs(name))


def composes(name: str, some: Iterable[tuple[str, ...]]):
    for run in some:
        config = compose_run([f"+experiment={name}", *run])
        assert config.experiment_name == name
        assert f"method={config.method_name}" in run or config.method_name == method_of(name), run
        assert name.endswith("_small") <= (config.model.name in LOCAL_MODELS)


def method_of(name: str) -> str | None:
    chosen = [entry["override /method"] for entry in read(name).get("defaults", []) if "override /method" in entry]
    return chosen[0] if chosen else None


@every_experiment
def test_it_says_what_it_is_whence_how_and_how_long(name):
    lines = FILES[name].read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert re.match(r"# \S", lines[1])
    assert max(map(len, lines)) <= 120
    comment = told(name)
    assert f"peftbench -m +experiment={name}" in comment.partition(" Command: ")[2]
    count = re.search(r" Cost: (\d+) runs? ?", comment + " ")
    assert count, "the cost begins with the number of runs"
    assert int(count[1]) == len(runs(name)) == len(set(runs(name)))
    if name in FULL:
        assert re.search(r" Source: [^.]*\(arXiv \d{4}\.\d{5}", comment)
        assert " Published" in comment
        assert " Ours: " in comment
    else:
        assert f" Source: conf/experiment/{name.removesuffix('_small')}.yaml" in comment
        assert " Differs: " in comment


@every_full_one
def test_it_has_a_twin(name):
    assert f"{name}_small" in FILES


@every_full_one
def test_every_rate_and_threshold_is_accounted_for(name):
    """It stands in the comment, or in that of the experiment that the comment refers to."""
    comment = " ".join(told(other) for other in FULL if other == name or re.search(rf"\b{other}\b", told(name)))
    keys = ("optimizer.lr", "sparsity.xi", "method.gate_l1")
    flat = {
        f"{group}.{key}": value for group in ("optimizer", "method") for key, value in read(name).get(group, {}).items()
    }
    given = {float(value) for key, value in flat.items() if key in keys}
    for run in runs(name):
        given |= {float(value) for key, _, value in (word.partition("=") for word in run) if key in keys}
    numbers = {float(number) for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?(?![\w])", comment)}
    assert given <= numbers


def test_lambda_of_figure_3_takes_as_much_off_a_gate_as_the_published_threshold():
    """The script's ξ = 7e-4 in the last of RTE's stages, 15 epochs of 78 batches; rates rise and fall linearly."""
    published = 7e-4 * 15 * math.ceil(2490 / 32)
    held_out = 1000
    rows = {"rte": 2490, "mrpc": 3668, "stsb": 5749, "cola": 8551, "qnli": 104743 - held_out, "sst2": 67349 - held_out}
    seen = set()
    for run in runs("sora_figure3"):
        config: Any = compose_run(["+experiment=sora_figure3", *run])
        steps = config.sparsity.stage_epochs * math.ceil(rows[config.task.name] / config.trainer.batch_size)
        assert config.sparsity.end * config.lr * steps / 2 == pytest.approx(published, rel=0.02)
        seen.add(config.task.name)
    assert seen == set(rows)


def test_published_values_reach_the_runs():
    """Presets under what an experiment says itself, and the paper's budgets."""

    def of(name: str, *words: str) -> Any:
        return compose_run([f"+experiment={name}", *words])

    lora = of("sora_table1", "method=lora", "task=rte")
    assert (lora.lr, lora.trainer.epochs, lora.trainer.batch_size, lora.trainer.eval_every) == (1.2e-3, 50, 8, 1000)
    assert lora.preset == "lora/rte/deberta_v3_base"
    small = of("adalora_table1", "method=adalora", "task=cola", "method.rank=4", "method.target_rank=2")
    assert (small.method.t_final, small.method.target_rank, small.lr, small.task.protocol) == (
        3500,
        2,
        5e-4,
        "glue_dev",
    )
    assert of("lora_e2e", "model=gpt2_large", "method=lora", "task=e2e").task.length_penalty == 0.9
    assert of("mam", "method=lora", "task=mnli").lr == 1e-4
    assert of("p_tuning_v2_superglue", "method=p_tuning_v2", "task=boolq", "model=bert_large_cased").method.length == 40
    prompt = of("prompt_length", "task=boolq", "method.length=100")
    assert (prompt.optimizer.name, prompt.optimizer.schedule, prompt.lr) == ("adafactor", "constant", 0.3)
    qlora = of("qlora", "method=qlora", "task=mrpc", "preset=lora/mrpc/roberta_large")
    assert (qlora.lr, qlora.trainer.epochs, qlora.method.rank, len(qlora.method.sites)) == (3e-4, 20, 64, 6)


def test_the_table_of_experiments_is_theirs():
    rows = {}
    for line in (ROOT / "docs" / "experiments.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if cells[0] in FILES:
            rows[cells[0]] = cells
    assert set(rows) == set(FULL)
    for name, (_, _, _, count, command, twin) in rows.items():
        assert int(count.replace(",", "")) == len(runs(name))
        assert command == f"peftbench -m +experiment={name}"
        assert int(twin.split()[0]) == len(runs(f"{name}_small"))


def reproduce(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def records_in(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in folder.rglob("record.json")]


def test_a_twin_runs_and_is_reported(tiny_run, tmp_path):
    words = [*tiny_run, "trainer.precision=fp32", "trainer.max_steps=2", "task=mrpc", "seed=0"]
    done = reproduce("sora_table4_small", *words, "--to", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    records = records_in(tmp_path / "outputs" / "sora_table4_small")
    assert sorted(record["method"] for record in records) == ["adalora", "sora"]
    assert {record["data"]["protocol"] for record in records} == {"sora"}
    assert {record["config"]["trainer"]["batch_size"] for record in records} == {16}
    assert any((tmp_path / "report").iterdir())


@pytest.mark.long
def test_a_twin_that_writes_text_runs(tiny_folder_of, tmp_path):
    words = ["data=sample", f"model.path={tiny_folder_of('llama')}", f"outputs={tmp_path}", "trainer.threads=1"]
    words += ["trainer.precision=fp32", "trainer.max_steps=1", "data.max_train_rows=16", "data.max_eval_rows=2"]
    words += ["task.max_length=48", "task.max_target_length=16", "task.max_new_tokens=4"]
    done = reproduce("lora_e2e_small", *words, "--to", str(tmp_path / "report"))
    assert done.returncode == 0, done.stderr
    records = records_in(tmp_path / "lora_e2e_small")
    assert [(record["task"], record["config"]["method"]["alpha"]) for record in records] == [("e2e", 32)]


def test_reproduce_without_a_name_lists_the_experiments():
    listed = reproduce()
    assert listed.returncode == 0
    assert {line.split()[0] for line in listed.stdout.splitlines() if line.strip()} >= set(FILES)
    source = (ROOT / "scripts" / "reproduce.py").read_text()
    assert "torch" not in source
