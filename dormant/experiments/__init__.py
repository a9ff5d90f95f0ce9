"""All experiments, in the order of the paper's figures. Our own experiments come last."""

from dormant.experiments import alternatives, causes, choices, continual, phenomenon, redo
from dormant.lab import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    phenomenon.FIG02,
    causes.FIG03,
    causes.FIG04,
    phenomenon.FIG05,
    phenomenon.FIG06,
    phenomenon.FIG07,
    causes.FIG08,
    redo.FIG09,
    redo.FIG10A,
    redo.FIG10B,
    redo.FIG10C,
    redo.FIG10D,
    alternatives.FIG11,
    alternatives.FIG12,
    alternatives.FIG13,
    alternatives.FIG14,
    choices.FIG15,
    alternatives.FIG21,
    choices.FIG22,
    choices.FIG23,
    choices.FIG24,
    choices.TABLE7,
    choices.CAPACITY,
    continual.CONTINUAL,
)
