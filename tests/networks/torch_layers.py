"""Architectures and unusual layers, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional as F

from .torch_case import IMAGES, ROWS, SEQUENCES, Net, drawn, mlp, module


@module("gated unit (SwiGLU)", ROWS, recycled="gate+up down")
def swiglu():
    def forward(s, x):
        return s.head(F.relu(s.down(F.silu(s.gate(x)) * s.up(x))))

    return Net(forward, gate=nn.Linear(5, 8), up=nn.Linear(5, 8), down=nn.Linear(8, 6), head=nn.Linear(6, 2))


@module("GLU", ROWS, recycled="0")
def glu():
    return nn.Sequential(nn.Linear(5, 16), nn.GLU(), nn.Linear(8, 2))


@module("RMSNorm before the activation", ROWS, coupled="0")
def rms_norm():
    return nn.Sequential(nn.Linear(5, 8), nn.RMSNorm(8), nn.SiLU(), nn.Linear(8, 2))


@module("GroupNorm before the activation", IMAGES, coupled="0")
def group_norm():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2))


@module("squeeze-excitation", IMAGES, recycled="conv+excite squeeze")
def squeeze_excitation():
    def forward(s, x):
        x = F.relu(s.conv(x))
        gate = torch.sigmoid(s.excite(F.relu(s.squeeze(x.mean((2, 3))))))
        return s.head((x * gate[:, :, None, None]).flatten(1))

    dense = {"squeeze": nn.Linear(4, 6), "excite": nn.Linear(6, 4)}
    return Net(forward, conv=nn.Conv2d(3, 4, 3), **dense, head=nn.Linear(400, 2))


@module("FiLM by an instruction", ROWS, drawn(7, 6, 3), recycled="task.0 task.2+dense")
def film():
    def forward(s, x, task):
        scale, shift = s.task(task).chunk(2, 1)
        return s.head(F.relu((1 + scale) * s.dense(x) + shift))

    return Net(forward, dense=nn.Linear(5, 6), task=mlp(3, 8, 12), head=nn.Linear(6, 2))


@module(
    "weight normalisation",
    ROWS,
    measured={
        "aten._weight_norm_interface": "0 2",
    },
)
def weight_norm():
    middle = nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), middle, nn.ReLU(), nn.Linear(6, 2))


@module("many activations", ROWS, recycled="0 2 4 6 8 10 12 14")
def many_activations():
    kinds = (nn.Mish, nn.CELU, nn.SELU, nn.Softsign, nn.Hardtanh, nn.ReLU6, nn.Hardswish, nn.LeakyReLU)
    pairs = [(nn.Linear(5 if number == 0 else 6, 6), kind()) for number, kind in enumerate(kinds)]
    return nn.Sequential(*(layer for pair in pairs for layer in pair), nn.Linear(6, 2))


@module(
    "transformer encoder",
    SEQUENCES,
    recycled="1.layers.0.linear1 1.layers.1.linear1",
    measured={
        "summed": "0 0+1.layers.0.self_attn.out_proj",
        "weighs other neurons": "1.layers.0.self_attn.in_proj_weight 1.layers.1.self_attn.in_proj_weight",
        "": "...",
    },
)
def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    return nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 2))


@module("temporal convolutions, gated (WaveNet)", SEQUENCES, recycled="first.0 filter+gate")
def wave_net():
    def forward(s, x):
        x = F.pad(s.first(x.transpose(1, 2)), (1, 0))
        return s.head((s.filter(x).tanh() * s.gate(x).sigmoid())[..., -1])

    convolutions = {"filter": nn.Conv1d(6, 6, 2), "gate": nn.Conv1d(6, 6, 2)}
    return Net(forward, first=nn.Sequential(nn.Conv1d(5, 6, 1), nn.ReLU()), **convolutions, head=nn.Linear(6, 2))


@module("U-Net with concatenated skips", IMAGES, recycled="down1 down2 up")
def u_net():
    def forward(s, x):
        first = F.relu(s.down1(x))
        second = F.relu(s.down2(F.max_pool2d(first, 2)))
        y = torch.cat([F.interpolate(second, scale_factor=2, mode="nearest"), first], 1)
        return s.head(F.relu(s.up(y)))

    same = {"kernel_size": 3, "padding": 1}
    down = {"down1": nn.Conv2d(3, 4, **same), "down2": nn.Conv2d(4, 6, **same)}
    return Net(forward, **down, up=nn.Conv2d(10, 4, **same), head=nn.Conv2d(4, 1, 1))


@module("ConvNeXt block", IMAGES, recycled="expand", coupled="depthwise", measured={"summed": "stem stem+contract"})
def conv_next():
    def forward(s, x):
        x = s.stem(x)
        y = s.norm(s.depthwise(x).permute(0, 2, 3, 1))
        y = s.contract(F.gelu(s.expand(y))).permute(0, 3, 1, 2)
        return s.head((x + y).mean((2, 3)))

    convolutions = {"stem": nn.Conv2d(3, 4, 4, 4), "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4)}
    dense = {"expand": nn.Linear(4, 16), "contract": nn.Linear(16, 4), "head": nn.Linear(4, 2)}
    return Net(forward, **convolutions, norm=nn.LayerNorm(4), **dense)


@module("mixture of experts, dense gating", ROWS, recycled="experts.0.0 experts.1.0")
def experts():
    def forward(s, x):
        outputs = torch.stack([expert(x) for expert in s.experts], 1)
        return (s.gate(x).softmax(1)[..., None] * outputs).sum(1)

    return Net(forward, gate=nn.Linear(5, 2), experts=nn.ModuleList(mlp(5, 8, 3) for _ in range(2)))


@module("messages along a graph", ROWS, recycled="embed message.0 message.2")
def graph():
    def forward(s, x):
        senders, receivers = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([1, 2, 3, 4, 5, 0])
        x = s.embed(x).tanh()
        messages = s.message(torch.cat([x[senders], x[receivers]], 1))
        return s.head(torch.zeros(6, 6).index_add(0, receivers, messages))

    return Net(forward, embed=nn.Linear(5, 6), message=mlp(12, 8, 6), head=nn.Linear(6, 2))


@module("PointNet, maximum over points", SEQUENCES, recycled="points.0 points.2 head.0")
def point_net():
    return Net(lambda s, x: s.head(F.relu(s.points(x)).amax(1)), points=mlp(5, 6, 8), head=mlp(8, 6, 2))


@module("maximum and difference of two layers", ROWS, awake="a+b", recycled="c")
def maximum():
    def forward(s, x):
        x = torch.maximum(s.a(x), s.b(x))
        return s.head(F.relu(s.c(1 - x)))

    return Net(forward, a=nn.Linear(5, 8), b=nn.Linear(5, 8), c=nn.Linear(8, 6), head=nn.Linear(6, 2))
