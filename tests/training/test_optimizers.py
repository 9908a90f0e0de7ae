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


def rms(tensor):
    return tensor.square().mean().sqrt()


class PaperAdafactor:
    """Algorithms 4 and 5 of arXiv 1804.04235 for one matrix: no momentum, d = 1, the rate 0.1 in place of ρ."""

    def __init__(self, parameter, weight_decay, scaled):
        self.parameter, self.weight_decay, self.scaled = parameter, weight_decay, scaled
        self.rows = self.columns = torch.zeros(())
        self.steps = 0

    @torch.no_grad()
    def step(self):
        p, squares = self.parameter, self.parameter.grad.square() + 1e-30
        self.steps += 1
        beta2 = 1 - self.steps**-0.8
        rate = 0.1 * max(1e-3, rms(p).item()) if self.scaled else 0.1
        self.rows = beta2 * self.rows + (1 - beta2) * squares.sum(1, keepdim=True)
        self.columns = beta2 * self.columns + (1 - beta2) * squares.sum(0, keepdim=True)
        update = p.grad / (self.rows @ self.columns / self.rows.sum()).sqrt()
        p -= rate * (update / max(1.0, rms(update).item()) + self.weight_decay * p)


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (AdamW(weight_decay=0.1), lambda p, wd: torch.optim.AdamW([p], lr=0.1, weight_decay=wd)),
        (Adafactor(weight_decay=0.1), lambda p, wd: PaperAdafactor(p, wd, scaled=False)),
        (Adafactor(weight_decay=0.1, scale_parameter=True), lambda p, wd: PaperAdafactor(p, wd, scaled=True)),
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
            group.parameters[0].grad = 0.1 * (step + 1) * (torch.arange(12.0).view(4, 3) - 5).cos()
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


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_adafactor_moves_by_the_rate_whatever_the_parameters_size(scale):
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(scale * torch.randn(20, 32, generator=generator))
    gradient = torch.randn(20, 32, generator=generator)
    optimizers = Optimizers([ParameterGroup("prompt", [parameter])], Adafactor(schedule="constant"), lr=0.3)
    for step in range(100):
        before = parameter.detach().clone()
        optimizers.set_lr(step, 100)
        parameter.grad = gradient.clone()
        optimizers.step()
        assert 0.9 * 0.3 < rms(parameter.detach() - before) <= 0.3 * (1 + 1e-4)


@pytest.mark.parametrize("config", [AdamW(), Adafactor(), Adafactor(scale_parameter=True)])
def test_state_goes_back_as_it_was(config):
    first, second = groups(), groups()
    ours, theirs = Optimizers(first, config, 0.1), Optimizers(second, config, 0.1)
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
