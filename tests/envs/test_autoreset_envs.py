"""The same transitions, returns and advantages, whatever the vectorisation and the autoreset mode."""

import gymnasium as gym
import numpy as np
import pytest
from counting import SCRIPT, Counting, scripted_episodes
from gala_envs.contract import check_batched_env, row_seeds
from gala_envs.gymnasium_backend import GymnasiumEnv

MODES = [(v, a) for v in ("sync", "async") for a in ("same-step", "next-step")]
GAMMA, NUM_ROWS, NUM_STEPS = 0.9, 2, 40


@pytest.fixture(scope="module", autouse=True)
def registered():
    gym.register("gala-test/Counting-v0", Counting)
    yield
    gym.registry.pop("gala-test/Counting-v0")


def make(vectorization, autoreset):
    return GymnasiumEnv("gala-test/Counting-v0", NUM_ROWS, vectorization=vectorization, autoreset=autoreset)


def value(obs):
    """Any fixed function of the observation will do as V(s)."""
    return np.asarray(obs, np.float64) @ [1.0, 0.25, 4.0]


def collect(env, num_valid, seed):
    """Valid transitions of row 0, as a learner sees them: dicts of obs, reward, next_obs (the true one), ended."""
    obs, out = env.reset(seed), []
    while len(out) < num_valid:
        step = env.step(np.zeros(NUM_ROWS, int))
        if step.valid[0]:
            ended = "terminated" if step.terminated[0] else "truncated" if step.truncated[0] else ""
            next_obs = step.final_obs[0] if ended else step.obs[0]
            out.append({"obs": obs[0], "reward": step.reward[0], "next_obs": next_obs, "ended": ended})
        obs = step.obs
    return out


def advantages_of_transitions(transitions):
    """The recursion a learner runs: A_t + V_t = r + gamma (terminated: 0, truncated: V(final), else the return)."""
    ret = value(transitions[-1]["next_obs"])
    out = []
    for tr in reversed(transitions):
        after = {"terminated": 0.0, "truncated": value(tr["next_obs"]), "": ret}[tr["ended"]]
        ret = float(tr["reward"]) + GAMMA * after
        out.append(ret - value(tr["obs"]))
    return out[::-1]


def advantages_of_script(num_steps, seed):
    """The oracle: no batch, no autoreset, no recursion; sums over each scripted episode."""
    rng = np.random.default_rng(row_seeds(seed, NUM_ROWS)[0])
    out = []
    for episode in scripted_episodes(num_steps):
        draw = np.float32(rng.random())
        states = [value([episode["number"], k, draw]) for k in range(len(episode["rewards"]) + 1)]
        for start in range(len(episode["rewards"])):
            rest = episode["rewards"][start:]
            total = sum(GAMMA**k * r for k, r in enumerate(rest))
            if episode["ended"] != "terminated":
                total += GAMMA ** len(rest) * states[-1]
            out.append(total - states[start])
    return out


@pytest.mark.parametrize(("vectorization", "autoreset"), MODES)
def test_advantages_are_the_scripts(vectorization, autoreset):
    env = make(vectorization, autoreset)
    got = advantages_of_transitions(collect(env, NUM_STEPS, seed=5))
    np.testing.assert_allclose(got, advantages_of_script(NUM_STEPS, seed=5), rtol=1e-12)
    env.close()


def test_transitions_do_not_depend_on_the_mode():
    runs = []
    for mode in MODES:
        env = make(*mode)
        runs.append(collect(env, NUM_STEPS, seed=2))
        env.close()
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            np.testing.assert_array_equal(a["obs"], b["obs"])
            np.testing.assert_array_equal(a["next_obs"], b["next_obs"])
            assert (a["reward"], a["ended"]) == (b["reward"], b["ended"])
    ends = [tr for tr in runs[0] if tr["ended"]]
    assert [tr["next_obs"][1] for tr in ends] == [SCRIPT[i % len(SCRIPT)][0] for i in range(len(ends))]


@pytest.mark.parametrize(("vectorization", "autoreset"), MODES)
def test_episode_sums(vectorization, autoreset):
    env = make(vectorization, autoreset)
    env.reset(0)
    sums = []
    for _ in range(30):
        step = env.step(np.zeros(NUM_ROWS, int))
        rows = step.episode_over
        sums += list(zip(step.episode_return[rows].tolist(), step.episode_length[rows].tolist(), strict=True))
    env.close()
    script = [(n * (n + 1) / 2, n) for n, _ in SCRIPT]
    assert sums[: 2 * len(SCRIPT) : NUM_ROWS] == script
    assert sums[1 : 2 * len(SCRIPT) : NUM_ROWS] == script


@pytest.mark.parametrize(("vectorization", "autoreset"), MODES)
def test_contract(vectorization, autoreset):
    env = make(vectorization, autoreset)
    check_batched_env(env, num_steps=60)
    env.close()
