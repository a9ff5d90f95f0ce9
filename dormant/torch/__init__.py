"""Functions to trace a `torch.nn.Module`, to measure its dormant neurons, and to recycle them. Does not import JAX."""

from ..settings import Renewal as Renewal
from . import how_many as how_many
from .churn import CChain as CChain
from .churn import ChurnTerm as ChurnTerm
from .churn import with_churn_term as with_churn_term
from .measuring import Report as Report
from .measuring import gradient_dormancy as gradient_dormancy
from .measuring import measure as measure
from .measuring import report as report
from .optimizers import L2Init as L2Init
from .optimizers import Parseval as Parseval
from .optimizers import Spectral as Spectral
from .optimizers import penalised as penalised
from .perturbing import DrM as DrM
from .perturbing import SoftShrinkPerturb as SoftShrinkPerturb
from .projecting import FIRE as FIRE
from .projecting import NaP as NaP
from .published import ReDoAsPublished as ReDoAsPublished
from .published import redo_as_published as redo_as_published
from .recycling import recycle_ as recycle_
from .renewing import ContinualBackprop as ContinualBackprop
from .renewing import Prune as Prune
from .renewing import Recycle as Recycle
from .renewing import ReDo as ReDo
from .resets import SWR as SWR
from .resets import ClipWeights as ClipWeights
from .resets import HareTortoise as HareTortoise
from .resets import Reset as Reset
from .resets import ResetOptimizer as ResetOptimizer
from .resets import ShrinkPerturb as ShrinkPerturb
from .schedule import Chain as Chain
from .schedule import Every as Every
from .schedule import Intervening as Intervening
from .schedule import Intervention as Intervention
from .schedule import WhenDormant as WhenDormant
from .schedule import with_intervention as with_intervention
from .silence import SNR as SNR
from .tracing import trace as trace
from .wiring import NeuronLayer as NeuronLayer
from .wiring import Wiring as Wiring

__all__ = [
    "FIRE",
    "SNR",
    "SWR",
    "CChain",
    "Chain",
    "ChurnTerm",
    "ClipWeights",
    "ContinualBackprop",
    "DrM",
    "Every",
    "HareTortoise",
    "Intervening",
    "Intervention",
    "L2Init",
    "NaP",
    "NeuronLayer",
    "Parseval",
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
    "Spectral",
    "WhenDormant",
    "Wiring",
    "gradient_dormancy",
    "how_many",
    "measure",
    "penalised",
    "recycle_",
    "redo_as_published",
    "report",
    "trace",
    "with_churn_term",
    "with_intervention",
]
