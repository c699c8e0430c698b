"""The same MDP by any spelling, seed or symmetry is found, and MDPs that only begin alike are not."""

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.families import make_family
from gala_envs.families.maze import Maze, _draw, build
from gala_envs.families.solved import solved_return
from gala_envs.identity import assert_disjoint, canonical, duplicates, identity, roll
from gala_envs.splits import split


@pytest.mark.parametrize(
    ("family", "plain", "spelled"),
    [
        ("maze", {"size": 5}, {"size": 5.0, "goods": 2, "limit": 200}),
        ("bits", {}, {"length": 16.0, "cue": 0.5}),
        ("classic:CartPole-v1", {"length": 1}, {"length": 1.0, "force": 10, "init_mult": 1}),
        ("seeds:CartPole-v1", {}, {"action_bins": 0.0, "init_mult": 1}),
        ("confounded:bits", {"theta": 3}, {"theta": 3.0, "noise_dims": 16.0, "shown": "both"}),
        ("tiny_objects", {}, {"side": 32.0}),
    ],
)
def test_a_test_mdp_that_is_a_training_mdp_in_other_words_is_refused(family, plain, spelled):
    a, b = Context.of(family, 7, **plain), Context.of(family, 7, **spelled)
    made = make_family(family)
    assert a.uid != b.uid and canonical(made, a) == canonical(made, b) and identity(made, a) == identity(made, b)
    sets = [ContextSet((a,), "train"), ContextSet((b, Context.of(family, 8, **plain)), "test")]
    with pytest.raises(ValueError, match=rf"train and test sets share 1 MDPs \({a.uid} is {b.uid}, "):
        assert_disjoint(sets)
    assert_disjoint([sets[0], ContextSet(sets[1].contexts[1:], "test")])
    with pytest.raises(ValueError, match="has no parameter 'colour'"):
        assert_disjoint([ContextSet((a.with_params(colour=1),), "train")])


def test_a_level_under_another_seed_is_refused_too():
    family, small = make_family("bits"), {"length": 4}
    known = {}
    for seed in range(40):
        known.setdefault(family.fingerprint(Context.of("bits", seed, **small)), []).append(seed)
    first, second = next(seeds for seeds in known.values() if len(seeds) > 1)[:2]
    sets = [ContextSet((Context.of("bits", s, **small),), name) for s, name in ((first, "train"), (second, "test"))]
    with pytest.raises(ValueError, match="share 1 MDPs"):
        assert_disjoint(sets)
    assert [row["why"] for row in duplicates({"train": sets[0], "test": sets[1]})] == ["same MDP"]


@pytest.mark.parametrize("family", ["classic:CartPole-v1", "classic:Pendulum-v1", "mujoco:InvertedPendulum-v5"])
def test_starts_that_are_multiplied_by_0_are_one_start(family):
    if family.startswith("mujoco"):
        pytest.importorskip("mujoco")
    made = make_family(family)
    assert len({made.fingerprint(Context.of(family, seed, init_mult=0.0)) for seed in range(10)}) == 1
    assert len({made.fingerprint(Context.of(family, seed, init_mult=0.5)) for seed in range(10)}) == 10
    assert len({made.fingerprint(Context.of(family, None, init_mult=k)) for k in (0.0, 0.5)}) == 2
    with pytest.raises(ValueError, match="there are only 1"):
        split(made, {"train": 2}, region="D", init_mult=0.0)


def test_lakes_that_begin_alike_and_slip_otherwise_are_several_mdps():
    family = make_family("seeds:FrozenLake-v1")
    sets = split(family, {"train": 10, "test": 10})
    assert_disjoint(list(sets.values()))
    a, b = sets["train"].contexts[0], sets["test"].contexts[0]
    assert identity(family, a) == identity(make_family(family.name), a) != identity(family, b)


class _Hidden(gym.Env):
    """One start and one picture for all; what is worth something depends on the seed."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.worth = self.np_random.integers(2)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), float(action == self.worth), False, False, {}


class _Worded(gym.Env):
    observation_space = gym.spaces.Dict({"a": gym.spaces.Text(3)})
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return {"a": "abc"}, {}


def test_rewards_count_and_observations_that_are_no_array_are_refused():
    gym.register("Hidden-v0", _Hidden)
    gym.register("Worded-v0", _Worded)
    try:
        family = make_family("seeds:Hidden-v0")
        assert len({family.fingerprint(Context.of(family.name, seed)) for seed in range(20)}) == 2
        with pytest.raises(ValueError, match="Text observations are not supported"):
            split(make_family("seeds:Worded-v0"), {"train": 3})
    finally:
        gym.registry.pop("Hidden-v0")
        gym.registry.pop("Worded-v0")


def test_rollouts_are_the_same_for_all_and_padded_ones_as_long():
    family = make_family("seeds:CartPole-v1")
    contexts = [Context.of(family.name, seed) for seed in range(5)]
    rows = family.simulators(contexts, 1, 1)
    first = roll(rows, contexts[0])
    for context in contexts[1:]:
        roll(rows, context)
    again = roll(rows, contexts[0])
    assert all((x == y).all() for x, y in zip(first, again, strict=True))
    lengths = {tuple(len(roll(rows, c, padded=padded)) for padded in (False, True)) for c in contexts}
    assert {long for _, long in lengths} == {4 + 4 * 4 * 16} and any(short < long for short, long in lengths)
    rows.close()


def test_mirror_images_of_mazes_are_those_of_their_pictures():
    """Against pictures that are turned and mirrored as arrays."""
    family, by_hash, by_picture = Maze(), {}, {}
    for seed in range(150):
        context = Context.of("maze", seed, size=3, goods=1, bads=1, blocks=1)
        picture = _draw(build(context)).reshape(5, 3, 3)
        turned = [np.rot90(p, k, (1, 2)).tobytes() for p in (picture, picture[:, ::-1]) for k in range(4)]
        by_picture.setdefault(min(turned), set()).add(seed)
        by_hash.setdefault(family.up_to_symmetry(context), set()).add(seed)
    assert sorted(map(sorted, by_hash.values())) == sorted(map(sorted, by_picture.values()))
    assert len(by_hash) < len(
        {family.fingerprint(Context.of("maze", s, size=3, goods=1, bads=1, blocks=1)) for s in range(150)}
    )


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("seeds:CartPole-v1", 475.0),
        ("confounded:classic:Acrobot-v1", -100.0),
        ("mujoco:Hopper-v5", 3800.0),
        ("classic:Pendulum-v1", None),
        ("maze", None),
        ("ale:Pong", None),
    ],
)
def test_the_return_that_solves_a_task_is_gymnasiums_threshold(family, wanted):
    found = solved_return(family)
    assert (found.value if found else None) == wanted
    if found:
        assert found.source == f"Gymnasium's reward_threshold of {family.rpartition(':')[2]}"
