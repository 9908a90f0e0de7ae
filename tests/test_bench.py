"""What the benchmark says of its measurements; never how long anything takes."""

import json
import math

import pytest
import torch
from torch import nn

from peftbench.bench import growth, table
from peftbench.bench.epochs import METHODS, Epoch, _ratios
from peftbench.bench.measure import Ratio, in_turn, peak_megabytes, saved_megabytes
from peftbench.bench.models import Batch, frozen_bound, loss


def test_cases_take_turns_and_warm_up_does_not_count():
    order = []
    seconds = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3, warmup=1)
    assert order == ["a", "b", "b", "a"] * 2
    assert set(seconds) == {"a", "b"}
    assert all(value >= 0 for value in seconds.values())


@pytest.mark.parametrize(
    ("value", "target", "at_least", "verdict"),
    [
        (1.05, 1.05, False, "pass"),
        (1.051, 1.05, False, "short of target"),
        (0.99, 1.0, True, "short of target"),
        (1.0, 1.0, True, "pass"),
        (9.0, None, False, ""),
        (math.nan, 1.0, False, "short of target"),
    ],
)
def test_a_verdict_is_the_targets(value, target, at_least, verdict):
    assert Ratio("s", "a", "b", value, target, at_least).verdict == verdict


def test_memory_for_the_backward_pass_is_counted_once_and_without_weights():
    layer, x = nn.Linear(100, 50), torch.randn(1000, 100, requires_grad=True)
    # ReLU keeps its output (1000 x 50), the linear map its input (1000 x 100), both products the same ReLU output.
    bytes_held = 4 * (1000 * 50 + 1000 * 100)

    def forward():
        hidden = torch.relu(layer(x * 1.0))
        return (hidden * hidden.detach()).sum()

    assert saved_megabytes(forward) == pytest.approx(bytes_held / 1e6, rel=0.01)


def test_the_peak_is_of_what_is_live_at_once():
    def work():
        first = torch.zeros(1000, 1000)
        second = first + 1
        del first
        third = second * 2
        return (second + third).sum()

    assert peak_megabytes(work) == pytest.approx(12.0, rel=1e-3)  # Three of four megabytes each.


def test_the_bound_trains_nothing_and_ends_at_the_first_layers_attention():
    model = frozen_bound()
    seen = {}
    attention = model.bert.encoder.layer[0].attention.self
    for name in ("query", "key", "value"):
        linear = getattr(attention, name)
        linear.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: (inputs[0], output)}))
    loss(model, Batch.of(1, 4), bf16=False).backward()
    assert all(given.grad is not None and given.is_leaf for _, given in seen.values())
    assert not any(taken.requires_grad for taken, _ in seen.values())
    assert len(seen) == 3
    assert all(parameter.grad is None for parameter in model.parameters())


def _of_sora(taken):
    (found,) = [one for one in _ratios("mrpc", taken) if one.what == "score of sora, difference"]
    return found


def test_epochs_are_compared_only_over_as_many_steps():
    taken = {name: [Epoch(4.0, 10, 0.7), Epoch(4.0, 10, 0.8)] for name in METHODS}
    taken["lora"] = [Epoch(1.0, 10, 0.8), Epoch(3.0, 10, 0.9)]
    ratio = _ratios("mrpc", taken)[0]
    assert (ratio.value, ratio.target, ratio.verdict) == (0.5, 0.55, "pass")
    assert ratio.detail.endswith("10 steps, seeds: 2")
    taken["adalora"] = [Epoch(8.0, 10, 0.7)]  # It trains with the first seed alone, so that alone is compared.
    taken["sora"] = [Epoch(4.0, 10, 0.7), Epoch(6.0, 10, 0.8)]
    by_pair = {(one.what, one.against): one for one in _ratios("mrpc", taken)}
    assert by_pair["sora, mrpc", "adalora"].value == 0.5
    assert by_pair["sora, mrpc", "adalora"].section.startswith("SoRA's Table 4: ")
    assert by_pair["sora", "HF lora"].value == 1.25
    taken["sora"] = taken["adalora"] = taken["HF lora"]
    part = {one.what: one for one in _ratios("mrpc", taken, "128 rows")}
    assert list(part) == ["lora", "sora", "sora, mrpc (128 rows)", "adalora, mrpc (128 rows)"]
    assert (part["lora"].target, part["lora"].section.partition(",")[0]) == (None, "an epoch of mrpc (128 rows)")
    sora = _of_sora(taken)
    # Of two scores 0.1 apart the mean's variance is 0.0025; the difference's standard error 0.0707: too large to judge.
    assert (sora.value, sora.target) == (0.0, None)
    assert sora.detail.endswith("standard error 0.071")
    taken["HF lora"] = [Epoch(4.0, 10, 0.0), Epoch(4.0, 10, 0.0)]  # CoLA's correlation after an epoch.
    assert _of_sora(taken).value == pytest.approx(0.75)
    for score, verdict in ((0.70, "short of target"), (0.795, "pass")):
        taken["sora"] = [Epoch(1.0, 10, score), Epoch(1.0, 10, score + 0.001)]
        taken["HF lora"] = [Epoch(4.0, 10, 0.8), Epoch(4.0, 10, 0.801)]
        assert _of_sora(taken).verdict == verdict
    taken["HF lora"][1] = Epoch(4.0, 9, 0.8)
    with pytest.raises(AssertionError, match="optimizer steps"):
        _ratios("mrpc", taken)


def test_the_table_the_file_and_the_curves(tmp_path, capsys):
    ratios = [
        Ratio("growth of time with rank, six sites", "1", "frozen bound", 1.0, detail="3 ms"),
        Ratio("growth of time with rank, six sites", "2", "frozen bound", 1.5),
        Ratio("growth of memory with rank, six sites", "1", "frozen bound", 1.0),
        Ratio("steps", "lora", "HF", 0.7, 0.8),
        Ratio("steps", "sora", "HF", math.nan, 0.8),
    ]
    table.show(ratios)
    machine = {"seconds": {"steps": 3}, "hardware": {"cpu": "a processor"}, "threads": 2, "data": "data=sample"}
    table.tell(ratios, machine)
    out = capsys.readouterr().out
    assert "≤ 0.80" in out
    assert "1 of 2 targets met (steps 3 s)" in out
    table.write(ratios, machine, tmp_path / "bench.json")
    written = json.loads((tmp_path / "bench.json").read_text())
    assert written["machine"] == machine
    assert [r["value"] for r in written["ratios"]] == [1.0, 1.5, 1.0, 0.7, None]
    growth.draw(ratios, tmp_path / "growth.svg")
    assert (tmp_path / "growth.svg").read_text().count("<svg") == 1
