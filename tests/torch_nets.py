"""Small PyTorch modules for the tests of dormant.torch."""

import torch
from torch import nn


class Net(nn.Module):
    """A module with named layers. Its forward pass calls the function `forward(module, *inputs)`."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def L(inputs, outputs):
    return nn.Linear(inputs, outputs)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))


@torch.no_grad()
def with_silent(net, *neurons):
    net[0].bias[list(neurons)] = -100.0
    return net
