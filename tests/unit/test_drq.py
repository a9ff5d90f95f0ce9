"""DrQ: its augmentation and targets, compared with values computed by hand, and the trainings that use them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learning.probes import PROBES, Pictured
from numpy.testing import assert_allclose, assert_array_equal

from dormant import Chain
from dormant.rl import atari
from dormant.rl.agents import ATARI_100K_GAME, ATARI_100K_RUN, atari_drq, minatar_drq
from dormant.rl.agents.dqn import DQN, NO_AUGMENTATION, Augmentation, Noise, scaled, shifted
from dormant.rl.atari import AtariTraining
from dormant.rl.device import DeviceTraining
from dormant.rl.envs.atari import Atari, AtariGames, AtariOutcome
from dormant.rl.networks import MLP, q_values
from dormant.rl.networks.convolutional import MinAtarCNN
from dormant.rl.replay.device import Batch
from dormant.rl.replay.frames import FrameReplay
from dormant.rl.schedule import draw, key_for

AUGMENTED = Augmentation(pad=1, intensity=0.1)
AGENT = replace(
    minatar_drq(64), network=MinAtarCNN(2, 8, dueling=True), augmentation=AUGMENTED, replay_capacity=64, min_replay=32
)
TRAINING = DeviceTraining(AGENT, Pictured(PROBES[4]), Chain(), 1.0, 64, 32, (3,), score_batch=8, eval_period=128)


def drawn(agent, step):
    """Returns the random numbers of a round of seed 3."""
    return jax.jit(lambda: draw(TRAINING.schedule, agent, key_for(jnp.asarray(3), "round", step)))()


def slowly_shifted(images, offsets, pad):
    """Returns what `shifted` must return, with loops over pixels. Pixels outside the image repeat its edge."""
    batch, high, wide, _ = images.shape
    moved = np.empty_like(images)
    for n in range(batch):
        for y in range(high):
            for x in range(wide):
                row = min(max(y + offsets[n][0] - pad, 0), high - 1)
                column = min(max(x + offsets[n][1] - pad, 0), wide - 1)
                moved[n, y, x] = images[n, row, column]
    return moved


@pytest.mark.parametrize("pad", [1, 4, 9])
def test_a_shift_is_its_slow_definition_to_the_last_offset(pad):
    """Tests extreme offsets, the offset without a shift, and random offsets. One pad is wider than the image."""
    rng = np.random.default_rng(pad)
    offsets = np.array(
        [[0, 0], [0, 2 * pad], [2 * pad, 0], [2 * pad, 2 * pad], [pad, pad], *rng.integers(0, 2 * pad, (7, 2))]
    )
    images = rng.integers(0, 256, (len(offsets), 6, 5, 3), np.uint8)
    moved = jax.jit(shifted, static_argnums=2)(images, offsets, pad)
    assert_array_equal(moved, slowly_shifted(images, offsets, pad))
    assert_array_equal(moved[4], images[4])
    assert moved.dtype == np.uint8


def test_an_intensity_scales_an_observation_as_a_whole():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 1), np.uint8)
    brighter = scaled(jnp.asarray(images), jnp.array([1.05, 0.9]))
    assert_allclose(brighter, images * np.float32([1.05, 0.9]).reshape(2, 1, 1, 1), rtol=1e-6)
    assert brighter.dtype == np.float32


@pytest.fixture(scope="module")
def noise():
    return jax.jit(Augmentation(pad=4, intensity=0.05).draw, static_argnums=(1, 2))(jax.random.key(0), 300, 32)


def test_offsets_are_uniform_and_independent(noise):
    assert noise.offset_tm1.shape == noise.offset_t.shape == (300, 32, 2)
    columns = np.stack([*np.moveaxis(noise.offset_tm1, -1, 0), *np.moveaxis(noise.offset_t, -1, 0)]).reshape(4, -1)
    for column in columns:
        assert_allclose(np.bincount(column, minlength=9) / 9_600, np.full(9, 1 / 9), atol=0.02)
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.05


def test_factors_are_normal_and_cut_at_two_deviations(noise):
    factors = np.stack([noise.factor_tm1, noise.factor_t]).reshape(2, -1)
    assert_allclose((factors.min(), factors.max()), (0.9, 1.1), atol=1e-6)
    assert_allclose(factors.mean(1), 1.0, atol=2e-3)
    assert_allclose(factors.std(1), 0.05 * 0.96, atol=2e-3)  # clipping at two deviations multiplies by 0.96
    assert_allclose((factors == factors.max()).mean(), 0.0228, atol=5e-3)  # clipped values lie at the bounds
    assert abs(np.corrcoef(factors)[0, 1]) < 0.05


def batch_of(images, noise=()):
    images, size = jnp.asarray(images), len(images)
    return Batch(images, jnp.zeros(size, jnp.int32), jnp.ones(size), jnp.ones(size), images, noise)


def test_each_observation_of_a_batch_has_noise_of_its_own():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 2), np.uint8)
    noise = jax.tree.map(lambda x: x[0], AUGMENTED.draw(jax.random.key(1), 1, 4))
    batch = AUGMENTED.augmented(batch_of(images, noise))
    for got, offset, factor in (
        (batch.observation_tm1, noise.offset_tm1, noise.factor_tm1),
        (batch.observation_t, noise.offset_t, noise.factor_t),
    ):
        assert_allclose(
            got, slowly_shifted(images, np.asarray(offset), 1) * np.asarray(factor).reshape(4, 1, 1, 1), rtol=1e-6
        )


def test_without_augmentation_a_batch_and_the_draws_are_left_alone():
    batch = batch_of(np.ones((2, 3, 3, 1), np.uint8))
    assert NO_AUGMENTATION.augmented(batch) is batch
    assert NO_AUGMENTATION.draw(jax.random.key(0), 3, 4) == ()
    with_noise, without = (drawn(replace(AGENT, augmentation=a), 16) for a in (AUGMENTED, NO_AUGMENTATION))
    assert isinstance(with_noise.noise, Noise)
    for one, other in zip(with_noise[:5], without[:5], strict=True):
        assert bool((one == other).all())


def test_an_augmentation_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="pad must be at least 0 cells, got -1"):
        Augmentation(pad=-1)
    with pytest.raises(ValueError, match=r"intensity must lie in \[0, 0.5\), got 0.5"):
        Augmentation(intensity=0.5)
    with pytest.raises(ValueError, match=r"needs a batch with noise from its method draw; this batch has noise=\(\)"):
        AUGMENTED.augmented(batch_of(np.ones((2, 3, 3, 1), np.uint8)))
    noise = jax.tree.map(lambda x: x[0], AUGMENTED.draw(jax.random.key(1), 1, 2))
    with pytest.raises(ValueError, match=r"observations have shape \(3,\); set pad to 0"):
        AUGMENTED.augmented(batch_of(np.ones((2, 3), np.float32), noise))


def test_a_dueling_head_is_the_value_and_the_advantages_less_their_mean():
    layers = {
        "value": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([0.5])},
        "advantage": {"kernel": jnp.array([[1.0, 0.0, -1.0], [0.0, 3.0, 0.0]]), "bias": jnp.array([0.0, 0.0, 1.0])},
    }
    # The state's value is 1 * 3 + 2 * 1 + 0.5 = 5.5. The advantages are 3, 3 and -2. Their mean is 4 / 3.
    assert_allclose(q_values(jnp.array([[3.0, 1.0]]), layers), [[5.5 + 5 / 3, 5.5 + 5 / 3, 5.5 - 10 / 3]], rtol=1e-6)


def test_the_learner_chooses_the_next_action_and_the_target_values_it():
    """The online network prefers action 1, but the target network prefers action 0.

    The loss must use the target network's value of action 1.
    """
    agent = DQN(network=MLP(()), double=True)
    online = {"head": {"kernel": jnp.array([[1.0, 2.0]]), "bias": jnp.zeros(2)}}
    target = {"head": {"kernel": jnp.array([[5.0, 3.0]]), "bias": jnp.zeros(2)}}
    one = jnp.ones((1, 1))
    batch = Batch(one, jnp.array([0]), jnp.array([0.25]), jnp.array([0.5]), one)
    _, losses = agent.loss(online, target, batch)
    error = 0.25 + 0.5 * 3.0 - 1.0
    assert_allclose(losses.loss, 0.5 * error**2)
    _, single = replace(agent, double=False).loss(online, target, batch)
    assert_allclose(single.loss, 0.25 + 0.5 * 5.0 - 1.0 - 0.5)  # the linear part of the Huber loss


def test_a_return_of_ten_steps_ends_with_a_life():
    """A life is lost at step 5, and the game continues. n-step returns must end at step 5 and must not bootstrap."""
    replay = FrameReplay(32, (1, 1), stack=1, n_step=10)
    ring = replay.init()
    for step in range(20):
        lost, frame = step == 5, np.full((1, 1), step, np.uint8)
        replay.add(ring, step, frame, 0, 1.0, 0.0 if lost else 0.9, lost, frame + 1)
    batch = replay.sample(ring, 20, (np.arange(11) + 0.5) / 11)
    lengths = [6, 5, 4, 3, 2, 1, 10, 10, 10, 10, 10]
    assert_allclose(batch.return_t, [sum(0.9**k for k in range(length)) for length in lengths], rtol=1e-5)
    assert_allclose(batch.discount_t, [0.0] * 6 + [0.9**10] * 5, rtol=1e-5)
    assert_array_equal(batch.observation_t[6:].ravel(), [16, 17, 18, 19, 20])


class Scripted(AtariGames):
    """Two games. Every step ends a life. The first game ends every 3 steps, and the second game every 5 steps."""

    observations = np.zeros((2, 1, 1, 1), np.uint8)

    def __init__(self, *_, **__):
        self.number = 0

    def step(self, actions):
        self.number += 1
        restarted = np.array([self.number % 3 == 0, self.number % 5 == 0])
        lives = np.array([True, True])
        frame = np.zeros((2, 1, 1), np.uint8)
        return AtariOutcome(frame, np.float32([1, 10]), lives, ~lives, restarted)


@pytest.mark.parametrize(("episodes", "agent_steps", "played"), [(4, 1, (4, 4)), (1, 6, (2, 2)), (1, 7, (3, 2))])
def test_lost_lives_do_not_end_the_games_of_an_evaluation(monkeypatch, tmp_path, episodes, agent_steps, played):
    monkeypatch.setattr(atari, "AtariGames", Scripted)
    monkeypatch.setattr(AtariTraining, "act_with_value", lambda *_: (np.zeros(2, int), np.full(2, 2.0, np.float32)))
    training = AtariTraining(
        atari_drq(), Atari("Pong"), seeds=(0, 1), eval_episodes=episodes, eval_agent_steps=agent_steps
    )
    found = training.evaluate([], 0, tmp_path)
    assert [each.tolist() for each in found.returns] == [[3.0] * played[0], [50.0] * played[1]]


def test_the_settings_are_the_papers():
    agent = atari_drq()
    assert (agent.gamma, agent.n_step, agent.batch_size, agent.double, agent.network.dueling) == (
        0.99,
        10,
        32,
        True,
        True,
    )
    assert (agent.learning_rate, agent.adam_epsilon, agent.replay_capacity) == (1e-4, 1.5e-4, 1_000_000)
    assert (agent.min_replay, agent.epsilon_steps, agent.epsilon_end, agent.target_period) == (1_600, 5_000, 0.01, 1)
    assert agent.augmentation == Augmentation(4, 0.05)
    game, run = Atari("Pong", **ATARI_100K_GAME), AtariTraining(**ATARI_100K_RUN)
    assert (game.sticky, game.noops, game.life_loss) == (0.0, 29, True)
    assert (run.agent_steps, run.eval_episodes, run.eval_epsilon, run.score_batch) == (400_000, 100, 0.001, 64)


@pytest.fixture(scope="module")
def run():
    first = TRAINING.advance(TRAINING.init())
    return first, TRAINING.advance(first[0])


def test_neurons_are_scored_on_observations_as_they_are(run):
    _, (state, metrics) = run
    assert int(state.gradient_steps[0]) == 32
    ring, params = jax.tree.map(lambda leaf: leaf[0], (state.replay, state.agent.learner.params))
    uniform = drawn(AGENT, 63).score[0]
    plain = jax.jit(TRAINING.replay.states)(ring, jnp.int32(64), uniform)
    expected = jax.jit(TRAINING.network.wiring.scores)(params, plain)
    assert np.ptp(expected["conv"]) > 0
    for name, scores in expected.items():
        assert_allclose(metrics[f"scores/{name}"][0], scores, rtol=1e-5)


def test_a_state_is_gone_on_from_bit_for_bit(run):
    (first, _), second = run
    again = TRAINING.advance(jax.tree.map(lambda leaf: jnp.asarray(np.array(leaf)), first))
    jax.tree.map(assert_array_equal, again, second)


def test_the_target_is_the_learner_after_every_agent_step(run):
    for state, _ in run:
        jax.tree.map(assert_array_equal, state.agent.target, state.agent.learner.params)
