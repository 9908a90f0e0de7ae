"""The fused function of low-rank maps against autograd and its formula, in double precision."""

import pytest
import torch
from torch import nn

from peftbench.layers.low_rank import LowRankLinear, SharedInput
from peftbench.layers.low_rank_maps import Map, folds, low_rank_maps

I = 5  # noqa: E741 - the input width, as the shapes are written
FEW, MANY = (2, 1, I), (4, 6, I)
"""Inputs for which the update is added to the output, and folded into the weight."""


def drawn(outputs=(4, 3), ranks=(2, 3), gated=(True, False), bias=(True, False)) -> list[Map]:
    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    return [
        Map(
            normal(o, I),
            normal(o) if b else None,
            normal(r, I).requires_grad_(),
            normal(o, r).requires_grad_(),
            normal(r).requires_grad_() if g else None,
            s,
        )
        for o, r, g, b, s in zip(outputs, ranks, gated, bias, (1.7, 0.5), strict=False)
    ]


def written_out(x, maps, u):
    for m in maps:
        low = u @ m.a.T if m.gate is None else (u @ m.a.T) * m.gate
        yield nn.functional.linear(x, m.weight, m.bias) + m.scaling * low @ m.b.T


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [FEW, MANY])
@pytest.mark.parametrize("dropout", [False, True])
def test_outputs_and_gradients_are_those_of_the_formula(count, shape, dropout):
    torch.manual_seed(0)
    maps, x = drawn()[:count], torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert folds(x[..., 0].numel(), I, 4) == (shape == MANY)
    kept = torch.rand(shape, dtype=torch.float64) > 0.4
    wrt = [x, *(t for m in maps for t in (m.a, m.b, m.gate) if t is not None)]
    ours = low_rank_maps(x, maps, x * kept if dropout else None)
    theirs = list(written_out(x, maps, x * kept if dropout else x))
    by = [torch.randn_like(out) for out in theirs]
    torch.testing.assert_close(list(ours), theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(ours, wrt, by), torch.autograd.grad(theirs, wrt, by), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_nothing_but_the_input_is_kept_besides_what_lives_anyway(shape):
    maps, x = drawn(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    alive = {t.data_ptr() for m in maps for t in (m.weight, m.a, m.b, m.gate) if t is not None}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        low_rank_maps(x, maps)
    assert {t.data_ptr() for t in kept} - alive == {x.data_ptr()}


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_a_weight_that_changes_before_the_backward_pass_is_an_error(shape):
    maps, x = drawn(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    outputs = low_rank_maps(x, maps)
    maps[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs[0].sum().backward()


@pytest.mark.parametrize("shape", [FEW, MANY])
@pytest.mark.parametrize("dropout", [False, True])
def test_gradients_pass_gradcheck(shape, dropout):
    torch.manual_seed(1)
    maps, x = drawn(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    kept = torch.rand(shape, dtype=torch.float64) > 0.4
    factors = [t for m in maps for t in (m.a, m.b, m.gate) if t is not None]

    def forward(x, *_):
        return low_rank_maps(x, maps, x * kept if dropout else None)

    assert torch.autograd.gradcheck(forward, (x, *factors))


def test_weights_in_bfloat16_are_not_folded_and_keep_small_updates_as_autocast_does():
    torch.manual_seed(2)
    whole, half = (LowRankLinear(nn.Linear(64, 48).requires_grad_(False), 4, 2.0) for _ in range(2))
    for p in (whole.lora_A, whole.lora_B):
        nn.init.normal_(p, std=1e-3)
    half.load_state_dict(whole.state_dict())
    half.linear.to(torch.bfloat16)
    x = torch.randn(8, 32, 64)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        branch = nn.functional.linear(nn.functional.linear(x, whole.lora_A), whole.lora_B) * 2.0
        written_out = whole.linear(x) + branch
        assert (half(x) - written_out).float().norm() <= 0.004 * written_out.float().norm()
        # Folded and rounded, hardly any weight would differ from what it was.
        found, expected = half(x) - whole.linear(x), written_out - whole.linear(x)
    assert 0.5 < found.float().norm() / expected.float().norm() < 2


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_an_input_without_gradient_asks_for_none(shape):
    maps, x = drawn(), torch.randn(shape, dtype=torch.float64)
    sum(out.sum() for out in low_rank_maps(x, maps)).backward()  # type: ignore[union-attr]
    assert x.grad is None
    assert all(m.a.grad is not None and m.b.grad is not None for m in maps)


@pytest.mark.parametrize("shape", [(2, 1, 64), (8, 32, 64)])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_autocast_gives_the_formula_to_its_rounding(shape, weights):
    torch.manual_seed(2)
    layer = LowRankLinear(nn.Linear(64, 48).to(weights).requires_grad_(False), 4, 2.0, gated=True)
    for p in (layer.lora_A, layer.lora_B):
        nn.init.normal_(p, std=0.1)
    x = torch.randn(shape, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        fused = layer(x)
    assert fused.dtype == torch.bfloat16
    assert layer.gate is not None
    update = 2.0 * layer.lora_B @ torch.diag(layer.gate) @ layer.lora_A
    exact = x @ (layer.linear.weight.float() + update).T + layer.linear.bias.float()
    assert (fused - exact).norm() < 0.004 * exact.norm()  # A bfloat16 keeps 8 bits.
    wrt = [x, layer.lora_A, layer.lora_B, layer.gate]
    for ours, theirs in zip(
        torch.autograd.grad(fused.float().square().sum(), wrt, retain_graph=True),
        torch.autograd.grad(exact.square().sum(), wrt),
        strict=True,
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_layers_of_one_input_give_what_each_gives_alone():
    torch.manual_seed(3)
    layers = [LowRankLinear(nn.Linear(I, o).requires_grad_(False), 2, 1.0) for o in (4, 3, 4)]
    for layer in layers:
        nn.init.normal_(layer.lora_A)
        nn.init.normal_(layer.lora_B)
    x, other = torch.randn(6, 3, I), torch.randn(6, 3, I)
    alone = [layer(x) for layer in layers]
    of_other = layers[2](other)
    shared = SharedInput(layers)
    # In another order, one with another input between, and twice.
    torch.testing.assert_close([layers[i](x) for i in (1, 0)], [alone[1], alone[0]])
    torch.testing.assert_close(layers[2](other), of_other)
    torch.testing.assert_close([layer(x) for layer in layers], alone)
    with torch.no_grad():
        layers[0].lora_B.zero_()
    torch.testing.assert_close(layers[0](x.clone()), layers[0].linear(x))
    shared.dissolve()
    assert all(layer.shared is None for layer in layers)


@pytest.mark.parametrize("training", [False, True])
def test_a_model_may_change_the_outputs_in_place(training):
    layer = LowRankLinear(nn.Linear(I, 4).requires_grad_(False), 2, 1.0, dropout=0.1).train(training)
    SharedInput([layer, LowRankLinear(nn.Linear(I, 4).requires_grad_(False), 2, 1.0)])
    layer(torch.randn(MANY, requires_grad=True).float()).relu_().sum().backward()
    assert layer.lora_A.grad is not None


def test_a_trained_or_replaced_weight_is_written_out():
    layer = LowRankLinear(nn.Linear(I, 4), 2, 1.0)
    assert not layer.is_fused
    layer(torch.randn(3, I)).sum().backward()
    assert layer.linear.weight.grad is not None
    layer.linear.requires_grad_(False)
    assert layer.is_fused
    nn.utils.parametrize.register_parametrization(layer.linear, "weight", nn.Identity())
    assert not layer.is_fused
