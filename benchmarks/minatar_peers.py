"""rejax's DQN on MinAtar, for `benchmarks/minatar_update.py`.

rejax 0.1.3 does not work with the newest gymnax, and its dependency distrax needs a nightly version of TensorFlow
Probability. Install these packages in a separate virtual environment:

    python -m venv peers
    peers/bin/pip install -e '.[minatar]' rejax 'gymnax<1' tfp-nightly
"""

from collections.abc import Callable
from typing import Any


def rejax_loop(steps: int, ours: bool) -> Callable[[], Any]:
    """A function that runs `steps` agent steps of rejax's own training loop, each with a gradient step.

    The game, the network, the batch size, the replay capacity and the optimizer are those of `minatar_dqn`. If `ours`
    is true, the network is our code (a matrix product of patches). Otherwise it is the same network in Flax, as users
    of rejax would write it. rejax's evaluation is disabled.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from rejax import DQN  # pyright: ignore[reportMissingImports]

    from dormant.rl.agents import minatar_dqn

    settings = minatar_dqn(200_000)
    made = DQN.create(
        env="Asterix-MinAtar",
        num_envs=1,
        num_epochs=1,
        batch_size=settings.batch_size,
        buffer_size=settings.replay_capacity,
        fill_buffer=steps,
        learning_rate=settings.learning_rate,
        target_update_freq=settings.target_period,
        polyak=0.0,
        ddqn=False,
        gamma=settings.gamma,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
    )
    agent = made.replace(agent=network(made.action_dim, ours), eval_callback=lambda *_: jnp.zeros(()))
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        # Copies the arrays, because an array cannot be donated twice in one call.
        state = jax.tree.map(jnp.copy, agent.init_state(jax.random.key(0)))
        adam = optax.adam(settings.learning_rate, eps=settings.adam_epsilon)
        state = state.replace(q_ts=state.q_ts.replace(tx=adam, opt_state=adam.init(state.q_ts.params)))
        train = jax.jit(lambda state: agent.train(train_state=state)[0], donate_argnums=0)

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(train(state))

    run()  # fills the replay; the next call learns
    return run


def network(actions: int, ours: bool) -> Any:
    """rejax's epsilon-greedy policy with MinAtar's network, either our code or the same network in Flax."""
    import jax.numpy as jnp
    from flax import linen as nn
    from rejax.networks import EpsilonGreedyPolicy  # pyright: ignore[reportMissingImports]

    from dormant.rl.networks.convolutional import MinAtarCNN

    class Network(nn.Module):
        @nn.compact
        def __call__(self, seen: Any) -> Any:
            if ours:
                params = self.param("all", MinAtarCNN().init, seen.shape[1:], actions)
                return MinAtarCNN().apply(params, seen)
            maps = nn.relu(nn.Conv(MinAtarCNN().filters, (3, 3), padding="VALID")(seen))
            hidden = nn.relu(nn.Dense(MinAtarCNN().width)(maps.reshape(len(maps), -1)))
            return nn.Dense(actions)(hidden)

        def take(self, seen: Any, action: Any) -> Any:
            return jnp.take_along_axis(self(seen), action[:, None], axis=1)[:, 0]

    return EpsilonGreedyPolicy(Network)()
