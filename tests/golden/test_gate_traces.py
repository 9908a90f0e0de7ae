"""The gates' step against traces of the released SoRA code's own optimizer."""

import json

import pytest
import torch
from conftest import SHARED

from peftbench.layers.proximal import GateAdam, official_threshold_

FILE = SHARED / "golden" / "gate_traces.json"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"golden traces are not beside this checkout ({FILE.name})")


def traces() -> list:
    if not FILE.is_file():
        return []
    return [(kind, i, t) for kind, group in json.loads(FILE.read_text()).items() for i, t in enumerate(group)]


@pytest.mark.parametrize(("kind", "trace"), [pytest.param(k, t, id=f"{k}-{i}") for k, i, t in traces()])
def test_every_gate_of_every_step(kind, trace):
    gate = torch.nn.Parameter(torch.tensor(trace["initial"], dtype=torch.float64))
    optimizer = GateAdam([gate], trace["lr"], tuple(trace["betas"]), trace["eps"], trace["weight_decay"])
    scale = trace["lr"] if kind == "xi_times_lr" else 1.0
    for gradient, xi, expected in zip(trace["gradients"], trace["xi_per_step"], trace["gates"], strict=True):
        gate.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        official_threshold_([gate], xi * scale)
        wanted = torch.tensor(expected, dtype=torch.float64)
        assert (gate - wanted).abs().max().item() <= 1e-12
        assert torch.equal(gate == 0, wanted == 0)


def test_the_traces_are_all_there():
    assert len(traces()) == 9
