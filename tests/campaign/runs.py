"""Damages run folders of MinAtar, SAC and Atari, then resumes the unfinished runs and reads the finished runs."""

import faulthandler
import itertools
import logging
import random
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from campaign.damage import DAMAGES
from campaign.outcomes import Outcome, Tally, one_line
from dormant.interventions import Every, ReDo
from dormant.lab.judging.table import _metrics
from dormant.lab.runs import lease, runner
from dormant.lab.runs.checking import faults
from dormant.lab.runs.folder import RunFolder, RunRefused, rows
from dormant.rl.agents.dqn import DQN
from dormant.rl.agents.sac import SAC
from dormant.rl.atari import AtariTraining
from dormant.rl.control import ControlTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.envs.mujoco import MuJoCo
from dormant.rl.networks.convolutional import MinAtarCNN, NatureCNN

STEPS, KILLED_AT = 40, 24
SECONDS = 600  # a case takes about a second, or many seconds on a busy machine
REDO = Every(5, ReDo(0.3))
SMALL = {"replay_capacity": 16, "min_replay": 8, "batch_size": 4, "epsilon_steps": 10, "target_period": 4}
SCHEDULE = {"agent_steps": STEPS, "log_period": 8, "eval_period": 10 * STEPS, "score_batch": 4, "seeds": (0,)}
TRAININGS = {
    "MinAtar": DeviceTraining(DQN(MinAtarCNN(2, 4), **SMALL), MinAtar("Breakout"), REDO, **SCHEDULE),
    "SAC": ControlTraining(
        SAC(hidden=(8, 8), replay_capacity=16, min_replay=8, batch_size=4), MuJoCo("Hopper-v5"), REDO, **SCHEDULE
    ),
    "Atari": AtariTraining(DQN(NatureCNN(0.05), **SMALL), Atari("Pong", time_limit=20), REDO, **SCHEDULE),
}


def without_folder(draw: random.Random, file: Path, other: Path | None) -> None:
    """Deletes the folder of the file, unless it is the run folder."""
    if file.parent.parent.name == "case":
        file.unlink()
    else:
        shutil.rmtree(file.parent)


def swapped(draw: random.Random, file: Path, other: Path | None) -> None:
    """Exchanges the contents of two files."""
    if other is not None and other.is_file():
        content = file.read_bytes()
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)


ALL_DAMAGES = (*DAMAGES, without_folder, swapped)


class Killed(BaseException):
    """Simulates a kill by a signal."""


def kill_at(agent_steps: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done >= agent_steps:
            raise Killed

    return progress


def killed(training: Any, path: Path) -> None:
    try:
        runner.run(training, path, kill_at(KILLED_AT), 0.0)
    except Killed:
        return
    raise AssertionError("the run was not killed")


@dataclass
class Example:
    """A finished run, the same run killed before its end, a run with other settings, and the finished results."""

    training: Any
    whole: Path
    stopped: Path
    other: Path
    ends: dict[str, bytes]


def example(name: str, folder: Path) -> Example:
    training = TRAININGS[name]
    whole, stopped, other = (
        folder / name / "seed0",
        folder / f"{name}-stopped" / "seed0",
        folder / f"{name}-other" / "seed0",
    )
    runner.run(training, whole, checkpoint_seconds=0.0)
    killed(training, stopped)
    killed(replace(training, seeds=(1,)), other)
    return Example(training, whole, stopped, other, end_of(training, whole))


def end_of(training: Any, path: Path) -> dict[str, bytes]:
    """The results of a finished run: its rows, its final state and the content of its ring."""
    folder = RunFolder(path)
    state = runner.last_state(training, folder)
    found = {name: (path / name).read_bytes() for name in ("metrics.jsonl", "scores.jsonl")}
    found |= {jax.tree_util.keystr(key): np.asarray(leaf).tobytes() for key, leaf in jax.tree.leaves_with_path(state)}
    if hasattr(training, "open"):
        loop = training.open(folder.replay, state, runner.owner_of(training))
        seen = training.inputs(loop.rings, STEPS, np.linspace(0, 0.999, 64)[None, None])
        found["replay"] = np.asarray(seen).tobytes()
    return found


def files_of(path: Path) -> dict[str, list[Path]]:
    """The files of a run by kind. A case draws a kind, then a file of this kind. All kinds are equally likely."""
    kinds: dict[str, list[Path]] = {}
    # Sorts by size before the name, because some names in a checkpoint are random. `--only` needs a fixed order.
    files = [file for file in path.rglob("*") if file.is_file()]
    for file in sorted(files, key=lambda file: (file.parent, file.stat().st_size, file.name)):
        kinds.setdefault(file.relative_to(path).parts[0].partition("-")[0], []).append(file)
    return kinds


def campaign(tally: Tally, number: int, seed: int, names: Sequence[str], backwards: bool = False) -> None:
    logging.getLogger("dormant").setLevel(logging.ERROR)
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # A run with a damaged lease waits until the lease has lapsed. 45 seconds per case would take most of the time.
    lease.LAPSE_SECONDS, lease.RENEW_SECONDS = 1.0, 1.0
    with tempfile.TemporaryDirectory() as folder:
        examples = {name: example(name, Path(folder)) for name in (reversed(names) if backwards else names)}
        cases = itertools.cycle(itertools.product(names, ("stopped", "done")))
        for case, (name, state) in zip(range(number), cases, strict=False):
            if tally.takes("run", case):
                draw = random.Random(f"{seed} {case}")
                one(tally, examples[name], name, state, draw, Path(folder) / "case" / "seed0", case)


class Hanging(BaseException):
    """A case took longer than SECONDS."""


@contextmanager
def limited() -> Iterator[None]:
    """Raises Hanging inside the block after SECONDS. If that has no effect, prints all stacks and ends the process."""

    def late(*_: Any) -> None:
        raise Hanging

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


def one(tally: Tally, ran: Example, name: str, state: str, draw: random.Random, path: Path, case: int) -> None:
    source = ran.whole if state == "done" else ran.stopped
    shutil.copytree(source, path)
    try:
        said = []
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            _, files = draw.choice(sorted(files_of(path).items()))
            file, damage = draw.choice(files), draw.choice(ALL_DAMAGES)
            twin = ran.other / file.relative_to(path)
            other = draw.choice(files) if damage is swapped else draw.choice([twin, draw.choice(files)])
            damage(draw, file, other)
            said.append(f"{damage.__name__} {file.relative_to(path)}")
            if not files_of(path):
                break
        try:
            with limited():
                outcome, why = (read if state == "done" else resumed)(ran, path)
        except Hanging:
            outcome, why = "hanging", traceback.format_exc()
        tally.add(f"{name}, {state}", outcome, f"{case}: {', '.join(said)}", why)
    finally:
        shutil.rmtree(path)


def resumed(ran: Example, path: Path) -> tuple[Outcome, str]:
    try:
        runner.run(ran.training, path, checkpoint_seconds=0.0)
        found = end_of(ran.training, path)
    except (RunRefused, OSError) as error:
        return ("refused", "") if one_line(error) else ("traceback", repr(error))
    except Exception as error:
        return "traceback", repr(error)
    return compared(ran, found)


def read(ran: Example, path: Path) -> tuple[Outcome, str]:
    """Checks and reads a damaged finished run. The check must find the damage. Readers must not return wrong values."""
    try:
        found = faults(path)
        for reader in readers(path):
            try:
                reader()
            except (RunRefused, OSError, ValueError):
                if not found:
                    return "wrong", "a reader refuses a file that the check has passed"
    except Exception as error:
        return "traceback", repr(error)
    if found:
        return "refused", ""
    if not (path / "done").exists():
        return "accepted", ""  # the run is not finished
    try:
        return compared(ran, end_of(ran.training, path))
    except (RunRefused, OSError) as error:
        return "wrong", f"the check has passed {error!r}"


def readers(path: Path) -> Iterator[Callable[[], Any]]:
    folder = RunFolder(path)
    yield lambda: list(rows(folder.metrics))
    yield lambda: list(rows(folder.scores))
    yield lambda: _metrics(folder)


def compared(ran: Example, found: dict[str, bytes]) -> tuple[Outcome, str]:
    changed = [name for name in ran.ends if ran.ends[name] != found.get(name)]
    return ("wrong", f"changed: {changed[:5]}") if changed else ("recovered", "")
