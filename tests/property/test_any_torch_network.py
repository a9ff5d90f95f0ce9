"""Every layer of the PyTorch networks in tests/networks has the result that its case promises."""

from functools import lru_cache

import pytest
import torch
from networks.case import matches, promise_of, verdicts
from networks.everything import TORCH
from networks.page import on_the_page

import dormant.torch as dt

torch.set_num_threads(1)


@pytest.fixture(params=range(len(TORCH)), ids=lambda index: TORCH[index].name, scope="module")
def index(request):
    return request.param


@lru_cache(maxsize=1)  # one entry, because the tests of a case run consecutively
def traced(index: int):
    """Traces a module in evaluation mode. Silences every third neuron of the recyclable layers.

    Returns the module, its wiring, and a mask of the silenced neurons per layer.
    """
    case = TORCH[index]
    module = case.module().eval()
    for name, leaf in module.state_dict().items():  # makes every bias and running mean nonzero
        if leaf.is_floating_point():
            leaf += 0.05 * torch.rand(leaf.shape, generator=torch.Generator().manual_seed(len(name)))
    wiring = dt.trace(module, *case.inputs)
    layers = [layer for layer in wiring.layers if layer.recyclable]
    masks = {layer.name: torch.arange(layer.width) % 3 == 0 for layer in layers}
    change(module, "incoming", layers, masks, lambda leaf: torch.zeros_like(leaf))
    return module, wiring, masks


@torch.no_grad()
def change(module, side, layers, masks, new):
    """Replaces entries of masked neurons by `new(parameter)`. `side` is "incoming" or "outgoing"."""
    leaves = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for layer in layers:
        for name, owner in getattr(layer, side).items():
            hit = masks[layer.name][owner.clamp(min=0)] & (owner >= 0)
            leaves[name].copy_(torch.where(hit, new(leaves[name]), leaves[name]))


def outputs(module, inputs):
    torch.manual_seed(0)
    with torch.no_grad():
        return [leaf.clone() for leaf in torch.utils._pytree.tree_leaves(module(*inputs)) if torch.is_tensor(leaf)]


def state(module):
    return {name: leaf.clone() for name, leaf in module.state_dict().items()}


def test_every_layer_is_found_with_its_promise(index):
    case = TORCH[index]
    _, wiring, _ = traced(index)
    found = verdicts(wiring.layers)
    assert matches(case.layers, found), f"{found}\npromised: {case.layers}"
    on_the_page(case, wiring)


def test_outgoing_entries_of_silent_neurons_do_not_matter_and_those_of_others_do(index):
    module, wiring, masks = traced(index)
    inputs, kept = TORCH[index].inputs, state(module)
    before = outputs(module, inputs)
    for name, mask in masks.items():
        for chosen, matters in ((mask, False), (~mask, True)):
            if not chosen.any():
                continue  # a layer with one neuron has no other neurons
            change(module, "outgoing", [layer for layer in wiring.layers if layer.name == name], {name: chosen}, moved)
            same = all(torch.equal(one, other) for one, other in zip(before, outputs(module, inputs), strict=True))
            module.load_state_dict(kept)
            awake = promise_of(name, TORCH[index].layers) == "awake"
            assert same != matters or (awake and not matters), f"{name}: {wiring}"


def moved(leaf):
    """Returns the values plus random numbers. A constant instead would cancel in a softmax over the readers."""
    return leaf + torch.randn(leaf.shape, generator=torch.Generator().manual_seed(3))


def test_recycling_silent_neurons_leaves_outputs_bit_equal(index):
    module, wiring, masks = traced(index)
    case, kept = TORCH[index], state(module)
    before, fresh = outputs(module, case.inputs), case.module(seed=1)
    safe = [name for name in masks if not any(layer.coupled_by for layer in wiring.layers if layer.name == name)]
    counts = dt.recycle_(module, wiring, *case.inputs, tau=0.0, init=lambda: fresh, layers=safe)
    after, now = outputs(module, case.inputs), state(module)
    module.load_state_dict(kept)
    assert set(counts) == set(safe)
    awake = {name for name in safe if promise_of(name, case.layers) == "awake"}
    # The test has few inputs, so other neurons may be silent too.
    silent = {name: 0 if name in awake else int(masks[name].sum()) for name in safe}
    assert all(counts[name] >= least for name, least in silent.items()), f"{counts} {wiring}"
    for one, other in zip(before, after, strict=True):
        assert torch.isfinite(one).all() and torch.equal(one, other)
    for layer in wiring.layers:
        assert (
            layer.name not in safe or layer.name in awake or woken(layer, masks[layer.name], now, fresh.state_dict())
        ), str(wiring)


def woken(layer, mask, now, fresh):
    """Returns whether a masked neuron has a fresh incoming entry."""
    fed = ((name, mask[owner.clamp(min=0)] & (owner >= 0)) for name, owner in layer.incoming.items())
    return any(bool((hit & (now[name] == fresh[name]) & (now[name] != 0)).any()) for name, hit in fed)
