"""The schedule of a run, the random numbers of a run, and functions that run several seeds in parallel."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from dormant.interventions import Intervention
from dormant.interventions.schedule import checked_intervention
from dormant.settings import FRACTION, Range, check_number, check_value, check_whole, described

from .agents.dqn import DQN, Noise

Tree = TypeVar("Tree", bound=PyTree)
# The keys of a purpose depend on its position in this tuple, so new purposes must be added at the end.
PURPOSES = (
    *("init", "reset", "round", "measure", "evaluate", "rank"),
    # These are for trainings that only take gradient steps. In distillation, the student's initial weights use "fresh"
    # and the teacher's use "init", so that the weights differ.
    *("fresh", "target", "batches", "numbers", "score", "order", "labels"),
    "trial",
)


def key_for(seed: Array | int, purpose: str, number: Array | int = 0) -> Key[Array, ""]:
    """Returns a random key that depends only on the arguments. Therefore a training state needs no keys.

    Different purposes get independent keys.

    >>> [bool(key_for(0, "init") == key_for(0, purpose)) for purpose in ("init", "rank")]
    [True, False]
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose)), number)


# A lane is a group of seeds that one call computes. On an accelerator all seeds form one lane, which is vmapped. On a
# CPU each seed is one lane: there, `vmap` would turn small matrix products into batched products. XLA transposes the
# gradients of batched products in memory, which takes longer than computing one seed after another.


def lanes(seeds: int) -> int:
    """The number of lanes (groups of seeds computed together): one per seed on a CPU, otherwise one."""
    return seeds if _one_by_one() else 1


def take_seed(tree: Tree, lane: int) -> Tree:
    """Returns one lane's part of a tree with a leading axis of seeds: one seed on a CPU, otherwise the whole tree."""
    return jax.tree.map(lambda x: x[lane], tree) if _one_by_one() else tree


def join_seeds(trees: list[Tree]) -> Tree:
    """Joins the trees of all lanes into one tree with a leading axis of seeds."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if _one_by_one() else trees[0]


def map_seeds(function: Callable[..., Tree]) -> Callable[..., Tree]:
    """Turns a function of one seed into a function of one lane. Returns it unchanged on a CPU, otherwise its `vmap`."""
    return function if _one_by_one() else jax.vmap(function)


def by_seed(function: Callable[..., Tree], seeds: Int[Array, " seeds"], *trees: PyTree) -> Tree:
    """Calls the function once per seed. Its arguments are the seed and the seed's part of each tree.

    Returns the results with a leading axis of seeds.
    """
    parts = [take_seed((seeds, *trees), lane) for lane in range(lanes(len(seeds)))]
    return join_seeds([map_seeds(function)(*part) for part in parts])


def in_turn(function: Callable[..., Tree], *trees: PyTree) -> Tree:
    """Calls the function once per seed, with the seed's part of each tree. Returns the results as `by_seed` does.

    On a CPU, a compiled loop over seeds calls the function, so the function is compiled once for all seeds. Use it for
    functions that take longer to compile than to run, and for environments: `vmap` would compute both branches of each
    `cond` of a game.
    """
    if _one_by_one():
        return jax.lax.map(lambda each: function(*each), trees)
    return jax.vmap(function)(*trees)


def _one_by_one() -> bool:
    return jax.default_backend() == "cpu"


def over_seeds(seeds: Int[Array, " seeds"], function: Callable[..., Tree]) -> Callable[..., Tree]:
    """Returns the function with its first argument set to `seeds`. Each device computes equally many seeds."""
    return partial(over_devices(function, len(seeds)), seeds)


def over_devices(function: Callable[..., Tree], seeds: int) -> Callable[..., Tree]:
    """Returns the function in a form that runs on several devices. Each device gets equally many seeds.

    The arguments and results of the function have a leading axis of seeds.
    """
    axis = PartitionSpec("seeds")
    if devices(seeds) == 1:
        return function
    # Turns off the check of replicated values, because seeds are independent and nothing is replicated.
    return jax.shard_map(function, mesh=_mesh(seeds), in_specs=axis, out_specs=axis, check_vma=False)


def share_out(tree: Tree, seeds: int) -> Tree:
    """Moves each seed's part of the tree to the device on which `over_devices` computes this seed."""
    return tree if devices(seeds) == 1 else jax.device_put(tree, NamedSharding(_mesh(seeds), PartitionSpec("seeds")))


def devices(seeds: int) -> int:
    """The number of devices used for `seeds` seeds: the largest number with equally many seeds per device.

    >>> devices(1)
    1
    """
    return max(count for count in range(1, jax.device_count() + 1) if seeds % count == 0)


def _mesh(seeds: int) -> Mesh:
    return Mesh(np.array(jax.devices()[: devices(seeds)]), ("seeds",))


@runtime_checkable
class Scheduled(Protocol):
    """A training with the fields of a schedule."""

    @property
    def agent(self) -> object: ...
    @property
    def intervention(self) -> Intervention: ...
    @property
    def replay_ratio(self) -> float: ...
    @property
    def agent_steps(self) -> int: ...
    @property
    def log_period(self) -> int: ...
    @property
    def eval_period(self) -> int: ...
    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def score_batch(self) -> int: ...


@dataclass(frozen=True)
class Schedule:
    """The length of a run, the length of a round, and the periods of logging and evaluation.

    Lengths and periods count agent steps per seed. `replay_ratio` is the number of gradient steps per agent step,
    either n or 1/n for a whole number n. A round is the smallest whole number of agent steps with a whole number of
    gradient steps. A chunk is `log_period` agent steps long and ends with a log point, at which each seed logs a row of
    metrics. Neurons are scored on `score_batch` states.

    >>> schedule = Schedule(0.25, 1_000, 100, 500, (0,), 64)
    >>> schedule.agent_steps_per_round, schedule.gradient_steps_per_round, schedule.evaluates(1_000)
    (4, 1, True)

    Raises ValueError for a ratio that is not n or 1/n. Also raises it unless `agent_steps` and `eval_period` are
    multiples of `log_period`, and `log_period` is a multiple of the length of a round.
    """

    replay_ratio: float
    agent_steps: int
    log_period: int
    eval_period: int
    seeds: tuple[int, ...]
    score_batch: int

    def __post_init__(self) -> None:
        _check_ratio(self.replay_ratio)
        check_at_least(1, agent_steps=self.agent_steps, log_period=self.log_period, eval_period=self.eval_period)
        for whole, part in (
            ("agent_steps", "log_period"),
            ("log_period", "agent_steps_per_round"),
            ("eval_period", "log_period"),
        ):
            long, short = getattr(self, whole), getattr(self, part)
            if long % short:
                raise ValueError(f"{whole} must be a multiple of {part}, got {long} and {short}.")
        check_at_least(1, score_batch=self.score_batch)
        check_seeds(self.seeds)

    @property
    def agent_steps_per_round(self) -> int:
        """The number of agent steps per round."""
        return max(1, round(1 / self.replay_ratio))

    @property
    def gradient_steps_per_round(self) -> int:
        """The number of gradient steps per round."""
        return max(1, round(self.replay_ratio))

    def starts(self, done: int) -> range:
        """The agent steps at which the rounds of a chunk start. The chunk starts at agent step `done`."""
        return range(done, done + self.log_period, self.agent_steps_per_round)

    def evaluates(self, done: int) -> bool:
        """Whether an evaluation is due after `done` agent steps."""
        return done % self.eval_period == 0


def schedule_of(training: Scheduled, **at_least_one: int) -> Schedule:
    """The schedule of a training. `at_least_one` has further fields of the training that must be integers above 0.

    Raises ValueError or TypeError if `Schedule` rejects the training, or for an invalid field, agent or intervention.
    """
    check_value("agent", training.agent)
    checked_intervention(training.intervention)
    check_at_least(1, **at_least_one)
    return Schedule(
        training.replay_ratio,
        training.agent_steps,
        training.log_period,
        training.eval_period,
        training.seeds,
        training.score_batch,
    )


def check_evaluation(eval_epsilon: float, rank_batch: int = 0) -> None:
    """Raises ValueError if `eval_epsilon` is not a probability or `rank_batch` is negative."""
    check_number("eval_epsilon", eval_epsilon, FRACTION)
    check_whole("rank_batch", rank_batch, "states", least=0, hint="0 measures no rank")


def check_at_least(least: int, **numbers: int) -> None:
    """Raises ValueError if a number is below `least`, and TypeError if it is not an integer."""
    for name, number in numbers.items():
        check_whole(name, number, "", least)


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises ValueError if `seeds` is empty, and TypeError if it is not a tuple of integers."""
    if not isinstance(seeds, tuple) or not all(isinstance(seed, (int, np.integer)) for seed in seeds):
        raise TypeError(f"seeds must be a tuple of whole numbers, such as (0, 1), got {described(seeds)}.")
    if not seeds:
        raise ValueError("seeds must hold at least one number, got none.")


def _check_ratio(ratio: float) -> None:
    bounds = Range("lie between 1e-6 and 1e6", lambda number: 1e-6 <= number <= 1e6)
    check_number("replay_ratio", ratio, bounds, "1 is one gradient step per agent step")
    rounded = round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
    if abs(rounded - ratio) > 1e-9:
        raise ValueError(
            f"replay_ratio must be n or 1/n for a whole number n, got {ratio}; the nearest is {rounded:g}."
        )


@dataclass(frozen=True)
class Phase:
    """The part of a run that plays one of several environments: its number, and the agent step at which it begins.

    Every phase begins with the agent's `min_replay` random agent steps without learning. If `keeps_replay` is false,
    the agent only learns from the agent steps of this phase.
    """

    number: int
    begins: int
    keeps_replay: bool = True

    def epsilon(self, agent: DQN, agent_steps: Int[Array, ""]) -> Float[Array, ""]:
        """The probability of a random action: 1 during the random agent steps, then continued from the previous phase.

        >>> agent = DQN(min_replay=10, epsilon_steps=100, epsilon_end=0.0)
        >>> [round(float(Phase(1, 50).epsilon(agent, jnp.array(step))), 2) for step in (59, 60, 70)]  # 40 learnt before
        [1.0, 0.6, 0.5]
        """
        at_random = agent_steps < self.begins + agent.min_replay
        return jnp.where(at_random, 1.0, agent.epsilon(agent_steps - self.number * agent.min_replay))


class Draws(NamedTuple):
    """The random numbers of one round of a DQN. A whole chunk is drawn at once, because this is faster."""

    act: Float[Array, "... agent_steps 2"]
    env: Key[Array, "... agent_steps"]
    batch: Float[Array, "... gradient_steps batch"]
    score: Float[Array, "... gradient_steps states"]
    intervention: Key[Array, "... gradient_steps"]
    noise: Noise | tuple[()]  # for the agent's augmentation, with axes [gradient steps, batch]


def draws_of(schedule: Schedule, agent: DQN, seeds: Int[Array, " seeds"], starts: Int[Array, " rounds"]) -> Draws:
    """Draws the random numbers of the rounds that start at `starts`. Leading axes: [rounds, steps per round, seeds]."""

    def of_seed(seed: Array, start: Array) -> Draws:
        return draw(schedule, agent, key_for(seed, "round", start))

    of_round = jax.vmap(of_seed, in_axes=(0, None), out_axes=1)
    return jax.vmap(of_round, in_axes=(None, 0))(seeds, starts)


def draw(schedule: Schedule, agent: DQN, key: Key[Array, ""]) -> Draws:
    """Draws the random numbers of one round of one seed."""
    acts, updates = schedule.agent_steps_per_round, schedule.gradient_steps_per_round
    act, env, batch, score, intervention = jax.random.split(key, 5)
    return Draws(
        jax.random.uniform(act, (acts, 2)),
        jax.random.split(env, acts),
        jax.random.uniform(batch, (updates, agent.drawn_batch)),
        jax.random.uniform(score, (updates, schedule.score_batch)),
        jax.random.split(intervention, updates),
        # Uses a sixth key, so that augmentation does not change the other draws.
        agent.augmentation.draw(jax.random.fold_in(key, 5), updates, agent.drawn_batch),
    )
