"""`dormant cite`: BibTeX of dormant, and of the methods, agents and environments that runs used."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from dormant.cli.terminal import refuse
from dormant.lab.machine import version
from dormant.lab.runs.folder import RunFolder, RunRefused, origin_of

BIBTEX = Path(__file__).with_name("citations.bib")
REDO = "sokar2023dormant"
# Part of a training -> keys in citations.bib. The part is a class, a setting of a class, or a setting of any class (*).
SOURCES: Mapping[str, tuple[str, ...]] = {
    "ReDo": (REDO,),
    "ReDoAsPublished": (REDO,),
    "Recycle": (REDO,),
    "Recycle.score=gradient": ("liu2025measure",),
    "Recycle.score=utility": ("dohare2024loss",),
    "ContinualBackprop": ("dohare2024loss",),
    "Prune": (REDO,),
    "Reset": ("nikishin2022primacy",),
    "ShrinkPerturb": ("ash2020warm", "doro2023sample"),
    "HareTortoise": ("lee2024slow",),
    "ClipWeights": ("elsayed2024weight",),
    "SNR": ("farias2025self",),
    "SWR": ("hernandez2025reinitializing",),
    "SoftShrinkPerturb": ("juliani2024study",),
    "DrM": ("xu2024drm",),
    "FIRE": ("han2026fire",),
    "NaP": ("lyle2024normalization",),
    "CChain": ("tang2025mitigating",),
    "UPGD": ("elsayed2024addressing",),
    "ResetOptimizer": ("asadi2023resetting",),
    "PlasticityInjection": ("nikishin2023injection",),
    "L2Init": ("kumar2023maintaining",),
    "Parseval": ("chung2024parseval",),
    "Spectral": ("lewandowski2024spectral",),
    "Share": (REDO,),
    "DQN": ("mnih2015human",),
    "DQN.double=True": ("vanhasselt2016double",),
    "Augmentation.intensity": ("yarats2021image", "agarwal2021precipice"),
    "Augmentation.pad": ("yarats2021image", "agarwal2021precipice"),
    "SAC": ("haarnoja2018soft",),
    "MinAtarCNN": ("young2019minatar",),
    "ImpalaResNet": ("espeholt2018impala",),
    "*.dueling=True": ("wang2016dueling",),
    "*.layer_norm=True": ("lyle2023understanding",),
    "*.activation=crelu": ("abbas2023loss",),
    "*.activation=fourier": ("lewandowski2025plastic",),
    "*.gap=True": ("sokar2025mind",),
    "*.spectral_norm=True": ("gogianu2021spectral",),
    "MinAtar": ("young2019minatar", "koyamada2023pgx"),
    "Games": ("young2019minatar", "koyamada2023pgx", "tang2025mitigating"),
    "Atari": ("bellemare2013arcade", "machado2018revisiting"),
    "MuJoCo": ("todorov2012mujoco", "towers2024gymnasium"),
    "FashionMNIST": ("xiao2017fashion",),
    "CIFAR10": ("krizhevsky2009learning",),
    "Digits": ("pedregosa2011scikit",),
}
# Parts of interventions that are not from a paper.
OURS = ("Chain", "Every", "WhenDormant", "WarmUp", "Dormant", "PooledShare", "Gap", "Renewal")


@dataclass(frozen=True)
class Cite:
    """Print BibTeX entries of dormant and of the methods, agents and environments that the given runs used."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders. Without run folders, all entries are printed."""


def cite(flags: Cite) -> int:
    """Prints the entries and returns 0. Ends the command with code 2 and one line if a folder is not a run."""
    entries = bibliography()
    keys = list(entries)
    if flags.runs:
        used = {key for path in flags.runs for key in sources(_training(path))}
        keys = [key for key in entries if key in used | {REDO}]
    print("\n\n".join([_dormant(), *(entries[key] for key in keys)]))
    return 0


def bibliography() -> dict[str, str]:
    """Every entry of citations.bib by its key.

    >>> bibliography()["liu2025measure"].splitlines()[0]
    '@inproceedings{liu2025measure,'
    """
    entries = BIBTEX.read_text(encoding="utf-8").strip().split("\n\n")
    return {re.findall(r"{(\w+),", entry)[0]: entry for entry in entries}


def sources(training: object) -> set[str]:
    """The keys of everything that a training's description names.

    >>> sorted(sources({"is": "Every", "period": 9, "what": {"is": "Recycle", "score": "gradient"}}))
    ['liu2025measure', 'sokar2023dormant']
    """
    return {key for mark in _marks(training) for key in SOURCES.get(mark, ())}


def _marks(part: object) -> Iterator[str]:
    """Yields each class and each setting in a description, in the form of the keys of `SOURCES`."""
    if isinstance(part, list):
        for each in part:
            yield from _marks(each)
    if isinstance(part, dict):
        name = part.get("is", "")
        yield name
        for setting, value in part.items():
            yield from (f"{name}.{setting}={value}", f"*.{setting}={value}")
            if value:
                yield f"{name}.{setting}"
            yield from _marks(value)


def _training(path: Path) -> object:
    try:
        return origin_of(RunFolder(path))["training"]
    except RunRefused as error:
        refuse(error)
    except OSError as error:
        refuse(f"{path} is not a run folder ({error.strerror}); name a run folder, or none to print all entries.")


def _dormant() -> str:
    title = "dormant: measure and cure dormant neurons in deep reinforcement learning"
    fields: Iterable[tuple[str, str]] = {
        "title": f"{{{title}}}",
        "author": "{The dormant maintainers}",
        "version": version("dormant") or "unknown",
        "year": "2026",
    }.items()
    return "@software{dormant,\n" + ",\n".join(f"  {name} = {{{value}}}" for name, value in fields) + "\n}"
