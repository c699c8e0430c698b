"""Context sets as Gymnasium environments: checkers, the same episodes as the family's own rows, and a log of MDPs."""

import gymnasium as gym
import numpy as np
import pytest
from gala_envs import as_gymnasium, as_gymnasium_vector
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family
from gala_envs.for_gymnasium import read_log
from gala_envs.splits import split
from gymnasium.utils.env_checker import check_env

from gala.cli import main

SMALL = {"size": 5, "bads": 1, "limit": 20}
MAZES = split(make_family("maze"), {"train": 4, "test": 60}, **SMALL)


@pytest.mark.parametrize("family", ["maze", "bits", "classic:Pendulum-v1", "seeds:CartPole-v1"])
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_gymnasiums_checker_and_that_of_stable_baselines_pass(family):
    env = as_gymnasium(split(make_family(family), {"train": 3})["train"])
    check_env(env, skip_render_check=True)
    try:
        from stable_baselines3.common.env_checker import check_env as sb3_check
    except ImportError:
        return
    sb3_check(env)


def test_an_episode_is_that_of_the_familys_rows():
    env, rng = as_gymnasium(MAZES["train"]), np.random.default_rng(0)
    for uid in MAZES["train"].uids:
        obs, info = env.reset(seed=1, options={"context": uid})
        assert info["context"] == uid
        rows = ContextualEnv(make_family("maze"), MAZES["train"], 1)
        expected, over, steps = rows.play([[(MAZES["train"].uids.index(uid), 5)]])[0], False, 0
        while not over:
            np.testing.assert_array_equal(obs, expected)
            action = int(rng.integers(5))
            obs, reward, terminated, truncated, info = env.step(action)
            t = rows.step(np.array([action]))
            assert (reward, terminated, truncated) == (t.reward[0], t.terminated[0], t.truncated[0])
            expected, over, steps = (
                (t.obs if t.final_obs is None else t.final_obs)[0],
                terminated or truncated,
                steps + 1,
            )
        np.testing.assert_array_equal(obs, expected)
        assert 0 < steps <= 20 and info["context"] == uid
    with pytest.raises(ValueError, match="is not in this set"):
        env.reset(options={"context": "nobody"})


def test_a_vector_keeps_gymnasiums_contract_and_names_the_mdp_of_every_step(tmp_path):
    env = as_gymnasium_vector(MAZES["train"], 3, log=tmp_path / "log.jsonl")
    assert env.metadata["autoreset_mode"] is gym.vector.AutoresetMode.SAME_STEP
    assert env.observation_space.shape == (3, 5, 5, 5) and env.action_space.shape == (3,)
    obs, infos = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, again)
    begun, wrapped = 6, gym.wrappers.vector.RecordEpisodeStatistics(env)
    obs, infos = wrapped.reset(seed=3)
    begun += 3
    env.action_space.seed(0)
    for _ in range(50):
        before = infos["context"]
        obs, rewards, terminated, truncated, infos = wrapped.step(env.action_space.sample())
        over = terminated | truncated
        begun += int(over.sum())
        assert env.observation_space.contains(obs) and rewards.shape == (3,) and rewards.dtype == np.float64
        assert set(infos["context"]) <= set(MAZES["train"].uids)
        if over.any():
            assert (infos["_final_obs"] == over).all() and infos["_episode"].tolist() == over.tolist()
            row = int(over.argmax())
            assert infos["final_obs"][row].shape == (5, 5, 5) and (infos["episode"]["l"][row] <= 20)
        else:
            assert len(before) == 3
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == begun
    with pytest.raises(ValueError, match="give one seed"):
        env.reset(seed=[1, 2, 3])
    env.close()


def test_the_log_of_a_training_elsewhere_shows_whether_a_test_mdp_was_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, contexts in MAZES.items():
        contexts.write(tmp_path / "sets" / f"{name}.json")
    for name, contexts in MAZES.items():
        env = as_gymnasium(contexts, log=f"{name}.jsonl")
        for seed in range(6):
            env.reset(seed=seed)
    assert {c.uid for c in read_log("train.jsonl")} <= set(MAZES["train"].uids)
    (tmp_path / "still.py").write_text("def act(obs, state, rng):\n    return 0\n")
    words = ["overfit", "eval", "policy=still:act", "repeats=3", "out=study"]
    assert main([*words, "played=test.jsonl"]) == 2
    err = capsys.readouterr().err
    assert "MDPs of the test set were trained on" in err and err.count("\n") == 1 and not (tmp_path / "study").exists()
    assert main([*words, "played=train.jsonl"]) == 4
    assert "unchecked" not in (tmp_path / "study" / "study.json").read_text()
    with pytest.raises(ValueError, match="is no log of contexts"):
        read_log("still.py")
