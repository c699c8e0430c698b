"""MuJoCo with other bodies: Gymnasium's own environments on a model edited by hand are the oracle."""

import copy

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.families.mujoco import RANGES, edited, verify
from gala_envs.mujoco_batch import MujocoEnv
from gala_envs.splits import split
from rows_agree import assert_rows_agree

SOME = ["HalfCheetah-v5", "Hopper-v5", "InvertedPendulum-v5"]


def one_set(task, *contexts):
    return ContextSet(tuple(Context.of(f"mujoco:{task}", **c) for c in contexts), "train")


@pytest.mark.parametrize("task", [*SOME, "Walker2d-v5", "Ant-v5"])
def test_an_edited_body_moves_as_gymnasiums_with_the_same_edit(task):
    c = {"mass": 1.3, "friction": 0.7, "power": 0.8, "gravity": 1.1, "damping": 0.5}
    contexts = one_set(task, {}, c)
    env = ContextualEnv(make_family(f"mujoco:{task}"), contexts, 2)
    obs = env.play([[(0, 5)], [(1, 5)]])
    oracles = [gym.make(task), gym.make(task)]
    edit = oracles[1].unwrapped.model
    edit.body_mass *= 1.3
    edit.body_inertia *= 1.3
    edit.geom_friction[:, 0] *= 0.7
    edit.actuator_gear *= 0.8
    edit.opt.gravity *= 1.1
    edit.dof_damping *= 0.5
    mujoco.mj_setConst(edit, oracles[1].unwrapped.data)
    rng, differ = np.random.default_rng(0), False
    for i, oracle in enumerate(oracles):
        np.testing.assert_allclose(obs[i], oracle.reset(seed=5)[0], rtol=1e-6, atol=1e-6)
    for _ in range(25):
        action = rng.uniform(-0.4, 0.4, (2, *env.action_space.shape)).astype(np.float32)
        step = env.step(action)
        for i, oracle in enumerate(oracles):
            o, reward, terminated, _, _ = oracle.step(action[i].astype(np.float64))
            assert step.terminated[i] == terminated
            seen = step.final_obs[i] if terminated else step.obs[i]
            np.testing.assert_allclose(seen, o, rtol=1e-5, atol=1e-5)
            assert step.reward[i] == pytest.approx(reward, abs=1e-5)
        differ |= not np.allclose(step.obs[0], step.obs[1], atol=1e-3)
        if step.terminated.any():
            break
    assert differ, "the edit changed nothing"


@pytest.mark.parametrize("task", SOME)
def test_the_default_body_replays_the_plain_task(task):
    env = ContextualEnv(make_family(f"mujoco:{task}"), one_set(task, {}), 1)
    plain = MujocoEnv(task, 1)
    plain.reset(0)
    env.play([[(0, 0)]])
    rng = np.random.default_rng(9)
    plain._streams = [np.random.default_rng(4)]
    obs = plain._start(np.arange(1)).astype(np.float32)
    np.testing.assert_array_equal(env.play([[(0, 4)]]), obs)
    for _ in range(30):
        action = rng.uniform(-1, 1, (1, *env.action_space.shape)).astype(np.float32)
        a, b = env.step(action), plain.step(action)
        np.testing.assert_array_equal(a.reward, b.reward)
        if a.terminated.any():
            break
        np.testing.assert_array_equal(a.obs, b.obs)


def rollout(model, steps=50):
    data = mujoco.MjData(model)
    mujoco.mj_resetData(model, data)
    rng = np.random.default_rng(0)
    out = []
    for _ in range(steps):
        data.ctrl[:] = rng.uniform(-1, 1, model.nu)
        mujoco.mj_step(model, data)
        out.append(np.concatenate([data.qpos, data.qvel]))
    return np.stack(out)


def test_a_heavier_body_made_light_again_is_bit_for_bit_the_old_one_and_a_forgotten_constant_is_found():
    base = gym.make("Hopper-v5").unwrapped.model
    before = rollout(base)
    heavy = edited(base, Context.of("mujoco:Hopper-v5", mass=1.5))
    assert heavy.body_subtreemass[1] == pytest.approx(1.5 * base.body_mass[1:].sum())
    verify(heavy, base, Context.of("mujoco:Hopper-v5", mass=1.5))
    assert np.abs(rollout(heavy) - before).max() > 1e-3
    np.testing.assert_array_equal(rollout(edited(base, Context.of("mujoco:Hopper-v5"))), before)
    np.testing.assert_array_equal(rollout(base), before)
    careless = copy.copy(base)
    careless.body_mass[:] *= 1.5
    with pytest.raises(ValueError, match="mj_setConst was not called"):
        verify(careless, base, Context.of("mujoco:Hopper-v5", mass=1.5))
    with pytest.raises(ValueError, match="mass is not 2"):
        verify(heavy, base, Context.of("mujoco:Hopper-v5", mass=2.0))


def test_contexts_come_from_their_region():
    for task in SOME:
        family = make_family(f"mujoco:{task}")
        sets = split(family, {"train": 40, "test": 40, "extrap": 100})
        for name, ((low, high), ((a, b), (c, d))) in family.ranges.items():
            assert all(low <= x[name] <= high for s in ("train", "test") for x in sets[s])
            outside = [x[name] for x in sets["extrap"]]
            assert all(a <= v <= b or c <= v <= d for v in outside) and min(outside) < low and max(outside) > high
    # Packer's power of HalfCheetah: 0.9, 0.7 to 1.1, 0.5 to 0.7 or 1.1 to 1.3
    assert np.allclose(np.array(RANGES["HalfCheetah-v5"]["power"][0]) * 0.9, [0.7, 1.1])
    assert np.allclose(np.array(RANGES["Hopper-v5"]["power"][1]) * 0.75, [[0.5, 0.6], [0.9, 1.0]])


@pytest.mark.parametrize("task", SOME)
def test_the_contract_holds_and_rows_agree(task):
    family = make_family(f"mujoco:{task}")
    contexts = split(family, {"train": 4}, sensor_noise=0.01, delay=2)["train"]
    check_batched_env(ContextualEnv(family, contexts, 3))
    assert_rows_agree(family, contexts, num_rows=16)


def test_delay_noise_and_a_wider_start_do_what_they_say():
    task, family = "InvertedPendulum-v5", make_family("mujoco:InvertedPendulum-v5")
    contexts = one_set(task, {}, {"delay": 3}, {"sensor_noise": 0.5}, {"init_noise": 4.0})
    env = ContextualEnv(family, contexts, 4)
    obs = env.play([[(i, 8)] for i in range(4)])
    np.testing.assert_allclose(obs[3], 4 * obs[0], rtol=1e-5)
    np.testing.assert_array_equal(obs[1], obs[0])
    assert 0.05 < np.abs(obs[2] - obs[0]).max() < 2.5
    moved = []
    for _ in range(5):
        env.step(np.ones((4, 1), np.float32))
        moved.append(env.simulators.physics.sim.qvel[:, 0].copy())
    plain, late = np.array(moved)[:, 0], np.array(moved)[:, 1]
    assert plain[0] > 0.1 and np.abs(late[:3]).max() < 0.05 < late[3]
    with pytest.raises(ValueError, match="no parameter 'init_noise'"):
        split(make_family("mujoco:Reacher-v5"), {"train": 1}, init_noise=2.0)
    with pytest.raises(ValueError, match="wants one of HalfCheetah-v5"):
        make_family("mujoco:CartPole-v1")
