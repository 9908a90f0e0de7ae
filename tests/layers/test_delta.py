"""Differences to single weights, against dense formulas in double precision and against counting samples."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from peftbench.layers.delta import HardConcreteDelta, SparseDelta, by_owner, fold, install, targets

LOW, HIGH = -1.5, 1.5


class Tied(nn.Module):
    """A language model's tie: one table that embeds and projects."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.out = nn.Linear(4, 9)
        self.out.weight = self.table.weight
        self.double().requires_grad_(False)

    def forward(self, ids):
        return self.out(self.table(ids))


def hard_concrete(shape=(6, 5), grouped=True, alpha=0.3, seed=0):
    torch.manual_seed(seed)
    weight = torch.randn(shape, dtype=torch.float64)
    delta = HardConcreteDelta(weight, 0.0, LOW, HIGH, grouped).double()
    for p in delta.parameters():
        nn.init.normal_(p)
    with torch.no_grad():
        delta.alpha.add_(alpha)
    return weight, delta


def clipped(logits):
    return (torch.sigmoid(logits) * (HIGH - LOW) + LOW).clamp(0, 1)


def test_a_sparse_delta_is_the_dense_update():
    weight = torch.randn(4, 5, dtype=torch.float64)
    delta = SparseDelta(torch.tensor([3, 7, 19])).double()
    assert torch.equal(delta(weight), weight)
    nn.init.normal_(delta.values)
    dense = torch.zeros(20, dtype=torch.float64)
    dense[[3, 7, 19]] = delta.values.detach()
    assert torch.equal(delta(weight), weight + dense.view(4, 5))
    upstream = torch.randn(4, 5, dtype=torch.float64)
    delta(weight).backward(upstream)
    assert torch.equal(delta.values.grad, upstream.flatten()[[3, 7, 19]])


def test_a_sparse_delta_takes_weights_that_are_not_contiguous():
    weight, delta = torch.randn(4, 5).T, SparseDelta(torch.tensor([1]), torch.ones(1))
    expected = weight.clone()
    expected[0, 1] += 1
    assert torch.equal(delta(weight), expected)


def test_positions_by_owner_are_those_of_brute_force():
    sizes, generator = [3, 1, 8, 5, 2], torch.Generator().manual_seed(0)
    for count in (0, 1, 7, 19):
        flat = torch.randperm(19, generator=generator)[:count].sort().values
        marked = torch.zeros(19, dtype=torch.bool)
        marked[flat] = True
        expected = [part.nonzero().squeeze(1).tolist() for part in marked.split(sizes)]
        assert [part.tolist() for part in by_owner(flat, sizes)] == expected


def test_a_tied_weight_has_one_delta_and_stays_tied_when_it_is_folded():
    model, ids = Tied(), torch.tensor([[1, 5, 5]])
    (target,) = [t for t in targets(model) if t.name == "table.weight"]
    assert len(target.places) == 2
    assert [t.name for t in targets(model)] == ["table.weight", "out.bias"]
    delta = SparseDelta(torch.tensor([0, 21]), torch.ones(2, dtype=torch.float64))
    install(target, delta)
    assert len([n for n, _ in model.named_parameters() if n.endswith("values")]) == 1
    table = target.parameter.clone()
    table.view(-1)[[0, 21]] += 1
    expected = table[ids] @ table.T + model.out.bias
    torch.testing.assert_close(model(ids), expected)
    model(ids).sum().backward()
    table.requires_grad_(True)
    (table[ids] @ table.T).sum().backward()
    torch.testing.assert_close(delta.values.grad, table.grad.view(-1)[[0, 21]])
    fold(target, delta)
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert model.out.weight is model.table.weight is target.parameter
    assert torch.equal(target.parameter, table)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_sample_has_the_value_and_the_gradients_of_the_formula(grouped):
    between = 0
    for seed in range(12):
        weight, delta = hard_concrete(grouped=grouped, seed=seed)
        torch.manual_seed(seed)
        theta = delta(weight)
        upstream = torch.randn_like(weight)
        theta.backward(upstream)
        own = {n: p.detach().clone().requires_grad_(True) for n, p in delta.named_parameters()}
        torch.manual_seed(seed)
        z = 1.0
        if grouped:
            u = torch.rand((), dtype=torch.float64)
            z = clipped(torch.log(u) - torch.log1p(-u) + own["group_alpha"])
            between += int(0 < z < 1)
        u = torch.rand(weight.shape, dtype=torch.float64)
        gates = clipped(torch.log(u) - torch.log1p(-u) + own["alpha"])
        assert 0 < ((gates > 0) & (gates < 1)).sum() < gates.numel()
        expected = weight + z * gates * own["w"]
        torch.testing.assert_close(theta, expected)
        expected.backward(upstream)
        for name, parameter in delta.named_parameters():
            torch.testing.assert_close(parameter.grad, own[name].grad)
    assert not grouped or between > 0


@pytest.mark.parametrize(("low", "high"), [(-1.5, 1.5), (-0.1, 1.1)])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_expected_number_of_non_zeros_is_the_mean_over_samples(low, high, grouped):
    torch.manual_seed(0)
    weight = torch.zeros(200)
    delta = HardConcreteDelta(weight, 0.0, low, high, grouped)
    nn.init.ones_(delta.w)
    nn.init.normal_(delta.alpha)
    draws = 4000
    with torch.no_grad():
        counted = sum(int(delta(weight).count_nonzero()) for _ in range(draws)) / draws
    expected = delta.expected_nonzeros().item()
    # A whole group opens or closes at once, so a draw of one has a spread of up to 100.
    assert counted == pytest.approx(expected, abs=5 * (50 if grouped else 7) / draws**0.5)
    assert 20 < expected < 180


@pytest.mark.parametrize("grouped", [False, True])
def test_the_expected_number_has_the_gradient_of_its_formula(grouped):
    _, delta = hard_concrete(grouped=grouped)
    delta.expected_nonzeros().backward()
    alpha = delta.alpha.detach().clone().requires_grad_(True)
    group = delta.group_alpha.detach().clone().requires_grad_(True) if grouped else None
    formula = torch.sigmoid(alpha - torch.log(torch.tensor(-LOW / HIGH))).sum()
    (formula if group is None else formula * torch.sigmoid(group)).backward()
    torch.testing.assert_close(delta.alpha.grad, alpha.grad)
    if group is not None:
        torch.testing.assert_close(delta.group_alpha.grad, group.grad)


def test_evaluation_is_deterministic_and_a_fixed_mask_needs_no_gate():
    weight, delta = hard_concrete()
    delta.eval()
    dense = clipped(delta.group_alpha) * clipped(delta.alpha) * delta.w
    assert torch.equal(delta(weight), delta(weight))
    torch.testing.assert_close(delta(weight), weight + dense)
    with torch.no_grad():
        alpha = torch.tensor([-9.0, 0.0, 5.0])
        # 3 σ(α) − 1.5, clipped: shut, exactly shut, open.
        assert clipped(alpha).tolist() == [0.0, 0.0, 1.0]
    kept = dense.detach().abs().flatten().topk(4).indices.sort().values
    delta.keep(kept)
    mask = torch.zeros(30, dtype=torch.float64)
    mask[kept] = 1
    torch.testing.assert_close(delta(weight), weight + mask.view(6, 5) * dense)
    delta.train()
    assert torch.equal(delta(weight), delta(weight))
    delta.alpha.grad = None
    delta(weight).sum().backward()
    assert torch.equal(delta.w.grad.flatten(), mask)
    assert delta.alpha.grad is None
    sparse = delta.sparse()
    assert torch.equal(sparse(weight), delta(weight))
    assert torch.equal(sparse.indices, kept)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_half_precision_host_keeps_its_type_and_trains_in_float32(autocast):
    linear = nn.Linear(4, 3).to(torch.float32 if autocast else torch.bfloat16).requires_grad_(False)
    kind = linear.weight.dtype
    target = next(t for t in targets(linear) if t.name == "weight")
    delta = HardConcreteDelta(linear.weight, 5.0, LOW, HIGH, True)
    install(target, delta)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            linear(torch.randn(2, 4, dtype=kind)).sum().backward()
        assert linear.weight.dtype == kind
        assert delta.w.dtype == delta.w.grad.dtype == delta.alpha.grad.dtype == torch.float32
        assert delta.w.grad.abs().sum() > 0
        delta.keep(torch.tensor([0, 5]))
