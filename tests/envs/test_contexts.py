"""Contexts and their sets: identity across processes, splits that do not overlap, an environment that plays them."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet, draw_distinct
from gala_envs.contextual_env import ContextualEnv, default_set
from gala_envs.contract import check_batched_env
from gala_envs.families import FAMILIES, make_family
from gala_envs.identity import assert_disjoint
from gala_envs.registry import make
from gala_envs.splits import split

SMALL = {"size": 5, "bads": 1, "limit": 30}


def test_a_uid_survives_processes_hash_seeds_and_the_order_of_keys_but_not_one_ulp():
    a = Context.of("classic:CartPole-v1", 3, length=0.5, force=10.0)
    b = Context.from_json(
        json.loads('{"seed": 3, "params": {"force": 10.0, "length": 0.5}, "family": "classic:CartPole-v1"}')
    )
    assert a.uid == b.uid and a == b
    code = (
        "from gala_envs.contexts import Context; print(Context.of('classic:CartPole-v1', 3, force=10.0, length=.5).uid)"
    )
    path = ":".join(sys.path)
    for hash_seed in ("0", "1"):
        env = {"PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
        assert out.strip() == a.uid
    assert a.with_params(length=float(np.nextafter(0.5, 1))).uid != a.uid
    assert dataclasses.replace(a, seed=4).uid != a.uid != dataclasses.replace(a, family="maze").uid


def test_a_set_survives_its_file_and_an_edited_file_is_refused(tmp_path):
    sets = split(make_family("maze"), {"train": 5, "test": 5}, **SMALL)
    sets["train"].write(tmp_path / "train.json")
    assert ContextSet.read(tmp_path / "train.json") == sets["train"]
    with pytest.raises(ValueError, match="already exists"):
        sets["train"].write(tmp_path / "train.json")
    text = (tmp_path / "train.json").read_text()
    (tmp_path / "train.json").write_text(text.replace('"limit": 30', '"limit": 31', 1))
    with pytest.raises(ValueError, match="edited after it was written"):
        ContextSet.read(tmp_path / "train.json")
    tree = json.loads(text)
    del tree["sha256"]
    (tmp_path / "train.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match="has no hash"):
        ContextSet.read(tmp_path / "train.json")
    with pytest.raises(ValueError, match="gala overfit split"):
        ContextSet.read(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(ValueError, match="not a context set"):
        ContextSet.read(tmp_path / "bad.json")


@pytest.mark.parametrize("seed", range(5))
def test_splits_never_overlap_by_layout_and_a_small_family_is_not_stretched(seed):
    family = make_family("bits")
    sets = split(family, {"train": 6, "val": 4, "test": 6}, seed=seed, length=4)
    prints = [family.fingerprint(c) for s in sets.values() for c in s]
    assert len(set(prints)) == 16 == len(prints)  # all 2^4 strings, each once
    with pytest.raises(ValueError, match="there are only 16"):
        split(family, {"train": 10, "test": 10}, seed=seed, length=4)


def test_overlapping_sets_unknown_regions_and_settings_are_refused():
    sets = split(make_family("maze"), {"train": 5, "test": 5}, **SMALL)
    with pytest.raises(ValueError, match="share 1 MDPs"):
        assert_disjoint([sets["train"], ContextSet((*sets["test"].contexts, sets["train"].contexts[2]), "test")])
    with pytest.raises(ValueError, match="no region E"):
        split(make_family("maze"), {"train": 1, "extrap": 1})
    with pytest.raises(ValueError, match="no parameter 'wind'"):
        split(make_family("maze"), {"train": 1}, wind=3)
    with pytest.raises(ValueError, match="must be a number from 3 to 63"):
        split(make_family("maze"), {"train": 1}, size=2)
    with pytest.raises(ValueError, match="do not fit into"):
        split(make_family("maze"), {"train": 1}, size=3, goods=8, bads=8)
    with pytest.raises(ValueError, match="did you mean maze"):
        make_family("mase")
    with pytest.raises(ValueError, match="twice"):
        ContextSet((sets["train"].contexts[0],) * 2, "train")


@pytest.mark.parametrize("name", ["bits", "maze", "tiny_objects"])
@pytest.mark.parametrize("options", [{}, {"sticky_actions": 0.3, "order": "round-robin"}])
def test_families_keep_the_contract(name, options):
    env = ContextualEnv(make_family(name), default_set(make_family(name)).take(7), 5, **options)
    check_batched_env(env)


def play(env, plan, actions):
    """Per row and episode: (context, observations, return, length)."""
    obs = env.play(plan)
    open_, done = [[o] for o in obs], [[] for _ in plan]
    for a in actions:
        step = env.step(a[: len(plan)])
        for row in range(len(plan)):
            ended = step.episode_over[row]
            open_[row].append(step.final_obs[row] if ended else step.obs[row])
            if ended:
                episode = (
                    int(step.context[row]),
                    np.stack(open_[row]),
                    step.episode_return[row],
                    step.episode_length[row],
                )
                done[row].append(episode)
                open_[row] = [step.obs[row]]
    return done


@pytest.mark.parametrize("name", ["bits", "maze", "tiny_objects"])
def test_an_episode_is_the_same_in_any_row_of_any_batch(name):
    """Sticky actions and sensor noise included; the ended episode's context is named, not the next one's."""
    family = make_family(name)
    contexts = split(family, {"train": 6}, seed=3)["train"]
    noise = {"sticky_actions": 0.4} | ({"obs_noise": 0.5} if name == "bits" else {})
    rng = np.random.default_rng(0)
    actions = np.repeat(rng.integers(0, 5 if name == "maze" else 2, (450, 1)), 8, axis=1)  # all rows do the same
    plan = [[(i % 6, 100 + i), ((i + 1) % 6, 200 + i)] for i in range(8)]
    many = play(ContextualEnv(family, contexts, 8, **noise), plan, actions)
    checked = 0
    for row in (0, 3, 7):
        alone = play(ContextualEnv(family, contexts, 1, **noise), [plan[row]], actions)[0]
        for (c1, obs1, return1, length1), (c2, obs2, return2, length2), (want, _) in zip(
            alone[:2], many[row][:2], plan[row], strict=True
        ):
            assert c1 == c2 == want and return1 == return2 and length1 == length2
            np.testing.assert_array_equal(obs1, obs2)
            checked += 1
    assert checked == 6


def test_round_robin_deals_all_contexts_and_episodes_are_counted():
    contexts = split(make_family("bits"), {"train": 10}, length=4)["train"]
    env = ContextualEnv(make_family("bits"), contexts, 3, order="round-robin")
    env.reset(0)
    seen = []
    for _ in range(4 * 20):
        step = env.step(np.zeros(3, int))
        seen += step.context[step.episode_over].tolist()
    assert set(seen) == set(range(10)) and max(map(seen.count, range(10))) - min(map(seen.count, range(10))) <= 1
    assert env.episodes.sum() == len(seen) + 3


def test_what_is_exposed_is_the_context_scaled_to_its_range():
    contexts = split(make_family("bits"), {"train": 2}, length=4, cue=0.25)["train"]
    env = ContextualEnv(make_family("bits"), contexts, 2, expose=True)
    obs = env.reset(0)
    assert obs.shape == (2, *env.obs_space.shape)
    np.testing.assert_allclose(obs[:, -2:], [[3 / 1023, 0.25]] * 2, rtol=1e-6)
    with pytest.raises(ValueError, match="float vectors"):
        ContextualEnv(make_family("maze"), default_set(make_family("maze")), 2, expose=True)
    with pytest.raises(ValueError, match="belong to the family bits"):
        ContextualEnv(make_family("maze"), contexts, 2)


def test_the_registry_plays_a_set_from_a_file(tmp_path):
    sets = split(make_family("maze"), {"train": 3}, **SMALL)
    sets["train"].write(tmp_path / "train.json")
    env = make("maze", 4, contexts=str(tmp_path / "train.json"))
    assert env.contexts == sets["train"] and env.reset(0).shape == (4, 5, 5, 5)
    assert set(FAMILIES) >= {"bits", "maze"}


@pytest.mark.parametrize("wanted", [28, 10**9])
def test_asking_for_more_contexts_than_there_are_ends_soon_and_says_how_many_there_are(wanted):
    """All 27 are found, and the draws are a few hundred, however many were asked for."""
    draws = 0
    rng = np.random.default_rng(0)

    def draw():
        nonlocal draws
        draws += 1
        return Context.of("bits", int(rng.integers(27)))

    with pytest.raises(ValueError, match="with these settings there are only 27"):
        draw_distinct(wanted, draw, lambda context: str(context.seed))
    assert draws < 2000
    assert len(draw_distinct(27, draw, lambda context: str(context.seed))) == 27
