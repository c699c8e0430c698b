"""MuJoCo with other bodies: Gymnasium's own environments on a model edited by hand are the oracle."""

import inspect

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.mujoco_batch import MujocoEnv
from gala_envs.mujoco_tasks import TASKS
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


def rollout(env, steps=50):
    """Both rows' state from rest, with the same motor commands each time."""
    physics, rng = env.simulators.physics, np.random.default_rng(0)
    model, out = physics.model, []
    physics.start(np.arange(2), [(model.qpos0, np.zeros(model.nv))] * 2)
    for _ in range(steps):
        physics.advance(np.repeat(rng.uniform(-1, 1, (1, model.nu)), 2, 0))
        out.append(np.concatenate([physics.sim.qpos, physics.sim.qvel], 1))
    return np.stack(out)


@pytest.mark.parametrize("task", ["Hopper-v5", "Humanoid-v5"])
def test_a_heavier_body_made_light_again_is_bit_for_bit_the_old_one(task):
    """One row changes its body between episodes, the other never does."""
    contexts = one_set(task, {}, {"mass": 1.5, "power": 0.8})
    env = ContextualEnv(make_family(f"mujoco:{task}"), contexts, 2)
    env.play([[(0, 0)], [(0, 0)]])
    before = rollout(env)
    np.testing.assert_array_equal(before[:, 0], before[:, 1])
    env.play([[(1, 0)], [(0, 0)]])
    heavy, base = env.simulators.physics.batch.get_model(0), env.simulators.physics.model
    below = 1.5 * base.body_mass
    for body in range(base.nbody - 1, 0, -1):
        below[base.body_parentid[body]] += below[body]
    np.testing.assert_allclose(heavy.body_subtreemass, below, rtol=1e-12)
    during = rollout(env)
    assert np.abs(during[:, 0] - before[:, 0]).max() > 1e-3
    np.testing.assert_array_equal(during[:, 1], before[:, 1])
    env.play([[(0, 0)], [(0, 0)]])
    np.testing.assert_array_equal(rollout(env), before)


def test_what_a_row_runs_on_is_read_back():
    contexts = one_set(
        "Hopper-v5", {}, {"mass": 1.5, "gravity": 0.9}, {"damping": 2.0, "friction": 0.5}, {"power": 2.0}
    )
    env = ContextualEnv(make_family("mujoco:Hopper-v5"), contexts, 4)
    env.play([[(i, 0)] for i in range(4)])
    for row, context in enumerate(contexts):
        env.simulators.verify(row, context)
    for name in ("mass", "gravity", "damping", "friction", "power"):
        with pytest.raises(ValueError, match=f"row 0: .* does not fit {name}=1.1"):
            env.simulators.verify(0, Context.of("mujoco:Hopper-v5", **{name: 1.1}))


def test_constants_that_were_not_derived_anew_are_found():
    bodies = make_family("mujoco:Hopper-v5").simulators([Context.of("mujoco:Hopper-v5")], 1, 1)
    for field in ("body_mass", "body_inertia"):
        bodies.physics.batch.expand(field)[0] *= 1.5
    with pytest.raises(ValueError, match=r"row 0: body_subtreemass .* call set_const"):
        bodies.verify(0, Context.of("mujoco:Hopper-v5", mass=1.5))


@pytest.mark.parametrize("task", TASKS)
def test_a_wider_start_is_gymnasiums(task):
    """Gymnasium's Reacher and Pusher have no such argument; there, what is not goal or object is 3 times as far."""
    family = make_family(f"mujoco:{task}")
    env = ContextualEnv(family, one_set(task, {"seed": 5}, {"seed": 5, "init_mult": 3.0}, {"init_mult": 3.0}), 3)
    env.play([[(0, 1)], [(1, 2)], [(2, 5)]])
    sim = env.simulators.physics.sim
    for field in (sim.qpos, sim.qvel):
        np.testing.assert_array_equal(field[1], field[2])
    if task in ("Reacher-v5", "Pusher-v5"):
        objects = 2 if task == "Reacher-v5" else 4
        rest = np.concatenate([sim.model.qpos0[:-objects], np.zeros(sim.model.nv)])
        near, far = np.concatenate([sim.qpos[:2, :-objects], sim.qvel[:2]], 1) - rest
        np.testing.assert_allclose(far, 3 * near, rtol=1e-9, atol=1e-15)
        np.testing.assert_array_equal(sim.qpos[0, -objects:], sim.qpos[1, -objects:])
        assert near.any()
        return
    plain = gym.make(task)
    scale = inspect.signature(type(plain.unwrapped)).parameters["reset_noise_scale"].default
    for row, oracle in enumerate((plain, gym.make(task, reset_noise_scale=3 * scale))):
        oracle.reset(seed=5)
        np.testing.assert_allclose(sim.qpos[row], oracle.unwrapped.data.qpos, rtol=0, atol=1e-12)
        np.testing.assert_allclose(sim.qvel[row], oracle.unwrapped.data.qvel, rtol=0, atol=1e-12)


def test_seeds_that_start_alike_are_one_context():
    family = make_family("mujoco:Hopper-v5")
    assert len(split(family, {"train": 3}, region="D")["train"]) == 3
    with pytest.raises(ValueError, match="only 1"):
        split(family, {"train": 3}, region="D", init_mult=0.0)


@pytest.mark.parametrize("task", ["HalfCheetah-v5", "Hopper-v5"])
def test_success_is_to_be_20_m_away_at_the_end(task):
    env = ContextualEnv(make_family(f"mujoco:{task}"), one_set(task, {}), 3, max_episode_steps=2)
    env.play([[(0, 0)]] * 3)
    sim = env.simulators.physics.sim
    for _ in range(2):
        sim.qpos[:, 0] = 19.0, 21.0, 0.0
        step = env.step(np.zeros((3, *env.action_space.shape), np.float32))
    assert step.episode_over.all() and step.success.tolist() == [False, True, False]


FRICTION = (0.8, (0.5, 1.1), ((0.2, 0.5), (1.1, 1.4)))
DENSITY = (1000, (750, 1250), ((500, 750), (1250, 1500)))
OTHERS = (1, (0.75, 1.25), ((0.5, 0.75), (1.25, 1.5)))
PACKER = {
    "HalfCheetah-v5": (
        ("power", (0.9, (0.7, 1.1), ((0.5, 0.7), (1.1, 1.3)))),
        ("friction", FRICTION),
        ("mass", DENSITY),
    ),
    "Hopper-v5": (("power", (0.75, (0.6, 0.9), ((0.4, 0.6), (0.9, 1.1)))), ("friction", FRICTION), ("mass", DENSITY)),
    "InvertedPendulum-v5": (("power", OTHERS), ("friction", OTHERS), ("mass", OTHERS)),
}
"""Table 1 of arXiv 1810.12282: D, R, E."""


@pytest.mark.parametrize("task", SOME)
def test_contexts_come_from_packers_regions(task):
    """Multiples of their D; E is drawn uniformly over the union of its two intervals (4 sigma)."""
    sets = split(make_family(f"mujoco:{task}"), {"train": 300, "test": 100, "extrap": 400})
    assert {name for name, _ in PACKER[task]} == {name for name, _ in sets["train"].contexts[0].params}
    for name, (default, (low, high), (below, above)) in PACKER[task]:
        slack = 0.05 * (high - low)
        r = default * np.array([c[name] for s in ("train", "test") for c in sets[s]])
        assert low - 1e-9 < r.min() < low + slack and high - slack < r.max() < high + 1e-9
        e = default * np.array([c[name] for c in sets["extrap"]])
        in_lower = (below[0] - 1e-9 < e) & (e < below[1] + 1e-9)
        assert (in_lower ^ ((above[0] - 1e-9 < e) & (e < above[1] + 1e-9))).all()
        assert e.min() < below[0] + slack and above[1] - slack < e.max()
        share = (below[1] - below[0]) / (below[1] - below[0] + above[1] - above[0])
        assert in_lower.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 400))


@pytest.mark.parametrize("task", [*SOME, "Humanoid-v5"])
def test_the_contract_holds_and_rows_agree(task):
    family = make_family(f"mujoco:{task}")
    contexts = split(family, {"train": 4}, sensor_noise=0.01, delay=2)["train"]
    check_batched_env(ContextualEnv(family, contexts, 3))
    assert_rows_agree(family, contexts, num_rows=16)


def test_delay_noise_and_a_wider_start_do_what_they_say():
    task, family = "InvertedPendulum-v5", make_family("mujoco:InvertedPendulum-v5")
    contexts = one_set(task, {}, {"delay": 3}, {"sensor_noise": 0.5}, {"init_mult": 4.0})
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
    with pytest.raises(ValueError, match=r"delay=1\.5 must be one of 0, 1, 2, 3, 4, 5"):
        family.simulators([Context.of(family.name, delay=1.5)], 1, 1)
    with pytest.raises(ValueError, match="no parameter 'gear'; it has mass, friction, power"):
        family.simulators([Context.of(family.name, gear=2.0)], 1, 1)
    with pytest.raises(ValueError, match="wants one of HalfCheetah-v5"):
        make_family("mujoco:CartPole-v1")


def test_sensor_noise_is_what_the_episodes_stream_gives_after_the_start():
    contexts = one_set("Humanoid-v5", {}, {"sensor_noise": 0.25})
    env = ContextualEnv(make_family("mujoco:Humanoid-v5"), contexts, 2)
    exact, noisy = env.play([[(0, 8)], [(1, 8)]])
    stream, model = np.random.default_rng(8), env.simulators.physics.model
    stream.random(model.nq + model.nv)
    np.testing.assert_allclose(noisy - exact, 0.25 * stream.standard_normal(len(exact)), atol=1e-4)


@pytest.mark.parametrize("task", ["Reacher-v5", "Pusher-v5"])
def test_every_episode_has_gymnasiums_time_limit(task):
    env = ContextualEnv(make_family(f"mujoco:{task}"), one_set(task, {}), 1)
    env.reset(0)
    still, limit = np.zeros((1, *env.action_space.shape), np.float32), gym.spec(task).max_episode_steps
    ends = [i for i in range(1, 2 * limit + 1) if env.step(still).truncated[0]]
    assert ends == [limit, 2 * limit]
