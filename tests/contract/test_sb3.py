"""Agents of Stable-Baselines3 with the callback train, log, recycle, save, load and resume."""

import math
import warnings

import pytest
import torch
from sb3_contrib import QRDQN, TQC, TRPO, CrossQ, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.logger import Logger

from dormant.torch import Chain, ClipWeights, Every, ReDo, ShrinkPerturb
from dormant.torch.sb3 import InterventionCallback, Networks, ReDoCallback

torch.set_num_threads(1)


class Memory(Logger):
    """A logger that keeps every logged value."""

    def __init__(self):
        super().__init__(folder=None, output_formats=[])
        self.values = {}

    def record(self, key, value, exclude=None):
        self.values.setdefault(key, []).append(value)
        super().record(key, value, exclude)


OFF_POLICY = dict(learning_starts=16, batch_size=16, buffer_size=2_000)


def agent(kind, env="Pendulum-v1", policy="MlpPolicy", **options):
    settings = dict(seed=0, device="cpu", policy_kwargs={"net_arch": [32, 32]})
    return kind(policy, env, **settings | options)


def dqn(**options):
    return agent(DQN, "CartPole-v1", **OFF_POLICY | {"train_freq": 2} | options)


def sac(**options):
    return agent(SAC, **OFF_POLICY | options)


def learn(model, callback, agent_steps):
    logger = Memory()
    model.set_logger(logger)
    model.learn(agent_steps, callback=callback, reset_num_timesteps=False)
    return logger.values


def act(model, callback):
    """Calls the callback as SB3 does after one gradient step."""
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.new_steps = 1
    callback.on_rollout_start()
    callback.on_training_end()
    return callback


HIDDEN = (0, 2)
TWO_CRITICS = [f"actor.latent_pi.{i}" for i in HIDDEN] + [f"critic.qf{k}.{i}" for k in (0, 1) for i in HIDDEN]
POLICY = [f"policy.mlp_extractor.{kind}_net.{i}" for kind in ("policy", "value") for i in HIDDEN]
ROLLOUT = dict(n_steps=64, batch_size=32, n_epochs=2)
SHORT = dict(n_steps=32, batch_size=16)  # many gradient steps in few agent steps
RECURRENT = {"net_arch": [32, 32], "lstm_hidden_size": 16}  # SB3's options of a policy lack the LSTM's width
AGENTS = {
    "DQN": (dqn, ["q_net.q_net.0", "q_net.q_net.2"]),
    "QR-DQN": (
        lambda: agent(QRDQN, "CartPole-v1", **OFF_POLICY, train_freq=2),
        ["quantile_net.quantile_net.0", "quantile_net.quantile_net.2"],
    ),
    "SAC": (sac, TWO_CRITICS),
    "TD3": (lambda: agent(TD3, **OFF_POLICY), [name.replace("latent_pi", "mu") for name in TWO_CRITICS]),
    "DDPG": (
        lambda: agent(DDPG, **OFF_POLICY),
        [name.replace("latent_pi", "mu") for name in TWO_CRITICS if "qf1" not in name],
    ),
    "TQC": (lambda: agent(TQC, **OFF_POLICY), TWO_CRITICS),
    "PPO": (lambda: agent(PPO, "CartPole-v1", **SHORT, n_epochs=6), POLICY),
    "A2C": (lambda: agent(A2C, "CartPole-v1", n_steps=4), POLICY),
    "TRPO": (lambda: agent(TRPO, "CartPole-v1", **SHORT), POLICY),
    "RecurrentPPO": (
        lambda: agent(RecurrentPPO, "CartPole-v1", "MlpLstmPolicy", **SHORT, n_epochs=6, policy_kwargs=RECURRENT),
        ["policy.lstm_actor", "policy.lstm_critic", *POLICY],
    ),
}


@pytest.mark.parametrize("name", AGENTS)
def test_networks_are_found_measured_recycled_saved_and_loaded(name, tmp_path):
    make, layers = AGENTS[name]
    plan = Chain(Every(10, ReDo(0.4)), Every(15, ShrinkPerturb(0.9)))
    callback, model = InterventionCallback(plan, period=10), make()
    logged = learn(model, callback, 64)
    steps = callback.plan.gradient_steps
    assert sorted(layer.name for layer in callback.wiring.layers) == sorted(layers)
    assert all(layer.recyclable for layer in callback.wiring.layers if "lstm" not in layer.name)
    assert len(logged["dormant/fraction"]) >= 1 and all(0 <= value <= 1 for value in logged["dormant/fraction"])
    assert callback.recycled > 0 and logged["dormant/recycled"][-1] == callback.recycled

    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    again = InterventionCallback(plan, period=10)
    learn(loaded, again, 24)
    assert again.plan.gradient_steps > steps and again.recycled >= callback.recycled


def test_gradient_steps_are_counted_exactly():
    for model, count in ((dqn(), lambda m: m._n_updates), (agent(PPO, "CartPole-v1", **ROLLOUT), lambda m: 2 * 2 * 2)):
        callback = ReDoCallback(period=10**6)
        learn(model, callback, 128)
        assert callback.plan.gradient_steps == count(model) > 0


def test_a_network_that_cannot_be_recycled_is_measured_and_says_so_once():
    model, callback = agent(CrossQ, **OFF_POLICY), InterventionCallback(Every(10, ReDo(0.4)), period=10)
    with pytest.warns(UserWarning, match="no layer of this CrossQ can be recycled:\nactor.latent_pi.1: ") as seen:
        logged = learn(model, callback, 45)
    assert sum("no layer" in str(each.message) for each in seen) == 1
    assert callback.recycled == 0 and len(logged["dormant/fraction"]) > 1


def test_a_cure_of_every_step_says_that_it_is_called_less_often():
    model = dqn(train_freq=4, gradient_steps=4)
    with pytest.warns(UserWarning, match="DQN takes 4 gradient steps between two calls") as seen:
        learn(model, InterventionCallback(ClipWeights(0.01)), 60)
    assert sum("between two calls" in str(each.message) for each in seen) == 1
    assert max(float(leaf.detach().abs().max()) for leaf in model.q_net.parameters()) < 0.1


def test_train_recycle_save_load_go_on(tmp_path):
    callback = ReDoCallback(tau=0.2, period=40)
    model = dqn()
    logged = learn(model, callback, 130)
    done = model._n_updates
    assert len(logged["dormant/fraction"]) == done // 40
    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "replay.pkl")
    loaded = DQN.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    logged = learn(loaded, ReDoCallback(tau=0.2, period=40), 90)
    assert len(logged["dormant/fraction"]) == loaded._n_updates // 40 - done // 40 > 0
    other = ReDoCallback(tau=0.3, period=40)
    learn(loaded, other, 10)
    assert 0 < other.plan.gradient_steps < done  # a different plan starts its counts at zero


def test_fresh_weights_are_those_of_a_new_policy():
    model = agent(PPO, "CartPole-v1", **ROLLOUT)  # PPO draws orthogonal weights, unlike PyTorch's layers
    callback = InterventionCallback(Every(1, ReDo(100.0, outgoing="fresh")), period=10**6)
    learn(model, callback, 64)
    weights = model.policy.mlp_extractor.policy_net[2].weight.detach()
    torch.testing.assert_close(weights @ weights.T, 2 * torch.eye(32), rtol=1e-4, atol=1e-4)


def test_recycling_keeps_the_function_and_clears_both_optimizers():
    model = sac()
    learn(model, ReDoCallback(tau=0.0, period=10**6, networks=("actor", "critic")), 30)
    with torch.no_grad():
        model.actor.latent_pi[2].bias[3] = -100.0
        model.critic.qf1[0].bias[5] = -100.0
    callback = ReDoCallback(tau=0.0, period=1)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    batch = callback._score_batch()
    before = Networks(model.policy)(*batch)
    act(model, callback)
    after = Networks(model.policy)(*batch)
    assert torch.equal(before[0][0], after[0][0]) and torch.equal(before[0][1], after[0][1])
    assert all(map(torch.equal, before[1], after[1])) and callback.recycled >= 2
    # Two heads read the actor's last layer. The actor and the critic each have an optimizer.
    assert (model.actor.mu.weight[:, 3] == 0).all() and (model.actor.log_std.weight[:, 3] == 0).all()
    assert (model.actor.optimizer.state[model.actor.log_std.weight]["exp_avg"][:, 3] == 0).all()
    assert (model.critic.optimizer.state[model.critic.qf1[0].weight]["exp_avg_sq"][5] == 0).all()
    assert model.critic.optimizer.state[model.critic.qf1[0].bias]["exp_avg"][5] == 0


def test_only_the_named_networks_are_recycled():
    model = sac()
    learn(model, ReDoCallback(tau=0.0, period=10**6, networks=("critic",)), 30)
    actor = [leaf.clone() for leaf in model.actor.parameters()]
    callback = act(model, ReDoCallback(tau=10.0, period=1, networks=("critic",)))
    assert callback.recycled == 4 * 32 and sum(mask.numel() for mask in callback.report.masks.values()) == 6 * 32
    assert all(map(torch.equal, actor, model.actor.parameters()))


def test_measuring_alone_does_not_change_the_run():
    plain = dqn()
    learn(plain, None, 120)
    watched, callback = dqn(), InterventionCallback(Chain(), period=10)
    learn(watched, callback, 120)
    assert callback.report is not None
    assert all(map(torch.equal, plain.q_net.parameters(), watched.q_net.parameters()))


def test_nan_is_logged_as_nan_and_nobody_is_recycled():
    model = dqn()
    learn(model, ReDoCallback(tau=0.0, period=10**6), 60)
    with torch.no_grad():
        model.q_net.q_net[0].weight[0, 0] = math.nan
    before = [leaf.clone() for leaf in model.q_net.parameters()]
    model.set_logger(logger := Memory())
    callback = ReDoCallback(tau=10.0, period=1)
    callback.init_callback(model)
    callback.on_training_start({}, {})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            callback.new_steps = 1
            callback.on_rollout_start()
    assert all(math.isnan(value) for name in ("fraction", "q_net") for value in logger.values[f"dormant/{name}"])
    assert len(logger.values["dormant/fraction"]) == 2 and logger.values["dormant/recycled"] == [0, 0]
    assert sum("are not finite" in str(warning.message) for warning in seen) == 1
    assert all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before, model.q_net.parameters(), strict=True)
    )


def test_a_network_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no layer is called 'actor'"):
        dqn().learn(100, callback=ReDoCallback(networks=("actor",)))
    with pytest.raises(ValueError, match="no network of Linear is known"):
        Networks(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="period must be at least 1"):
        ReDoCallback(period=0)
