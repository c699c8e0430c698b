"""MuJoCo tasks against Gymnasium's own, which step one simulation at a time."""

import dataclasses
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contract import EnvError, check_batched_env, row_seeds

pytest.importorskip("mujoco.batch")

from gala_envs import mujoco_tasks
from gala_envs.mujoco_batch import MujocoEnv
from gala_envs.mujoco_tasks import TASKS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """MuJoCo writes a note on Gymnasium's own HalfCheetah to MUJOCO_LOG.TXT in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", TASKS)
def test_equals_gymnasium(task, tmp_path):
    num_envs, limit, seed = 3, 70, 11
    ours = MujocoEnv(task, num_envs, threads=2, max_episode_steps=limit)
    assert not list(tmp_path.iterdir())
    theirs = gym.vector.SyncVectorEnv(
        [lambda: gym.make(task, max_episode_steps=limit) for _ in range(num_envs)],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    assert ours.action_space == theirs.single_action_space
    assert ours.obs_space.shape == theirs.single_observation_space.shape
    obs, _ = theirs.reset(seed=row_seeds(seed, num_envs))
    np.testing.assert_allclose(ours.reset64(seed), obs, rtol=0, atol=1e-6)
    rng = np.random.default_rng(seed)
    ended = 0
    for _ in range(200):
        action = rng.uniform(*_bounds(ours), (num_envs, *ours.action_space.shape)).astype(np.float32)
        step = ours.step64(action)
        obs, reward, terminated, truncated, info = theirs.step(action)
        np.testing.assert_allclose(step.obs, obs, rtol=0, atol=1e-6)
        np.testing.assert_allclose(step.reward, reward, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(step.terminated, terminated)
        np.testing.assert_array_equal(step.truncated, truncated)
        for row in np.flatnonzero(terminated | truncated):
            np.testing.assert_allclose(step.final_obs[row], info["final_obs"][row], rtol=0, atol=1e-6)
            ended += 1
    assert ended >= 2 * num_envs
    theirs.close()


def _bounds(env):
    return env.action_space.low, env.action_space.high


@pytest.mark.parametrize("task", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"])
def test_health_is_gymnasiums(task):
    """On states that random actions do not reach: each bound by itself, huge velocities, NaN."""
    theirs, rng, n = gym.make(task).unwrapped, np.random.default_rng(0), 2000
    qpos = rng.uniform(-0.3, 0.3, (n, theirs.model.nq))
    qvel = rng.uniform(-1, 1, (n, theirs.model.nv)) * rng.choice([1, 120], (n, 1))
    height = 1 if task in ("Hopper-v5", "Walker2d-v5") else 2
    qpos[:, height] = rng.uniform(0.0, 2.3, n)
    qpos[:, height + 1] *= rng.choice([1, 4], n)
    qpos[::50, -1] = qvel[25::50, 0] = np.nan
    got = TASKS[task].alive(mujoco_tasks.Sim(theirs.model, theirs.dt, qpos, qvel, {}))
    expected = []
    for p, v in zip(qpos, qvel, strict=True):
        theirs.data.qpos[:], theirs.data.qvel[:] = p, v
        expected.append(bool(theirs.is_healthy))
    np.testing.assert_array_equal(got, expected)
    assert 0.1 < np.mean(expected) < 0.9


@pytest.mark.parametrize("task", TASKS)
def test_time_limit_is_gymnasiums(task):
    assert MujocoEnv(task, 1, threads=1).max_episode_steps == gym.spec(task).max_episode_steps


@pytest.mark.parametrize("task", ["Hopper-v5", "Ant-v5"])
def test_contract(task):
    check_batched_env(MujocoEnv(task, 3, threads=2, max_episode_steps=40), num_steps=100)


def test_thread_count_changes_nothing():
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 5, 6)).astype(np.float32)
    runs = []
    for threads in (1, 2):
        env = MujocoEnv("HalfCheetah-v5", 5, threads=threads)
        runs.append([env.reset(3), *(env.step(a).obs for a in actions)])
    np.testing.assert_array_equal(*runs)


def test_rows_have_streams_of_their_own():
    obs = MujocoEnv("HalfCheetah-v5", 4, threads=1).reset(0)
    assert len(np.unique(obs[:, 0])) == 4
    assert not np.isin(MujocoEnv("HalfCheetah-v5", 4, threads=1).reset(1)[:, 0], obs[:, 0]).any()


def test_engine_failure_names_task_and_row(monkeypatch, tmp_path):
    # Contacts of the sphere do not fit in the engine's memory, so the first step after it touches the floor fails.
    xml = tmp_path / "tiny.xml"
    xml.write_text(
        "<mujoco><size memory='3K'/><worldbody><geom type='plane' size='9 9 .1'/>"
        "<body pos='0 0 .09'><joint name='j' type='slide' axis='0 0 1'/><geom size='.1'/><geom size='.1'/></body>"
        "</worldbody><actuator><motor joint='j' ctrlrange='-1 1'/></actuator></mujoco>"
    )
    task = dataclasses.replace(TASKS["HalfCheetah-v5"], xml=str(xml))
    monkeypatch.setitem(mujoco_tasks.TASKS, "Tiny-v5", task)
    env = MujocoEnv("Tiny-v5", 2, threads=1)
    with pytest.raises(EnvError, match="Tiny-v5, row 0"):
        env.reset(0)
        for _ in range(50):
            env.step(np.zeros((2, 1), np.float32))


def test_the_double_pendulum_clips_speeds_and_forces_as_gymnasium_does():
    """Random play never comes near 10: states are set by hand, and the force is whatever MuJoCo left there."""
    import mujoco

    env = gym.make("InvertedDoublePendulum-v5").unwrapped
    env.reset(seed=0)
    task, model, data = TASKS["InvertedDoublePendulum-v5"], env.model, env.data
    speeds = np.array([[-30.0, 4.0, 25.0], [10.5, -10.5, -9.5], [3.0, 12.0, -50.0]])
    forces, positions = np.array([-900.0, 40.0, 9.5]), np.array([[0.4, 1.0, -2.0], [-0.9, 0.1, 3.0], [0.0, 7.0, 0.5]])
    wanted = []
    for position, speed, force in zip(positions, speeds, forces, strict=True):
        data.qpos[:], data.qvel[:] = position, speed
        mujoco.mj_forward(model, data)
        data.qfrc_constraint[:] = force
        wanted.append(env._get_obs())
    derived = {"qfrc_constraint": np.repeat(forces[:, None], 3, 1)}
    state = SimpleNamespace(model=model, qpos=positions, qvel=speeds, derived=derived)
    np.testing.assert_allclose(task.obs(state), wanted, rtol=1e-12)
    assert np.abs(wanted).max() == 10.0
