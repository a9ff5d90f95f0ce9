"""Interventions overwrite weights outside the gradient's path: each is a frozen value with `init` and `update`."""

from .contract import Intervention as Intervention
from .prune import Prune as Prune
from .published import redo_as_published as redo_as_published
from .redo import ReDo as ReDo
from .renewal import recycled_counts as recycled_counts
from .reset import Reset as Reset
from .schedule import Chain as Chain
from .schedule import Every as Every
from .shrink_perturb import ShrinkPerturb as ShrinkPerturb
