"""Where new parameters of a host belong."""

import torch
from torch import nn

from peftbench.layers.surgery import device_beside


def test_new_parameters_are_beside_their_host_and_real_where_it_is_not():
    with torch.device("meta"):
        host = nn.Linear(3, 2)
    for bare in (host, host.weight):
        assert device_beside(bare) == torch.device("cpu")
    host = nn.Linear(3, 2)
    assert device_beside(host) == device_beside(host.weight) == host.weight.device
