"""Figures: the numbers behind them against cases worked by hand, the files as other programs read them."""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from peftbench.errors import ConfigurationError
from peftbench.report.contents import make
from peftbench.report.figures import FIGURES, available, draw, pareto, stages, style
from peftbench.report.figures.curves import prepare as prepare_curves
from peftbench.report.figures.epoch_time import prepare as prepare_times
from peftbench.report.figures.heat import prepare_gates, prepare_ranks
from peftbench.report.figures.prompts import prepare as prepare_prompts
from peftbench.report.figures.sites import parse, thirds
from peftbench.report.figures.style import PALETTE, series
from peftbench.report.records import find
from peftbench.report.tables.costs import epoch_time_table

Text = pytest.importorskip("matplotlib.text").Text
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg


@pytest.fixture
def runs(outputs):
    return lambda: find([outputs]).runs


def stage(name, effective, generalization, memorization, ranks, dense=0.9):
    scores = {"validation": dense * generalization / 100, "memorization": memorization / 100}
    return {
        "name": name, "unit": "lambda", "value": 0.0, "steps": 10,
        "generalization": generalization, "memorization": memorization,
        "metrics": {split: {"accuracy": score} for split, score in scores.items()},
        "ranks": ranks, "parameters": {"effective": effective},
    }  # fmt: skip


def path(layer, end="attention.self.query"):
    return f"bert.encoder.layer.{layer}.{end}"


def write_staged(write_run, kept=(100.0, 99.5, 99.0, 60.0), dense_score=0.9, **about):
    """Six layers, one site each, 4 ranks each, at the end 0, 1, 2, 3, 4, 4; `kept`: percent of `dense_score`."""
    dense = {path(layer): 4 for layer in range(6)}
    last = {path(layer): rank for layer, rank in enumerate((0, 1, 2, 3, 4, 4))}
    rows = [
        stage("dense", 100, kept[0], 100.0, dense, dense_score),
        stage("lambda=1", 60, kept[1], 90.0, dense, dense_score),
        stage("lambda=2", 20, kept[2], 50.0, dense, dense_score),
        stage("lambda=3", 10, kept[3], 40.0, last, dense_score),
    ]
    return write_run(method="sora", stages=rows, ranks={"initial": dense, "final": last}, **about)


# The numbers


def test_pareto_front_by_hand():
    points = [(10, 0.80), (20, 0.85), (20, 0.84), (30, 0.85), (5, 0.10), (40, 0.90), (10, 0.80)]
    assert pareto.front(points) == [True, True, False, False, True, True, True]


def test_pareto_rows_are_means_over_seeds_and_count_runs_without_a_result(write_run, runs):
    for seed, value in enumerate((0.8, 0.9)):
        write_run(method="lora", seed=seed, scores=value, parameters={"effective": 100 + 20 * seed})
    write_run(method="lora", seed=2, status="diverged")
    write_run(method="bitfit", seed=0, scores=0.7, parameters={"effective": 50})
    write_run(method="full", seed=0, scores=0.84, parameters={"effective": 1000})
    rows = {row["method"]: row for row in pareto.prepare(runs())}
    lora = rows["lora"]
    assert lora["score_mean"] == pytest.approx(0.85)
    assert lora["score_std"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert (lora["effective_mean"], lora["seeds"], lora["without_result"]) == (110, 2, 1)
    assert [rows[name]["on_front"] for name in ("bitfit", "lora", "full")] == [True, True, False]
    assert rows["bitfit"]["score_std"] is None


def test_pareto_scores_what_the_table_scores(write_run, runs):
    own = {"validation": {"accuracy": 0.5, "f1": 0.6}, "test": {"accuracy": 0.7, "f1": 0.8}}
    write_run(method="lora", experiment="sora_table1_small", scores=own)
    write_run(method="lora", experiment="another", scores=own, seed=1, metric="f1")
    found = find(sorted({run.file.parents[3] for run in runs()}))
    rows = [row for grid in make(found, found.runs).grids for row in pareto.prepare(grid.shown())]
    # MRPC's column of SoRA's Table 1; and the metric that selected, on the split that chose nothing.
    shown = {(row["metric"], row["split"], row["score_mean"]) for row in rows}
    assert shown == {("f1", "test", 0.8), ("accuracy", "test", 0.7)}
    assert {row["split"] for row in pareto.prepare(runs())} == {"validation"}


def test_of_a_seeds_runs_the_completed_one_counts(write_run, runs):
    for name, value in (("first", 0.5), ("again", 0.7)):
        write_run(seed=3, scores=value, commit=name)
    write_run(seed=3, status="failed", commit="lost")
    write_run(seed=4, status="failed")
    (row,) = pareto.prepare(runs())
    assert (row["seeds"], row["without_result"], row["score_std"]) == (1, 1, None)
    assert row["score_mean"] in (0.5, 0.7)


def test_a_score_that_was_not_computed_is_no_score(write_run, runs):
    write_run(scores={"validation": {"accuracy": None}})
    assert available(runs()) == []


def test_sample_and_benchmark_are_never_one_panel(write_run, runs):
    write_run(method="lora", scores=0.9, kind="sample")
    write_run(method="bitfit", scores=0.5)
    rows = pareto.prepare(runs())
    assert [row["on_front"] for row in rows] == [True, True]
    assert len(FIGURES["pareto"].pages(rows)[0]) == 2


def test_amounts_of_training_data_are_never_one_panel(write_run, runs):
    for rows in (100, 1000):
        file = write_run(scores=rows / 2000, config={"data": {"max_train_rows": rows}}, kind="partial")
        record = json.loads(file.read_text())
        record["data"]["splits"]["train"]["rows"] = rows
        file.write_text(json.dumps(record))
    rows = pareto.prepare(runs())
    assert [row["on_front"] for row in rows] == [True, True]
    titles = {ax.get_title().replace("\n", " ") for ax in pareto.paint(rows).axes}
    assert titles == {"MRPC · minilm · 100 training rows", "MRPC · minilm · 1,000 training rows"}


def test_weights_of_one_name_and_rows_of_one_number_are_never_one_panel(write_run, runs):
    for seed in range(3):
        write_run(seed=seed, scores=0.7)
        file = write_run(seed=seed, scores=0.9, commit="other")
        file.write_text(file.read_text().replace("0" * 64, "1" * 64))
        write_run(seed=seed, scores=0.8, fingerprint="others")
    rows = pareto.prepare(runs())
    assert sorted((round(row["score_mean"], 9), row["seeds"]) for row in rows) == [(0.7, 3), (0.8, 3), (0.9, 3)]
    titles = {ax.get_title().replace("\n", " ") for ax in pareto.paint(rows).axes}
    assert len(titles) == 3
    assert "weights 11111111" in " ".join(titles)


def test_a_prompts_lines_tell_weights_of_one_name_apart(write_run, runs):
    for digest in "01":
        for length in (1, 20):
            file = write_run(method="prompt_tuning", settings={"length": length}, commit=digest)
            file.write_text(file.read_text().replace("0" * 64, digest * 64))
    lines = {row["line"] for row in prepare_prompts(runs(), "method.length")}
    assert lines == {f"Prompt tuning, minilm [weights {digest * 8}]" for digest in "01"}


def test_panels_of_other_rows_have_other_titles_in_figures_without_a_backbone(write_run, runs):
    for name in ("these", "those"):
        for length in (1, 20):
            write_run(method="prompt_tuning", settings={"length": length}, fingerprint=name)
    rows = prepare_prompts(runs(), "method.length")
    titles = [ax.get_title() for ax in FIGURES["prompt_length"].paint(rows).axes]
    assert len(set(titles)) == 2


def test_the_front_of_a_metric_whose_least_is_best(write_run, runs):
    for method, count, ter in (("bitfit", 100, 0.4), ("lora", 200, 0.5), ("full", 300, 0.3)):
        scores = {"validation": {"ter": ter}}
        write_run(method=method, scores=scores, metric="ter", parameters={"effective": count})
    assert {row["method"]: row["on_front"] for row in pareto.prepare(runs())} == {
        "bitfit": True, "lora": False, "full": True,
    }  # fmt: skip


def test_smallest_count_that_keeps_99_percent():
    assert stages.smallest_keeping([100, 60, 20, 10], [100, 99.5, 99.0, 60]) == 20
    assert stages.smallest_keeping([100, 60], [98, 97]) is None
    assert stages.smallest_keeping([100, 60], [100, 98.99999999999999]) == 60, "99 % but for rounding"


def test_knee_by_hand():
    # The chord gains 0.4 a parameter from (10, 60); above it: 0, 19.5, 26, 0.
    assert stages.knee([110, 60, 20, 10], [100, 99.5, 90.0, 60]) == 2
    assert stages.knee([3, 2, 1], [30, 20, 10]) is None, "a straight line has none"
    assert stages.knee([3, 2, 1], [30, 12, 10]) is None, "below the chord nothing bends"
    assert stages.knee([3, 2, 1], [100, 100, 100]) is None
    assert stages.knee([3, 2, 1], [100, 100.9, 100]) is None, "less than a percent is no bend"
    assert stages.knee([3, 2, 1], [100, 101.1, 100]) == 1
    assert stages.knee([3, 2, 1], [95, 104, 110]) == 1, "the chord ends where the curve does, not at its extremes"
    assert stages.knee([2, 2, 2], [70, 80, 90]) is None
    assert stages.knee([2, 1], [20, 10]) is None


def test_stage_summary(write_run, runs):
    for seed in (0, 1):
        write_staged(write_run, seed=seed)
    generalization, memorization = stages.summarise(stages.prepare(runs()))
    assert generalization["quantity"] == "generalization"
    assert (generalization["effective_at_99"], memorization["effective_at_99"]) == (20, 100)
    assert (generalization["knee_effective"], memorization["knee_effective"]) == (20, 60)
    assert (generalization["seeds"], generalization["dense_effective"], generalization["last_percent"]) == (2, 100, 60)
    # Layers 0 and 1 keep 1 of 8 ranks, 2 and 3 keep 5, 4 and 5 keep all.
    found = [generalization[f"zero_{third}"] for third in ("shallow", "middle", "deep")]
    assert found == pytest.approx([7 / 8, 3 / 8, 0])


def test_stages_and_their_summary_as_tables(write_run, outputs):
    for seed in (0, 1):
        write_staged(write_run, seed=seed, experiment="sora_figure3")
    found = find([outputs])
    summary, table, *_ = make(found, found.runs).tables
    assert [cell.text for cell in summary.rows[0]] == [
        "MRPC", "SoRA, Algorithm 1", "generalization", "2", "100", "10", "60.0", "20", "20 (99.0 %)", "88 / 38 / 0",
    ]  # fmt: skip
    rows = [[cell.text for cell in row] for row in table.rows]
    assert [(row[3], row[4], row[6]) for row in rows] == [
        ("2", "100", "100.0 ± 0.0"), ("2", "60", "99.5 ± 0.0"), ("2", "20", "99.0 ± 0.0"), ("2", "10", "60.0 ± 0.0"),
    ]  # fmt: skip
    for one in (summary, table):
        assert "Scores of split: validation." in one.caption
        assert any("MRPC accuracy" in note for note in one.notes)


def test_tables_of_stages_tell_models_apart_and_what_is_not_there(write_run, outputs):
    about = {"experiment": "sora_figure3"}
    write_staged(write_run, seed=0, **about)
    shorter = write_staged(write_run, seed=1, **about)
    record = json.loads(shorter.read_text())
    record["stages"] = record["stages"][:2]
    shorter.write_text(json.dumps(record))
    write_staged(write_run, model="bert_base", **about)
    write_staged(write_run, task="cola", dense_score=-0.1, **about)
    found = find([outputs])
    _, table, *_ = make(found, found.runs).tables
    shown = {(row[1].text, row[2].text, row[3].text) for row in table.rows}
    assert {name for name, _, _ in shown} == {"SoRA, Algorithm 1 (bert_base)", "SoRA, Algorithm 1 (minilm)"}
    assert sum(name.endswith("(minilm)") and n == "2" for name, _, n in shown) == 2
    assert "SoRA, Algorithm 1 (minilm), MRPC: the first 2 stages, which every seed has." in table.notes
    assert any("CoLA" in note and "no curve, for a score is missing" in note for note in table.notes)
    assert make(found, [run for run in found.runs if run.task == "cola"]).tables[0].name == "sora_figure3", "none empty"


def test_shares_are_of_the_dense_stages_mean(write_run, runs):
    """A seed that learnt nothing while dense, and a little later, keeps no thousand percent."""
    for seed in (0, 1):
        write_staged(write_run, kept=(100, 100, 80, 50), dense_score=0.2, seed=seed)
    write_staged(write_run, kept=(100, 500, 1000, 1000), dense_score=0.01, seed=2)
    rows = stages.prepare(runs())
    assert [row["generalization_mean"] for row in rows] == pytest.approx([100, 4500 / 41, 4200 / 41, 3000 / 41])
    assert rows[0]["generalization_std"] == pytest.approx(100 * np.std([0.2, 0.2, 0.01], ddof=1) / (0.41 / 3))
    assert stages.summarise(rows)[0]["effective_at_99"] == 20


def test_a_dense_seed_at_zero_takes_no_curve_away_and_a_curve_of_nothing_is_told(write_run, runs, tmp_path):
    write_staged(write_run, seed=0)
    write_staged(write_run, dense_score=0.0, seed=1)
    assert [row["generalization_mean"] for row in stages.prepare(runs())] == pytest.approx([100, 99.5, 99, 60])
    write_staged(write_run, dense_score=-0.1, seed=0, task="cola")
    drawn = draw(runs(), ["stages"], tmp_path)
    assert {row["task"] for row in stages.prepare(runs())} == {"mrpc"}
    assert drawn.skipped == {}
    (told,) = drawn.left_out
    assert told.startswith("stages: CoLA, SoRA: no curve, for a score is missing")


def test_thirds_of_layers_that_three_does_not_divide():
    found = thirds(parse(path(layer) for layer in range(4)))
    assert [found[path(layer)] for layer in range(4)] == ["shallow", "shallow", "middle", "deep"]


@pytest.mark.parametrize(
    ("module", "layer", "role"),
    [
        ("bert.encoder.layer.3.attention.self.query", 3, "query"),
        ("bert.encoder.layer.3.attention.output.dense", 3, "attention output"),
        ("bert.encoder.layer.11.output.dense", 11, "FFN out"),
        ("deberta.encoder.layer.0.attention.self.value_proj", 0, "value"),
        ("distilbert.transformer.layer.5.ffn.lin1", 5, "FFN in"),
        ("mpnet.encoder.layer.2.attention.attn.o", 2, "attention output"),
        ("transformer.h.4.attn.c_attn.key", 4, "key"),
        ("transformer.h.4.attn.c_proj", 4, "attention output"),
        ("transformer.h.4.mlp.c_proj", 4, "FFN out"),
        ("model.layers.10.self_attn.o_proj", 10, "attention output"),
        ("model.layers.10.mlp.up_proj", 10, "FFN in"),
        ("decoder.block.7.layer.1.EncDecAttention.q", 7, "cross query"),
        ("model.decoder.layers.1.encoder_attn.k_proj", 1, "cross key"),
        ("stack.blocks.2.mixer.in_proj", 2, "in_proj"),
    ],
)
def test_layer_and_role_of_a_path(module, layer, role):
    (site,) = parse([module])
    assert (site.layer, site.role) == (layer, role)


def test_alike_sites_and_two_stacks_are_told_apart():
    gated = parse(["model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"])
    assert [site.role for site in gated] == ["FFN in (gate_proj)", "FFN in (up_proj)"]
    two = parse(["encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q"])
    assert [site.role for site in two] == ["encoder query", "decoder query"]
    assert parse(["classifier.dense"]) == []


def test_rank_map_is_the_mean_over_seeds_in_the_order_of_the_forward_pass(write_run, runs):
    sites = {path(0, "output.dense"): 8, path(0): 8, path(1): 8}
    for seed, rank in enumerate((2, 5)):
        final = {path(0, "output.dense"): 8, path(0): rank, path(1): 0}
        write_run(method="sora", seed=seed, ranks={"initial": sites, "final": final})
    write_run(method="lora", ranks={"initial": sites, "final": sites})
    rows = prepare_ranks(runs())
    found = [(row["kind"], row["layer"], row["rank_mean"], row["initial"], row["seeds"]) for row in rows]
    assert found == [("query", 0, 3.5, 8, 2), ("query", 1, 0, 8, 2), ("FFN out", 0, 8, 8, 2)]


def test_curves_count_steps_on_from_stage_to_stage_and_keep_what_every_seed_has(write_run, runs):
    line = {"kind": "step", "data": "benchmark"}
    ranks = {"zero_ranks": 3, "ranks": 9}
    first = [{**line, "stage": 0, "step": 10, "loss": 1.0}, {**line, "stage": 1, "step": 4, "loss": 0.5, **ranks}]
    second = [{**line, "stage": 0, "step": 10, "loss": 3.0}]
    for seed, history in enumerate((first, second)):
        write_staged(write_run, seed=seed, history=history)
    (row,) = prepare_curves(runs())
    assert (row["quantity"], row["step"], row["value_mean"], row["seeds"]) == ("training loss", 10, 2.0, 2)
    only_first = [run for run in runs() if run.seed == 0]
    found = {(row["quantity"], row["step"]): row["value_mean"] for row in prepare_curves(only_first)}
    assert found == {("training loss", 10): 1.0, ("training loss", 14): 0.5, ("zero ranks", 14): 3}


def test_a_history_line_cut_short_is_passed_over_and_live_ranks_are_counted(write_run, runs):
    file = write_run(method="adalora", history=[{"kind": "step", "stage": 0, "step": 5, "live_ranks": 7, "ranks": 10}])
    with (file.parent / "history.jsonl").open("ab") as history:
        for spoilt in (
            b'{"kind": "step", "stage": 1, "step": 6, "loss": 1}', b'{"kind": "step", "stage": 0, "step": "x"}',
            b'{"kind": "step", "stage": 0, "step": 7, "loss": "low"}', b"\xff", b'{"kind": "step", "sta',
        ):  # fmt: skip
            history.write(spoilt + b"\n")
    (row,) = prepare_curves(runs())
    assert (row["quantity"], row["step"], row["value_mean"]) == ("zero ranks", 5, 3)


def test_epoch_time_is_the_mean_of_runs_medians_and_its_ratio_is_of_equal_seeds(write_run, runs):
    write_run(method="adalora", epoch_s=(10, 20, 30))
    write_run(method="sora", seed=0, epoch_s=(5, 100))
    write_run(method="sora", seed=1, epoch_s=(6,))
    write_run(method="full", epoch_s=(50,))
    write_run(method="bitfit", epoch_s=())
    rows = {row["method"]: row for row in prepare_times(runs())}
    found = {method: (row["mean_s"], row["ratio"], row["is_reference"]) for method, row in rows.items()}
    # SoRA's seed 0 has a median of 52.5; its seed 1 has no AdaLoRA to stand beside.
    assert found == {"adalora": (20, 1.0, True), "sora": (29.25, 2.625, False), "full": (50, 2.5, False)}
    assert (rows["sora"]["least_s"], rows["sora"]["most_s"]) == (6, 52.5)


def test_epoch_times_in_the_figure_are_the_tables(write_run, runs, outputs):
    for seed, (slow, fast) in enumerate(((65.9, 68.9), (117.3, 91.4), (91.0, 85.5))):
        for method, seconds in (("adalora", slow), ("sora", fast)):
            epochs = (seconds, seconds + 1, seconds + 40)
            write_run(method=method, task="rte", experiment="sora_table4", seed=seed, epoch_s=epochs)
    found = find([outputs])
    (grid,) = make(found, found.runs).grids
    cells = {row[0].text: row[1].text for row in epoch_time_table(grid).rows}
    for row in prepare_times(grid.shown()):
        told = f"{row['mean_s']:.1f} ± {row['std_s']:.1f} ({row['ratio']:.2f})"
        assert cells[row["setting"]] == told
    assert "(0.92×)" in words(grid.shown(), "epoch_time")


def test_of_several_references_the_fastest_is_the_figures_and_the_tables(write_run, runs, outputs):
    for target, seconds in ((4, 20.0), (8, 40.0)):
        write_run(method="adalora", task="rte", experiment="sora_table4", settings={"target_rank": target},
                  epoch_s=(seconds,))  # fmt: skip
    write_run(method="sora", task="rte", experiment="sora_table4", epoch_s=(30.0,))
    found = find([outputs])
    (grid,) = make(found, found.runs).grids
    table = epoch_time_table(grid)
    assert {row[0].text: (row[1].text, row[2].text) for row in table.rows} == {
        "AdaLoRA target_rank=4": ("20.0 (1.00)", "1.00"),
        "AdaLoRA target_rank=8": ("40.0 (2.00)", "2.00 (1)"),
        "SoRA": ("30.0 (1.50)", "1.50 (1)"),
    }
    assert table.notes[-1].startswith("Of several settings of AdaLoRA the ratio is to the fastest on the task")
    ratios = {row["setting"]: (row["ratio"], row["is_reference"]) for row in prepare_times(grid.shown())}
    assert ratios == {
        "AdaLoRA target_rank=4": (1.0, True), "AdaLoRA target_rank=8": (2.0, False), "SoRA": (1.5, False),
    }  # fmt: skip


def test_a_reference_without_a_run_to_pair_is_passed_over(write_run, outputs):
    """One of another seed, and a run on other rows beside three that pair."""
    about = {"task": "rte", "experiment": "sora_table4"}
    for seed in range(3):
        write_run(method="adalora", seed=seed, epoch_s=(20.0,), **about)
        write_run(method="sora", seed=seed, epoch_s=(10.0,), **about)
    write_run(method="adalora", seed=7, settings={"target_rank": 4}, epoch_s=(19.0,), **about)
    write_run(method="sora", seed=3, epoch_s=(10.0,), fingerprint="other", **about)
    found = find([outputs])
    (grid,) = make(found, found.runs).grids
    cells = {row[0].text: row[2].text for row in epoch_time_table(grid).rows}
    assert cells["SoRA"] == "0.50 ± 0.00 (3)"
    ratios = [row["ratio"] for row in prepare_times(grid.shown()) if row["method"] == "sora" and row["seeds"] == 3]
    assert ratios == [0.5]


def test_epoch_times_spread_is_drawn_and_words_stand_beside_it(write_run, runs):
    for seed, (slow, fast) in enumerate(((60, 60), (120, 100))):
        write_run(method="adalora", seed=seed, epoch_s=(slow,))
        write_run(method="sora", seed=seed, epoch_s=(fast,))
    write_run(method="full", epoch_s=(50,))
    with style.applied():
        (ax,) = FIGURES["epoch_time"].paint(prepare_times(runs())).axes
    assert [bar.get_width() for bar in ax.patches] == [50, 80, 90]
    whiskers = [[x for x, _ in collection.get_segments()[0]] for collection in ax.collections]
    assert whiskers == [[60, 100], [60, 120]], "none of a single seed"
    assert [text.get_position()[0] for text in ax.texts] == [50, 100, 120]
    assert "whiskers from the fastest run to the slowest" in words(runs(), "epoch_time")


def test_epoch_times_of_two_machines_have_each_their_reference(write_run, runs):
    write_run(method="lora", epoch_s=(10,))
    write_run(method="bitfit", epoch_s=(5,))
    other = write_run(method="full", epoch_s=(99,))
    record = json.loads(other.read_text())
    record["environment"]["threads"] = 8
    other.write_text(json.dumps(record))
    found = {row["method"]: row["ratio"] for row in prepare_times(runs())}
    assert found == {"lora": 1.0, "bitfit": 0.5, "full": 1.0}
    told = words(runs(), "epoch_time")
    assert "Machines are NOT comparable with each other" in told
    assert "machine 2" in told


def test_curves_have_their_methods_marks_unless_a_method_has_several_settings(write_run, runs):
    history = [{"kind": "step", "stage": 0, "step": step, "loss": 1.0} for step in (5, 10)]
    for method in ("sora", "full"):
        write_run(method=method, history=history)
    own = style.method_marks(["sora", "full"])
    assert curves_drawn(runs()) == {(own[name].colour, own[name].line) for name in own}
    write_run(method="sora", settings={"rank": 4}, history=history)
    assert curves_drawn(runs()) == {(series(index).colour, series(index).line) for index in range(3)}


def curves_drawn(runs):
    """Colour and stroke of each curve of a figure's first panel."""
    with style.applied():
        ax, *_ = FIGURES["curves"].paint(prepare_curves(runs)).axes
    return {(line.get_color(), line.get_linestyle()) for line in ax.lines}


def test_prompt_lines_are_of_at_least_two_lengths(write_run, runs):
    for length, model in ((1, "small"), (20, "small"), (20, "large")):
        write_run(method="prompt_tuning", model=model, scores=0.5 + length / 100, settings={"length": length})
    rows = prepare_prompts(runs(), "method.length")
    assert [(row["line"], row["value"], row["score_mean"]) for row in rows] == [
        ("Prompt tuning, small", 1, 0.51),
        ("Prompt tuning, small", 20, 0.7),
    ]


@pytest.mark.parametrize("spoilt", [[], {"gates": 1}, {"gates": {"prefix": [{"mean": "high"}, None, 0.5]}}])
def test_an_analysis_of_another_shape_is_none(write_run, runs, spoilt):
    file = write_run(method="unipelt")
    (file.parent / "analysis.json").write_text(json.dumps(spoilt))
    assert prepare_gates(runs()) == []


def test_gates_by_part_and_layer(write_run, runs):
    gates = {"prefix": [{"mean": 0.25, "std": 0.1}, {}], "lora_query": [{"mean": 0.5, "std": 0.1}] * 2}
    write_run(method="unipelt", analysis={"gates": gates})
    found = [(row["kind"], row["layer"], row["gate_mean"]) for row in prepare_gates(runs())]
    assert found == [("prefix", 0, 0.25), ("LoRA query", 0, 0.5), ("LoRA query", 1, 0.5)]


# The pictures


def texts(files: list[Path]) -> str:
    """All words of the SVGs."""
    return " ".join(_words(file) for file in files if file.suffix == ".svg")


def _words(file) -> str:
    """All words of an SVG, as an XML parser finds them; broken lines joined."""
    tree = ET.parse(file)
    assert tree.getroot().tag == "{http://www.w3.org/2000/svg}svg"
    found = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    return " ".join(" ".join(found).split())


def words(runs, name: str) -> str:
    """All words of a figure's first picture."""
    kind = FIGURES[name]
    buffer = io.BytesIO()
    with style.applied():
        kind.paint(kind.pages(kind.rows(runs))[0]).savefig(buffer, format="svg")
    buffer.seek(0)
    return _words(buffer)


def everything(write_run, **about):
    """Runs that every figure has data for."""
    history = [
        {"kind": "step", "stage": 0, "step": 10, "loss": 0.7, "zero_ranks": 1, "ranks": 24},
        {"kind": "evaluation", "stage": 0, "step": 10, "accuracy": 0.8},
    ]
    write_staged(write_run, history=history, **about)
    write_run(method="adalora", history=history, **about)
    write_run(method="linear_probe", parameters={"effective": 0}, **about)
    bias = {"query": [0.01, 0.02], "ffn_layer_norm": [0.03, 0.001]}
    write_run(method="bitfit", analysis={"bias_change": bias}, **about)
    write_run(method="unipelt", analysis={"gates": {"adapter": [{"mean": 0.4, "std": 0.1}]}}, **about)
    for length, init in ((1, "random"), (100, "random"), (100, "labels")):
        write_run(method="prompt_tuning", settings={"length": length, "init": init}, **about)


LABELS = {
    "pareto": ["MRPC · minilm", "SoRA", "AdaLoRA", "Linear probe: 0 parameters", "effective parameters"],
    "stages": ["memorization", "generalization", "knee", "fewest keeping 99 %", "zero ranks: 88 / 38 / 0 %"],
    "ranks": ["SoRA: 14 of 24 ranks left", "query", "layer"],
    "curves": ["training loss", "accuracy × 100", "zero ranks", "optimizer step"],
    "epoch_time": ["seconds per epoch", "11.0 s (reference)", "AdaLoRA", "2 cores of Intel"],
    "bitfit_changes": ["FFN layer norm", "change × 10²"],
    "prompt_length": ["length (virtual tokens)", "Prompt tuning init=random, minilm", "100"],
    "prompt_initialisation": ["initialisation", "labels", "random"],
    "unipelt_gates": ["adapter", ".40"],
}


def test_every_figure_is_three_files_and_its_data(write_run, runs, tmp_path):
    everything(write_run)
    assert available(runs()) == list(LABELS) == list(FIGURES)
    for name, labels in LABELS.items():
        drawn = draw(runs(), [name], tmp_path)
        assert not drawn.skipped
        pictures = {file.suffix: file.read_bytes() for file in drawn.files}
        assert set(pictures) == {".csv", ".svg", ".pdf", ".png"}
        assert pictures[".pdf"].startswith(b"%PDF-")
        assert pictures[".png"].startswith(b"\x89PNG\r\n\x1a\n")
        told = texts(drawn.files)
        missing = [label for label in labels if label not in told]
        assert not missing, f"{name}: {missing} not in {told}"
        assert "not the benchmark" not in told
        with (tmp_path / f"{name}.csv").open(encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == len(FIGURES[name].rows(runs()))
    assert len((tmp_path / "stages-summary.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("about", "mark"),
    [
        ({"kind": "sample"}, "SAMPLE data: not the benchmark"),
        ({"kind": "partial"}, "PARTIAL data: not the benchmark"),
        ({"kind": "unchecked"}, "UNCHECKED data"),
        ({"weights": "random"}, "RANDOM weights"),
    ],
)
def test_data_that_are_not_the_benchmark_are_marked_in_the_picture(write_run, runs, about, mark):
    write_run(**about)
    assert mark in words(runs(), "pareto")


def test_every_figure_of_sample_data_is_marked(write_run, runs):
    everything(write_run, kind="sample")
    kinds = [kind for kind in FIGURES.values() if kind.rows(runs())]
    with style.applied():
        figures = [kind.paint(kind.pages(kind.rows(runs()))[0]) for kind in kinds]
    assert [figure.get_suptitle() for figure in figures] == ["SAMPLE data: not the benchmark"] * 9


def test_no_word_is_cut_off(write_run, runs, monkeypatch):
    for kind in ("sample", "partial", "unchecked"):
        everything(write_run, kind=kind, task="superglue_rte", model="deberta_v3_base")
    drawn = []
    draw_text = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, *args, **how: (drawn.append(text), draw_text(text, *args, **how)))
    for kind in FIGURES.values():
        drawn.clear()
        with style.applied():
            figure = kind.paint(kind.pages(kind.rows(runs()))[0])
            FigureCanvasAgg(figure).draw()
        width, height = figure.bbox.size
        assert len(drawn) > 5
        for text in drawn:
            box = text.get_window_extent()
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside or not text.get_text().strip(), (
                f"{kind.name}: {text.get_text()!r}, {box} of {width} x {height}"
            )


def test_of_mixed_data_the_panel_is_marked(write_run, runs):
    write_run(task="mrpc", kind="sample")
    write_run(task="rte")
    assert words(runs(), "pareto").count("SAMPLE") == 1


def test_the_same_data_give_the_same_bytes(write_run, runs, tmp_path):
    write_staged(write_run)
    first, second = (draw(runs(), ["stages"], tmp_path / name).files for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_a_picture_does_not_depend_on_the_process(write_run, runs, outputs, tmp_path):
    write_run()
    code = (
        "import sys; from pathlib import Path;"
        "from peftbench.report.figures import draw; from peftbench.report.records import find;"
        "draw(find([Path(sys.argv[1])]).runs, ['pareto'], Path(sys.argv[2]));"
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(outputs), str(tmp_path / "b")], check=True)
    draw(runs(), ["pareto"], tmp_path / "a")
    assert (tmp_path / "a" / "pareto.svg").read_bytes() == (tmp_path / "b" / "pareto.svg").read_bytes()


def test_drawing_leaves_matplotlibs_settings_alone(write_run, runs, tmp_path):
    import matplotlib

    write_run()
    before = dict(matplotlib.rcParams)
    draw(runs(), ["pareto"], tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_the_number_of_seeds_is_told(write_run, runs):
    for seed in range(3):
        write_run(seed=seed)
    write_run(method="bitfit")
    assert "over 1 to 3 seeds" in words(runs(), "pareto")


def test_figures_without_data_are_told_and_leave_no_file(write_run, runs, tmp_path):
    write_run(method="bitfit")
    drawn = draw(runs(), ["stages", "bitfit_changes", "pareto"], tmp_path / "figures")
    assert drawn.skipped == {
        "stages": "needs completed runs of Algorithm 1 (sparsity=algorithm1)",
        "bitfit_changes": "needs completed runs of bitfit with their analysis.json",
    }
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {"pareto"} == {file.stem for file in drawn.files}


def test_more_panels_than_a_page_holds_go_on_the_next(write_run, runs, tmp_path):
    for task in ("cola", "mrpc", "rte", "qnli", "sst2"):
        write_run(method="sora", task=task, ranks={"initial": {path(0): 8}, "final": {path(0): 2}})
    pages = [file.name for file in draw(runs(), ["ranks"], tmp_path).files if file.suffix == ".svg"]
    assert pages == ["ranks.svg", "ranks-2.svg"]


def test_unknown_figure(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no figure is called paretto; did you mean pareto\?"):
        draw([], ["paretto"], tmp_path)


def test_without_matplotlib_one_sentence(write_run, runs, tmp_path, monkeypatch):
    write_run()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"figures need matplotlib: pip install 'peftbench\[report\]'"):
        draw(runs(), ["pareto"], tmp_path)
    assert available(runs()) == ["pareto", "epoch_time"], "what there is to draw is known without it"


# The palette

_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
_PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
"""Machado, Oliveira & Fernandes (2009), severity 1, on linear RGB."""


def lab(colour: str, seen_by=None):
    """CIELAB (D65) of a hex colour, as someone sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear if seen_by is None else seen_by @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ linear / np.array([0.9505, 1.0, 1.089]), 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", [None, _DEUTERANOPIA, _PROTANOPIA], ids=["all cones", "deuteranopia", "protanopia"])
def test_colours_are_far_apart_and_off_the_paper(eyes):
    for one, other in itertools.combinations([*PALETTE, "#FFFFFF"], 2):
        assert np.linalg.norm(lab(one, eyes) - lab(other, eyes)) > 14, (one, other)


def test_macro_f1_is_written_as_papers_do():
    assert style.metric_axis("macro_f1") == ("macro F1 × 100", 100)


def test_no_two_series_look_alike():
    looks = [series(index) for index in range(28)]
    assert len({(look.colour, look.line) for look in looks}) == 28
    assert len({(look.colour, look.marker) for look in looks}) == 28
    assert len({(look.marker, look.line) for look in looks[:7]}) == 7
