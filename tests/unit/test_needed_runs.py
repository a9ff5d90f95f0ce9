"""Trainings that need the last state of another training. The other training runs first, and its run is reused."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from walks import Place, Walk, Walker

from dormant.lab import Arm, Design, Experiment
from dormant.lab.crews import jobs
from dormant.lab.runs.description import run_path, sibling_path
from dormant.lab.runs.folder import RunInUse, RunRefused, claimed, rows
from dormant.lab.runs.runner import FollowingTraining, last_state, run


@dataclass(frozen=True)
class Onward:
    """A random walk that needs another random walk. It starts at the last position of the other walk."""

    env: Place = field(default_factory=Place)
    agent: Walker = field(default_factory=Walker)
    first: Walk = field(default_factory=Walk)
    agent_steps: int = 8
    seeds: tuple[int, ...] = (0,)
    refuses: bool = False

    kind = "onward"

    @property
    def needs(self):
        return (replace(self.first, env=self.env, seeds=self.seeds),)

    def after(self, folder, ended):
        if self.refuses:
            raise ValueError("not from there")
        begin = tuple(np.asarray(ended.state["position"]).tolist())
        return Further(agent_steps=self.agent_steps, seeds=self.seeds, begin=begin)


@dataclass(frozen=True)
class Further(Walk):
    """A random walk that starts at the positions `begin`, one per seed."""

    begin: tuple[float, ...] = ()

    def init(self):
        return super().init() | {"position": np.float32(self.begin)}


def test_what_is_needed_is_run_first_beside_and_its_end_is_the_beginning(tmp_path):
    training, path = Onward(), run_path(tmp_path, "smoke", Onward())
    assert isinstance(training, FollowingTraining) and not isinstance(Walk(), FollowingTraining)
    assert path.parent.name.startswith("onward-")
    folder = run(training, path)
    first = sibling_path(path, Walk())
    assert first == run_path(tmp_path, "smoke", Walk()) and (first / "done").exists()
    ended = [row["eval_return"] for row in rows(run(Walk(), first).metrics)]
    began = [row["eval_return"] for row in rows(folder.metrics)]
    assert began[0] == ended[-1] and len(began) == 3
    position = last_state(Walk(), run(Walk(), first))["position"]
    assert float(position[0]) + 10 == pytest.approx(ended[-1])


def test_a_finished_run_is_gone_on_from_and_not_made_again(tmp_path):
    path = run_path(tmp_path, "smoke", Onward())
    first = run(Walk(), sibling_path(path, Walk()))
    written = first.metrics.stat().st_mtime_ns
    run(Onward(), path)
    assert first.metrics.stat().st_mtime_ns == written


def test_a_run_that_another_process_is_at_is_waited_for(tmp_path):
    path = run_path(tmp_path, "smoke", Onward())
    with claimed(sibling_path(path, Walk()), Walk()), pytest.raises(RunInUse, match="is in use by another process"):
        run(Onward(), path)
    assert run(Onward(), path).done.exists()


def test_a_run_without_its_last_checkpoint_is_refused_with_a_way_out(tmp_path):
    path = run_path(tmp_path, "smoke", Onward())
    first = run(Walk(), sibling_path(path, Walk()))
    for step in first.checkpoint.iterdir():
        step.rename(tmp_path / step.name)
    with pytest.raises(RunRefused, match=r"its last checkpoint is gone. To repair it, delete the folder"):
        run(Onward(), path)


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(RunRefused, match="not from there"):
        run(Onward(refuses=True), run_path(tmp_path, "smoke", Onward(refuses=True)))


def test_jobs_list_what_is_needed_once_and_before(tmp_path):
    arms = (Arm("one", Onward()), Arm("two", Onward(agent_steps=12)), Arm("plain", Walk()))
    experiment = Experiment("onwards", "", {"smoke": Design(arms, (Place(),), (0, 1))})
    todo = jobs([experiment], "smoke", tmp_path, together=False)
    names = [(job.arm, job.training.seeds) for job in todo]
    assert names == [
        *(("walker-rr1 for one", (seed,)) for seed in (0, 1)),
        *(("one", (seed,)) for seed in (0, 1)),
        *(("two", (seed,)) for seed in (0, 1)),
    ]
    run(Walk(seeds=(1,)), run_path(tmp_path, "smoke", Walk(seeds=(1,))))
    left = [job.arm for job in jobs([experiment], "smoke", tmp_path, together=False)]
    assert left == ["walker-rr1 for one", "one", "one", "two", "two"]
