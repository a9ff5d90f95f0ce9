"""The callback in Stable-Baselines3's agents: they train, log, recycle, save, load and resume."""

import math
import warnings

import pytest
import torch
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.logger import Logger

from dormant.torch.sb3 import Networks, ReDoCallback

torch.set_num_threads(1)


class Memory(Logger):
    """A logger that keeps every logged value."""

    def __init__(self):
        super().__init__(folder=None, output_formats=[])
        self.values = {}

    def record(self, key, value, exclude=None):
        self.values.setdefault(key, []).append(value)
        super().record(key, value, exclude)


def dqn(**options):
    settings = dict(learning_starts=50, train_freq=2, batch_size=16, buffer_size=2_000, seed=0, device="cpu")
    return DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [32, 32]}, **settings | options)


def sac(**options):
    settings = dict(learning_starts=50, batch_size=16, buffer_size=2_000, seed=0, device="cpu")
    return SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [32, 32]}, **settings | options)


def learn(model, callback, agent_steps):
    logger = Memory()
    model.set_logger(logger)
    model.learn(agent_steps, callback=callback, reset_num_timesteps=False)
    return logger.values


CASES = {
    "dqn": (dqn, ("q_net",), ["q_net.q_net.0", "q_net.q_net.2"]),
    "sac": (
        sac,
        ("actor", "critic"),
        [f"actor.latent_pi.{i}" for i in (0, 2)] + [f"critic.qf{k}.{i}" for k in (0, 1) for i in (0, 2)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_train_recycle_save_load_go_on(name, tmp_path):
    make, networks, layers = CASES[name]
    callback = ReDoCallback(tau=0.2, period=40, networks=networks)
    model = make()
    logged = learn(model, callback, 250)
    done = model._n_updates
    assert len(logged["dormant/fraction"]) == done // 40 and all(
        0 <= value <= 1 for value in logged["dormant/fraction"]
    )
    assert callback.recycled > 0 and logged["dormant/recycled"][-1] == callback.recycled
    assert [layer.name for layer in callback.wiring.layers] == layers
    assert all(layer.recyclable for layer in callback.wiring.layers)

    model.save(tmp_path / "model.zip")
    model.save_replay_buffer(tmp_path / "replay.pkl")
    loaded = type(model).load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    again = ReDoCallback(tau=0.2, period=40, networks=networks)
    logged = learn(loaded, again, 150)
    assert len(logged["dormant/fraction"]) == loaded._n_updates // 40 - done // 40 > 0


def test_recycling_keeps_the_function_and_clears_both_optimizers():
    model = sac()
    learn(model, ReDoCallback(tau=0.0, period=10**6, networks=("actor", "critic")), 100)
    with torch.no_grad():
        model.actor.latent_pi[2].bias[3] = -100.0
        model.critic.qf1[0].bias[5] = -100.0
    callback = ReDoCallback(tau=0.0, period=1, networks=("actor", "critic"))
    callback.init_callback(model)
    callback.on_training_start({}, {})
    batch = callback._score_batch()
    before = Networks(model)(*batch)
    callback.periods_done = 0
    callback.on_rollout_start()
    after = Networks(model)(*batch)
    assert torch.equal(before[0][0], after[0][0]) and torch.equal(before[0][1], after[0][1])
    assert all(map(torch.equal, before[1], after[1])) and callback.recycled >= 2
    # Both heads read the actor's last layer, and each network has an optimizer of its own.
    assert (model.actor.mu.weight[:, 3] == 0).all() and (model.actor.log_std.weight[:, 3] == 0).all()
    assert (model.actor.optimizer.state[model.actor.log_std.weight]["exp_avg"][:, 3] == 0).all()
    assert (model.critic.optimizer.state[model.critic.qf1[0].weight]["exp_avg_sq"][5] == 0).all()
    assert model.critic.optimizer.state[model.critic.qf1[0].bias]["exp_avg"][5] == 0


def test_only_the_named_networks_are_recycled():
    model = sac()
    learn(model, ReDoCallback(tau=0.0, period=10**6, networks=("critic",)), 60)
    actor = [leaf.clone() for leaf in model.actor.parameters()]
    callback = ReDoCallback(tau=10.0, period=1, networks=("critic",))
    callback.init_callback(model)
    callback.on_training_start({}, {})
    callback.periods_done = 0
    callback.on_rollout_start()
    assert callback.recycled == 4 * 32 == sum(mask.numel() for mask in callback.report.masks.values())
    assert all(map(torch.equal, actor, model.actor.parameters()))


def test_measuring_alone_does_not_change_the_run(monkeypatch):
    monkeypatch.setattr("dormant.torch.sb3.recycle_", lambda *_, **__: {})
    plain = dqn()
    learn(plain, None, 200)
    watched, callback = dqn(), ReDoCallback(period=10, networks=("q_net",))
    learn(watched, callback, 200)
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
            callback.periods_done = 0
            callback.on_rollout_start()
    assert all(math.isnan(value) for name in ("fraction", "q_net") for value in logger.values[f"dormant/{name}"])
    assert len(logger.values["dormant/fraction"]) == 2 and logger.values["dormant/recycled"] == [0, 0]
    assert sum("are not finite" in str(warning.message) for warning in seen) == 1
    assert all(
        torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(before, model.q_net.parameters(), strict=True)
    )


def test_a_network_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"must name some of \['q_net'\] of DQN, got \('actor',\)"):
        dqn().learn(10, callback=ReDoCallback(networks=("actor",)))
    with pytest.raises(ValueError, match="period must be at least 1"):
        ReDoCallback(period=0)
