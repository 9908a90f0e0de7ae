"""Whole runs of every task beyond GLUE, on tiny backbones: heads on choices and spans, texts, running text."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tasks.test_generation import DART, entry
from tasks.test_superglue import AXB_ROWS, AXG_ROWS, RECORD, RTE, WIC
from test_experiment import LONG, Killed, same_result

from peftbench import cli
from peftbench.compose import compose_run
from peftbench.errors import ConfigurationError
from peftbench.experiment import run_experiment
from peftbench.forms.likelihood import Likelihood
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS
from peftbench.training.loop import Loop

SUPERGLUE = ["boolq", "cb", "copa", "multirc", "record", "superglue_rte", "wic", "wsc"]
SUBMITTED = {
    "boolq": {"BoolQ"}, "cb": {"CB"}, "copa": {"COPA"}, "multirc": {"MultiRC"}, "record": {"ReCoRD"},
    "superglue_rte": {"RTE", "AX-b", "AX-g"}, "wic": {"WiC"}, "wsc": {"WSC"},
}  # fmt: skip
BRIEF = ["task.beams=1", "task.max_new_tokens=6", "data.max_eval_rows=6", "task.max_target_length=24"]
METHODS = ["lora", "prefix_tuning", "prompt_tuning", "sora"]


@pytest.fixture
def words(tiny_run, tiny_folder_of):
    """Family -> the command line of a run of seconds."""

    def line(family):
        changed = {"model.path": tiny_folder_of(family), "data.max_train_rows": 32, "task.max_length": 64}
        kept = [word for word in tiny_run if word.partition("=")[0] not in changed]
        return [*kept, *(f"{key}={value}" for key, value in changed.items())]

    return line


@pytest.fixture(autouse=True)
def without_meteor(monkeypatch):
    """Its Java takes five seconds to load its tables, in every run; tests of the metrics have it."""
    monkeypatch.setattr("peftbench.tasks.text_metrics.meteor.obstacle", lambda: "left out of this test")


def run(*overrides):
    return run_experiment(compose_run(list(overrides)))


def finite(metrics):
    return all(math.isfinite(value) for part in metrics.values() for value in part.values() if value is not None)


@pytest.mark.parametrize("method", ["lora", pytest.param("sora", marks=LONG), pytest.param("bitfit", marks=LONG)])
@pytest.mark.parametrize("task", SUPERGLUE)
def test_every_superglue_task_runs_with_its_head_and_predicts_for_submission(task, method, words):
    record, path = run(
        *words("bert"), f"task={task}", f"method={method}", "trainer.predictions=true", "data.max_eval_rows=24"
    )
    assert record["status"] == "completed"
    assert record["form"] == {"copa": "choice", "record": "choice", "wic": "spans", "wsc": "spans"}.get(
        task, "classification"
    )
    extras = {"axb", "axg"} if task == "superglue_rte" else set()
    assert set(record["metrics"]) == {"validation", *extras}
    assert set(record["metrics"]["validation"]) == set(TASKS[task].metrics)
    assert set(record["baselines"]["validation"]) == {"majority", "random"}
    assert finite(record["metrics"])
    assert record["parameters"]["head"] > 0
    files = list((path / "predictions-sample").iterdir())
    assert {file.stem for file in files} == SUBMITTED[task]
    for file in files:
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert lines
        assert all(set(line) == {"idx", "passage" if task == "multirc" else "label"} for line in lines)


@pytest.mark.parametrize(
    ("task", "method"),
    [("copa", "prompt_tuning"), ("multirc", "prefix_tuning"), ("record", "sora"), ("stsb", "lora"),
     *(pytest.param(task, "lora", marks=LONG) for task in ("cb", "wic", "wsc", "boolq")),
     pytest.param("superglue_rte", "ia3", marks=LONG)],
)  # fmt: skip
@pytest.mark.parametrize("family", ["t5", pytest.param("gpt2", marks=LONG)])
def test_every_task_runs_as_text_and_counts_what_is_illegal(family, task, method, words):
    line = [*words(family), f"task={task}", f"method={method}", "data.max_eval_rows=12", "trainer.predictions=true"]
    record, path = run(*line)
    assert record["form"] == "text"
    assert record["parameters"]["head"] == 0
    assert finite(record["metrics"])
    config = compose_run(line)
    data = load_task(TASKS[task], config.task, config.data, submission=True)
    splits = data.evaluations | data.hidden
    assert set(record["illegal_outputs"]) == set(splits) >= {"validation", task}
    for name, split in splits.items():
        lines = (path / "written-sample" / f"{name}.jsonl").read_text().splitlines()
        outputs = [json.loads(written)["output"] for written in lines]
        count = TASKS[task].text.legal(outputs, split).count(False)
        assert record["illegal_outputs"][name] == count
        assert (f"illegal outputs on {name}: {count} of {len(split)}" in record["flags"]) == (count > 0)


def test_classes_that_are_written_take_no_pass_for_a_likelihood_that_nothing_reads(words, monkeypatch):
    passes = []
    numbers = Likelihood.numbers
    monkeypatch.setattr(Likelihood, "numbers", lambda self, rows: passes.append(len(rows)) or numbers(self, rows))
    run(*words("gpt2"), "task=superglue_rte", "method=lora", "data.max_eval_rows=12", "trainer.predictions=true")
    assert passes == [12, 12]  # Before and after pruning, of the selecting split.


def test_no_example_to_train_on_is_one_line_and_leaves_no_folder(words, tmp_path):
    line = [word for word in words("t5") if not word.startswith("data.max_train_rows")]
    with pytest.raises(ConfigurationError, match=r"^task wsc, as text: none of the 1 training rows gives an example"):
        run(*line, "task=wsc", "method=lora", "data.max_train_rows=1")
    assert not list((tmp_path / "outputs").rglob("wsc*"))


def test_an_untrained_score_that_is_asked_for_later_is_another_run(words):
    line = [*words("bert"), "task=cb", "method=lora"]
    first, _ = run(*line)
    second, _ = run(*line, "trainer.score_untrained=true")
    assert "untrained" not in first
    assert set(second["untrained"]) == {"validation"}
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize(
    ("method", "family"),
    [pytest.param(m, f, marks=LONG if f in ("llama", "bart") and m != "lora" else ())
     for f in ("gpt2", "llama", "t5", "bart") for m in METHODS],
)  # fmt: skip
def test_e2e_is_written_and_scored(family, method, words):
    record, path = run(*words(family), "task=e2e", f"method={method}", *BRIEF, "trainer.score_untrained=true")
    names = set(TASKS["e2e"].metrics) | {"log_likelihood", "perplexity"}
    for scores in (*record["metrics"].values(), *record["untrained"].values()):
        assert names - {"meteor"} <= set(scores) <= names
    assert set(record["metrics"]) == {"validation", "test"}
    assert set(record["untrained"]) == {"validation"}
    assert record["selection"]["metric"] == "log_likelihood"
    found = record["metrics"]["validation"]
    assert found["perplexity"] == pytest.approx(math.exp(-found["log_likelihood"]))
    assert record["metric_versions"]["bleu"].startswith("sacrebleu ")
    assert record["timing"]["generated_tokens_per_s"] > 0
    for split in ("validation", "test"):
        lines = [json.loads(line) for line in (path / "written-sample" / f"{split}.jsonl").read_text().splitlines()]
        assert [set(line) for line in lines] == [{"source", "output", "references"}] * 6


def test_webnlg_is_scored_seen_unseen_and_whole(words):
    record, _ = run(*words("gpt2"), "task=webnlg", "method=lora", *BRIEF, "data.max_eval_rows=12")
    assert set(record["metrics"]) == {"validation", "test", "test_seen", "test_unseen"}
    assert "bleu" in record["metrics"]["test_unseen"]


@pytest.mark.parametrize(("family", "objective"), [("gpt2", "plain"), ("llama", "prefix"), ("t5", "prefix")])
def test_running_text_is_modelled(family, objective, words):
    record, _ = run(*words(family), "task=lm", f"task.objective={objective}", "method=full", "trainer.max_steps=4",
                    "trainer.score_untrained=true", "optimizer.lr=1e-3")  # fmt: skip
    assert set(record["metrics"]["validation"]) == {"log_likelihood", "perplexity"}
    assert record["metrics"]["validation"]["perplexity"] < record["untrained"]["validation"]["perplexity"]


def test_an_encoder_decoder_models_text_after_a_prefix_only(words):
    with pytest.raises(ConfigurationError, match=r"^task\.objective"):
        run(*words("t5"), "task=lm", "task.objective=plain", "method=lora")


def folder_of(root, suite, splits):
    for split, columns in splits.items():
        file = root / suite / f"{split}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(columns) if isinstance(columns, list) else pa.table(columns)
        pq.write_table(table, file)


WEBNLG_3 = [
    entry("Company", ["a | b | c"], ["Of a seen category."], [""], "rdf-to-text-generation-test-data-with-refs-en"),
    entry("Film", ["d | e | f"], ["Of an unseen one."], [""], "rdf-to-text-generation-test-data-with-refs-en"),
]


@pytest.mark.parametrize(
    ("family", "more", "folders"),
    [
        ("bert", ["task=wic"], {"super_glue/wic": WIC}),
        ("bert", ["task=record"], {"super_glue/record": RECORD}),
        ("gpt2", ["task=record", "task.max_length=96"], {"super_glue/record": RECORD}),
        ("bert", ["task=superglue_rte"],
         {"super_glue/rte": RTE, "super_glue/axb": AXB_ROWS, "super_glue/axg": AXG_ROWS}),
        ("llama", ["task=dart", *BRIEF], {"dart": DART}),
        ("t5", ["task=webnlg", "task.release=release_v3.0_en", *BRIEF], {"webnlg/release_v3.0_en": WEBNLG_3}),
        ("gpt2", ["task=webnlg", "task.release=release_v2.1", *BRIEF],
         {"webnlg/release_v2.1": [entry("City", ["a | b | c"], ["A text."])]}),
    ],
)  # fmt: skip
def test_rows_in_the_hubs_schema_run_end_to_end(family, more, folders, words, tmp_path):
    for folder, columns in folders.items():
        folder_of(tmp_path / "data", folder, dict.fromkeys(("train", "validation", "test"), columns))
    line = [word for word in words(family) if word != "data=sample"]
    record, _ = run(*line, "data=folder", f"data.root={tmp_path / 'data'}", "method=lora", *more)
    assert record["status"] == "completed"
    assert record["data"]["kind"] == "partial"
    assert finite(record["metrics"])
    if "axb" in str(folders):
        assert set(record["metrics"]) == {"validation", "axb", "axg"}
        assert set(record["metrics"]["axg"]) == {"accuracy", "gender_parity"}
    if family == "t5":
        assert {"test_seen", "test_unseen"} <= set(record["metrics"])


@pytest.mark.parametrize(
    ("family", "task"),
    [("gpt2", "e2e"), ("bert", "copa"), *(pytest.param(*pair, marks=LONG) for pair in (("t5", "cb"), ("bert", "wic")))],
)
def test_a_run_cut_off_and_started_again_ends_like_one_that_was_not(family, task, words, tmp_path, monkeypatch):
    more = [f"task={task}", "method=sora", "sparsity.lambda=60", "trainer.checkpoint_every=2", "trainer.batch_size=4"]
    more += ["data.max_eval_rows=6", *(BRIEF if task == "e2e" else [])]
    whole = run(*words(family), *more, f"outputs={tmp_path / 'whole'}")
    step = Loop._step

    def cut(self, plan, batch, lengths):
        if self.state.step == 5:
            raise Killed
        return step(self, plan, batch, lengths)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", cut)
        with pytest.raises(Killed):
            run(*words(family), *more)
    same_result(whole, run(*words(family), *more))


def test_a_merged_model_with_a_head_on_spans_loads_as_the_documentation_says(words):
    from peft import PeftModel

    from peftbench.backbones.heads import span_classifier

    _, path = run(*words("bert"), "task=wic", "method=lora", "trainer.merge=true", "optimizer.lr=1e-2")
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    (snippet,) = (part for part in page.split("```") if part.startswith("python\n") and "span_classifier" in part)
    scope: dict = {}
    exec(snippet.removeprefix("python\n").replace("<run>", str(path)), scope)
    base = next(word for word in words("bert") if word.startswith("model.path=")).partition("=")[2]
    plain = span_classifier(type(scope["shape"])).from_pretrained(base, num_labels=2)
    tuned = PeftModel.from_pretrained(plain, path / "adapter").eval()
    ids = torch.randint(5, 500, (2, 9), generator=torch.Generator().manual_seed(0))
    spans = torch.tensor([[[1, 3], [5, 6]], [[2, 3], [4, 8]]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "spans": spans}
    with torch.no_grad():
        torch.testing.assert_close(scope["model"].eval()(**inputs).logits, tuned(**inputs).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_merged_language_model_writes_the_same(family, words):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    record, path = run(*words(family), "task=e2e", "method=lora", "trainer.merge=true", "optimizer.lr=1e-2", *BRIEF)
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    model, info = auto.from_pretrained(path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(path / "merged")
    line = json.loads((path / "written-sample" / "validation.jsonl").read_text().splitlines()[0])
    assert record["status"] == "completed"
    base = next(word for word in words(family) if word.startswith("model.path="))
    tuned = PeftModel.from_pretrained(auto.from_pretrained(base.partition("=")[2]), path / "adapter")
    inputs = tokenizer(line["source"], return_tensors="pt")
    more = {"decoder_input_ids": torch.tensor([[0, 5, 6]])} if family == "t5" else {}
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(**inputs, **more).logits, tuned.eval()(**inputs, **more).logits, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("bert", ["task=e2e"], "task e2e as text needs a model that writes text, and minilm (bert) is an encoder"),
        ("bert", ["task=cb", "task.form=text"], "task cb as text needs a model that writes text"),
        ("gpt2", ["task=e2e", "task.form=head"], "task.form=head: e2e asks for a text; leave task.form=auto"),
        ("gpt2", ["task=e2e", "task.protocol=sora"], "task.protocol=sora: e2e takes official (its test set is public)"),
        ("bert", ["task=cb", "task.protocol=official"], "task.protocol=official: cb takes glue_dev or sora"),
        ("gpt2", ["task=e2e", "task.selection_metric=ter"], "task.selection_metric=ter: what selects grows with"),
        ("gpt2", ["task=e2e", "method=linear_probe", *BRIEF, "task.max_target_length=12"], "linear_probe"),
        ("gpt2", ["task=lm", "task.corpus=nowhere", "data=folder", "data.root=."], "no train split"),
    ],
)
def test_what_does_not_fit_is_one_line(family, more, message, words, capsys):
    assert cli.exit_status([*words(family), "method=lora", *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("peftbench: error:")]
    assert message in line


def test_a_selection_without_a_likelihood_is_no_failure(tiny_run, tiny_folder_of, monkeypatch):
    """The one row of WSC that selects has the wrong noun phrase: nothing of it is trained on, or likely."""
    own = ["task=wsc", "method=lora", "task.form=text", "data.max_eval_rows=1", "task.max_length=64"]
    numbers, scored = Likelihood.numbers, []
    monkeypatch.setattr(Likelihood, "numbers", lambda form, rows: (scored.append(len(rows)), numbers(form, rows))[1])
    record, _ = run(*tiny_run, *own, f"model.path={tiny_folder_of('t5')}")
    assert set(scored) == {0}
    assert record["status"] == "completed"
