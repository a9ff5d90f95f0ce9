"""Measure and cure dormant neurons: trace a network, score its neurons, recycle the dormant ones."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .interventions import Chain as Chain
    from .interventions import ClipWeights as ClipWeights
    from .interventions import ContinualBackprop as ContinualBackprop
    from .interventions import Dormant as Dormant
    from .interventions import Every as Every
    from .interventions import Gap as Gap
    from .interventions import HareTortoise as HareTortoise
    from .interventions import Intervention as Intervention
    from .interventions import PlasticityInjection as PlasticityInjection
    from .interventions import PooledShare as PooledShare
    from .interventions import Prune as Prune
    from .interventions import Recycle as Recycle
    from .interventions import ReDo as ReDo
    from .interventions import Renewal as Renewal
    from .interventions import Reset as Reset
    from .interventions import ResetOptimizer as ResetOptimizer
    from .interventions import Share as Share
    from .interventions import ShrinkPerturb as ShrinkPerturb
    from .interventions import WhenDormant as WhenDormant
    from .interventions import recycled_counts as recycled_counts
    from .interventions import redo_as_published as redo_as_published
    from .reporting import LayerReport as LayerReport
    from .reporting import Report as Report
    from .reporting import report as report
    from .scores import dormant_fraction as dormant_fraction
    from .scores import dormant_mask as dormant_mask
    from .scores import neuron_scores as neuron_scores
    from .scores import overlap_coefficient as overlap_coefficient
    from .surgery import Learner as Learner
    from .surgery import graft as graft
    from .tracing import TraceError as TraceError
    from .tracing import trace as trace
    from .wiring import Network as Network
    from .wiring import NeuronLayer as NeuronLayer
    from .wiring import Wiring as Wiring

# Loaded on first use, so that `import dormant.torch` needs no JAX.
PUBLIC = {
    "interventions": (
        "Chain ClipWeights ContinualBackprop Dormant Every Gap HareTortoise Intervention PlasticityInjection "
        "PooledShare Prune ReDo Recycle Renewal Reset ResetOptimizer Share ShrinkPerturb WhenDormant recycled_counts "
        "redo_as_published"
    ),
    "reporting": "LayerReport Report report",
    "scores": "dormant_fraction dormant_mask neuron_scores overlap_coefficient",
    "surgery": "Learner graft",
    "tracing": "TraceError trace",
    "wiring": "Network NeuronLayer Wiring",
}
_HOME = {name: module for module, names in PUBLIC.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dormant' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}.")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
