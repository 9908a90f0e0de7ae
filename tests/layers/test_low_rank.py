"""The low-rank layer against its formula, in double precision."""

import pytest
import torch
from torch import nn

from peftbench.layers.low_rank import LowRankLinear, SharedInput, drawn_linear, kaiming_uniform_, normal_

both_ways = pytest.mark.parametrize("fused", [False, True])


def filled(rank=3, gated=False, dropout=0.0, fused=True) -> LowRankLinear:
    torch.manual_seed(0)
    layer = LowRankLinear(nn.Linear(7, 5), rank, scaling=1.7, dropout=dropout, gated=gated).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    layer.linear.requires_grad_(not fused)
    assert layer.is_fused == fused
    return layer


@both_ways
@pytest.mark.parametrize("gated", [False, True])
def test_forward_is_the_formula(gated, fused):
    layer, x = filled(gated=gated, fused=fused), torch.randn(4, 6, 7, dtype=torch.float64)
    diagonal = torch.diag(layer.gate) if gated else torch.eye(3, dtype=torch.float64)
    weight = layer.linear.weight + 1.7 * layer.lora_B @ diagonal @ layer.lora_A
    torch.testing.assert_close(layer(x), x @ weight.T + layer.linear.bias, rtol=1e-12, atol=1e-12)


@both_ways
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_pass_gradcheck(fused, dropout):
    layer = filled(gated=True, dropout=dropout, fused=fused)
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)

    def forward(x, a, b, g):
        torch.manual_seed(5)  # The same elements are dropped each time.
        return torch.func.functional_call(layer, {"lora_A": a, "lora_B": b, "gate": g}, (x,))

    assert torch.autograd.gradcheck(forward, (x, layer.lora_A, layer.lora_B, layer.gate))


@pytest.mark.parametrize("rows", [2, 40])
def test_gradients_of_layers_that_share_their_input_pass_gradcheck(rows):
    layers = [filled(gated=True), filled(rank=2)]
    SharedInput(layers)
    x = torch.randn(rows, 7, dtype=torch.float64, requires_grad=True)
    factors = [p for layer in layers for p in (layer.lora_A, layer.lora_B)]
    assert torch.autograd.gradcheck(lambda x, *_: [layer(x) for layer in layers], (x, *factors))


@both_ways
def test_no_rows_give_no_rows(fused):
    layer, none = filled(fused=fused), torch.empty(0, 4, 7, dtype=torch.float64)
    assert layer(none).shape == (0, 4, 5)
    with torch.no_grad():
        assert layer(none).shape == (0, 4, 5)


def test_folding_drops_zero_gates_and_keeps_the_update():
    layer = filled(rank=4, gated=True)
    with torch.no_grad():
        layer.gate[[1, 2]] = 0.0
    a, b = layer.folded()
    assert (a.shape, b.shape) == ((2, 7), (5, 2))
    torch.testing.assert_close(1.7 * b @ a, 1.7 * layer.lora_B @ torch.diag(layer.gate) @ layer.lora_A)


@both_ways
def test_dropout_only_touches_the_branch_and_only_in_training(fused):
    layer, x = filled(dropout=0.5, fused=fused), torch.randn(50, 7, dtype=torch.float64)
    layer.train()
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    with torch.no_grad():
        layer.lora_B.zero_()
    layer.train()
    torch.testing.assert_close(layer(x), layer.linear(x))


def test_initialisation_has_its_law_and_its_generator():
    weight = torch.empty(2000, 96)
    kaiming_uniform_(weight, torch.Generator().manual_seed(3))
    reference = nn.init.kaiming_uniform_(torch.empty(2000, 96), a=5**0.5)
    bound = 1 / 96**0.5
    assert weight.abs().max() <= bound
    assert abs(weight.std() - reference.std()) < 0.01 * bound
    again = torch.empty(2000, 96)
    kaiming_uniform_(again, torch.Generator().manual_seed(3))
    assert torch.equal(weight, again)
    normal_(weight, 0.02, torch.Generator().manual_seed(3))
    assert abs(weight.std().item() - 0.02) < 2e-4


@pytest.mark.parametrize("inputs", [1, 48])
def test_a_drawn_linear_starts_as_torchs_does_without_the_global_generator(inputs):
    before = torch.get_rng_state()
    drawn = drawn_linear(inputs, 400, torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    torchs = torch.nn.Linear(inputs, 400)
    for ours, theirs in zip(drawn.parameters(), torchs.parameters(), strict=True):
        assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)
        assert ours.requires_grad
        assert ours.abs().max() <= inputs**-0.5
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.15)
    again = drawn_linear(inputs, 400, torch.Generator().manual_seed(0))
    assert torch.equal(again.weight, drawn.weight)
    assert torch.equal(again.bias, drawn.bias)


@pytest.mark.parametrize("change", ["in place", "gradients"])
def test_what_was_computed_for_another_state_of_a_shared_input_is_not_given(change):
    torch.manual_seed(0)
    layers = [LowRankLinear(nn.Linear(16, 16).requires_grad_(False), 4, 1.0) for _ in range(2)]
    for layer in layers:
        nn.init.normal_(layer.lora_A)
        nn.init.normal_(layer.lora_B)
    SharedInput(layers)
    x = torch.randn(3, 5, 16)
    with torch.set_grad_enabled(change == "in place"):
        layers[0](x)
    if change == "in place":
        x.add_(1)
    found = layers[1](x)
    assert found.requires_grad
    layers[1].shared = None
    torch.testing.assert_close(found, layers[1](x))
