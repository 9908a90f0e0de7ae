"""Whole runs on a tiny backbone and sample data."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts.test_methods import METHODS

from peftbench.backbones.origin import origin
from peftbench.compose import compose_run
from peftbench.errors import RunError
from peftbench.experiment import Run, run_experiment
from peftbench.methods.registry import method_class
from peftbench.training.guard import Diverged

FAST = {
    "adalora": ["method.rank=4", "method.target_rank=2"],
    "sora": ["sparsity.lambda=60"],
    "compacter": ["method.reduction=4"],
    "adapter_drop": ["method.drop=1"],
}
MERGEABLE = [name for name in METHODS if method_class(name).capabilities.mergeable]


def run(tiny_run, *overrides):
    config = compose_run([*tiny_run, *overrides])
    if config.model.quantization is not None:
        pytest.importorskip("bitsandbytes")
    return run_experiment(config)


def tensors(path: Path):
    from safetensors.torch import load_file

    return load_file(path / "adapter" / "adapter_model.safetensors")


def same_result(first, second):
    (one, at_one), (two, at_two) = first, second
    assert one["metrics"] == two["metrics"]
    assert one["ranks"] == two["ranks"]
    assert one["selection"] == two["selection"]
    a, b = tensors(at_one), tensors(at_two)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


LONG = pytest.mark.long
ALIKE = ("linear_probe", "parallel_adapter", "scaled_parallel_adapter", "pfeiffer", "p_tuning_v2", "p_tuning")
"""Methods whose records are like another's: the short tests leave them out."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG if name in ALIKE else ()) for name in METHODS])
def test_a_run_leaves_a_whole_record(name, tiny_run):
    record, path = run(tiny_run, f"method={name}", *FAST.get(name, []))
    assert json.loads((path / "record.json").read_text()) == record
    assert record["status"] == "completed"
    assert record["data"]["kind"] == "sample"
    assert record["config"]["method"]["name"] == name
    assert set(record["metrics"]) == {"validation"}
    assert record["objective"] == record["metrics"]["validation"]["accuracy"] == record["selection"]["value"]
    assert record["run_id"] == path.name
    assert record["parameters"]["head"] == 32 * 32 + 32 + 2 * 32 + 2
    assert record["timing"]["train_s"] > 0
    assert len(record["timing"]["epoch_s"]) == 1
    assert record["checks"]["finalize_max_logit_difference"] < 1e-5
    assert not (path / "checkpoint").exists()
    kinds = [json.loads(line)["kind"] for line in (path / "history.jsonl").read_text().splitlines()]
    assert kinds.count("evaluation") == 1
    # A sparse difference is stored as values and their places; the values are what is counted.
    exported = sum(t.numel() for n, t in tensors(path).items() if not n.endswith(".indices"))
    assert exported == record["parameters"]["stored"] + record["parameters"]["head"]


def test_sora_prunes_and_says_so(tiny_run):
    record, path = run(tiny_run, "method=sora", "sparsity.lambda=150", "trainer.selection=last")
    initial, final = (sum(record["ranks"][k].values()) for k in ("initial", "final"))
    assert 0 < final < initial
    assert record["parameters"]["effective"] < record["parameters"]["trained"]
    config = json.loads((path / "adapter" / "adapter_config.json").read_text())
    assert sum(config["rank_pattern"].values()) == final


def test_the_same_command_again_runs_nothing(tiny_run):
    first, path = run(tiny_run, "method=lora")
    written = (path / "record.json").stat().st_mtime_ns
    second, again = run(tiny_run, "method=lora")
    assert again == path
    assert second["reused"]
    assert (path / "record.json").stat().st_mtime_ns == written
    assert {k: v for k, v in second.items() if k != "reused"} == first


@pytest.mark.parametrize("name", ["bitfit", "lora", "prefix_tuning"])
def test_another_seed_gives_other_bits(name, tiny_run):
    """Not of the head alone."""
    one, other = (tensors(run(tiny_run, f"method={name}", f"seed={seed}")[1]) for seed in (0, 1))
    own = [key for key in one if "classifier" not in key]
    assert own
    assert all(not torch.equal(one[key], other[key]) for key in own)


def test_methods_of_every_kind_start_from_the_same_head(tiny_run, monkeypatch):
    heads = []
    monkeypatch.setattr(Run, "carry_out", lambda self, began: heads.append(self.model.classifier.weight.clone()) or {})
    for name in OWN_STATE:
        run(tiny_run, f"method={name}", "seed=0", *FAST.get(name, []))
    run(tiny_run, "method=lora", "seed=1")
    assert all(torch.equal(heads[0], h) for h in heads[:-1])
    assert not torch.equal(heads[0], heads[-1])


@pytest.mark.parametrize(
    "words",
    [
        ["method=sora", "sparsity.lambda=60", "method.gate_l1=5"],
        ["method=adalora", "method.rank=4", "method.target_rank=2", "method.gamma=0.5"],
    ],
)
def test_micro_batches_accumulate_to_the_same_training(words, tiny_run, tmp_path):
    words = [*words, f"model.path={without_dropout(tiny_run, tmp_path)}"]
    whole, at_whole = run(tiny_run, *words)
    pieces, at_pieces = run(tiny_run, *words, "trainer.micro_batch_size=5")
    assert at_whole != at_pieces
    for name, tensor in tensors(at_whole).items():
        torch.testing.assert_close(tensors(at_pieces)[name], tensor, rtol=0, atol=2e-5)
    assert whole["ranks"] == pieces["ranks"]


def without_dropout(tiny_run, tmp_path) -> Path:
    """The tiny run's backbone with every probability at zero: nothing is drawn while it trains."""
    import shutil

    source = Path(next(w for w in tiny_run if w.startswith("model.path=")).partition("=")[2])
    folder = tmp_path / "no-dropout"
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


OWN_STATE = ("sora", "adalora", "diff_pruning", "qlora", "full", "prefix_tuning", "peft")
"""One method of every kind of state; the others are like one of them."""


class Killed(BaseException):
    """Stands for a kill: nothing handles it but the test."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in OWN_STATE else LONG) for name in METHODS])
@pytest.mark.parametrize("at_step", [pytest.param(3, marks=LONG), 7])
def test_a_run_cut_off_and_started_again_ends_like_one_that_was_not(name, at_step, tiny_run, tmp_path, monkeypatch):
    words = [f"method={name}", "trainer.epochs=3", "trainer.checkpoint_every=2", *FAST.get(name, [])]
    whole = run(tiny_run, *words, f"outputs={tmp_path / 'whole'}")

    from peftbench.training.loop import Loop

    step = Loop._step

    def cut(self, plan, batch, lengths):
        if self.state.step == at_step:
            raise Killed
        return step(self, plan, batch, lengths)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", cut)
        with pytest.raises(Killed):
            run(tiny_run, *words)
    resume, steps = Run._resume, []

    def watched(self, saved, optimizers):
        state, stage = resume(self, saved, optimizers)
        steps.append(state.step)
        return state, stage

    monkeypatch.setattr(Run, "_resume", watched)
    resumed = run(tiny_run, *words)
    assert steps == [at_step - 1]  # One that began anew would end with the same bits.
    same_result(whole, resumed)
    lines = [json.loads(line) for line in (resumed[1] / "history.jsonl").read_text().splitlines()]
    evaluated = [line["step"] for line in lines if line["kind"] == "evaluation"]
    assert evaluated == sorted(set(evaluated))
    assert len(resumed[0]["timing"]["epoch_s"]) == 3


STAGED = ["method=sora", "sparsity=algorithm1", "sparsity.lambda=200", "sparsity.count=4", "sparsity.stage_epochs=1"]


def test_algorithm_1_grows_sparser_stage_by_stage_and_keeps_each_adapter(tiny_run):
    record, path = run(tiny_run, *STAGED)
    stages = record["stages"]
    assert [s["name"] for s in stages] == ["dense", "lambda=66.6667", "lambda=133.333", "lambda=200"]
    assert [s["value"] for s in stages] == pytest.approx([0, 200 / 3, 400 / 3, 200])
    effective = [s["parameters"]["effective"] for s in stages]
    assert all(a > b for a, b in itertools.pairwise(effective))
    assert all(rank == 8 for rank in stages[0]["ranks"].values())
    assert stages[0]["generalization"] == stages[0]["memorization"] == 100
    last = stages[-1]
    dense, now = (s["metrics"]["validation"]["accuracy"] for s in (stages[0], last))
    assert last["generalization"] == pytest.approx(100 * now / dense)
    assert record["parameters"]["effective"] == last["parameters"]["effective"]
    assert record["metrics"]["validation"] == last["metrics"]["validation"]
    for stage in stages:
        config = json.loads((path / stage["adapter"] / "adapter_config.json").read_text())
        assert sum(config["rank_pattern"].values()) == sum(stage["ranks"].values())


def test_official_restart_moves_gates_only(tiny_run, monkeypatch):
    seen = []
    conclude = Run._end_stage

    def watch(self, plan):
        low_rank, gate = self.attachment.parameter_groups()
        seen.append([p.detach().clone() for p in (*low_rank.parameters, *gate.parameters)])
        conclude(self, plan)

    monkeypatch.setattr(Run, "_end_stage", watch)
    sparsity = ["sparsity.lambda=null", "sparsity.xi=0.1", "sparsity.restart=official"]
    record, _ = run(tiny_run, *STAGED, *sparsity)
    factors = 2 * len(record["ranks"]["initial"])
    for before, after in itertools.pairwise(seen):
        assert all(torch.equal(a, b) for a, b in zip(before[:factors], after[:factors], strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(before[factors:], after[factors:], strict=True))


def test_fresh_restart_moves_projections_in_every_stage(tiny_run, monkeypatch):
    seen = []
    conclude = Run._end_stage
    monkeypatch.setattr(
        Run,
        "_end_stage",
        lambda self, plan: (
            seen.append([x.lora_A.detach().clone() for x in self.attachment.layers.values()]) or conclude(self, plan)
        ),
    )
    run(tiny_run, *STAGED)
    for before, after in itertools.pairwise(seen):
        assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_divergence_is_caught_before_the_weights_move(tiny_run, monkeypatch):
    from peftbench.training.loop import Loop

    clip = Loop._clip
    monkeypatch.setattr(Loop, "_clip", lambda self: clip(self) * (math.nan if self.state.step == 2 else 1))
    with pytest.raises(Diverged, match="step 3"):
        run(tiny_run, "method=lora")
    (file,) = Path(compose_run(tiny_run).outputs).rglob("record.json")
    record = json.loads(file.read_text())
    assert record["status"] == "diverged"
    assert record["error"]["step"] == 3
    assert "Diverged" in (file.parent / "run.log").read_text()


def test_adalora_that_cannot_reach_its_budget_fails_with_a_record(tiny_run, monkeypatch):
    from peftbench.methods.adalora import AdaLoRAAttachment

    monkeypatch.setattr(AdaLoRAAttachment, "after_step", lambda self, clock: None)
    with pytest.raises(RunError, match="budget never reached"):
        run(tiny_run, "method=adalora", *FAST["adalora"])
    (file,) = Path(compose_run(tiny_run).outputs).rglob("record.json")
    assert json.loads(file.read_text())["status"] == "failed"


def test_a_second_process_does_not_enter_a_run_in_progress(tiny_run):
    from peftbench.record import RunFolder

    _, path = run(tiny_run, "method=lora")
    (path / "record.json").unlink()
    with RunFolder(path).claimed(), pytest.raises(RunError, match="another process"):
        run(tiny_run, "method=lora")


def test_best_is_the_best_and_last_is_the_last(tiny_run):
    words = ["method=full", "optimizer.lr=1e-3", "trainer.epochs=4", "data.max_eval_rows=null"]
    for selection in ("best", "last"):
        record, path = run(tiny_run, *words, f"trainer.selection={selection}")
        lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
        scores = {line["step"]: line["accuracy"] for line in lines if line["kind"] == "evaluation"}
        step = max(scores, key=scores.get) if selection == "best" else max(scores)
        assert record["selection"]["step"] == step
        assert record["objective"] == scores[step]


def test_patience_stops_early(tiny_run):
    record, _ = run(
        tiny_run, "method=lora", "optimizer.lr=1e-9", "trainer.epochs=20", "trainer.patience=2", "trainer.eval_every=3"
    )
    assert len(record["timing"]["epoch_s"]) < 20
    assert record["selection"]["step"] == 3


def test_a_frozen_head_is_not_trained_and_not_counted_as_trained(tiny_run):
    record, path = run(tiny_run, "method=lora", "trainer.head=freeze")
    assert record["parameters"]["head"] == 0
    other, _ = run(tiny_run, "method=lora", "trainer.head=freeze", "optimizer.lr=1e-2")
    assert record["run_id"] != other["run_id"]
    assert "base_model.model.classifier.weight" in tensors(path)


def test_bf16_trains_with_fp32_adapters(tiny_run):
    record, path = run(tiny_run, "method=sora", "trainer.precision=bf16")
    assert all(t.dtype == torch.float32 for t in tensors(path).values())
    assert record["status"] == "completed"


@pytest.mark.parametrize("name", ["lora", "sora", "adalora"])
def test_maps_in_bfloat16_train_as_autocast_would_round_them_and_merge_into_float32(name, tiny_run):
    words = [f"method={name}", *FAST.get(name, []), "trainer.precision=bf16", "trainer.merge=true"]
    (plain, at_plain), (halved, at_halved) = (
        run(tiny_run, *words, f"model.dtype={dtype}") for dtype in ("float32", "bfloat16")
    )
    sizes = [record["memory"]["backbone_weights_mb"] for record in (plain, halved)]
    maps = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert sizes[0] - sizes[1] == pytest.approx(2 * maps / 1e6)
    assert halved["memory"]["backbone_weights_mb_fp32"] == sizes[0]
    losses = [
        [line["loss"] for line in map(json.loads, (at / "history.jsonl").read_text().splitlines()) if "loss" in line]
        for at in (at_plain, at_halved)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    from safetensors.torch import load_file

    merged = load_file(at_halved / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}


@pytest.mark.parametrize("task", ["cola", "sst2", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"])
def test_every_glue_task_runs_on_sample_data_and_predicts_for_submission(task, tiny_run):
    words = ["method=lora", f"task={task}", "task.max_length=32", "trainer.max_steps=2", "trainer.predictions=true"]
    record, path = run(tiny_run, *words)
    files = {p.name for p in (path / "predictions-sample").iterdir()}
    names = {
        "cola": "CoLA",
        "sst2": "SST-2",
        "stsb": "STS-B",
        "qqp": "QQP",
        "qnli": "QNLI",
        "rte": "RTE",
        "wnli": "WNLI",
    }
    assert files == ({"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"} if task == "mnli" else {f"{names[task]}.tsv"})
    expected = {"validation_matched", "validation_mismatched"} if task == "mnli" else {"validation"}
    assert set(record["metrics"]) == expected
    assert all(np.isfinite(v) for m in record["metrics"].values() for v in m.values())


def test_the_sora_protocol_reports_a_test_half_and_selects_on_the_other(tiny_run):
    record, _ = run(tiny_run, "method=lora", "task.protocol=sora", "data.max_eval_rows=null")
    assert set(record["metrics"]) == {"validation", "test"}
    assert record["selection"]["metric"] == "f1"
    assert record["selection"]["split"] == "validation"
    assert record["data"]["protocol"] == "sora"
    rows = {k: v["rows"] for k, v in record["data"]["splits"].items()}
    assert rows == {"train": 64, "validation": 200, "test": 200}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in ("lora", "sora", "qlora", "full", "ia3") else LONG) for n in MERGEABLE]
)
def test_a_merged_backbone_is_a_plain_model_that_scores_the_same(name, tiny_run):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from peftbench.tasks.sample import sample_split

    words = [f"method={name}", "trainer.merge=true", "data.max_eval_rows=null"]
    record, path = run(tiny_run, *words, *FAST.get(name, []))
    model = AutoModelForSequenceClassification.from_pretrained(path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(path / "merged")
    rows = sample_split("mrpc", "validation")
    inputs = tokenizer(
        rows["sentence1"], rows["sentence2"], truncation=True, max_length=32, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(1)
    accuracy = (predicted == torch.tensor(rows["label"])).float().mean().item()
    assert accuracy == pytest.approx(record["metrics"]["validation"]["accuracy"])
    steps = sum(record["steps"].values())
    told = origin(dataclasses.replace(compose_run(["model=minilm"]).model, path=str(path / "merged")))
    assert told["described"] == f"{name} on mrpc, {steps} steps, run {record['run_id']}"


def test_each_step_thresholds_with_its_own_level_and_its_own_rate(tiny_run, monkeypatch):
    from peftbench.methods.sora import SoRAAttachment

    clocks = []
    after = SoRAAttachment.after_step
    monkeypatch.setattr(
        SoRAAttachment, "after_step", lambda self, clock: clocks.append((clock, dict(clock.lrs))) or after(self, clock)
    )
    words = ["method=sora", "method.gate_lr=0.01", "optimizer.warmup_ratio=0", "optimizer.schedule=linear"]
    run(tiny_run, *words, "sparsity=linear", "sparsity.lambda=3", "sparsity.count=4")
    assert [clock.step for clock, _ in clocks] == [1, 2, 3, 4]
    assert [clock.strength.value for clock, _ in clocks] == pytest.approx([0, 1, 2, 3])
    assert [lrs["gate"] for _, lrs in clocks] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_adalora_selects_no_checkpoint_from_before_its_final_budget(tiny_run):
    words = ["method=adalora", *FAST["adalora"], "trainer.eval_every=1", "method.t_initial=0", "method.t_final=1"]
    record, path = run(tiny_run, *words)
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    evaluated = {line["step"]: line["accuracy"] for line in lines if line["kind"] == "evaluation"}
    assert sorted(evaluated) == [1, 2, 3, 4]
    assert record["selection"]["step"] >= 3


def test_a_staged_run_cut_off_in_a_later_stage_ends_like_one_that_was_not(tiny_run, tmp_path, monkeypatch):
    from peftbench.training.loop import Loop

    whole = run(tiny_run, *STAGED, "trainer.checkpoint_every=1", f"outputs={tmp_path / 'whole'}")
    step = Loop._step

    def cut(self, plan, batch, lengths):
        if (plan.index, self.state.step) == (2, 2):
            raise Killed
        return step(self, plan, batch, lengths)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", cut)
        with pytest.raises(Killed):
            run(tiny_run, *STAGED, "trainer.checkpoint_every=1")
    resumed = run(tiny_run, *STAGED, "trainer.checkpoint_every=1")
    same_result(whole, resumed)
    assert whole[0]["stages"] == resumed[0]["stages"]


@pytest.mark.parametrize(("restart", "optimizers"), [("fresh", 4), ("official", 1)])
def test_stages_have_their_own_optimizer_unless_official_and_their_own_data_order(
    restart, optimizers, tiny_run, monkeypatch
):
    from peftbench.training.loop import Loop

    used, first_batches = [], {}
    step = Loop._step

    def watch(self, plan, batch, lengths):
        if self.optimizers not in used:
            used.append(self.optimizers)
        first_batches.setdefault(plan.index, tuple(batch))
        return step(self, plan, batch, lengths)

    monkeypatch.setattr(Loop, "_step", watch)
    run(tiny_run, *STAGED, "sparsity.lambda=null", "sparsity.xi=0.1", f"sparsity.restart={restart}")
    assert len(used) == optimizers
    assert len(set(first_batches.values())) == 4


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_told():
    from types import SimpleNamespace

    from peftbench.config import TrainerConfig
    from peftbench.training.loop import Loop

    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(2)]
    for limit, expected in ((0.5, 0.5), (None, 6**0.5 * 2)):
        for p in parameters:
            p.grad = torch.full((3,), 2.0)
        loop = SimpleNamespace(
            optimizers=SimpleNamespace(parameters=parameters), settings=TrainerConfig(max_grad_norm=limit)
        )
        assert Loop._clip(loop).item() == pytest.approx(6**0.5 * 2)
        assert torch.cat([p.grad for p in parameters]).norm().item() == pytest.approx(expected, rel=1e-5)


def test_a_folder_of_ones_own_is_known_by_its_files_and_refused_where_unfit(tiny_run, tiny_folder, tmp_path):
    import shutil

    from peftbench.errors import ConfigurationError

    record, path = run(tiny_run, "method=lora")
    assert record["model"]["folder"] == tiny_folder.name
    assert "repo" not in record["model"]

    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    assert run(tiny_run, "method=lora", f"model.path={moved}")[1] == path
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.3}))
    assert run(tiny_run, "method=lora", f"model.path={moved}")[1] != path

    without = shutil.copytree(tiny_folder, tmp_path / "no-tokenizer")
    for file in without.glob("token*"):
        file.unlink()
    with pytest.raises(ConfigurationError, match="no tokenizer"):
        run(tiny_run, f"model.path={without}")
    corrupt = shutil.copytree(tiny_folder, tmp_path / "corrupt")
    (corrupt / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ConfigurationError, match="cannot load"):
        run(tiny_run, f"model.path={corrupt}")
    _, merged = run(tiny_run, "method=lora", "trainer.merge=true")
    with pytest.raises(ConfigurationError, match="head of its own"):
        run(tiny_run, f"model.path={merged / 'merged'}")


def test_one_configuration_has_one_run_however_it_is_written(tiny_run):
    first = run(tiny_run, "method=lora", "method.sites=[query,value]")[1]
    for words in (
        ["method.sites=[value,query]"],
        ["method.sites=[query,value]", "task.selection_metric=accuracy"],
        ["method.sites=[query,value]", "task.selection_split=validation"],
        ["method.sites=[query,value]", "trainer.micro_batch_size=16"],
    ):
        assert run(tiny_run, "method=lora", *words)[1] == first, words


def test_a_failed_staged_run_keeps_the_stages_it_finished(tiny_run, monkeypatch):
    from peftbench.training.loop import Loop

    step = Loop._step

    def fail(self, plan, batch, lengths):
        if plan.index == 2:
            raise ValueError("a broken step")
        return step(self, plan, batch, lengths)

    monkeypatch.setattr(Loop, "_step", fail)
    with pytest.raises(RunError, match="a broken step"):
        run(tiny_run, *STAGED)
    (file,) = Path(compose_run(tiny_run).outputs).rglob("record.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert [stage["name"] for stage in record["stages"]] == ["dense", "lambda=66.6667"]


def test_the_penalty_is_logged_apart_from_the_loss(tiny_run):
    _, path = run(tiny_run, "method=sora", "method.gate_l1=10", "trainer.log_every=1")
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert all(line["penalty"] > 1 > line["loss"] for line in steps)
    assert {line["data"] for line in lines} == {"sample"}


def test_an_adapter_that_lost_every_rank_is_flagged(tiny_run):
    record, _ = run(tiny_run, "method=sora", "sparsity.lambda=1e5", "trainer.selection=last")
    assert sum(record["ranks"]["final"].values()) == 0
    assert any(flag.startswith("no rank left") for flag in record["flags"])
