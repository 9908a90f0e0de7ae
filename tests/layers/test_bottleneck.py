"""Bottlenecks and hypercomplex maps against explicit matrices."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from peftbench.layers.bottleneck import (
    Bottleneck,
    HypercomplexLinear,
    bert_,
    gelu_tanh,
    glorot_uniform_,
    near_identity_,
    plain_bottleneck,
    truncated_normal_,
    zero_up_,
)
from peftbench.layers.rescaling import Rescaling


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomise(module, std=0.5, seed=3):
    source = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * std)


@pytest.mark.parametrize("rank", [1, 3, None])
def test_a_hypercomplex_map_is_a_sum_of_kronecker_products(rank):
    rule = nn.Parameter(torch.randn(4, 4, 4, generator=generator()))
    layer = HypercomplexLinear(rule, 12, 20, rank)
    randomise(layer)
    terms = layer.factors[0] if rank is None else torch.stack([a @ b for a, b in zip(*layer.factors, strict=True)])
    dense = sum(torch.kron(a, b) for a, b in zip(layer.rule, terms, strict=True))
    x = torch.randn(2, 5, 12, generator=generator(1))
    torch.testing.assert_close(layer.weight(), dense)
    torch.testing.assert_close(layer(x), x @ dense + layer.bias)


@pytest.mark.parametrize(("scaling", "s"), [(None, 1.0), (4.0, 4.0), ("learned", 0.25)])
def test_a_bottleneck_is_its_formula(scaling, s):
    adapter = plain_bottleneck(8, 3, F.relu, "cpu", scaling)
    randomise(adapter)
    if scaling == "learned":
        with torch.no_grad():
            adapter.scaling.fill_(s)
    x = torch.randn(2, 5, 8, generator=generator(1))
    low = (x @ adapter.down.weight.T + adapter.down.bias).clamp(min=0)
    torch.testing.assert_close(adapter(x), s * (low @ adapter.up.weight.T + adapter.up.bias))


def test_a_gate_multiplies_each_example_and_reads_the_input():
    adapter = plain_bottleneck(8, 3, F.relu, "cpu")
    randomise(adapter)
    x = torch.randn(2, 5, 8, generator=generator(1))
    plain = adapter(x)

    class Gate(nn.Module):
        def forward(self, h):
            return h.mean((1, 2), keepdim=True)

    adapter.gate = Gate()
    torch.testing.assert_close(adapter(x), x.mean((1, 2)).view(2, 1, 1) * plain)


def test_initialisations_have_their_distributions():
    adapter = plain_bottleneck(400, 100, F.relu, "cpu")
    near_identity_(adapter, 1e-2, generator())
    for weight in (adapter.down.weight, adapter.up.weight):
        assert weight.abs().max() <= 2e-2
        # A normal cut at two standard deviations keeps 0.8796 of its own.
        assert weight.std().item() == pytest.approx(0.8796e-2, rel=0.02)
    bert_(adapter, generator())
    for weight in (adapter.down.weight, adapter.up.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    zero_up_(adapter, generator())
    assert adapter.down.weight.abs().max() <= 400**-0.5
    assert adapter.down.weight.std().item() == pytest.approx((3 * 400) ** -0.5, rel=0.02)
    assert not adapter.up.weight.any()
    assert not adapter.down.bias.any()
    assert not adapter.up.bias.any()
    factors = torch.empty(4, 60, 20)
    glorot_uniform_(factors, generator())
    assert factors.abs().max() <= (2 * 6 / 80) ** 0.5
    assert factors.std().item() == pytest.approx((2 * 2 / 80) ** 0.5, rel=0.03)


def test_nothing_is_drawn_from_the_global_generator():
    before = torch.get_rng_state()
    adapter = plain_bottleneck(8, 3, F.relu, "cpu", "learned")
    near_identity_(adapter, 1e-2, generator())
    truncated_normal_(torch.empty(4, 4), 1.0, generator())
    HypercomplexLinear(nn.Parameter(torch.zeros(2, 2, 2)), 4, 4, 1)
    assert torch.equal(torch.get_rng_state(), before)


def hypercomplex():
    rule = nn.Parameter(torch.zeros(2, 2, 2))
    return Bottleneck(HypercomplexLinear(rule, 8, 4, 1), HypercomplexLinear(rule, 4, 8, 1), gelu_tanh)


@pytest.mark.parametrize("make", [lambda: plain_bottleneck(8, 4, F.relu, "cpu", 2.0), hypercomplex])
def test_a_half_precision_host_gets_its_own_type_back(make):
    adapter = make()
    randomise(adapter)
    x = torch.randn(2, 5, 8, generator=generator(1))
    expected = adapter(x.bfloat16().float())
    got = adapter(x.bfloat16())
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert adapter(x).dtype == torch.float32
        torch.testing.assert_close(adapter(x), adapter(x), rtol=0, atol=0)
        torch.testing.assert_close(adapter(x), expected, rtol=0.1, atol=0.1)
    rescaling = Rescaling(8, "cpu")
    randomise(rescaling)
    assert rescaling(x.bfloat16()).dtype == torch.bfloat16


def test_a_deep_copy_calls_its_own_adapter():
    host = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    adapter = plain_bottleneck(8, 3, F.relu, "cpu")
    randomise(adapter)
    host[1].add_module("adapter", adapter)
    host[0].register_forward_pre_hook(adapter.keep_input)
    host[1].register_forward_hook(adapter.beside)
    x = torch.randn(2, 5, 8, generator=generator(1))
    twin = copy.deepcopy(host)
    torch.testing.assert_close(twin(x), host(x))
    before = host(x)
    with torch.no_grad():
        twin[1].adapter.up.bias.add_(1.0)
    torch.testing.assert_close(twin(x), before + 1)
    assert torch.equal(host(x), before)
