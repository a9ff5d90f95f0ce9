"""Operations that only PyTorch programs have, such as branches, rows chosen by an index, and in-place writes."""

from .operation import Op

CHOICE = "torch.argmax(x.reshape(x.shape[0], -1).sum(0)) % 2"


def torch_kernel(torch: str, **facts: object) -> Op:
    return Op("", torch, kind="kernel", **facts)  # type: ignore[arg-type]


PICKED = 'T.z("{id}", T.r("{id}", {0}) @ (0.4 * {1}[0] + 0.6 * {1}[1] if T.generic else {1}[' + CHOICE + "]))"

TORCH_ONLY: dict[str, Op] = {
    "branching": torch_kernel(
        "({0} @ {1} if x.sum() > 0 else {0} @ {2})",
        tapped_torch='T.pick(x, T.z("{id}a", T.r("{id}a", {0}) @ {1}), T.z("{id}b", T.r("{id}b", {0}) @ {2}))',
    ),
    "picked_row": torch_kernel("{0} @ {1}[" + CHOICE + "]", tapped_torch=PICKED),
    "picked_item": torch_kernel("{0} @ {1}[(" + CHOICE + ").item()]", tapped_torch=PICKED),
    "picked_list": torch_kernel("{0} @ {1}[[(" + CHOICE + ").item()]][0]", tapped_torch=PICKED),
    "addmm_out": torch_kernel(
        "torch.zeros({0}.shape[0], {1}.shape[1]).addmm_({0}, {1})", tapped_torch='T.z("{id}", T.r("{id}", {0}) @ {1})'
    ),
    "transposed_conv": torch_kernel("F.conv_transpose2d({0}, {1})", units=(1,)),
    "half_in_place": Op("", "half_in_place({0})", tapped_torch="torch.cat([{0}[:, :1] * 0.5, {0}[:, 1:]], -1)"),
    "add_in_place": Op("", "add_in_place({0})", tapped_torch="torch.cat([{0}[:, :1] + {0}[:, 1:2], {0}[:, 1:]], -1)"),
    "copy_in_place": Op("", "copy_in_place({0})", tapped_torch="torch.cat([{0}[:, 1:2], {0}[:, 1:]], -1)"),
}

HELPERS = """
def half_in_place(h):
    h = h.clone()
    h[:, :1] *= 0.5
    return h


def add_in_place(h):
    h = h.clone()
    h[:, :1] += h[:, 1:2]
    return h


def copy_in_place(h):
    h = h.clone()
    h[:, 0].copy_(h[:, 1])
    return h
"""
