"""Runs one program in PyTorch: traces it, recycles in place at tau = 0, and checks the result in both modes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import dormant.torch as dt

from .oracles import (
    Failure,
    Outcome,
    is_trace_error,
    judge_entries,
    judge_outputs,
    judge_readers,
    recycled_units,
    silence,
)
from .program import Program, Values, draw_input, draw_values
from .scores import active, judge_not_finite, judge_scores, with_nan
from .source import torch_source
from .structure import Structure, structure
from .taps import hangs_on_rounding, judge_moves, observed

OPTIMIZERS: tuple[Callable[[Any], torch.optim.Optimizer], ...] = (
    lambda p: torch.optim.Adam(p, lr=1e-2),
    lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    lambda p: torch.optim.RMSprop(p, lr=1e-2),
    lambda p: torch.optim.AdamW(p, lr=1e-2),
    lambda p: torch.optim.Adagrad(p, lr=1e-2),
    lambda p: torch.optim.Adamax(p, lr=1e-2),
    lambda p: torch.optim.NAdam(p, lr=1e-2),
    lambda p: torch.optim.RMSprop(p, lr=1e-2, centered=True, momentum=0.9),
    lambda p: torch.optim.Adafactor(p, lr=1e-2),
)
TRAINING_OPS = {"train_noise", "train_scale", "noisy_dense", "dropout", "batch_norm_module"}


def module_class(program: Program) -> type[nn.Module]:
    space: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
    exec(compile(torch_source(program), "<network>", "exec"), space)
    return space["Network"]


def load(module: nn.Module, values: Values) -> nn.Module:
    """Loads values into a module's parameters, buffers and constants. Returns the module."""
    for name, value in values.items():
        owner, _, last = name.rpartition(".")
        leaf = getattr(module.get_submodule(owner), last)
        leaf.data.copy_(torch.from_numpy(value))
    return module


def state_of(module: nn.Module, names: Sequence[str]) -> Values:
    found = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        found[name] = getattr(module.get_submodule(owner), last).detach().numpy().copy()
    return found


def outputs_of(module: nn.Module, batch: torch.Tensor, training: bool) -> list[np.ndarray]:
    """Returns the outputs in one mode, at a fixed seed. Restores running statistics."""
    kept = {name: buffer.clone() for name, buffer in module.named_buffers()}
    was = module.training
    module.train(training)
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = [output.numpy().copy() for output in module(batch)]
    module.train(was)
    for name, buffer in module.named_buffers():
        buffer.copy_(kept[name])
    return outputs


def run_torch(program: Program) -> Outcome:
    """Returns the outcome of a program, with all its failures."""
    modes = [False, True] if program.training_outputs or program.operations & TRAINING_OPS else [False]
    truths = [structure(program, training) for training in modes]
    shapes = {name: node.shape for name, node in program.parameters.items()}
    before, donor = silence(program, truths, draw_values(shapes, program.seed)), draw_values(shapes, program.seed + 99)
    trained = {name for name, node in program.parameters.items() if node.attrs["trained"] == "yes"}
    network = module_class(program)
    module = load(network(), before)
    rng = np.random.default_rng(program.seed + 3)
    module.train(bool(rng.random() < 0.5))
    example = torch.from_numpy(
        draw_input(
            program.nodes[0].shape,
            1 + int(rng.random() < 0.7 or program.operations >= {"batch_norm_module"}),
            program.seed,
        )
    )
    batch = torch.from_numpy(draw_input(program.nodes[0].shape, program.batch, program.seed))
    make = OPTIMIZERS[int(rng.integers(len(OPTIMIZERS)))]
    optimizer = with_moments(make([leaf for leaf in module.parameters() if leaf.requires_grad] or [torch.zeros(1)]))
    outcome = Outcome()
    fails = outcome.failures
    snapshot = _snapshot(module)
    try:
        wiring = dt.trace(module, example)
        report = dt.measure(module, wiring, batch, tau=0.0)
    except Exception as error:
        if not is_trace_error(error):
            raise
        outcome.refused = str(error)
        return outcome
    fails += _left_alone(snapshot, module)
    names = [layer.name for layer in wiring.layers if layer.recyclable and not layer.coupled_by]
    outcome.recycled, outcome.measured = len(names), len(wiring.layers) - len(names)
    first = [outputs_of(module, batch, training) for training in (False, True)]
    moments = {leaf: {k: v.clone() for k, v in s.items() if torch.is_tensor(v)} for leaf, s in optimizer.state.items()}
    fresh = lambda: load(network(), donor)  # noqa: E731
    try:
        dt.recycle_(module, wiring, batch, tau=0.0, optimizer=optimizer, init=fresh, layers=names)
    except ValueError as error:  # Adafactor is refused, because its second moments are rows and columns
        if not isinstance(optimizer, torch.optim.Adafactor) or "Adafactor keeps" not in str(error):
            raise
        changed = any((before[name] != value).any() for name, value in state_of(module, list(shapes)).items())
        fails += [Failure("refused too late", "weights had been changed")] * changed
        dt.recycle_(module, wiring, batch, tau=0.0, init=fresh, layers=names)
    new = state_of(module, list(shapes))
    outcome.acted = any((before[name] != new[name]).any() for name in shapes)
    seen = observed(program, before, batch.numpy())
    known = not program.operations & {"noise", "per_sample_noise"}
    known = known and not hangs_on_rounding(program, before, batch.numpy(), seen)
    for training, old in zip((False, True), first, strict=True):
        kind = f"outputs moved in {'training' if training else 'evaluation'} mode"
        if not known or (training and woken(program, truths[-1], before, new, donor, batch.numpy())):
            continue  # rounding decides these outputs, or noise activates a unit that is silent in evaluation mode
        fails += judge_outputs(kind, old, outputs_of(module, batch, training))
    fails += judge_entries(truths, before, new, donor, trained, seen.zero if known else None)
    fails += judge_moves(program, truths, modes, before, new, donor, batch.numpy())
    fails += judge_readers(program, truths, modes, before, new, donor)
    fails += judge_moments(module, optimizer, moments, before, new)
    scores = {name: score.numpy() for name, score in report.scores.items()}
    if known:
        fails += judge_scores(program, truths, wiring.layers, scores, seen)
    if wiring.layers and (diverged := with_nan(truths[0], before, sorted(trained), program.seed)):
        bad, unit = diverged
        module = load(network(), bad)
        fraction = dt.measure(module, wiring, batch, tau=0.0).fraction
        dt.recycle_(module, wiring, batch, tau=0.0, init=fresh, layers=names)
        after = state_of(module, list(shapes))
        fails += judge_not_finite(program, truths[0], wiring.layers, bad, after, fraction, unit, batch.numpy())
    return outcome


def woken(program: Program, truth: Structure, before: Values, new: Values, donor: Values, batch: np.ndarray) -> bool:
    """Whether noise in training mode activates a recycled unit. True also if no nonlinearity follows such a unit."""
    recycled = recycled_units(truth, before, new, donor)
    if not recycled.any() or not program.operations & {"train_noise", "noisy_dense"}:
        return False
    runs = [observed(program, before, batch, training=True, seed=seed) for seed in range(20)]
    awake = np.any([active(truth, seen.activations) for seen in runs], 0)
    activated = np.any([units.any(0) for units in truth.activations] or [np.zeros_like(recycled)], 0)
    return bool((recycled & (awake | ~activated)).any())


def with_moments(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Takes one step, to give the optimizer state for every parameter. Then restores the parameters."""
    leaves = [leaf for group in optimizer.param_groups for leaf in group["params"]]
    kept = [leaf.detach().clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = torch.full_like(leaf, 0.5)
    optimizer.step()
    for leaf, old in zip(leaves, kept, strict=True):
        leaf.grad = None
        leaf.data.copy_(old)
    return optimizer


def _snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "parameters and buffers": {name: leaf.detach().clone() for name, leaf in module.state_dict().items()},
        "training flags": [part.training for part in module.modules()],
        "random state": torch.get_rng_state(),
        "gradients": [leaf.grad for leaf in module.parameters()],
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
    }


def _left_alone(before: dict[str, Any], module: nn.Module) -> list[Failure]:
    after, fails = _snapshot(module), []
    for what, old in before.items():
        new = after[what]
        if isinstance(old, dict):
            same = old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
        else:
            same = torch.equal(old, new) if torch.is_tensor(old) else old == new
        if not same:
            fails.append(Failure(f"tracing or measuring left a trace in {what}", "different afterwards"))
    return fails


def judge_moments(module: nn.Module, optimizer: Any, moments: Any, before: Values, new: Values) -> list[Failure]:
    """Checks that changed entries have the optimizer state of a new weight, and all other entries keep their state."""
    names = {id(leaf): name for name, leaf in module.named_parameters()}
    for leaf, old in moments.items():
        if isinstance(optimizer, torch.optim.Adafactor):
            break
        name = names.get(id(leaf))
        if name is None or name not in before:
            continue
        changed = before[name] != new[name]
        sure = changed | (before[name] != 0)  # recycling may have set an entry from 0 to 0
        for key, value in old.items():
            now = optimizer.state[leaf][key]
            if value.shape != leaf.shape:
                if not torch.equal(value, now):
                    return [Failure("optimizer state", f"{key} of {name} changed")]
            elif (now.numpy() != np.where(changed, 0, value.numpy()))[sure].any():
                return [Failure("optimizer state", f"{key} of {name} does not match the entries that changed")]
    return []
