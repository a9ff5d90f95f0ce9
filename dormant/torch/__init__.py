"""Dormant neurons of a `torch.nn.Module`: trace, measure, recycle. Imports no JAX."""

from .recycling import ReDo as ReDo
from .recycling import Report as Report
from .recycling import measure as measure
from .recycling import recycle_ as recycle_
from .tracing import trace as trace
from .wiring import NeuronLayer as NeuronLayer
from .wiring import Wiring as Wiring

__all__ = ["NeuronLayer", "ReDo", "Report", "Wiring", "measure", "recycle_", "trace"]
