"""Interventions overwrite weights outside the gradient's path: each is a frozen value with `init` and `update`."""

from .clip_weights import ClipWeights as ClipWeights
from .continual_backprop import ContinualBackprop as ContinualBackprop
from .contract import Intervention as Intervention
from .hare_tortoise import HareTortoise as HareTortoise
from .how_many import Dormant as Dormant
from .how_many import Gap as Gap
from .how_many import PooledShare as PooledShare
from .how_many import Share as Share
from .plasticity_injection import PlasticityInjection as PlasticityInjection
from .prune import Prune as Prune
from .published import ReDoAsPublished as ReDoAsPublished
from .published import redo_as_published as redo_as_published
from .recycle import Recycle as Recycle
from .redo import ReDo as ReDo
from .renewal import Renewal as Renewal
from .renewal import recycled_counts as recycled_counts
from .reset import Reset as Reset
from .reset_optimizer import ResetOptimizer as ResetOptimizer
from .schedule import Chain as Chain
from .schedule import Every as Every
from .shrink_perturb import ShrinkPerturb as ShrinkPerturb
from .when_dormant import WhenDormant as WhenDormant
