"""Mixed-task batches: every row through its own prompt and its own head, in one forward."""

import numpy as np
import pytest
import torch

from peftbench.cli import exit_status
from peftbench.compose import compose_run
from peftbench.errors import ConfigurationError
from peftbench.experiment import run_experiment
from peftbench.layers.row_heads import RowHeads
from peftbench.mixed import MixedTasks, TrainedRun
from peftbench.tasks.sample import sample_split

SETTINGS = {
    "prompt_tuning": ("method.length=3", "method.length=6"),
    "p_tuning": ("method.template=[2]", "method.template=[2,a,2]"),
    "prefix_tuning": ("method.length=3", "method.length=6"),
    "p_tuning_v2": ("method.length=5", "method.length=2"),
}


def trained(tiny_run, name, *words):
    return run_experiment(compose_run([*tiny_run, f"method={name}", "trainer.epochs=1", *words]))[1]


def texts(task, rows=6):
    split = sample_split(task, "train")
    columns = [c for c in ("sentence", "sentence1", "sentence2", "premise", "hypothesis") if c in split]
    return [[split[c][row] for c in columns] for row in range(rows)]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_row_in_a_mixed_batch_is_the_row_of_its_own_model(name, tiny_run, monkeypatch):
    import peftbench.experiment as experiment

    models = []
    carry_out = experiment.Run.carry_out
    monkeypatch.setattr(experiment.Run, "carry_out", lambda self, began: models.append(self) or carry_out(self, began))
    short, long = SETTINGS[name]
    tasks = ("mrpc", "mnli", "stsb")
    runs = [trained(tiny_run, name, f"task={task}", "task.max_length=32", s)
            for task, s in zip(tasks, (short, long, short), strict=True)]  # fmt: skip
    mixed = MixedTasks([TrainedRun.read(folder) for folder in runs])
    rows = [(row, which) for which, task in enumerate(tasks) for row in texts(task)]
    order = np.random.default_rng(0).permutation(len(rows))
    together = mixed.logits([rows[i][0] for i in order], [rows[i][1] for i in order])
    assert {len(together[list(order).index(i)]) for i in (0, 6, 12)} == {2, 3, 1}
    for place, i in enumerate(order):
        row, which = rows[i]
        own = models[which]
        inputs = own.rows.form.tokenizer(*row, truncation=True, max_length=32, return_tensors="pt")
        own.model.eval()
        with torch.no_grad():
            expected = own.model(**inputs).logits[0].numpy()
        np.testing.assert_allclose(together[place], expected, rtol=0, atol=2e-6)


def test_the_verb_scores_as_the_records_do(tiny_run, capsys):
    runs = [trained(tiny_run, "p_tuning_v2", f"task={task}") for task in ("mrpc", "sst2")]
    assert exit_status(["mixed", *map(str, runs)]) == 0
    out = capsys.readouterr().out
    lines = [line.split("│") for line in out.splitlines() if "validation accuracy" in line]
    assert len(lines) == 2
    for line in lines:
        assert line[4].strip() == line[5].strip()
        assert float(line[6]) < 1e-5


def test_runs_that_cannot_share_a_batch_are_refused_in_words(tiny_run, tmp_path):
    lora, one = trained(tiny_run, "lora"), trained(tiny_run, "prompt_tuning")
    other = trained(tiny_run, "prefix_tuning", "task=sst2")
    read = TrainedRun.read
    with pytest.raises(ConfigurationError, match="lora: its result changes the backbone for all rows"):
        MixedTasks([read(lora), read(lora)])
    with pytest.raises(ConfigurationError, match="has another method than"):
        MixedTasks([read(one), read(other)])
    with pytest.raises(ConfigurationError, match="is no record"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "two runs or more"),
        (["one"], "two runs or more"),
        (["one", "two"], "one is no record"),
        (["one", "two", "rows=0"], "rows=0"),
    ],
)
def test_the_verbs_mistakes(words, message, capsys):
    assert exit_status(["mixed", *words]) == 2
    assert message in capsys.readouterr().err


def test_heads_of_different_widths_pad_with_minus_infinity():
    heads = RowHeads(torch.nn.Linear(4, 2), [
        {"weight": torch.ones(2, 4), "bias": torch.zeros(2)}, {"weight": torch.ones(3, 4), "bias": torch.ones(3)},
    ])  # fmt: skip
    heads.tasks = torch.tensor([1, 0])
    out = heads(torch.ones(2, 4))
    assert out[0].tolist() == [5, 5, 5]
    assert out[1].tolist() == [4, 4, float("-inf")]
