"""Networks of value-based and policy-gradient agents, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F

from .torch_case import IMAGES, ROWS, SEQUENCES, Net, drawn, mlp, module

ACTIONS, ATOMS = 3, 4
FRACTIONS = drawn(4, 4, 3).abs()


def nature() -> nn.Sequential:
    """Returns the convolutions of the Nature CNN for 12 x 12 images, flattened to 24 features."""
    convolutions = [nn.Conv2d(3, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 2), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten())


def dueling(value, advantage):
    return value + advantage - advantage.mean(1, keepdim=True)


@module("DQN", IMAGES, recycled="0.0 0.2 0.4 1", agent="Mnih et al. 2015")
def dqn():
    return nn.Sequential(nature(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, ACTIONS))


@module("Dueling DQN", IMAGES, recycled="trunk.0 trunk.2 trunk.4 value.0 advantage.0", agent="Wang et al. 2016")
def dueling_dqn():
    def forward(s, x):
        x = s.trunk(x)
        return dueling(s.value(x), s.advantage(x))

    return Net(forward, trunk=nature(), value=mlp(24, 8, 1), advantage=mlp(24, 8, ACTIONS))


@module("C51", IMAGES, recycled="0.0 0.2 0.4 1.0", agent="Bellemare et al. 2017")
def c51():
    return nn.Sequential(nature(), mlp(24, 16, ACTIONS * ATOMS), nn.Unflatten(1, (ACTIONS, ATOMS)), nn.Softmax(-1))


@module("QR-DQN", IMAGES, recycled="trunk.0 trunk.2 trunk.4 head.0", agent="Dabney et al. 2018")
def qr_dqn():
    def forward(s, x):
        return s.head(s.trunk(x)).view(-1, ACTIONS, ATOMS).mean(2)

    return Net(forward, trunk=nature(), head=mlp(24, 16, ACTIONS * ATOMS))


@module(
    "IQN",
    IMAGES,
    FRACTIONS,
    recycled="trunk.0 trunk.2 embed head.0",
    measured={"multiplied by other neurons, as a gate that they share": "trunk.4"},
    agent="Dabney et al. 2018",
)
def iqn():
    def forward(s, x, fractions):
        cosines = torch.cos(torch.pi * torch.arange(1, 7) * fractions[..., None])
        return s.head(s.trunk(x)[:, None] * F.relu(s.embed(cosines)))

    return Net(forward, trunk=nature(), embed=nn.Linear(6, 24), head=mlp(24, 16, ACTIONS))


class NoisyLinear(nn.Module):
    """A dense layer with factorised Gaussian noise (Fortunato et al. 2018). Buffers contain the noise."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_mu = nn.Parameter(0.3 * torch.randn(outputs, inputs))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), 0.2))
        self.bias_mu = nn.Parameter(0.1 * torch.randn(outputs))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), 0.2))
        self.register_buffer("weight_epsilon", torch.outer(torch.randn(outputs), torch.randn(inputs)))
        self.register_buffer("bias_epsilon", torch.randn(outputs))

    def forward(self, x):
        if not self.training:
            return F.linear(x, self.weight_mu, self.bias_mu)
        weight = self.weight_mu + self.weight_sigma * self.weight_epsilon
        return F.linear(x, weight, self.bias_mu + self.bias_sigma * self.bias_epsilon)


@module(
    "Rainbow",
    IMAGES,
    recycled="trunk.0 trunk.2 trunk.4 value.0.weight_mu advantage.0.weight_mu",
    agent="Hessel et al. 2018",
)
def rainbow():
    def forward(s, x):
        x = s.trunk(x)
        value = s.value(x).view(-1, 1, ATOMS)
        return F.log_softmax(dueling(value, s.advantage(x).view(-1, ACTIONS, ATOMS)), 2)

    def head(outputs):
        return nn.Sequential(NoisyLinear(24, 8), nn.ReLU(), NoisyLinear(8, outputs))

    return Net(forward, trunk=nature(), value=head(ATOMS), advantage=head(ACTIONS * ATOMS))


@module("Bootstrapped DQN", IMAGES, recycled="trunk.0 trunk.2 trunk.4 heads.0.0 heads.1.0", agent="Osband et al. 2016")
def bootstrapped():
    def forward(s, x):
        x = s.trunk(x)
        return torch.stack([head(x) for head in s.heads], 1)

    return Net(forward, trunk=nature(), heads=nn.ModuleList(mlp(24, 8, ACTIONS) for _ in range(2)))


@module("PQN, LayerNorm", IMAGES, coupled="0 3 7", agent="Gallici et al. 2024")
def pqn():
    first = [nn.Conv2d(3, 8, 4, 2), nn.LayerNorm([8, 5, 5]), nn.ReLU()]
    second = [nn.Conv2d(8, 6, 3), nn.LayerNorm([6, 3, 3]), nn.ReLU()]
    dense = [nn.Flatten(), nn.Linear(54, 16), nn.LayerNorm(16), nn.ReLU()]
    return nn.Sequential(*first, *second, *dense, nn.Linear(16, ACTIONS))


@module(
    "Spectrally normalised DQN",
    IMAGES,
    recycled="0.0 0.2",
    measured={
        "parametrizations.weight.original": "0.4 1",
    },
    agent="Gogianu et al. 2021",
)
def spectral():
    dense = nn.utils.parametrizations.spectral_norm(nn.Linear(24, 16))
    return nn.Sequential(nature(), dense, nn.ReLU(), nn.Linear(16, ACTIONS))


@module("DQN with CReLU", IMAGES, recycled="conv dense", agent="Abbas et al. 2023")
def crelu():
    def forward(s, x):
        x = s.conv(x)
        x = s.dense(torch.cat([F.relu(x), F.relu(-x)], 1).flatten(1))
        return s.head(torch.cat([F.relu(x), F.relu(-x)], 1))

    return Net(forward, conv=nn.Conv2d(3, 4, 4, 4), dense=nn.Linear(72, 6), head=nn.Linear(12, ACTIONS))


@module(
    "R2D2",
    IMAGES,
    recycled="trunk.0 trunk.2 trunk.4 value.0 advantage.0",
    lost="lstm",
    measured={"several neurons are mixed by aten.mkldnn_rnn_layer": "dense"},
    agent="Kapturowski et al. 2019",
)
def r2d2():
    def forward(s, x):
        x, _ = s.lstm(F.relu(s.dense(s.trunk(x))).view(2, 2, -1))
        x = x.flatten(0, 1)
        return dueling(s.value(x), s.advantage(x))

    heads = {"value": mlp(6, 8, 1), "advantage": mlp(6, 8, ACTIONS)}
    return Net(forward, trunk=nature(), dense=nn.Linear(24, 8), lstm=nn.LSTM(8, 6, batch_first=True), **heads)


@module(
    "A3C, LSTM cell",
    IMAGES,
    recycled="trunk.0 trunk.2 trunk.4 dense",
    measured={"summed": "cell.weight_hh+..."},
    agent="Mnih et al. 2016",
)
def a3c():
    def forward(s, x):
        h, _ = s.cell(F.relu(s.dense(s.trunk(x))))
        return s.policy(h), s.value(h)

    heads = {"policy": nn.Linear(6, ACTIONS), "value": nn.Linear(6, 1)}
    return Net(forward, trunk=nature(), dense=nn.Linear(24, 8), cell=nn.LSTMCell(8, 6), **heads)


class Residual(nn.Module):
    """One stack of IMPALA's deep network: a convolution, pooling and a residual block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x):
        x = F.max_pool2d(self.conv(x), 3, 2, 1)
        return x + self.second(F.relu(self.first(F.relu(x))))


@module(
    "IMPALA, deep ResNet",
    IMAGES,
    recycled="0.first 1.first 4",
    measured={"summed": "0.conv 0.conv+0.second 1.conv 1.conv+1.second"},
    agent="Espeholt et al. 2018",
)
def impala():
    stacks = [Residual(3, 4), Residual(4, 6), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*stacks, nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, ACTIONS))


@module(
    "PPO, Procgen",
    IMAGES,
    recycled="trunk.0.first trunk.1.first dense",
    measured={"summed": "trunk.0.conv trunk.0.conv+trunk.0.second trunk.1.conv trunk.1.conv+trunk.1.second"},
    agent="Cobbe et al. 2020",
)
def procgen():
    def forward(s, x):
        x = F.relu(s.dense(F.relu(s.trunk(x)).flatten(1)))
        return s.policy(x), s.value(x)

    heads = {"policy": nn.Linear(8, ACTIONS), "value": nn.Linear(8, 1)}
    return Net(forward, trunk=nn.Sequential(Residual(3, 4), Residual(4, 6)), dense=nn.Linear(54, 8), **heads)


@module("PPO, Atari", IMAGES, recycled="0.0 0.2 0.4 1", agent="Schulman et al. 2017")
def ppo_atari():
    def forward(s, x):
        x = F.relu(s[1](s[0](x / 255.0)))
        return s[2](x), s[3](x)

    layers = nn.Sequential(nature(), nn.Linear(24, 16), nn.Linear(16, ACTIONS), nn.Linear(16, 1))
    layers.forward = lambda x: forward(layers, x)
    return layers


@module("PPO, MuJoCo", ROWS, recycled="policy.0 policy.2 value.0 value.2", agent="Schulman et al. 2017")
def ppo_mujoco():
    def forward(s, x):
        return s.policy(x), s.log_std.exp().expand(len(x), 2), s.value(x)

    networks = {"policy": mlp(5, 8, 8, 2, activation=nn.Tanh), "value": mlp(5, 8, 8, 1, activation=nn.Tanh)}
    return Net(forward, log_std=nn.Parameter(torch.zeros(2)), **networks)


@module(
    "PPG, auxiliary value head",
    IMAGES,
    recycled="trunk.0 trunk.2 trunk.4 dense critic.0 critic.2 critic.4 value.0",
    agent="Cobbe et al. 2021",
)
def ppg():
    def forward(s, x):
        policy = F.relu(s.dense(s.trunk(x)))
        return s.policy(policy), s.auxiliary(policy), s.value(s.critic(x))

    heads = {"policy": nn.Linear(8, ACTIONS), "auxiliary": nn.Linear(8, 1), "value": mlp(24, 8, 1)}
    return Net(forward, trunk=nature(), critic=nature(), dense=nn.Linear(24, 8), **heads)


@module("RND, predictor and frozen target", ROWS, recycled="predictor.0 predictor.2", agent="Burda et al. 2019")
def rnd():
    def forward(s, x):
        with torch.no_grad():
            target = s.target[0](x)
        return (s.predictor(x) - target).square().mean(1)

    net = Net(forward, predictor=mlp(5, 8, 8, 4), target=mlp(5, 4))
    net.target.requires_grad_(False)
    return net


@module(
    "ICM, forward and inverse model",
    ROWS,
    recycled="encode.0 forward_model.0 inverse.0",
    measured={"returned": "encode.2"},
    agent="Pathak et al. 2017",
)
def icm():
    def forward(s, x):
        now, following = s.encode(x), s.encode(x.flip(0))
        action = torch.eye(ACTIONS).repeat(2, 1)
        guess = s.forward_model(torch.cat([now, action], 1))
        return s.inverse(torch.cat([now, following], 1)), (guess - following).square().mean(1)

    models = {"inverse": mlp(12, 8, ACTIONS), "forward_model": mlp(9, 8, 6)}
    return Net(forward, encode=mlp(5, 8, 6), **models)


@module(
    "RL2, GRU over trials",
    SEQUENCES,
    recycled="embed",
    measured={"summed": "gru.weight_ih_l0+gru.weight_hh_l0 gru.weight_ih_l0+..."},
    agent="Duan et al. 2016",
)
def rl_squared():
    def forward(s, x):
        x, _ = s.gru(F.elu(s.embed(x)))
        return s.policy(x), s.value(x)

    heads = {"policy": nn.Linear(6, ACTIONS), "value": nn.Linear(6, 1)}
    return Net(forward, embed=nn.Linear(5, 8), gru=nn.GRU(8, 6, batch_first=True), **heads)


@module(
    "MAPPO, LayerNorm after the activation",
    ROWS,
    measured={"layer_norm after the activation": "1 4"},
    agent="Yu et al. 2022",
)
def mappo():
    first, second = [nn.Linear(5, 8), nn.Tanh(), nn.LayerNorm(8)], [nn.Linear(8, 8), nn.Tanh(), nn.LayerNorm(8)]
    return nn.Sequential(nn.LayerNorm(5), *first, *second, nn.Linear(8, ACTIONS))


@module("Option-Critic", IMAGES, recycled="trunk.0 trunk.2 trunk.4 dense", agent="Bacon et al. 2017")
def option_critic():
    def forward(s, x):
        x = F.relu(s.dense(s.trunk(x)))
        policies = s.policies(x).view(-1, 2, ACTIONS).softmax(2)
        return s.values(x), policies, s.terminations(x).sigmoid()

    heads = {"values": nn.Linear(8, 2), "policies": nn.Linear(8, 2 * ACTIONS), "terminations": nn.Linear(8, 2)}
    return Net(forward, trunk=nature(), dense=nn.Linear(24, 8), **heads)


@module(
    "plasticity injection",
    ROWS,
    recycled="head.0 new.0",
    measured={
        "read by start.0.weight, frozen (requires_grad=False), which nothing trains": "dense",
        "fed by start.0.weight, frozen (requires_grad=False), which nothing trains": "start.0",
    },
    agent="Nikishin et al. 2023",
)
def plasticity_injection():
    """Outputs old head + new head - frozen head. In an agent, the frozen head starts as a copy of the new head."""

    def forward(s, x):
        x = F.relu(s.dense(x))
        return s.head(x) + s.new(x) - s.start(x)

    net = Net(forward, dense=nn.Linear(5, 8), head=mlp(8, 8, 2), new=mlp(8, 8, 2), start=mlp(8, 8, 2))
    net.start.requires_grad_(False)
    return net
