"""Levels through EnvPool, where it is installed; without it, one line that says so."""

import importlib.util

import pytest
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.registry import list_env_ids
from gala_envs.splits import split
from rows_agree import assert_rows_agree

INSTALLED = importlib.util.find_spec("envpool") is not None
needs_envpool = pytest.mark.skipif(not INSTALLED, reason="EnvPool is not installed")


@pytest.mark.skipif(INSTALLED, reason="EnvPool is installed")
def test_without_envpool_the_extra_is_named():
    with pytest.raises(ValueError, match=r"needs EnvPool; run: pip install envpool$"):
        make_family("envpool:MiniGrid-FourRooms-v0")


@needs_envpool
@pytest.mark.parametrize("word", ["FourRooms", "Coinrun"])
def test_the_contract_holds_and_rows_agree(word):
    id = next(id for id in list_env_ids("envpool")["envpool"] if word in id)
    try:
        family = make_family(f"envpool:{id}")
    except ValueError as error:
        assert "needs Qt 5" in str(error)
        pytest.skip(str(error))
    contexts = split(family, {"train": 4})["train"]
    env = ContextualEnv(family, contexts, 2, max_episode_steps=30)
    check_batched_env(env, num_steps=70)
    assert_rows_agree(family, contexts, 64, 30)


@needs_envpool
def test_what_has_no_levels_is_refused():
    with pytest.raises(ValueError, match="CartPole-v1 has no levels"):
        make_family("envpool:CartPole-v1")
    with pytest.raises(ValueError, match="EnvPool has no task 'NoSuchTask'"):
        make_family("envpool:NoSuchTask")
    with pytest.raises(ValueError, match="there are only 1"):
        split(make_family("envpool:MiniGrid-Empty-5x5-v0"), {"train": 5})
