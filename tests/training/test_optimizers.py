"""Optimizers get the groups' rates and decays; each rule updates its own parameters."""

import copy

import pytest
import torch

from peftbench.config import SGD, Adafactor, AdamW
from peftbench.doors import ParameterGroup
from peftbench.layers.proximal import GateAdam
from peftbench.training.optimizers import Optimizers


def groups():
    torch.manual_seed(0)
    a, b, g = (torch.nn.Parameter(torch.randn(4, 3)) for _ in range(3))
    return [
        ParameterGroup("low_rank", [a]),
        ParameterGroup("head_no_decay", [b], decays=False),
        ParameterGroup("gate", [g], lr=0.5, decays=False, rule="gate_adam"),
    ]


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (AdamW(weight_decay=0.1), lambda p, wd: torch.optim.AdamW([p], lr=0.1, weight_decay=wd)),
        (Adafactor(weight_decay=0.1), lambda p, wd: torch.optim.Adafactor([p], lr=0.1, weight_decay=wd)),
        (SGD(weight_decay=0.1), lambda p, wd: torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=wd)),
    ],
)
def test_each_group_moves_as_its_own_optimizer_would(config, make):
    config = type(config)(**{**vars(config), "schedule": "constant"})
    mine = groups()
    twins = [torch.nn.Parameter(group.parameters[0].detach().clone()) for group in mine]
    references = [make(twins[0], 0.1), make(twins[1], 0.0), GateAdam([twins[2]], lr=0.5)]
    optimizers = Optimizers(mine, config, lr=0.1)
    for step in range(5):
        optimizers.set_lr(step, 5)
        for group, twin in zip(mine, twins, strict=True):
            group.parameters[0].grad = torch.full((4, 3), 0.3 * (step + 1))
            twin.grad = group.parameters[0].grad.clone()
        optimizers.step()
        for reference in references:
            reference.step()
    for group, twin in zip(mine, twins, strict=True):
        torch.testing.assert_close(group.parameters[0], twin, rtol=1e-6, atol=1e-7)


def test_rates_follow_the_schedule_for_every_group():
    optimizers = Optimizers(groups(), AdamW(warmup_steps=2), lr=0.1)
    optimizers.set_lr(1, 10)
    assert optimizers.lrs == {"low_rank": 0.05, "head_no_decay": 0.05, "gate": 0.25}
    optimizers.set_lr(6, 10)
    assert optimizers.lrs["gate"] == pytest.approx(0.25)


def test_state_goes_back_as_it_was():
    first, second = groups(), groups()
    ours, theirs = Optimizers(first, AdamW(), 0.1), Optimizers(second, AdamW(), 0.1)
    for mine, other in zip(first, second, strict=True):
        mine.parameters[0].grad = torch.ones(4, 3)
        with torch.no_grad():
            other.parameters[0].copy_(mine.parameters[0])
    ours.step()
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for mine, other in zip(first, second, strict=True):
        with torch.no_grad():
            other.parameters[0].copy_(mine.parameters[0])
        mine.parameters[0].grad = other.parameters[0].grad = torch.full((4, 3), 0.2)
    ours.step()
    theirs.step()
    for mine, other in zip(first, second, strict=True):
        assert torch.equal(mine.parameters[0], other.parameters[0])
