"""SuperGLUE as one task: its tasks' own rows behind their names, the limit, the scores, the mean that selects."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from tasks.test_superglue import RECORD, RTE, WIC, put_all
from test_experiment import Killed, same_result

from peftbench import cli
from peftbench.compose import compose_run
from peftbench.config import DataConfig
from peftbench.errors import ConfigurationError
from peftbench.experiment import run_experiment
from peftbench.task_config import MixtureTask, TaskConfig
from peftbench.tasks.mixture import parts
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS, configured
from peftbench.tasks.scores import implementations, score
from peftbench.training.loop import Loop

NAME = "superglue_mixture"
SPEC = TASKS[NAME]
MEMBERS = ["boolq", "cb", "copa", "multirc", "record", "superglue_rte", "wic", "wsc"]
BEGINNINGS = {
    "boolq": "boolq passage: ", "cb": "cb hypothesis: ", "copa": "copa choice1: ", "multirc": "multirc question: ",
    "record": "record query: ", "superglue_rte": "rte hypothesis: ", "wic": "wic sentence1: ", "wsc": "wsc: ",
}  # fmt: skip
"""As T5's code has them."""
HIDDEN = {"label": [-1] * 4}


def load(limit=65536, root=None, **data):
    task = MixtureTask(NAME, max_rows_per_task=limit)
    config = DataConfig("sample", **data) if root is None else DataConfig("folder", str(root), **data)
    return load_task(configured(task), task, config)


def alone(task, **data):
    return load_task(TASKS[task], TaskConfig(task), DataConfig("sample", **data))


@pytest.fixture(scope="module")
def whole():
    return load()


def by_name(split):
    return {member.name: part for member, _, part in parts(SPEC.members, split)}


@pytest.mark.parametrize("task", MEMBERS)
def test_a_tasks_rows_are_its_own_behind_its_name(task, whole):
    single = alone(task)
    for mixed, own in (
        (whole.train, single.train),
        (whole.evaluations["validation"], single.evaluations["validation"]),
    ):
        assert by_name(mixed)[task].fingerprint == own.fingerprint
        places = np.flatnonzero(np.asarray(mixed.columns["task"]) == task)
        sources, text = SPEC.text.sources(mixed), TASKS[task].text
        name = BEGINNINGS[task].split()[0]
        assert [sources[place] for place in places] == [f"{name} {source}" for source in text.sources(own)]
        assert all(sources[place].startswith(BEGINNINGS[task]) for place in places)


def test_its_examples_are_those_of_its_tasks(whole):
    row_of, targets = SPEC.text.pairs(whole.train)
    sources = SPEC.text.sources(whole.train)
    found = Counter(zip([sources[row] for row in row_of], targets, strict=True))
    wanted = Counter()
    for task in MEMBERS:
        text, train = TASKS[task].text, alone(task).train
        rows, answers = text.pairs(train)
        own, name = text.sources(train), BEGINNINGS[task].split()[0]
        wanted.update((f"{name} {own[row]}", answer) for row, answer in zip(rows, answers, strict=True))
    assert found == wanted
    # Of WSC the rows whose phrase is meant, of ReCoRD every answer: neither has as many examples as rows.
    rows = Counter(whole.train.columns["task"][row] for row in row_of)
    assert rows["wsc"] == int(alone("wsc").train.labels.sum()) < whole.provenance["members"]["train"]["wsc"]
    assert rows["record"] == sum(map(len, alone("record").train.columns["answers"]))


def test_a_larger_task_gives_a_fixed_random_subset_and_a_smaller_one_all_of_its_rows(whole):
    limited = load(limit=600)
    rows = Counter(limited.train.columns["task"])
    assert limited.provenance["members"]["train"] == rows
    assert rows["boolq"] == rows["record"] == 600
    assert rows["cb"] == whole.provenance["members"]["train"]["cb"] == 500
    assert limited.train.fingerprint == load(limit=600).train.fingerprint
    assert by_name(limited.train)["boolq"].fingerprint == alone("boolq", max_train_rows=600).train.fingerprint
    questions = Counter(by_name(whole.train)["multirc"].columns["group"])
    kept = Counter(by_name(limited.train)["multirc"].columns["group"])
    assert kept.items() <= questions.items()  # A question comes with all of its answers or not at all.
    assert "boolq: 600 of 2000 train rows" in limited.provenance["notes"]
    assert limited.evaluations["validation"].fingerprint == whole.evaluations["validation"].fingerprint


def test_rows_are_limited_for_training_over_all_tasks_and_for_evaluation_in_each():
    data = load(max_train_rows=300, max_eval_rows=12)
    assert 290 < len(data.train) <= 300
    assert set(data.train.columns["task"]) == set(MEMBERS)
    rows = Counter(data.evaluations["validation"].columns["task"])
    assert set(rows) == set(MEMBERS)
    assert all(10 <= count <= 12 for count in rows.values())


def answers(split):
    """Texts, one per row: of every third row something else than the answer, of every fifth no answer."""
    texts = []
    for member, _, part in parts(SPEC.members, split):
        row_of, targets = member.text.pairs(part)
        right = dict(zip(row_of.tolist(), targets, strict=True))
        other = targets[::-1] or ["*"]
        for row in range(len(part)):
            text = "* none" if row % 5 == 0 else other[row % len(other)] if row % 3 == 0 else right.get(row, "nobody")
            texts.append(f" {text} ")
    return texts


def test_scores_are_those_of_each_task_alone_and_their_mean_is_superglues_average(whole):
    split = whole.evaluations["validation"]
    texts = answers(split)
    assert SPEC.text.read(texts, split) == texts
    found = score(SPEC, split, texts)
    assert list(found) == ["validation", *MEMBERS]
    for task in MEMBERS:
        own = alone(task).evaluations["validation"]
        its = [texts[place] for place in np.flatnonzero(np.asarray(split.columns["task"]) == task)]
        wanted = score(TASKS[task], own, TASKS[task].text.read(its, own))["validation"]
        assert found[task] == wanted
        assert 0 < min(wanted.values()) < 1
    assert len(MEMBERS) == 8
    means = [sum(found[task].values()) / len(found[task]) for task in MEMBERS]
    assert found["validation"] == {"average": pytest.approx(sum(means) / 8)}


def test_the_mean_over_the_tasks_that_are_there_by_hand(tmp_path):
    put_all(tmp_path, "rte", RTE, HIDDEN)
    put_all(tmp_path, "record", RECORD, {"answers": [[]] * len(RECORD["answers"])})
    split = load(root=tmp_path).evaluations["validation"]
    texts = answers_of_record = ["nothing"] * len(split)
    of = np.asarray(split.columns["task"])
    first = int(np.flatnonzero(of == "record")[0])
    answers_of_record[first] = by_name(split)["record"].columns["answers"][0][0]
    for place, text in zip(np.flatnonzero(of == "superglue_rte"), ["entailment", "not_entailment", "x", "entailment"],
                           strict=True):  # fmt: skip
        texts[place] = text
    found = score(SPEC, split, texts)
    assert found["superglue_rte"] == {"accuracy": 0.5}
    em, f1 = found["record"]["record_em"], found["record"]["record_f1"]
    assert em == pytest.approx(1 / int((of == "record").sum()))
    assert found["validation"]["average"] == pytest.approx((0.5 + (em + f1) / 2) / 2)


def test_what_is_no_answer_is_told_as_each_task_tells_it(whole):
    split = whole.evaluations["validation"]
    texts = answers(split)
    verdicts = SPEC.text.legal(texts, split)
    for task in MEMBERS:
        own = alone(task).evaluations["validation"]
        places = np.flatnonzero(np.asarray(split.columns["task"]) == task)
        wanted = TASKS[task].text.legal([texts[place] for place in places], own)
        assert [verdicts[place] for place in places] == wanted
        assert wanted.count(False) >= len(own) // 5


def test_tasks_that_a_folder_has_not_are_told_and_make_it_partial(tmp_path):
    put_all(tmp_path, "rte", RTE, HIDDEN)
    put_all(tmp_path, "wic", WIC, {"label": [-1] * len(WIC["label"])})
    data = load(root=tmp_path)
    assert set(data.train.columns["task"]) == {"superglue_rte", "wic"}
    told = data.provenance
    assert told["kind"] == "partial"
    missing = [
        note.partition(":")[0] for note in told["notes"] if note.endswith("not in this source, so not in the mixture")
    ]
    assert missing == ["boolq", "cb", "copa", "multirc", "record", "wsc"]
    assert f"superglue_rte: train has {len(RTE['label'])} rows, the official release 2490" in told["notes"]
    with pytest.raises(ConfigurationError, match=r"^super_glue/superglue_mixture: this source has none of its tasks"):
        load(root=tmp_path / "super_glue")


def test_it_is_the_benchmark_where_every_task_is_whole_limit_or_not(tmp_path):
    put_all(tmp_path, "rte", RTE, HIDDEN)
    rows = len(RTE["label"])
    (rte,) = (member for member in SPEC.members if member.name == "superglue_rte")
    small = dataclasses.replace(rte, official_rows={"train": rows, "validation": rows})
    spec = dataclasses.replace(SPEC, members=(small,))
    for limit, notes in ((rows, []), (rows - 1, [f"superglue_rte: {rows - 1} of {rows} train rows"])):
        task = MixtureTask(NAME, max_rows_per_task=limit)
        told = load_task(spec, task, DataConfig("folder", str(tmp_path))).provenance
        assert (told["kind"], told["notes"]) == ("benchmark", notes)


def test_official_rows_are_those_of_all_tasks_within_the_limit():
    assert SPEC.official_rows == {"train": 146522, "validation": 19293}
    assert configured(MixtureTask(NAME)).official_rows["train"] == 146522 - 100730 + 65536
    assert configured(MixtureTask(NAME, max_rows_per_task=1000)).official_rows["train"] == 250 + 400 + 554 + 5 * 1000


def test_every_metric_says_what_computed_it():
    assert set(implementations(SPEC)) == {
        "average", *(metric for member in SPEC.members for metric in member.metrics),
    }  # fmt: skip


@pytest.fixture
def words(tiny_run, tiny_folder_of):
    """Family -> the command line of a run of seconds."""

    def line(family):
        changed = {"model.path": tiny_folder_of(family), "data.max_train_rows": 96, "task.max_length": 64}
        kept = [word for word in tiny_run if word.partition("=")[0] not in changed]
        return [*kept, *(f"{key}={value}" for key, value in changed.items()), f"task={NAME}", "data.max_eval_rows=6"]

    return line


def run(*overrides):
    return run_experiment(compose_run(list(overrides)))


@pytest.mark.parametrize(("family", "method"), [
    ("t5", "full"), ("gpt2", "sora"),
    pytest.param("gpt2", "full", marks=pytest.mark.long), pytest.param("t5", "lora", marks=pytest.mark.long),
])  # fmt: skip
def test_one_model_is_trained_and_scored_on_every_task(family, method, words):
    record, path = run(*words(family), f"method={method}")
    assert (record["status"], record["form"]) == ("completed", "text")
    assert record["parameters"]["head"] == 0
    assert set(record["metrics"]) == {"validation", *MEMBERS}
    for task in MEMBERS:
        assert set(record["metrics"][task]) == set(TASKS[task].metrics)
        assert set(record["baselines"][task]) == {"majority", "random"}
    means = [np.mean(list(record["metrics"][task].values())) for task in MEMBERS]
    assert record["metrics"]["validation"]["average"] == pytest.approx(np.mean(means))
    assert record["selection"]["metric"] == "average"
    assert record["objective"] == record["selection"]["value"] == record["metrics"]["validation"]["average"]
    split = load(max_eval_rows=6).evaluations["validation"]
    lines = [json.loads(line) for line in (path / "written-sample" / "validation.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == split.texts[0]
    illegal = record["illegal_outputs"]
    assert set(illegal) == {"validation", *MEMBERS}
    assert illegal["validation"] == sum(illegal[task] for task in MEMBERS)
    for member, places, part in parts(SPEC.members, split):
        outputs = [lines[place]["output"] for place in places]
        assert illegal[member.name] == member.text.legal(outputs, part).count(False)
        flag = f"illegal outputs on {member.name}: {illegal[member.name]} of {len(part)}"
        assert (flag in record["flags"]) == (illegal[member.name] > 0)


@pytest.mark.long
def test_a_run_cut_off_and_started_again_ends_like_one_that_was_not(words, tmp_path, monkeypatch):
    more = ["method=full", "trainer.checkpoint_every=2", "optimizer.lr=1e-2"]
    whole_run = run(*words("t5"), *more, f"outputs={tmp_path / 'whole'}")
    step = Loop._step

    def cut(self, plan, batch, lengths):
        if self.state.step == 3:
            raise Killed
        return step(self, plan, batch, lengths)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", cut)
        with pytest.raises(Killed):
            run(*words("t5"), *more)
    same_result(whole_run, run(*words("t5"), *more))


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("bert", [], f"task {NAME} as text needs a model that writes text, and minilm (bert) is an encoder"),
        ("t5", ["task.form=head"], f"task.form=head: {NAME} asks for a text; leave task.form=auto"),
        ("t5", ["task.protocol=sora"], f"task.protocol=sora: {NAME} takes glue_dev (its test labels are hidden)"),
        ("t5", ["task.selection_metric=accuracy"], "task.selection_metric: 'accuracy' is not a metric of"),
        ("t5", ["task.max_rows_per_task=0"], "task.max_rows_per_task"),
    ],
)
def test_what_does_not_fit_is_one_line(family, more, message, words, capsys):
    assert cli.exit_status([*words(family), "method=full", *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("peftbench: error:")]
    assert message in line
