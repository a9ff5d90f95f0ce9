"""The definitions of the experiments: shared settings, the notes on what they leave out, and the arms in claims."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import pytest

from dormant import Chain
from dormant.experiments import EXPERIMENTS
from dormant.experiments.benches import RATIOS, smoke
from dormant.lab import SCALES, Arm
from dormant.lab.judging.table import HISTORIES
from dormant.lab.runs.description import run_path
from dormant.rl.agents import atari_drq, minatar_drq
from dormant.rl.envs.atari import SCORES, Atari
from dormant.rl.learning import TAUS

NAMED = {experiment.name: experiment for experiment in EXPERIMENTS}
DESIGNS = [(each, scale) for each in EXPERIMENTS for scale in each.designs]
METRICS = {
    "eval_return",
    "srank",
    "accuracy",
    "loss",
    *(f"{name}/{tau:g}/all" for name in ("dormant", "rise") for tau in TAUS),
}
METRICS |= {f"dormant/{tau:g}/{network}/all" for network in ("actor", "critic1", "critic2") for tau in TAUS}
METRICS |= {"dormant/0.1/dense", *(f"overlap/{history}/{tau:g}/dense" for history in HISTORIES for tau in TAUS)}


def ids(value):
    return getattr(value, "name", value)


def places(name, scale):
    cells = NAMED[name].designs[scale].cells()
    return {run_path(Path(), scale, cell.training) for cell in cells}


def test_every_figure_of_the_paper_is_there_once_and_in_order():
    numbers = [2, 3, 4, 5, 6, 7, 8, 9, "10a", "10b", "10c", "10d", 11, 12, 13, 14, 15, 21, 22, 23, 24]
    assert [each.name for each in EXPERIMENTS] == [*(f"fig{str(number).zfill(2)}" for number in numbers), "table7"]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=ids)
def test_an_experiment_can_be_run_drawn_and_judged(experiment):
    assert {"smoke", "paper"} <= experiment.designs.keys() <= set(SCALES)
    assert experiment.claims and experiment.panels


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=ids)
def test_claims_and_panels_name_arms_and_metrics_that_there_are(experiment):
    for design in experiment.designs.values():
        arms = [arm.name for arm in design.arms]
        assert len(set(arms)) == len(arms)
        claimed = {arm for claim in experiment.claims for arm in (claim.arm, claim.against) if arm}
        assert claimed <= set(arms)
    measured = {claim.quantity.metric for claim in experiment.claims} | {panel.metric for panel in experiment.panels}
    assert measured <= METRICS
    assert len({claim.statement for claim in experiment.claims}) == len(experiment.claims)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=ids)
def test_effects_point_the_way_their_claims_do(experiment):
    for claim in experiment.claims:
        # A claim of no harm allows a small loss, so its smallest effect lies on the other side of no effect.
        harmless = any(
            word in claim.statement for word in ("no harm", "keeps", "whole run, too", "no smaller", " not ")
        )
        above = claim.smallest > (1 if claim.by == "ratio" else 0)
        assert above == ((claim.direction == "higher") != harmless), claim.statement


@pytest.mark.parametrize(("experiment", "scale"), DESIGNS, ids=ids)
def test_every_arm_can_be_built_and_differs_from_the_others(experiment, scale):
    cells = list(experiment.designs[scale].cells())
    assert len({run_path(Path(), scale, cell.training) for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.training.agent_steps > (cell.training.agent.min_replay if acts(cell.training) else 0)
        if scale == "paper" and isinstance(cell.training.env, Atari):
            assert cell.training.env.game in SCORES


@pytest.mark.parametrize("name", ["fig07", "fig09", "fig10a", "fig10d", "fig13", "fig15", "fig21", "fig23", "table7"])
def test_every_arm_and_its_intervention_fit_their_network(name):
    for cell in NAMED[name].designs["smoke"].cells():
        jax.eval_shape(cell.training.init)


def test_the_pilots_figures_share_their_runs():
    seven, nine, ten, thirteen = (places(name, "pilot") for name in ("fig07", "fig09", "fig10a", "fig13"))
    assert seven < ten and nine < ten
    assert len(ten & thirteen) == 2
    assert len(seven | nine | ten | thirteen) == 10


def test_studies_of_trained_networks_go_on_from_the_pilots_runs():
    shared = places("fig07", "pilot")
    assert places("fig05", "pilot") == {path for path in shared if "-rr1-" in str(path)}
    for name, ratios in (("fig04", {0.25}), ("fig08", {0.25, 1.0})):
        needed = [each for cell in NAMED[name].designs["pilot"].cells() for each in cell.training.needs]
        assert {each.replay_ratio for each in needed} == ratios
        assert {run_path(Path(), "pilot", each) for each in needed} < shared


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_the_other_figures_share_the_plain_and_the_recycled_arm(scale):
    shared = places("fig02", scale)
    assert len(shared) == len(shared & places("fig11", scale) & places("fig13", scale) & places("fig10a", scale))
    assert len(places("fig11", scale) - places("fig10a", scale)) == len(shared)


def test_the_papers_scale_is_the_papers():
    sweep = NAMED["fig10a"].designs["paper"]
    assert (len(sweep.environments), sweep.seeds) == (17, (0, 1, 2, 3, 4))
    trainings = {arm.name: arm.training for arm in sweep.arms}
    assert {training.agent_steps for training in trainings.values()} == {2_500_000}  # 10 million frames
    assert [trainings[f"DQN, RR {ratio:g}"].agent.target_period for ratio in RATIOS] == [8_000, 4_000, 2_000, 1_000]
    assert trainings["ReDo, RR 1"].intervention.what.tau == 0.1
    assert trainings["ReDo, RR 0.25"].intervention.what.tau == 0.025
    recycled = {arm.name: arm.training for arm in NAMED["fig09"].designs["paper"].arms}["ReDo"]
    assert (recycled.agent_steps, recycled.replay_ratio, recycled.intervention.what.tau) == (10_000_000, 0.25, 0.025)
    reset = {arm.name: arm.training for arm in NAMED["fig13"].designs["paper"].arms}["Reset"]
    assert (reset.intervention.period, reset.intervention.what.layers) == (100_000, ("dense",))


def test_a_schedule_of_shares_ends_with_the_run():
    for scale, recyclings in (("pilot", 200), ("paper", 2_500)):
        shares = {arm.training.intervention.what.number for arm in NAMED["fig15"].designs[scale].arms}
        assert {(share.share, share.recyclings) for share in shares} == {(0.1, recyclings)}


def test_drq_is_trained_as_the_paper_trains_it():
    sweep = NAMED["fig10d"].designs["paper"]
    assert (len(sweep.environments), sweep.seeds) == (26, tuple(range(10)))
    assert {(game.sticky, game.noops, game.life_loss) for game in sweep.environments} == {(0.0, 29, True)}
    assert [arm.training.replay_ratio for arm in sweep.arms] == [1, 2, 4, 8] * 2
    for training in (arm.training for arm in sweep.arms):
        assert training.agent == replace(atari_drq(), replay_capacity=400_000)  # large enough for a run of this length
        assert (training.agent_steps, training.eval_period, training.eval_episodes) == (400_000, 10_000, 100)
    assert {arm.training.agent for arm in NAMED["fig10d"].designs["laptop"].arms} == {minatar_drq(50_000)}


def test_a_small_scale_keeps_gradient_steps_between_two_targets():
    for arm in NAMED["fig07"].designs["laptop"].arms:
        assert arm.training.agent.target_period * arm.training.replay_ratio == 1_000


def test_every_evaluation_of_the_reset_arm_comes_as_long_after_a_reset():
    reset = {arm.name: arm.training for arm in NAMED["fig13"].designs["laptop"].arms}["Reset"]
    evaluations = range(reset.eval_period, reset.agent_steps + 1, reset.eval_period)
    learnt = [agent_steps - reset.agent.min_replay for agent_steps in evaluations]
    assert {steps % reset.intervention.period for steps in learnt} == {8_000}


def test_wider_networks_are_wider_in_every_layer():
    networks = [arm.training.agent.network for arm in NAMED["fig12"].designs["laptop"].arms][:3]
    for narrow, wide in pairwise(networks):
        assert (wide.filters, wide.width) == (2 * narrow.filters, 2 * narrow.width)


def acts(training):
    return hasattr(training, "replay_ratio")


def test_smoke_runs_learn_intervene_and_evaluate():
    for experiment in EXPERIMENTS:
        for arm in experiment.designs["smoke"].arms if experiment.designs else ():
            training = arm.training
            if not acts(training):
                continue
            learnt = (training.agent_steps - training.agent.min_replay) * training.replay_ratio
            period = getattr(training.intervention, "period", 1)
            assert learnt >= 2 * period or (training.replay_ratio < 1 and learnt >= period), (experiment.name, arm.name)
            assert training.eval_period * 2 <= training.agent_steps


def test_a_design_gives_every_arm_its_environment_and_seeds():
    def arms(bench):
        return (Arm("plain", replace(bench.dqn(), intervention=Chain())),)

    (cell,) = smoke(arms).cells()
    assert (cell.arm, cell.environment, cell.training.seeds) == ("plain", "MinAtar/Asterix", (0, 1))
    assert cell.training.env.time_limit == 100
