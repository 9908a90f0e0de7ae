"""The proximal operators against closed forms, the gates' Adam against one written out by hand."""

import numpy as np
import pytest
import torch

from peftbench.layers.proximal import GateAdam, official_threshold_, soft_threshold_

XI = 0.25  # exact in binary, so that |x| = xi and |x| = 2 xi are met exactly
GRID = torch.tensor(
    sorted({s * v for s in (-1, 1) for v in (0, 0.1, XI, 0.26, 0.375, 0.4999, 2 * XI, 0.51, 1, 7.5)}),
    dtype=torch.float64,
)


def test_soft_is_the_closed_form_between_xi_and_twice_xi_and_on_both():
    gate = GRID.clone()
    soft_threshold_([gate], XI)
    assert torch.equal(gate, GRID.sign() * (GRID.abs() - XI).clamp(min=0))
    assert gate[GRID.abs() == XI].abs().sum() == 0
    between = (GRID.abs() > XI) & (GRID.abs() < 2 * XI)
    assert between.any()
    assert (gate[between] != 0).all()


def test_soft_minimises_the_proximal_objective():
    x = torch.linspace(-1, 1, 41, dtype=torch.float64)
    gate = x.clone()
    soft_threshold_([gate], XI)
    candidates = torch.linspace(-1.2, 1.2, 24001, dtype=torch.float64)
    objective = 0.5 * (candidates[None] - x[:, None]) ** 2 + XI * candidates.abs()[None]
    assert (gate - candidates[objective.argmin(1)]).abs().max() < 1e-4


def test_official_has_a_dead_zone_of_twice_xi_and_leaves_exactly_xi_alone():
    gate = GRID.clone()
    official_threshold_([gate], XI)
    magnitude = GRID.abs()
    expected = torch.where(magnitude >= 2 * XI, GRID.sign() * (magnitude - XI), torch.zeros_like(GRID))
    expected = torch.where(magnitude == XI, GRID, expected)
    assert torch.equal(gate, expected)


@pytest.mark.parametrize("operator", [soft_threshold_, official_threshold_])
def test_gates_of_any_shapes_are_thresholded_each_as_if_alone(operator):
    together, alone = ([GRID.clone(), GRID[:6].clone().view(2, 3), GRID[7:8].clone()] for _ in range(2))
    operator(together, XI)
    for gate in alone:
        operator([gate], XI)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert not torch.equal(together[0], GRID)


@pytest.mark.parametrize("operator", [soft_threshold_, official_threshold_])
def test_a_threshold_of_zero_changes_nothing(operator):
    gates = [GRID.clone(), GRID[:3].clone()]
    operator(gates, 0.0)
    assert torch.equal(gates[0], GRID)
    assert torch.equal(gates[1], GRID[:3])


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_gate_adam_adds_eps_before_the_correction_and_decays_the_value_before_the_step(decay):
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=5), rng.normal(size=(7, 5)) * 1e-3
    gate = torch.nn.Parameter(torch.tensor(start))
    optimizer = GateAdam([gate], lr=0.01, eps=1e-6, weight_decay=decay)
    p, m, v = start.copy(), np.zeros(5), np.zeros(5)
    for t, g in enumerate(gradients, start=1):
        gate.grad = torch.tensor(g)
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p = p - 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-6) - 0.01 * decay * p
        np.testing.assert_allclose(gate.detach().numpy(), p, rtol=0, atol=1e-14)


def test_torchs_adamw_is_not_this_step():
    start, gradient = torch.full((4,), 0.3, dtype=torch.float64), torch.full((4,), 1e-5, dtype=torch.float64)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    ours.grad, theirs.grad = gradient.clone(), gradient.clone()
    GateAdam([ours], lr=0.01, eps=1e-6).step()
    torch.optim.AdamW([theirs], lr=0.01, eps=1e-6, weight_decay=0.0).step()
    assert (ours - theirs).abs().max() > 1e-4
