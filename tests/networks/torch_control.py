"""Networks of agents for continuous control and offline RL, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F

from .torch_case import ACTIONS, IMAGES, ROWS, SEQUENCES, Net, drawn, mlp, module

TIMES = torch.arange(6.0)[:, None]


def both(*parts):
    return torch.cat(parts, -1)


def on_both(network: nn.Module) -> nn.Module:
    """Returns a module that applies `network` to the concatenated observation and action."""
    return Net(lambda s, x, action: s.q(both(x, action)), q=network)


@module("SAC, actor", ROWS, recycled="trunk.0 trunk.2", agent="Haarnoja et al. 2018")
def sac_actor():
    def forward(s, x):
        mean, log_std = F.relu(s.trunk(x)).chunk(1, 1)[0], None
        mean, log_std = s.mean(mean), s.log_std(mean)
        return mean.tanh(), log_std.clamp(-20, 2).exp()

    return Net(forward, trunk=mlp(5, 8, 8), mean=nn.Linear(8, 2), log_std=nn.Linear(8, 2))


@module("SAC, twin critics", ROWS, ACTIONS, recycled="q1.0 q1.2 q2.0 q2.2", agent="Haarnoja et al. 2018")
def sac_critics():
    def forward(s, x, action):
        x = both(x, action)
        return s.q1(x), s.q2(x)

    return Net(forward, q1=mlp(7, 8, 8, 1), q2=mlp(7, 8, 8, 1))


@module("TD3, actor", ROWS, recycled="0 2", agent="Fujimoto et al. 2018")
def td3():
    return nn.Sequential(*mlp(5, 8, 8, 2), nn.Tanh())


@module(
    "DDPG, critic with BatchNorm and a late action",
    ROWS,
    ACTIONS,
    recycled="first second",
    agent="Lillicrap et al. 2016",
)
def ddpg():
    def forward(s, x, action):
        x = F.relu(s.norm(s.first(x)))
        return s.head(F.relu(s.second(both(x, action))))

    return Net(forward, first=nn.Linear(5, 8), norm=nn.BatchNorm1d(8), second=nn.Linear(10, 8), head=nn.Linear(8, 1))


@module("D4PG, categorical critic", ROWS, ACTIONS, coupled="q.0", recycled="q.3", agent="Barth-Maron et al. 2018")
def d4pg():
    layers = [nn.Linear(7, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.ELU(), nn.Linear(8, 5), nn.Softmax(1)]
    return on_both(nn.Sequential(*layers))


class BatchedLinear(nn.Module):
    """One dense layer per member of an ensemble. One batched product computes all of them."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.4 * torch.randn(members, inputs, outputs))
        self.bias = nn.Parameter(0.1 * torch.randn(members, 1, outputs))

    def forward(self, x):
        return torch.baddbmm(self.bias, x, self.weight)


@module(
    "EDAC and REDQ, batched ensemble",
    ROWS,
    ACTIONS,
    recycled="q.0[0] q.0[1] q.0[2] q.2[0] q.2[1] q.2[2]",
    agent="An et al. 2021",
)
def ensemble():
    def forward(s, x, action):
        return s.q(both(x, action).expand(3, 6, 7))

    layers = [BatchedLinear(3, 7, 8), nn.ReLU(), BatchedLinear(3, 8, 8), nn.ReLU(), BatchedLinear(3, 8, 1)]
    return Net(forward, q=nn.Sequential(*layers))


@module("DroQ, dropout and LayerNorm", ROWS, ACTIONS, coupled="q.0 q.4", agent="Hiraoka et al. 2022")
def droq():
    def block(inputs):
        return nn.Linear(inputs, 8), nn.Dropout(0.1), nn.LayerNorm(8), nn.ReLU()

    return on_both(nn.Sequential(*block(7), *block(8), nn.Linear(8, 1)))


def average_l1(x):
    return x / x.abs().mean(-1, keepdim=True).clamp(min=1e-8)


@module(
    "TD7, SALE embeddings",
    ROWS,
    ACTIONS,
    recycled="zs.0 zsa.0 zsa.2 q.0 q.2",
    coupled="zs.2 q0",
    agent="Fujimoto et al. 2023",
)
def td7():
    def forward(s, x, action):
        zs = average_l1(s.zs(x))
        zsa = s.zsa(both(zs, action))
        return s.q(both(average_l1(s.q0(both(x, action))), zs, zsa))

    parts = {"zs": mlp(5, 8, 6, activation=nn.ELU), "zsa": mlp(8, 8, 6, activation=nn.ELU)}
    return Net(forward, **parts, q0=nn.Linear(7, 8), q=mlp(20, 8, 8, 1, activation=nn.ELU))


@module(
    "CrossQ, BatchNorm after each activation",
    ROWS,
    ACTIONS,
    measured={"batch_norm after the activation": "q.1 q.4"},
    agent="Bhatt et al. 2024",
)
def crossq():
    first, second = [nn.Linear(7, 8), nn.ReLU(), nn.BatchNorm1d(8)], [nn.Linear(8, 8), nn.ReLU(), nn.BatchNorm1d(8)]
    return on_both(nn.Sequential(nn.BatchNorm1d(7), *first, *second, nn.Linear(8, 1)))


@module(
    "BRO, BroNet", ROWS, ACTIONS, coupled="first", measured={"summed": "embed embed+second"}, agent="Nauman et al. 2024"
)
def bro():
    def forward(s, x, action):
        x = F.relu(s.norm0(s.embed(both(x, action))))
        x = x + s.norm2(s.second(F.relu(s.norm1(s.first(x)))))
        return s.head(x)

    norms = {f"norm{k}": nn.LayerNorm(8) for k in range(3)}
    return Net(
        forward, embed=nn.Linear(7, 8), first=nn.Linear(8, 8), second=nn.Linear(8, 8), head=nn.Linear(8, 5), **norms
    )


@module(
    "SimBa, pre-norm residual blocks",
    ROWS,
    recycled="up",
    measured={"summed": "embed embed+down"},
    agent="Lee et al. 2024",
)
def simba():
    def forward(s, x):
        x = s.embed(x)
        x = x + s.down(F.relu(s.up(s.norm1(x))))
        return s.head(s.norm2(x))

    norms = {"norm1": nn.LayerNorm(8), "norm2": nn.LayerNorm(8)}
    return Net(
        forward, embed=nn.Linear(5, 8), up=nn.Linear(8, 16), down=nn.Linear(16, 8), head=nn.Linear(8, 2), **norms
    )


@module("SimBaV2, hyperspherical", ROWS, awake="up", coupled="embed+down", agent="Lee et al. 2025")
def simba_v2():
    def forward(s, x):
        x = F.normalize(s.embed(F.normalize(F.pad(x, (0, 1), value=3.0), dim=1)), dim=1)
        y = F.relu(s.up(x) * s.scaler) + 1e-8
        x = F.normalize(torch.lerp(x, F.normalize(s.down(y), dim=1), s.alpha), dim=1)
        return s.head(x)

    layers = {"embed": nn.Linear(6, 8, bias=False), "up": nn.Linear(8, 16, bias=False)}
    layers |= {"down": nn.Linear(16, 8, bias=False), "head": nn.Linear(8, 2)}
    return Net(forward, scaler=nn.Parameter(torch.ones(16)), alpha=nn.Parameter(torch.full((8,), 0.3)), **layers)


@module(
    "DrQ-v2, encoder and critics",
    IMAGES,
    ACTIONS[:4],
    recycled="encoder.0 encoder.2 q1.0 q2.0",
    coupled="trunk.0",
    agent="Yarats et al. 2022",
)
def drq_v2():
    def forward(s, x, action):
        x = both(s.trunk(s.encoder(x / 255 - 0.5)), action)
        return s.q1(x), s.q2(x)

    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten())
    trunk = nn.Sequential(nn.Linear(36, 6), nn.LayerNorm(6), nn.Tanh())
    return Net(forward, encoder=encoder, trunk=trunk, q1=mlp(8, 8, 1), q2=mlp(8, 8, 1))


@module(
    "CURL, bilinear similarity",
    ROWS,
    ROWS.flip(0),
    recycled="encoder.0",
    measured={"returned": "encoder.2"},
    agent="Laskin et al. 2020",
)
def curl():
    def forward(s, x, positive):
        logits = s.encoder(x) @ (s.similarity @ s.encoder(positive).T)
        return logits - logits.max(1, keepdim=True).values

    return Net(forward, encoder=mlp(5, 8, 6), similarity=nn.Parameter(torch.rand(6, 6)))


@module(
    "TQC, truncated quantiles",
    ROWS,
    ACTIONS,
    recycled="nets.0.0 nets.0.2 nets.1.0 nets.1.2",
    agent="Kuznetsov et al. 2020",
)
def tqc():
    def forward(s, x, action):
        quantiles = torch.cat([net(both(x, action)) for net in s.nets], 1)
        return quantiles.sort(1).values[:, :-2].mean(1)

    return Net(forward, nets=nn.ModuleList(mlp(7, 8, 8, 5) for _ in range(2)))


@module("IQL, state-independent deviation", ROWS, recycled="v.0 v.2 policy.0 policy.2", agent="Kostrikov et al. 2022")
def iql():
    def forward(s, x):
        return s.v(x), s.policy(x).tanh(), s.log_std.clamp(-5, 2).exp()

    return Net(forward, v=mlp(5, 8, 8, 1), policy=mlp(5, 8, 8, 2), log_std=nn.Parameter(torch.zeros(2)))


@module(
    "BCQ, conditional VAE",
    ROWS,
    ACTIONS,
    recycled="encode.0 encode.2 decode.0",
    measured={"summed": "log_std mean+log_std"},
    agent="Fujimoto et al. 2019",
)
def bcq():
    def forward(s, x, action):
        y = F.relu(s.encode(both(x, action)))
        mean, deviation = s.mean(y), s.log_std(y).clamp(-4, 15).exp()
        z = mean + deviation * drawn(5, 6, 3)
        return s.decode(both(x, z)).tanh(), mean, deviation

    heads = {"mean": nn.Linear(8, 3), "log_std": nn.Linear(8, 3)}
    return Net(forward, encode=mlp(7, 8, 8), decode=mlp(8, 8, 2), **heads)


@module(
    "Diffusion-QL, denoiser", ROWS, ACTIONS, TIMES, recycled="time.0 time.2 body.0 body.2", agent="Wang et al. 2023"
)
def diffusion_ql():
    def forward(s, x, action, time):
        step = time * torch.exp(-torch.arange(4.0))
        step = s.time(both(step.sin(), step.cos()))
        return s.body(both(action, step, x))

    return Net(forward, time=mlp(8, 8, 4, activation=nn.Mish), body=mlp(11, 8, 8, 2, activation=nn.Mish))


@module(
    "Decision Transformer",
    SEQUENCES,
    recycled="block.linear1",
    measured={
        "summed": "returns states actions",
        "_scaled_dot_product_flash_attention_for_cpu": "block.self_attn.in_proj_weight",
        "": "...",
    },
    agent="Chen et al. 2021",
)
def decision_transformer():
    def forward(s, x):
        tokens = torch.stack([s.returns(x[..., :1]), s.states(x), s.actions(x[..., :2])], 2).flatten(1, 2)
        mask = nn.Transformer.generate_square_subsequent_mask(12)
        return s.head(s.block(tokens, mask, is_causal=True)[:, 1::3]).tanh()

    block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True)
    tokens = {"returns": nn.Linear(1, 8), "states": nn.Linear(5, 8), "actions": nn.Linear(2, 8)}
    return Net(forward, **tokens, block=block, head=nn.Linear(8, 2))
