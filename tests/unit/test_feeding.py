"""Replay on the device gives the same bits as batches from the host. Each step sends one small packet."""

import logging
from dataclasses import replace

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from runs_of_loops import played, trees_equal

from dormant import Every, ReDo
from dormant.lab.runs.description import describe
from dormant.rl import atari, feeding
from dormant.rl.agents.dqn import DQN, Augmentation
from dormant.rl.atari import AtariTraining
from dormant.rl.envs.atari import Atari
from dormant.rl.feeding import DeviceFeed, HostFeed
from dormant.rl.networks import MLP
from dormant.rl.replay.frames import FrameReplay
from dormant.rl.replay.packets import Packets

# The run overwrites its ring of 48 + 32 steps. Episodes are truncated at different steps, and lives are lost.
TRAINING = AtariTraining(
    agent=DQN(
        network=MLP((8,)), replay_capacity=48, min_replay=16, batch_size=4, target_period=16, epsilon_steps=64, n_step=2
    ),
    env=Atari("Breakout", time_limit=27, life_loss=True),
    intervention=Every(10, ReDo(tau=0.5)),
    agent_steps=128,
    log_period=32,
    seeds=(3, 5),
    score_batch=8,
    eval_agent_steps=10,
    eval_period=64,
)


def assert_same_bits(training, folder, first="host", second="device"):
    runs = [played(replace(training, replay_on=way), folder / way) for way in (first, second)]
    assert [type(loop.feed) for loop, _, _ in runs] == [HostFeed, DeviceFeed]
    trees_equal(*(states for _, states, _ in runs))
    trees_equal(*(metrics for _, _, metrics in runs))
    trees_equal(*(loop.rings for loop, _, _ in runs))
    return runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return assert_same_bits(TRAINING, tmp_path_factory.mktemp("runs"))


def test_the_device_has_the_frames_of_the_files(runs):
    loop, _, metrics = runs[1]
    assert metrics[-1]["recycled/dense_0"].any() and metrics[-1]["train_episodes"].all()
    replay = loop.training.replay
    assert replay.slots < TRAINING.agent_steps
    for ring, frames in zip(loop.rings, loop.feed._frames, strict=True):
        assert (ring.last & (ring.discount > 0)).any() and (ring.last & (ring.discount == 0)).any()
        kept = [place % replay.places for place in replay._places(ring, range(TRAINING.agent_steps - 48, 128))]
        newest = int(ring.place[127 % replay.slots] + 1) % replay.places  # the next step sends this frame
        kept = [place for place in kept if place != newest]
        assert_array_equal(np.asarray(frames).reshape(ring.frames.shape)[kept], ring.frames[kept])


def test_a_state_is_gone_on_from_again(runs):
    loop, states, metrics = runs[1]
    state, row = loop.advance(jax.tree.map(np.array, states[3]))
    trees_equal(state, states[4])
    trees_equal(row, metrics[3])


def test_a_run_that_is_opened_again_does_not_compile_again(runs, tmp_path):
    for loop, *_ in runs:  # compiles again, because `compiled_code_is_dropped` may have freed the fixture's code
        played(loop.training, tmp_path / f"first-{loop.training.replay_on}")
    compiled = []

    def listener(event, seconds, **named):
        compiled.extend([named.get("fun_name")] if event.endswith("backend_compile_duration") else [])

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        for loop, *_ in runs:
            played(loop.training, tmp_path / loop.training.replay_on)
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert compiled == []


@pytest.mark.parametrize("ratio", [0.25, 2.0])
def test_other_replay_ratios_have_the_same_bits(ratio, tmp_path):
    augmentation = Augmentation(pad=2, intensity=0.05) if ratio > 1 else Augmentation()
    agent = replace(TRAINING.agent, augmentation=augmentation, min_replay=32)
    assert_same_bits(replace(TRAINING, agent=agent, replay_ratio=ratio, agent_steps=96, eval_period=960), tmp_path)


def test_a_batch_that_may_hold_a_new_step_has_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(FrameReplay, "drawn_before", lambda *_: False)
    assert_same_bits(replace(TRAINING, agent_steps=64), tmp_path)


def test_a_step_sends_one_packet_of_at_most_8_kb(tmp_path, monkeypatch):
    """After a truncation, a step sends one more packet. It has the last frame of the ended episode."""
    training = replace(TRAINING, seeds=(3,), replay_on="device")
    state = training.init()
    loop = training.open(tmp_path, state)
    state, _ = loop.advance(loop.advance(state)[0])
    sent, counts, put, act, learn = [], {}, jax.device_put, loop.feed.act, loop.feed.learn

    def counted(params, added, *rest):
        before = len(sent)
        with jax.transfer_guard_host_to_device("disallow"):
            found = act(params, added, *rest)
        counts[added] = len(sent) - before
        return found

    def guarded(*arguments):
        with jax.transfer_guard_host_to_device("disallow"):
            return learn(*arguments)

    monkeypatch.setattr(feeding.jax, "device_put", lambda packet: sent.append(packet) or put(packet))
    monkeypatch.setattr(loop.feed, "act", counted)
    monkeypatch.setattr(loop.feed, "learn", guarded)
    loop.advance(state)
    truncated = [loop.training.replay.truncated(loop.rings[0], step) for step in range(64, 96)]
    assert [counts[step] for step in range(64, 96)] == [1 + more for more in truncated]
    assert any(truncated)
    paper = Packets(FrameReplay(1_000_000), updates=1, batch_size=32, states=64)
    assert {packet.nbytes for packet in sent} == {loop.feed._packets.bytes}
    assert paper.bytes <= 8_192


def test_the_frames_are_updated_in_place():
    packets = Packets(replace(TRAINING.replay, capacity=10_000), 1, 4, 8)
    frames = (jax.ShapeDtypeStruct((packets.replay.places, 84 * 84), np.uint8),)
    packet = jax.ShapeDtypeStruct((1, packets.bytes), np.uint8)
    params = jax.eval_shape(TRAINING.init).agent.learner.params
    params = [jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), params)]
    training = replace(TRAINING, seeds=(0,))

    def act(frames, params, packet):
        return feeding._act_on_frames(training, packets, frames, params, packet)

    memory = jax.jit(act, donate_argnums=0).lower(frames, params, packet).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= packets.frame_bytes > 70_000_000
    assert memory.temp_size_in_bytes < 1_000_000


def test_auto_keeps_frames_on_an_accelerator_with_room(tmp_path, monkeypatch, caplog):
    training, rings = replace(TRAINING, seeds=(0,)), (TRAINING.replay.init(),)
    assert isinstance(training.feed(rings, 0), HostFeed)
    monkeypatch.setattr(atari.jax, "default_backend", lambda: "gpu")
    assert isinstance(training.feed(rings, 0), DeviceFeed)
    monkeypatch.setattr(atari, "device_memory", lambda: 10**6)
    with caplog.at_level(logging.WARNING, "dormant"):
        assert isinstance(training.feed(rings, 0), HostFeed)
    assert caplog.messages == [
        "the replay stays on the host: the frames of 1 ring take 0.0 GB; with 2.0 GB for other data, that is more "
        "than the 0.0 GB free on the device."
    ]


def test_frames_that_do_not_fit_are_refused_if_the_device_was_asked_for(monkeypatch):
    monkeypatch.setattr(atari, "device_memory", lambda: 10**6)
    with pytest.raises(ValueError, match=r"the frames of 1 ring take .* smaller replay capacity"):
        replace(TRAINING, seeds=(0,), replay_on="device").feed((TRAINING.replay.init(),), 0)


def test_where_the_frames_are_does_not_change_a_run():
    assert describe(replace(TRAINING, replay_on="device")) == describe(TRAINING)
    with pytest.raises(ValueError, match="replay_on must be one of auto, device, host, got 'gpu'"):
        replace(TRAINING, replay_on="gpu")
