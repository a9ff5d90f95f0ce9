"""Convolutional networks in PyTorch."""

from torch import nn
from torch.nn import functional as F

from .torch_case import IMAGES, Net, module


@module("DQN, Nature CNN", IMAGES, recycled="0 2 4 7", agent="Mnih et al. 2015")
def nature():
    convolutions = [nn.Conv2d(3, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 2), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


@module(
    "IMPALA, deep ResNet",
    IMAGES,
    recycled="first1 first2 dense",
    measured={"summed": "conv1 conv2 conv1+second1 conv2+second2"},
    agent="Espeholt et al. 2018",
)
def impala():
    def forward(s, x):
        for conv, first, second in ((s.conv1, s.first1, s.second1), (s.conv2, s.first2, s.second2)):
            x = F.max_pool2d(conv(x), 3, 2, 1)
            x = x + second(F.relu(first(F.relu(x))))
        return s.head(F.relu(s.dense(F.relu(x).flatten(1))))

    same = {"kernel_size": 3, "padding": 1}
    first = {"conv1": nn.Conv2d(3, 4, **same), "first1": nn.Conv2d(4, 4, **same), "second1": nn.Conv2d(4, 4, **same)}
    second = {"conv2": nn.Conv2d(4, 6, **same), "first2": nn.Conv2d(6, 6, **same), "second2": nn.Conv2d(6, 6, **same)}
    return Net(forward, **first, **second, dense=nn.Linear(54, 8), head=nn.Linear(8, 3))
