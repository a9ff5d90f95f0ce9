"""Networks of public PyTorch packages: recycling silent neurons keeps the outputs equal, bit for bit."""

import pytest
import torch
from foreign.torch_networks import NATURE, NETWORKS
from networks.case import promises
from networks.page import on_the_page
from networks.torch_case import TorchCase

import dormant.torch as dt

# Ignores the warnings of the packages.
pytestmark = [pytest.mark.foreign, pytest.mark.filterwarnings("ignore")]

# In this trace nothing trains the shared encoder. The actor trains it but is not traced, and the critics detach it.
DETACHED = {"stable-baselines3: SAC critics, shared encoder": NATURE}


def outputs(module, inputs):
    module.eval()
    with torch.no_grad():
        return [leaf.clone() for leaf in torch.utils._pytree.tree_leaves(module(*inputs)) if torch.is_tensor(leaf)]


@pytest.mark.parametrize("name", NETWORKS)
def test_recycling_silent_neurons_leaves_outputs_bit_equal(name):
    torch.manual_seed(0)
    module, inputs, names = NETWORKS[name]()
    donor = NETWORKS[name]()[0]
    wiring = dt.trace(module, *inputs)
    assert [layer.name for layer in wiring.layers] == names, str(wiring)
    on_the_page(TorchCase(name, lambda: module, inputs, promises(" ".join(names))), wiring)
    detached = DETACHED.get(name, [])
    assert [layer.name for layer in wiring.layers if not layer.recyclable] == detached, str(wiring)
    assert not any(layer.coupled_by for layer in wiring.layers), str(wiring)
    with torch.no_grad():
        for layer in set(names) - set(detached):
            module.get_submodule(layer).bias[::3] = -1e3

    masks = dt.measure(module, wiring, *inputs, tau=0.0).masks
    before = {name: leaf.detach().clone() for name, leaf in module.named_parameters()}
    expected = outputs(module, inputs)
    masks = {layer: mask for layer, mask in masks.items() if layer not in detached}
    assert all(mask[::3].all() for mask in masks.values()), str(wiring)
    counts = dt.recycle_(module, wiring, *inputs, tau=0.0, init=lambda: donor)
    assert counts == {name: int(mask.sum()) for name, mask in masks.items()}
    for old, new in zip(expected, outputs(module, inputs), strict=True):
        assert torch.isfinite(old).all()
        assert torch.equal(old, new)
    check_changes(module, wiring, masks, before, dict(donor.named_parameters()))


def check_changes(module, wiring, masks, before, donor) -> None:
    """Asserts that dormant neurons have fresh incoming and zero outgoing entries, and that no other entry changed."""
    for name, leaf in module.named_parameters():
        fed, read = (belonging(name, leaf, wiring, masks, side) for side in ("incoming", "outgoing"))
        expected = torch.where(fed, donor[name], before[name]).masked_fill(read, 0)
        assert torch.equal(leaf, expected), name


def belonging(name, leaf, wiring, masks, side) -> torch.Tensor:
    """Returns a mask of the parameter's entries that belong to a dormant neuron. `side` is "incoming" or "outgoing"."""
    found = torch.zeros(leaf.shape, dtype=torch.bool)
    for layer in wiring.layers:
        if layer.name not in masks:
            continue
        owner = getattr(layer, side).get(name, torch.tensor(-1))
        found = found | (masks[layer.name][owner.clamp(min=0)] & (owner >= 0))
    return found
