"""The definitions of the experiments: shared settings, notes on what is left out, and the arms that claims name."""

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import polars as pl
import pytest

from dormant import Chain
from dormant.experiments import EXPERIMENTS
from dormant.experiments.benches import RATIOS, THREE, smoke
from dormant.experiments.screening import SEEDS, Screened, screened
from dormant.lab import SCALES, Arm, Quantity
from dormant.lab.judging.claims import judged
from dormant.lab.judging.table import HISTORIES
from dormant.lab.runs.description import run_path
from dormant.rl.agents import atari_drq, minatar_drq
from dormant.rl.envs.atari import SCORES, Atari
from dormant.rl.learning import TAUS

NAMED = {experiment.name: experiment for experiment in EXPERIMENTS}
DESIGNS = [(each, scale) for each in EXPERIMENTS for scale in each.designs]
METRICS = {
    "eval_return",
    "train_return",
    "q_gap",
    "tangent_kernel_rank",
    "srank",
    "accuracy",
    "loss",
    *(f"{name}/{tau:g}/all" for name in ("dormant", "rise") for tau in TAUS),
}
METRICS |= {f"dormant/{tau:g}/{network}/all" for network in ("actor", "critic1", "critic2") for tau in TAUS}
METRICS |= {*(f"dormant/{tau:g}/dense" for tau in TAUS)}
METRICS |= {*(f"overlap/{history}/{tau:g}/dense" for history in HISTORIES for tau in TAUS)}


def ids(value):
    return getattr(value, "name", value)


def places(name, scale):
    cells = NAMED[name].designs[scale].cells()
    return {run_path(Path(), scale, cell.training) for cell in cells}


def test_every_figure_of_the_paper_is_there_once_and_in_order():
    numbers = [2, 3, 4, 5, 6, 7, 8, 9, "10a", "10b", "10c", "10d", 11, 12, 13, 14, 15, 21, 22, 23, 24]
    assert [each.name for each in EXPERIMENTS] == [
        *(f"fig{str(number).zfill(2)}" for number in numbers),
        "table7",
        "capacity",
        "continual",
    ]


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
    claimed = {quantity.metric for claim in experiment.claims for quantity in claim.quantities}
    measured = claimed | {panel.metric for panel in experiment.panels}
    assert measured <= METRICS
    assert len({claim.statement for claim in experiment.claims}) == len(experiment.claims)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=ids)
def test_effects_point_the_way_their_claims_do(experiment):
    for claim in experiment.claims:
        # A claim that nothing gets worse allows a small loss, so the smallest effect of the claim is a loss.
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
        assert training.agent == replace(atari_drq(), replay_capacity=400_000)  # the replay has room for all steps
        assert (training.agent_steps, training.eval_period, training.eval_episodes) == (400_000, 10_000, 100)
    assert {arm.training.agent for arm in NAMED["fig10d"].designs["laptop"].arms} == {minatar_drq(50_000)}


def test_a_small_scale_keeps_gradient_steps_between_two_targets():
    for arm in NAMED["fig07"].designs["laptop"].arms:
        assert arm.training.agent.target_period * arm.training.replay_ratio == 1_000


def phases(training):
    """Returns a set of ages: how many gradient steps before an evaluation the last intervention was."""
    evaluations = range(training.eval_period, training.agent_steps + 1, training.eval_period)
    learnt = [round((steps - training.agent.min_replay) * training.replay_ratio) for steps in evaluations]
    return {
        max(age for age in range(training.intervention.period) if training.intervention.due(steps - age))
        for steps in learnt
    }


@pytest.mark.parametrize(("scale", "ages"), [("pilot", {8_000}), ("laptop", {7_999, 15_999})])
def test_evaluations_of_the_reset_arm_come_long_after_a_reset(scale, ages):
    (reset,) = (arm.training for arm in NAMED["fig13"].designs[scale].arms if arm.name == "Reset")
    assert phases(reset) == ages


def test_evaluations_come_half_a_period_after_a_recycling_at_each_replay_ratio():
    for arm in NAMED["fig10a"].designs["laptop"].arms:
        if arm.name.startswith("ReDo"):
            assert phases(arm.training) == {499}


def test_the_suite_at_the_laptop_scale_is_the_declared_one():
    """LOG.md declares the suite of four figures. The figures share 12 arms."""
    suite = [NAMED[name].designs["laptop"] for name in ("fig07", "fig09", "fig10a", "fig13")]
    assert {design.seeds for design in suite} == {(5, 6, 7, 8, 9)}
    assert {tuple(each.game for each in design.environments) for design in suite} == {THREE}
    assert {arm.training.agent_steps for design in suite for arm in design.arms} == {400_000}
    assert {arm.training.agent.epsilon_steps for design in suite for arm in design.arms} == {40_000}
    names = ("fig07", "fig09", "fig10a", "fig13")
    assert len(set.union(*(places(name, "laptop") for name in names))) == 12 * len(THREE)
    primary = [claim for each in EXPERIMENTS for claim in each.claims if claim.primary]
    assert [(claim.arm, claim.against, claim.direction) for claim in primary] == [
        ("DQN, RR 2", "DQN, RR 0.25", "lower"),
        ("ReDo, RR 1", "DQN, RR 1", "higher"),
        ("ReDo, RR 2", "DQN, RR 2", "higher"),
    ]
    assert {claim.quantity for claim in primary} == {Quantity("train_return", "per episode", after=0.8)}
    assert set(SEEDS).isdisjoint(suite[0].seeds)


def test_capacity_has_all_games_and_no_primary_claim():
    capacity = NAMED["capacity"]
    assert len(capacity.designs["pilot"].environments) == len(capacity.designs["laptop"].environments) == 5
    assert not any(claim.primary for claim in capacity.claims)
    for scale, steps in (("pilot", 200_000), ("laptop", 400_000)):
        assert {arm.training.agent_steps for arm in capacity.designs[scale].arms} == {steps}
        assert [arm.training.agent.network.width for arm in capacity.designs[scale].arms] == [64, 128, 256] * 2


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


def screening_runs(end, grown, seeds=SEEDS):
    """Returns a table of runs on Asterix. The return is 1 at first. The last fifth of a run has 40 episodes."""
    table = []
    for seed in seeds:
        for arm in ("DQN, RR 0.25", "DQN, RR 2"):
            for steps, returned, episodes, share in (
                (10_000, 1.0, 9, 0.1),
                (200_000, 50.0, 9, 0.9),
                (380_000, 0.0, 30, 0.1 + grown),
                (400_000, 4 * end, 10, 0.1 + grown),
            ):
                table.append((arm, "MinAtar/Asterix", seed, steps, returned, episodes, share))
    names = ("arm", "environment", "seed", "agent_steps", "train_return", "train_episodes", "dormant/0.1/all")
    return pl.DataFrame(table, schema=names, orient="row")


@pytest.mark.parametrize(
    ("end", "grown", "passes"), [(2.0, 0.06, True), (1.9, 0.06, False), (2.0, 0.04, False), (0.0, -0.1, False)]
)
def test_a_game_passes_if_dqn_learns_and_its_dormant_fraction_grows(end, grown, passes):
    found = screened("Asterix", screening_runs(end, grown))
    assert found.returns == pytest.approx((end, end)) and found.growth == pytest.approx((grown, grown))
    assert found.passes is passes


def test_a_game_with_a_missing_run_does_not_pass():
    assert not screened("Asterix", screening_runs(3.0, 0.5, SEEDS[:1])).passes
    assert not Screened("Asterix", (9.0, 1.0), (0.5, 0.5)).passes
    assert not Screened("Asterix", (9.0, float("nan")), (0.5, 0.5)).passes
    assert not screened("Seaquest", screening_runs(3.0, 0.5)).passes


def test_the_committed_pilot_gets_the_committed_verdicts():
    folder = Path(__file__).parents[2] / "results" / "pilot"
    with (folder / "verdicts.csv").open() as stream:
        committed = {(row["experiment"], row["claim"]): row["verdict"] for row in csv.DictReader(stream)}
    frame = pl.read_parquet(folder / "metrics.parquet")
    for experiment in EXPERIMENTS:
        runs = frame.filter(experiment=experiment.name)
        for found in judged(experiment, runs, "pilot") if len(runs) else ():
            assert committed.pop((experiment.name, found.claim.statement)) == found.verdict
    assert {name for name, _ in committed} == {"compare"}
