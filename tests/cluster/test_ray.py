"""Runs on a Ray cluster of two real nodes on this machine. The test kills one node during a run."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from cluster.ray_nodes import head, node
from golden.kills import assert_same_run
from small_laboratory import ARMS, GAMES

from dormant.lab import Design, Experiment
from dormant.lab.crews import jobs, run_all
from dormant.lab.crews.cluster import NoCluster, Resources
from dormant.lab.crews.local import Processes
from dormant.lab.crews.on_ray import RayCluster
from dormant.lab.machine import cores
from dormant.lab.runs.folder import in_use


@pytest.fixture(scope="module")
def cluster():
    """The address of a running cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with head() as address:
            yield address


class Saboteur(threading.Thread):
    """Kills the node as soon as an unfinished run on that node has two rows."""

    def __init__(self, node, paths):
        super().__init__(daemon=True)
        self.node, self.paths = node, paths
        self.hit = None
        self.start()

    def run(self):
        while self.hit is None and self.node.process.poll() is None:
            for path in self.paths:
                if rows_of(path) >= 2 and not (path / "done").exists() and self.node.holds(path):
                    self.node.lose_power()
                    self.hit = path
            time.sleep(0.01)


def rows_of(path):
    metrics = path / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def test_a_node_is_lost_in_the_middle_and_every_run_ends_as_in_one_process(cluster, tmp_path):
    experiment = Experiment("small", "", {"smoke": Design(ARMS, GAMES[:1], (0,))})
    todo = jobs([experiment], "smoke", tmp_path / "ray", together=False)
    said, nodes_at_work = {job.path: [] for job in todo}, set()

    def watch(board):
        nodes_at_work.add(board.count("running"))
        for each in board.standings:
            said[each.job.path].append((each.state, each.message))

    with node(3, f"--address={cluster}") as other:
        saboteur = Saboteur(other, [job.path for job in todo])
        board = run_all(todo, RayCluster(cluster, tmp_path / "ray", checkpoint_seconds=0.0), watch)
    assert [each.state for each in board.standings] == ["done"] * len(todo)
    assert max(nodes_at_work) == 2
    (message,) = {message for state, message in said[saboteur.hit] if state == "waiting" and message}
    assert "node" in message and len(message) < 250
    alone = [job._replace(path=tmp_path / "one" / job.path.relative_to(tmp_path / "ray")) for job in todo]
    assert run_all(alone, Processes(cores()[:1])).count("done") == len(todo)
    for here, there in zip(alone, todo, strict=True):
        names = assert_same_run(here.path, there.path, there.training.agent_steps)
        assert any("params" in name for name in names)
    assert not list((tmp_path / "ray").glob(".shared-*")) and not list(tmp_path.rglob("*.log"))


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from dormant.__main__ import main
from dormant.cli import figure
from dormant.lab import Arm, Design, Experiment
from walks import Place, Walk
if __name__ == "__main__":
    design = Design((Arm("slow", Walk(seconds=1.0, agent_steps=4000)),), (Place(),), (0, 1))
    figure.EXPERIMENTS = (Experiment("slow", "", {{"smoke": design}}),)
    main()
"""


def test_ctrl_c_ends_what_runs_on_the_cluster_and_says_how_to_go_on(cluster, tmp_path):
    (tmp_path / "slow.py").write_text(PROGRAM.format(path=[str(tmp_path), *sys.path]))
    command = [sys.executable, "slow.py", "figure", "slow", "--ray", cluster, "--run-dir", "runs"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 180
    while not list(tmp_path.rglob("metrics.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate(timeout=5)
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "Stopped; the same command resumes the runs in runs.")
    assert "queued: slow on Place/Line, seed 0" in told and "running: slow on Place/Line, seed 0" in told
    (begun,) = (file.parent for file in tmp_path.rglob("metrics.jsonl"))
    while in_use(begun):
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
    before = rows_of(begun)
    time.sleep(2.0)
    assert rows_of(begun) == before


def test_a_run_that_no_node_has_room_for_is_refused_before_anything_is_sent(cluster, tmp_path):
    with pytest.raises(NoCluster, match="has CPU 64, GPU 1 for a run; the nodes have CPU 1, GPU 0"):
        RayCluster(cluster, tmp_path, Resources(cpus=64, gpus=1.0))
    assert not list(tmp_path.iterdir())
