"""Simulators that are saved, and restored into others of their kind, go on as if nothing had happened."""

from __future__ import annotations

import threading
from collections import deque

import helper_envs
import numpy as np
import pytest
from gala_envs import snapshots
from gala_envs.contextual_env import ContextualEnv
from gala_envs.delays import DelayedEnv
from gala_envs.families import make_family
from gala_envs.groups import GroupedEnv
from gala_envs.mujoco_tasks import TASKS
from gala_envs.registry import make
from gala_envs.splits import split

EVERY = {
    "classic control": ("CartPole-v1", {}),
    "continuous control": ("MountainCarContinuous-v0", {"max_episode_steps": 25}),
    "two links": ("Acrobot-v1", {"max_episode_steps": 25}),
    "gymnasium's own": ("CartPole-v1", {"backend": "gymnasium"}),
    "next-step": ("CartPole-v1", {"autoreset": "next-step"}),
    "time limit": ("Pendulum-v1", {"max_episode_steps": 17}),
    "one's own": ("helper_envs:Walk-v0", {}),
    "minatar": ("MinAtar/SpaceInvaders-v1", {"sticky_actions": 0.3}),
    "minatar, pixels that move": ("MinAtar/Asterix-v1", {}),
    "minatar, with oxygen": ("MinAtar/Seaquest-v1", {}),
    "minatar, cars": ("MinAtar/Freeway-v1", {}),
    "minatar, a ball": ("MinAtar/Breakout-v1", {}),
    **{task: (task, {"max_episode_steps": 40, "threads": 1}) for task in TASKS},
    "classic family": ("classic:CartPole-v1", {"sticky_actions": 0.2, "obs_noise": 0.1}),
    "mazes": ("maze", {"order": "round-robin", "region": "levels"}),
    "bits": ("bits", {}),
    "bodies": ("mujoco:Hopper-v5", {"region": "R"}),
    "seeds": ("seeds:CartPole-v1", {}),
    "confounded": ("confounded:classic:CartPole-v1", {}),
    "backgrounds": ("backgrounds:classic:CartPole-v1", {}),
}
ROWS, STEPS = 3, 60
NUMBERS = np.zeros(3)


def make_some(id, region="", **options):
    if not region:
        return make(id, ROWS, **options)
    family = make_family(id)
    return ContextualEnv(family, split(family, {"train": 5}, region=region)["train"], ROWS, **options)


def walk(env, plan):
    out = []
    for actions in plan:
        step = env.step(actions)
        done = step.terminated | step.truncated
        out += [step.obs, step.reward, done, step.valid, step.episode_return, step.episode_length]
        out += [step.final_obs[done]] if done.any() else []
    return [np.array(x) for x in out]


def plan_of(env, steps):
    env.action_space.seed(0)
    return [np.stack([np.asarray(env.action_space.sample()) for _ in range(ROWS)]) for _ in range(steps)]


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", EVERY)
def test_restored_simulators_go_on_as_the_others_do(name, fresh):
    """In simulators that were at another place, and in new ones, as in a learner that is resumed."""
    id, options = EVERY[name]
    env, other = (make_some(id, **options) for _ in range(2))
    env.reset(1)
    plan = plan_of(env, 2 * STEPS)
    walk(env, plan[:STEPS])
    data = snapshots.dumps(snapshots.get_state(env))
    went = walk(env, plan[STEPS:])
    if not fresh:
        other.reset(2)
        walk(other, plan[:7])
    snapshots.set_state(other, snapshots.loads(data))
    assert snapshots.dumps(snapshots.get_state(other)) == data
    for a, b in zip(went, walk(other, plan[STEPS:]), strict=True):
        np.testing.assert_array_equal(a, b)
    env.close(), other.close()


def test_groups_and_delays_are_followed():
    def grouped():
        return GroupedEnv([DelayedEnv(make("CartPole-v1", 2), 1e-6, 1.0, seed) for seed in (1, 2)])

    env, other = grouped(), grouped()
    for group in env.groups:
        group.reset(3)
        group.send(np.zeros(2, np.int64))
        group.recv()
    snapshots.set_state(other, snapshots.loads(snapshots.dumps(snapshots.get_state(env))))
    for a, b in zip(env.groups, other.groups, strict=True):
        assert (a.env.draw_s() == b.env.draw_s()).all()
        for group in (a, b):
            group.send(np.ones(2, np.int64))
        np.testing.assert_array_equal(a.recv().obs, b.recv().obs)
    env.close(), other.close()


def test_what_occurs_twice_is_restored_as_one():
    stream, array, ring = np.random.default_rng(3), np.arange(4.0), [1]
    ring.append(ring)
    state = {"a": [stream, array], "b": (stream, array), (1, 2): deque([np.float32(0.1)], 5), "nan": float("nan")}
    read = snapshots.loads(snapshots.dumps({**state, "ring": ring}))
    assert read["a"][0] is read["b"][0] and read["a"][1] is read["b"][1] and read["ring"][1] is read["ring"]
    assert read["a"][0].random() == stream.random() and read[1, 2].maxlen == 5
    assert type(read[1, 2][0]) is np.float32 and read[1, 2][0] == np.float32(0.1) and read["nan"] != read["nan"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"deep": [1, {"x": object()}]}, "deep[1].x is a object"),
        ({"s": {1, 2}}, "s is a set"),
        ({"a": np.array([None])}, "a holds object"),
        ({"x": NUMBERS, "part": NUMBERS[1:]}, "part shares memory with another array"),
    ],
)
def test_what_is_no_data_is_refused(state, message):
    with pytest.raises(snapshots.Unrestorable) as error:
        snapshots.dumps(state)
    assert message in str(error.value)


def test_simulators_in_c_are_not_restored():
    def make_one():
        env = helper_envs.Walk()
        env.engine = threading.Lock()
        return env

    env = make("Opaque", 1, make_env=make_one)
    env.reset(0)
    with pytest.raises(snapshots.Unrestorable, match=r"rows\[0\]\[0\].engine is a lock"):
        snapshots.dumps(snapshots.get_state(env))
    for id in ("ALE/Pong-v5", "ale:Pong"):
        env = make(id, 1)
        with pytest.raises(snapshots.Unrestorable, match=r"state of AtariEnv cannot be read|simulators is a _Consoles"):
            snapshots.dumps(snapshots.get_state(env))
        env.close()
