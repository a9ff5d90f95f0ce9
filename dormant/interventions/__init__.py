"""Interventions: frozen dataclasses that change weights outside of the gradient step, with `init` and `update`."""

from ..settings import Renewal as Renewal
from ..surgery import recycled_counts as recycled_counts
from .holding import ClipWeights as ClipWeights
from .holding import PlasticityInjection as PlasticityInjection
from .holding import Prune as Prune
from .how_many import Dormant as Dormant
from .how_many import Gap as Gap
from .how_many import PooledShare as PooledShare
from .how_many import Share as Share
from .recycle import ContinualBackprop as ContinualBackprop
from .recycle import Recycle as Recycle
from .recycle import ReDo as ReDo
from .recycle import ReDoAsPublished as ReDoAsPublished
from .recycle import redo_as_published as redo_as_published
from .resets import HareTortoise as HareTortoise
from .resets import Reset as Reset
from .resets import ResetOptimizer as ResetOptimizer
from .resets import ShrinkPerturb as ShrinkPerturb
from .schedule import Chain as Chain
from .schedule import Every as Every
from .schedule import Intervention as Intervention
from .schedule import WhenDormant as WhenDormant
