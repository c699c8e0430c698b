"""MinAtar's games in a batch against the package's own environment, one at a time."""

import subprocess
import sys

import numpy as np
import pytest
from gala_envs.contract import check_batched_env, row_seeds
from gala_envs.minatar_env import GAMES, MinAtarEnv

minatar = pytest.importorskip("minatar")

ROWS, STEPS, SEED = 3, 400, 4


def alone(game, seed):
    env = minatar.Environment(game, sticky_action_prob=0.3)
    env.seed(seed)
    env.reset()
    return env


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("id", GAMES)
def test_equals_the_package(id, full):
    env = MinAtarEnv(id, ROWS, sticky_actions=0.3, full_action_space=full)
    references = [alone(GAMES[id], seed) for seed in row_seeds(SEED, ROWS)]
    names = list(range(6)) if full else references[0].minimal_action_set()
    assert env.action_space.n == len(names)
    obs = env.reset(SEED)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(STEPS):
        actions = rng.integers(0, len(names), ROWS)
        step = env.step(actions)
        for row, reference in enumerate(references):
            np.testing.assert_array_equal(obs[row], shown(reference))
            reward, terminal = reference.act(names[actions[row]])
            assert (step.reward[row], step.terminated[row]) == (reward, terminal)
            if terminal:
                np.testing.assert_array_equal(step.final_obs[row], shown(reference))
                reference.reset()
                ended += 1
        obs = step.obs
    assert ended or id == "MinAtar/Freeway-v1"  # whose episodes are 2,500 decisions long


def shown(reference):
    return reference.state().transpose(2, 0, 1)


@pytest.mark.parametrize("id", GAMES)
def test_contract(id):
    check_batched_env(MinAtarEnv(id, 2, max_episode_steps=60, sticky_actions=0.5), num_steps=150)


def test_time_limit_truncates():
    env = MinAtarEnv("MinAtar/Freeway-v1", 2, max_episode_steps=7)
    env.reset(0)
    steps = [env.step(np.zeros(2, int)) for _ in range(14)]
    assert [bool(s.truncated[0]) for s in steps] == ([False] * 6 + [True]) * 2
    assert steps[6].episode_length.tolist() == [7, 7]


def test_freeway_ends_by_itself():
    env = MinAtarEnv("MinAtar/Freeway-v1", 1)
    env.reset(0)
    steps = [env.step(np.zeros(1, int)) for _ in range(2501)]
    assert steps[-1].terminated[0] and steps[-1].episode_length[0] == 2501


def test_loading_a_game_loads_no_plotting():
    code = "import sys; from gala_envs.minatar_env import *; MinAtarEnv('MinAtar/Breakout-v1', 1).reset(0)\n"
    code += "assert not {'minatar', 'matplotlib', 'seaborn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)


def test_unknown_game():
    with pytest.raises(ValueError, match="choose one of MinAtar/Asterix-v1"):
        MinAtarEnv("MinAtar/Pong-v1", 1)
