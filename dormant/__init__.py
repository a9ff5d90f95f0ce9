"""Measure and cure dormant neurons: trace a network, score its neurons, recycle the dormant ones."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import metrics as metrics
    from . import regularisers as regularisers
    from . import trainability as trainability
    from .interventions import FIRE as FIRE
    from .interventions import SNR as SNR
    from .interventions import SWR as SWR
    from .interventions import Chain as Chain
    from .interventions import ClipWeights as ClipWeights
    from .interventions import ContinualBackprop as ContinualBackprop
    from .interventions import DrM as DrM
    from .interventions import Every as Every
    from .interventions import HareTortoise as HareTortoise
    from .interventions import Intervention as Intervention
    from .interventions import NaP as NaP
    from .interventions import PlasticityInjection as PlasticityInjection
    from .interventions import Prune as Prune
    from .interventions import Recycle as Recycle
    from .interventions import ReDo as ReDo
    from .interventions import ReDoAsPublished as ReDoAsPublished
    from .interventions import Renewal as Renewal
    from .interventions import Reset as Reset
    from .interventions import ResetOptimizer as ResetOptimizer
    from .interventions import ShrinkPerturb as ShrinkPerturb
    from .interventions import SoftShrinkPerturb as SoftShrinkPerturb
    from .interventions import WarmUp as WarmUp
    from .interventions import WhenDormant as WhenDormant
    from .interventions import how_many as how_many
    from .interventions import recycled_counts as recycled_counts
    from .interventions import redo_as_published as redo_as_published
    from .optimizer import with_intervention as with_intervention
    from .perturbed_descent import UPGD as UPGD
    from .perturbed_descent import upgd as upgd
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

__all__ = [
    "FIRE",
    "SNR",
    "SWR",
    "UPGD",
    "Chain",
    "ClipWeights",
    "ContinualBackprop",
    "DrM",
    "Every",
    "HareTortoise",
    "Intervention",
    "LayerReport",
    "Learner",
    "NaP",
    "Network",
    "NeuronLayer",
    "PlasticityInjection",
    "Prune",
    "ReDo",
    "ReDoAsPublished",
    "Recycle",
    "Renewal",
    "Report",
    "Reset",
    "ResetOptimizer",
    "ShrinkPerturb",
    "SoftShrinkPerturb",
    "TraceError",
    "WarmUp",
    "WhenDormant",
    "Wiring",
    "dormant_fraction",
    "dormant_mask",
    "graft",
    "how_many",
    "metrics",
    "neuron_scores",
    "overlap_coefficient",
    "recycled_counts",
    "redo_as_published",
    "regularisers",
    "report",
    "trace",
    "trainability",
    "upgd",
    "with_intervention",
]

# These modules are loaded on first use. This way, `import dormant.torch` works without JAX.
_HOMES = ("interventions", "scores", "surgery", "tracing", "wiring", "reporting", "optimizer", "perturbed_descent")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("dormant")
    if name not in __all__:
        raise AttributeError(f"module 'dormant' has no attribute {name!r}; it has {', '.join(__all__)}.")
    if name in ("metrics", "regularisers", "trainability"):
        return import_module(f".{name}", __name__)
    homes = (import_module(f".{home}", __name__) for home in _HOMES)
    return next(getattr(home, name) for home in homes if hasattr(home, name))


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
