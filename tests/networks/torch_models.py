"""Networks of model-based, multi-agent and multi-task RL, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F

from .torch_case import ACTIONS, IMAGES, ROWS, SEQUENCES, Net, mlp, module


def both(*parts):
    return torch.cat(parts, -1)


def padded():
    return {"kernel_size": 3, "padding": 1}


@module(
    "TD-MPC2, SimNorm and Mish",
    ROWS,
    ACTIONS,
    recycled="q.0",
    coupled="encode.0 dynamics.0",
    awake="encode.3",
    agent="Hansen et al. 2024",
)
def td_mpc2():
    class SimNorm(nn.Module):
        def forward(self, x):
            return x.view(-1, 2, 4).softmax(-1).flatten(1)

    def latent(inputs):
        inner = nn.Linear(inputs, 8), nn.LayerNorm(8), nn.Mish()
        return nn.Sequential(*inner, nn.Linear(8, 8), nn.LayerNorm(8), SimNorm())

    def forward(s, x, action):
        z = s.encode(x)
        return s.dynamics(both(z, action)), s.q(both(z, action))

    return Net(forward, encode=latent(5), dynamics=latent(10), q=mlp(10, 8, 5, activation=nn.Mish))


@module(
    "Dreamer, RSSM with a GRU cell",
    SEQUENCES,
    recycled="inputs posterior.0 reward.0 prior.0",
    measured={"summed": "cell.weight_ih+cell.weight_hh cell.weight_ih+... posterior.2 posterior.2+posterior.2"},
    agent="Hafner et al. 2020",
)
def rssm():
    def forward(s, x):
        state, rewards = torch.zeros(3, 6), []
        for step in x.unbind(1):
            state = s.cell(F.elu(s.inputs(step)), state)
            mean, deviation = s.posterior(both(state, step)).chunk(2, 1)
            latent = mean + (F.softplus(deviation) + 0.1) * 0.5
            rewards.append(s.reward(both(state, latent)))
        return torch.stack(rewards, 1), s.prior(state)

    heads = {"prior": mlp(6, 8, 6), "posterior": mlp(11, 8, 6), "reward": mlp(9, 8, 1)}
    return Net(forward, inputs=nn.Linear(5, 8), cell=nn.GRUCell(8, 6), **heads)


class BoardBlock(nn.Module):
    """A residual block of AlphaZero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(x + self.norm_b(self.b(F.relu(self.norm_a(self.a(x))))))


@module(
    "AlphaZero, residual tower",
    IMAGES,
    recycled="tower.0.a tower.1.a policy1 value1 value2.0",
    measured={"summed": "stem stem+tower.0.b", "": "..."},
    agent="Silver et al. 2018",
)
def alpha_zero():
    def forward(s, x):
        x = s.tower(F.relu(s.norm(s.stem(x))))
        policy = F.relu(s.policy1(x)).flatten(1)
        return s.policy2(policy), s.value2(F.relu(s.value1(x)).flatten(1)).tanh()

    stem = {"stem": nn.Conv2d(3, 4, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(4)}
    heads = {"policy1": nn.Conv2d(4, 2, 1), "policy2": nn.Linear(288, 5)}
    heads |= {"value1": nn.Conv2d(4, 2, 1), "value2": mlp(288, 8, 1)}
    return Net(forward, **stem, tower=nn.Sequential(BoardBlock(), BoardBlock()), **heads)


@module(
    "MuZero, scaled hidden states",
    IMAGES,
    recycled="dynamics.0 value.0",
    awake="represent",
    agent="Schrittwieser et al. 2020",
)
def mu_zero():
    def scaled(x):
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        return (x - low) / (high - low).clamp(min=1e-5)

    def forward(s, x):
        state = scaled(s.represent(x))
        planes = torch.ones(4, 1, 6, 6) * torch.arange(4.0).view(4, 1, 1, 1) / 4
        following = scaled(s.dynamics(torch.cat([state, planes], 1)))
        return s.value(state.flatten(1)), following

    convolutions = nn.Sequential(nn.Conv2d(5, 6, **padded()), nn.ReLU(), nn.Conv2d(6, 4, **padded()))
    return Net(forward, represent=nn.Conv2d(3, 4, 3, 2, 1), dynamics=convolutions, value=mlp(144, 8, 5))


@module("QMIX, mixing by hypernetworks", SEQUENCES, recycled="agent.0 agent.2 shift2.0", agent="Rashid et al. 2018")
def qmix():
    def forward(s, x):
        values, state = s.agent(x).amax(2), x.flatten(1)
        hidden = torch.bmm(values[:, None], s.mix1(state).abs().view(-1, 4, 5))
        hidden = F.elu(hidden + s.shift1(state)[:, None])
        return torch.bmm(hidden, s.mix2(state).abs()[..., None])[:, 0] + s.shift2(state)

    mixing = {"mix1": nn.Linear(20, 20), "mix2": nn.Linear(20, 5), "shift1": nn.Linear(20, 5), "shift2": mlp(20, 5, 1)}
    return Net(forward, agent=mlp(5, 8, 8, 3), **mixing)


@module(
    "VDN, recurrent agents",
    SEQUENCES,
    recycled="embed",
    measured={"summed": "cell.weight_ih+cell.weight_hh cell.weight_ih+..."},
    agent="Sunehag et al. 2018",
)
def vdn():
    def forward(s, x):
        x = F.relu(s.embed(x)).flatten(0, 1)
        return s.head(s.cell(x)).view(3, 4, -1).amax(2).sum(1)

    return Net(forward, embed=nn.Linear(5, 8), cell=nn.GRUCell(8, 6), head=nn.Linear(6, 3))


@module(
    "MADDPG, central critic",
    SEQUENCES,
    recycled="actors.0.0 actors.1.0 critic.0 critic.2",
    measured={"returned": "actors.0.2 actors.1.2"},
    agent="Lowe et al. 2017",
)
def maddpg():
    def forward(s, x):
        actions = [actor(x[:, k]).tanh() for k, actor in enumerate(s.actors)]
        return actions, s.critic(both(x[:, 0], x[:, 1], *actions))

    return Net(forward, actors=nn.ModuleList(mlp(5, 8, 2) for _ in range(2)), critic=mlp(14, 8, 8, 1))


@module("MT-SAC, one head per task", ROWS, recycled="trunk.0 trunk.2", agent="Yu et al. 2020")
def multi_head():
    def forward(s, x):
        heads = s.heads(F.relu(s.trunk(x))).view(-1, 2, 4)
        return heads[torch.arange(len(x)), torch.arange(len(x)) % 2]

    return Net(forward, trunk=mlp(5, 8, 8), heads=nn.Linear(8, 8))
