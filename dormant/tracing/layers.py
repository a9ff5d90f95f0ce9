"""Builds the neuron layers of a wiring from the ledger, in which the tracer records its findings.

A producer is a kernel that creates neurons. An id is the number of a neuron in the ledger.
"""

import functools
from collections import Counter
from typing import NamedTuple

import numpy as np

from ..reasons import DIRECT, OWN, RETURN, TRAIN, Reason
from ..wiring import NeuronLayer
from .ledger import Ledger, Use
from .values import NONE, Ids


class Site(NamedTuple):
    """A point at which a layer is measured.

    `value` is the index of a value of the program. For each element of this value, `neurons` holds the index of its
    neuron in the layer, or NONE.
    """

    layer: str
    value: int
    neurons: Ids


class Found(NamedTuple):
    """The result of a trace: layers, names of output layers, and the sites at which layers are measured.

    `made` lists the sites at which kernels create the neurons. `not_followed` maps the path of a parameter that neither
    feeds nor reads a neuron to a description of its use.
    """

    layers: tuple[NeuronLayer, ...]
    outputs: tuple[str, ...]
    sites: tuple[Site, ...]
    not_followed: dict[str, str]
    made: tuple[Site, ...]


def collect(notes: Ledger) -> Found:
    """Returns the layers and sites of a trace. A layer that no kernel reads is an output layer."""
    notes.follow()
    groups = _groups(notes)
    names, used = _names(notes, groups), _used(notes)
    hidden = [(name, group) for name, group in zip(names, groups, strict=True) if group & notes.read]
    outputs = tuple(name for name, group in zip(names, groups, strict=True) if not group & notes.read)
    layers = tuple(_layer(notes, name, group, used) for name, group in hidden)
    sites = tuple(site for name, group in hidden for site in _sites(notes, name, group))
    made = tuple(site for name, group in hidden for site in _made(notes, name, group))
    return Found(layers, outputs, sites, _not_followed(notes), made)


def _not_followed(notes: Ledger) -> dict[str, str]:
    """Returns a description of the use of each parameter that neither feeds nor reads a neuron, by path."""
    followed = {use.leaf for use in notes.uses if any(_any(ids) for ids in (use.feeds, use.reads))}
    lost: dict[str, list[str]] = {notes.leaf_names[use.leaf]: [] for use in notes.uses if use.leaf not in followed}
    for use in notes.uses:
        if notes.leaf_names[use.leaf] in lost and use.other_use:
            lost[notes.leaf_names[use.leaf]].append(use.other_use)
    return {path: "; ".join(dict.fromkeys(wheres)) or "multiplies or shifts inputs" for path, wheres in lost.items()}


def _any(ids: Ids | None) -> bool:
    return ids is not None and bool((ids >= 0).any())


def _groups(notes: Ledger) -> list[set[int]]:
    """Returns groups of producers that share neurons, sorted by the first producer of each group."""
    groups: list[set[int]] = []
    for producer in range(len(notes.producers)):
        group = {producer} | notes.producers_of(_ids(notes, {producer}))
        for other in [other for other in groups if other & group]:
            groups.remove(other)
            group |= other
        groups.append(group)
    return sorted(groups, key=min)


def _ids(notes: Ledger, group: set[int]) -> Ids:
    """Returns the ids of a group's neurons without duplicates."""
    return np.unique(np.concatenate([notes.own(index) for index in sorted(group)]))


def _names(notes: Ledger, groups: list[set[int]]) -> list[str]:
    """Returns the name of each group's layer.

    It is the path of the kernel without the last key. If two layers would have the same name, it is the whole path. If
    that is not unique either, a number is added.
    """
    short = ["+".join(dict.fromkeys(notes.name(producer) for producer in sorted(group))) for group in groups]
    often = Counter(short)
    kernels = [[notes.producers[producer].leaf for producer in sorted(group)] for group in groups]
    whole = ["+".join(notes.leaf_names[leaf] for leaf in leaves) for leaves in kernels]
    names = [long if often[name] > 1 else name for name, long in zip(short, whole, strict=True)]
    earlier = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(names, earlier, strict=True)]


def _numbers(notes: Ledger, group: set[int]) -> Ids:
    """Returns an array that holds, for each id, the neuron's index in the group, or NONE if it is not in the group.

    The array has one more element than there are ids. The id -1 selects this last element, which is NONE.
    """
    mine = _ids(notes, group)
    numbers = np.full(len(notes.canonical) + 1, NONE)
    numbers[mine] = np.arange(len(mine))
    return numbers[[*notes.canonical, NONE]]


def _local(numbers: Ids, ids: Ids | None) -> Ids:
    """Converts ids of neurons to indices in a group. `numbers` is the result of `_numbers` for the group."""
    return np.array(NONE) if ids is None else numbers[ids]


def _used(notes: Ledger) -> dict[int, tuple[list[Use], set[int]]]:
    """Returns, for each parameter, a list of its uses and the producers whose neurons it feeds or reads."""
    found: dict[int, tuple[list[Use], set[int]]] = {}
    for use in sorted(notes.uses, key=lambda use: use.leaf):
        uses, producers = found.setdefault(use.leaf, ([], set()))
        uses.append(use)
        for ids in (use.feeds, use.reads):
            producers |= set() if ids is None else notes.producers_of(ids)
    return found


def _layer(notes: Ledger, name: str, group: set[int], used: dict[int, tuple[list[Use], set[int]]]) -> NeuronLayer:
    incoming: dict[str, Ids] = {}
    outgoing: dict[str, Ids] = {}
    reasons = [reason for producer in sorted(group) for reason in notes.reasons[producer]]
    untrained = {notes.leaf_names[leaf] for leaf in notes.untrained}
    numbers = _numbers(notes, group)
    for leaf, (mine, producers) in used.items():
        if not producers & group:
            continue
        path = notes.leaf_names[leaf]
        uses = [(use, _local(numbers, use.feeds), _local(numbers, use.reads)) for use in mine]
        feeds, reads = _together([use[1] for use in uses]), _together([use[2] for use in uses])
        incoming |= {} if feeds is None else {path: feeds}
        outgoing |= {} if reads is None else {path: reads}
        reasons += _conflicts(path, uses, feeds, reads)
    for verb, entries in (("feeds", incoming), ("reads", outgoing)):
        reasons += [
            Reason(f"no gradient trains {path}, which {verb} it", TRAIN) for path in entries if path in untrained
        ]
    if group & notes.returned:
        reasons.append(Reason("the function also returns it", RETURN))
    coupled = tuple(dict.fromkeys(by for producer in sorted(group) for by in notes.coupled[producer]))
    return NeuronLayer(name, len(_ids(notes, group)), incoming, outgoing, tuple(dict.fromkeys(reasons)), coupled)


def _together(maps: list[Ids]) -> Ids | None:
    """Combines the neurons of several uses of a parameter into one array. Returns None if there is no neuron."""
    return functools.reduce(np.maximum, maps) if any((ids >= 0).any() for ids in maps) else None


def _conflicts(path: str, uses: list[tuple[Use, Ids, Ids]], feeds: Ids | None, reads: Ids | None) -> list[Reason]:
    """Returns the reasons why some entries of a parameter can't be overwritten if this layer is recycled."""
    nowhere = np.array(NONE)
    feeds, reads = (nowhere if ids is None else ids for ids in (feeds, reads))
    touched = (feeds >= 0) | (reads >= 0)
    found = [
        Reason(f"{path} is also {use.other_use}", DIRECT)
        for use, _, _ in uses
        if use.other_use and (use.covers & touched).any()
    ]
    if ((feeds >= 0) & (reads >= 0)).any():
        found.append(Reason(f"{path} both feeds and reads it", OWN))
    for use, feeds_here, reads_here in uses:
        differs = ((feeds != feeds_here) | (reads != reads_here)) & use.covers
        if differs.any() and not use.other_use:
            found.append(Reason(f"{path} also has another use", OWN))
    return found


def _made(notes: Ledger, name: str, group: set[int]) -> list[Site]:
    """Returns the sites at which kernels create the neurons of a layer."""
    own = _numbers(notes, group)
    numbers = dict.fromkeys(born for producer in sorted(group) for born in notes.born[producer])
    return [Site(name, number, _local(own, notes.neurons_at[number])) for number in numbers]


def _sites(notes: Ledger, name: str, group: set[int]) -> list[Site]:
    """Returns the sites at which a layer is measured.

    A neuron that has no other site is measured at the value in which a kernel creates it.
    """
    places = notes.sites if any(notes.sites[producer] for producer in group) else notes.resorts
    numbers = dict.fromkeys(site for producer in sorted(group) for site in places[producer])
    own = _numbers(notes, group)
    found = [Site(name, number, _local(own, notes.neurons_at[number])) for number in numbers]
    missing = np.ones(len(_ids(notes, group)), bool)
    for site in found:
        missing[site.neurons[site.neurons >= 0]] = False
    for number in dict.fromkeys(born for producer in sorted(group) for born in notes.born[producer]):
        if missing.any():
            here = _local(own, notes.neurons_at[number])
            found.append(Site(name, number, np.where((here >= 0) & missing[here], here, NONE)))
            missing[here[here >= 0]] = False
    return [site for site in found if (site.neurons >= 0).any()]
