"""Trainings made from another training, by changing fields, or from the configuration of an earlier run."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dormant import Chain, Every, ReDo, Reset
from dormant.cli import run
from dormant.cli.changes import Change, changed, like, parsed, with_variants
from dormant.cli.train import TrainLike, parse
from dormant.experiments import EXPERIMENTS
from dormant.experiments.comparison import GROUNDS
from dormant.experiments.methods import METHODS, candidates
from dormant.lab.runs.description import describe
from dormant.lab.runs.folder import RunFolder, RunRefused
from dormant.rl.agents.dqn import DQN
from dormant.rl.atari import AtariTraining
from dormant.rl.control import ControlTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.minatar import MinAtar
from dormant.rl.networks import MLP

REDO = DeviceTraining(intervention=Chain(Every(1_000, ReDo(0.1)), Every(5_000, Reset(("dense",)))))


def written(path: Path, training) -> RunFolder:
    """Writes a run folder that has only spec.json. Returns the folder."""
    path.mkdir(parents=True)
    origin = {"time": "", "command": [], "revision": "abc", "packages": {}, "device": "cpu", "backend": "cpu"}
    (path / "spec.json").write_text(json.dumps({"training": describe(training)} | origin))
    return RunFolder(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tau=0.3", lambda t: t.intervention.links[0].what.tau == 0.3),
        ("tau=1", lambda t: t.intervention.links[0].what.tau == 1.0),
        ("agent.gamma = 0.9", lambda t: t.agent.gamma == 0.9),
        ("links.1.period=7_000", lambda t: [link.period for link in t.intervention.links] == [1_000, 7_000]),
        ("double=true", lambda t: t.agent.double is True),
        ("activation=crelu", lambda t: t.agent.network.activation == "crelu"),
        ("seeds=4,5", lambda t: t.seeds == (4, 5)),
        ("seeds=4", lambda t: t.seeds == (4,)),
        ("links.0.stop=9000", lambda t: t.intervention.links[0].stop == 9_000),
        ("eval-episodes=3", lambda t: t.eval_episodes == 3),
    ],
)
def test_a_field_is_changed_by_the_end_of_its_path_and_nothing_else(text, found):
    training = changed(REDO, [parsed(text)])
    assert found(training) and training != REDO
    assert (
        replace(training, intervention=REDO.intervention, agent=REDO.agent, seeds=REDO.seeds, eval_episodes=10) == REDO
    )


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("period=3", ValueError, "use intervention.links.0.period or intervention.links.1.period"),
        ("gama=0.9", KeyError, "did you mean"),
        ("ma=0.9", KeyError, "no field has this name"),  # "gamma" ends with "ma", but there is no dot before it
        ("gamma=high", ValueError, "expected a value like 0.99, which is of type float"),
        ("gamma=2", ValueError, "gamma must lie between 0 and 1"),
        ("double=1", ValueError, "of type bool"),
        ("eval_episodes=2.5", ValueError, "of type int"),
        ("=3", ValueError, "FIELD=VALUE"),
        ("tau=", ValueError, "FIELD=VALUE"),
    ],
)
def test_a_change_that_cannot_be_is_one_clear_error(text, kind, message):
    with pytest.raises(kind, match=message):
        changed(REDO, [parsed(text)])


def test_a_variant_does_not_belong_to_the_family_of_its_arm():
    """Otherwise a plot over the replay ratio would connect the variant and the arm by one line."""
    plain, sweep = (next(each for each in EXPERIMENTS if each.name == name) for name in ("fig07", "fig10a"))
    same, varied = with_variants([plain, sweep], "smoke", ["tau=0.3"])
    added = [arm.name for arm in varied.designs["smoke"].arms][len(sweep.designs["smoke"].arms) :]
    assert added[0] == "ReDo (exploratory: tau=0.3), RR 0.25" and len(added) == 4
    assert same is plain  # unchanged, because no arm of `plain` has the setting `tau`
    assert with_variants([sweep], "smoke", []) == [sweep]
    with pytest.raises(ValueError, match="no field has this name"):
        with_variants([plain], "smoke", ["tau=0.3"])


@pytest.mark.parametrize(
    "training",
    [
        REDO,
        DeviceTraining(DQN(network=MLP((4,))), replay_ratio=0.25, seeds=(3, 4)),
        AtariTraining(),
        ControlTraining(),
        *(training for name in METHODS for training in candidates(name, GROUNDS["minatar"]["pilot"].bench, 1).values()),
    ],
    ids=lambda training: describe(training)["is"],
)
def test_a_training_is_made_again_from_the_spec_of_its_run(tmp_path, training):
    folder = written(tmp_path / "run", training)
    assert like(folder, []) == training
    assert like(folder, ["gamma=0.5"]) == changed(training, [Change("gamma", "0.5")])


def test_fields_that_are_newer_than_the_run_keep_their_defaults(tmp_path):
    folder = written(tmp_path / "run", REDO)
    spec = json.loads(folder.spec.read_text())
    del spec["training"]["rank_batch"], spec["training"]["agent"]["double"]
    folder.spec.write_text(json.dumps(spec))
    assert like(folder, []) == REDO


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"is": "OfflineTraining"}, "`dormant train` has no OfflineTraining"),
        ({"flavour": "sweet"}, "flavour"),
        ({"replay_ratio": math.pi}, "replay_ratio must be n or 1/n"),
        ({"seeds": "none"}, "seeds"),
    ],
)
def test_a_spec_that_this_version_cannot_make_is_refused(tmp_path, change, message):
    folder = written(tmp_path / "run", REDO)
    spec = json.loads(folder.spec.read_text())
    spec["training"] |= change
    folder.spec.write_text(json.dumps(spec))
    with pytest.raises((ValueError, RunRefused), match=message):
        like(folder, [])


def test_training_like_a_run_has_flags_of_its_own():
    flags = parse(["--run-dir", "b", "--like", "a", "--set", "tau=0.3", "--set", "seeds=7"])
    assert flags == TrainLike(Path("b"), Path("a"), ("tau=0.3", "seeds=7"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--like", "{}/none"], "--like: there is no run at"),
        (["--like", "{}/run", "--set", "tau=high"], "expected a value like 0.1, which is of type float"),
        (["--like", "{}/run", "--set", "batch_size=1e4"], "of type int"),
        (["--like", "{}/run", "--set", "tau=-1"], "tau"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, message):
    written(tmp_path / "run", REDO)
    given = [each.format(tmp_path) for each in arguments]
    with pytest.raises(SystemExit) as exit:
        run(["train", "--run-dir", str(tmp_path / "new"), *given])
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("dormant: ") and message in line


def test_a_run_like_another_has_its_settings_and_the_changes(tmp_path):
    small = DeviceTraining(
        DQN(MLP((4,)), min_replay=20, replay_capacity=50, batch_size=4), MinAtar("Breakout", time_limit=20),
        agent_steps=20, log_period=20, eval_period=40, eval_episodes=1, seeds=(3,), score_batch=8,
    )  # fmt: skip
    written(tmp_path / "run", small)
    new = tmp_path / "new"
    assert run(["train", "--like", str(tmp_path / "run"), "--run-dir", str(new), "--set", "gamma=0.5"]) == 0
    assert json.loads((new / "spec.json").read_text())["training"] == describe(
        replace(small, agent=replace(small.agent, gamma=0.5))
    )
    assert (new / "done").exists()
