"""Flavours of Atari games, against ale-py's batched emulator and against Gymnasium's environments of one flavour."""

import warnings

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ale_py")

import ale_py
from ale_py.vector_env import AtariVectorEnv
from gala_envs.atari import Emulator, game_rom_id, list_ids
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import ale, make_family
from gala_envs.splits import split
from rows_agree import assert_rows_agree

PLAIN = {"sticky": 0.0, "noop_max": 0}


def flavours(game, *pairs, **params):
    contexts = tuple(Context.of(f"ale:{game}", mode=m, difficulty=d, **params) for m, d in pairs)
    return ContextSet(contexts, "train")


def play(game, contexts, num_envs=1, **options):
    return ContextualEnv(make_family(f"ale:{game}"), contexts, num_envs, **options)


def test_the_contract_holds_and_rows_agree():
    family = make_family("ale:Pong")
    contexts = split(family, {"train": 3})["train"]
    env = ContextualEnv(family, contexts, 2, max_episode_steps=20)
    check_batched_env(env, num_steps=50)
    env.close()
    assert_rows_agree(family, contexts, 12, 25)


@pytest.mark.parametrize("game", ["Pong", "Breakout", "SpaceInvaders", "NameThisGame"])
def test_the_default_flavour_is_the_batched_emulators_game(game):
    """Pictures to one grey level (OpenCV rounds its sums otherwise); rewards and ends are the same."""
    family = make_family(f"ale:{game}")
    env = ContextualEnv(family, ContextSet((Context.of(family.name, **PLAIN),), "train"), 1)
    oracle = AtariVectorEnv(game_rom_id(f"ALE/{game}-v5"), 1, num_threads=1, noop_max=0, reward_clipping=False)
    rng = np.random.default_rng(0)
    ours, theirs, total = env.play([[(0, 0)]]), oracle.reset(seed=3)[0], 0.0
    for _ in range(250):
        np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=1)
        actions = rng.integers(env.action_space.n, size=1)
        s, (theirs, reward, terminated, _, _) = env.step(actions), oracle.step(actions)
        assert (s.reward[0], s.terminated[0]) == (reward[0], terminated[0])
        ours, total = s.obs, total + reward[0]
        if terminated[0]:
            break
    assert total != 0


@pytest.mark.parametrize(
    ("game", "flavour", "other"),
    [("Surround", (2, 3), (0, 0)), ("Freeway", (7, 1), (0, 0)), ("Hero", (4, 0), (0, 0)), ("Pong", (1, 3), (0, 0))],
)
def test_a_flavour_is_gymnasiums_whatever_was_played_before(game, flavour, other):
    """Ten episodes, each after one of another flavour, against an emulator that was made for the flavour."""
    list_ids()
    env = play(game, flavours(game, flavour, other, **PLAIN), max_episode_steps=25)
    mode, difficulty = flavour
    oracle = gym.make(f"ALE/{game}-v5", mode=mode, difficulty=difficulty, repeat_action_probability=0.0)
    rng = np.random.default_rng(1)
    actions = rng.integers(env.action_space.n, size=24)
    screens = []
    oracle.reset(seed=5)
    emulator = oracle.unwrapped.ale
    if ale_py.Action.FIRE in emulator.getMinimalActionSet():
        emulator.act(ale_py.Action.FIRE)
    for action in actions:
        oracle.step(action)
        screens.append(emulator.getScreenGrayscale().copy())
    env.play([[(0, 0), (1, 0)] * 10])
    for episode in range(20):
        differs = False
        for action, screen in zip(actions, screens, strict=True):
            env.step(np.array([action]))
            same = np.array_equal(env.simulators._screens[0, 1], screen)
            assert same or episode % 2
            differs |= not same
        assert differs == bool(episode % 2), "the other flavour looks like this one"
        assert env.step(actions[:1]).truncated[0]


def test_sticky_actions_and_no_ops_come_from_the_episodes_noise():
    """Oracle: the bare emulator, driven with a generator of its own."""
    env = play("Pong", flavours("Pong", (1, 2)))
    emulator = Emulator("pong", 1, 2)
    actions = np.random.default_rng(2).integers(6, size=40)
    for noise_seed in (7, 8):
        emulator.restore(make_family("ale:Pong").snapshot(env.contexts.contexts[0]))
        rng, executed = np.random.default_rng(noise_seed), 0
        wanted = [0] * int(rng.integers(0, 31)) + [1] + [int(a) for a in actions for _ in range(4)]
        for action in wanted:
            executed = executed if rng.random() < 0.25 else action
            emulator.act(executed)
        screen = np.zeros((210, 160), np.uint8)
        emulator.read_screen(screen)
        env.play([[(0, noise_seed)]])
        for action in actions:
            env.step(np.array([action]))
        np.testing.assert_array_equal(env.simulators._screens[0, 1], screen)


def test_sticky_actions_are_distributed_as_the_emulators_own():
    """How far the chicken of Freeway has come after 5 x (up, nothing): mean and spread over 200 episodes each."""
    list_ids()
    oracle = gym.make("ALE/Freeway-v5", repeat_action_probability=0.25)
    oracle.reset(seed=0)
    env = play("Freeway", flavours("Freeway", (0, 0), noop_max=0))
    way = {"ours": [], "theirs": []}
    for seed in range(200):
        env.play([[(0, seed)]])
        oracle.reset()
        for action in [1, 0] * 5:
            env.step(np.array([action]))
            oracle.step(action)
        way["ours"].append(int(env.simulators._emulators[0]._ale.getRAM()[14]))
        way["theirs"].append(int(oracle.unwrapped.ale.getRAM()[14]))
    ours, theirs = (np.array(way[name], float) for name in ("ours", "theirs"))
    assert theirs.std() > 0.5
    assert abs(ours.mean() - theirs.mean()) < 4 * np.hypot(ours.std(), theirs.std()) / np.sqrt(200)
    assert 0.75 < ours.std() / theirs.std() < 1.33


def test_half_an_hour_of_play_is_truncated(monkeypatch):
    monkeypatch.setattr(ale, "_MAX_FRAMES", 41)
    env = play("Pong", flavours("Pong", (0, 0), **PLAIN))
    env.reset(0)
    steps = [env.step(np.zeros(1, int)) for _ in range(10)]
    assert [bool(s.truncated[0]) for s in steps] == [False] * 9 + [True]  # one frame of fire, 4 in each step
    np.testing.assert_array_equal(steps[9].final_obs[0, :3], steps[8].obs[0, 1:])
    assert not steps[9].obs[0, :3].any()


def test_flavours_are_drawn_without_replacement():
    family = make_family("ale:Pong")
    sets = split(family, {"train": 5, "test": 3})
    pairs = {(c["mode"], c["difficulty"]) for s in sets.values() for c in s}
    assert pairs == {(m, d) for m in (0, 1) for d in (0, 1, 2, 3)}
    assert {c["mode"] for c in split(family, {"train": 4}, mode=1)["train"]} == {1}
    with pytest.raises(ValueError, match=r"9 different contexts were asked for, .* ale:Pong has 8 flavours"):
        split(family, {"train": 5, "test": 4})
    with pytest.raises(ValueError, match=r"5 different contexts .* has 4 flavours"):
        split(family, {"train": 5}, mode=1)


def test_a_default_that_is_written_out_is_the_same_game():
    family = make_family("ale:Centipede")
    same = [Context.of(family.name), Context.of(family.name, mode=22, difficulty=0, sticky=0.25, noop_max=30)]
    assert family.fingerprint(same[0]) == family.fingerprint(same[1])
    others = [Context.of(family.name, mode=86), Context.of(family.name, sticky=0.0)]
    assert len({family.fingerprint(c) for c in [*same, *others]}) == 3


def test_what_is_no_flavour_is_refused():
    family = make_family("ale:Pong")
    with pytest.raises(ValueError, match=r"mode=7 must be one of 0, 1$"):
        split(family, {"train": 1}, mode=7)
    with pytest.raises(ValueError, match=r"mode=7 must be one of 0, 1$"):
        play("Pong", flavours("Pong", (7, 0)))
    with pytest.raises(ValueError, match="seeds of ALE are not distinct MDPs"):
        play("Pong", ContextSet((Context.of("ale:Pong", 1), Context.of("ale:Pong", 2)), "train"))
    with pytest.raises(ValueError, match=r"did you mean .*Pong"):
        make_family("ale:Pnog")


def test_why_seeds_are_refused():
    """Without sticky actions three seeds lead to one state; with them to three, but that is noise."""
    list_ids()

    def rams(sticky):
        env = gym.make("ALE/Pong-v5", repeat_action_probability=sticky)
        found = set()
        for seed in range(3):
            env.reset(seed=seed)
            for step in range(60):
                env.step(step % 6)
            found.add(env.unwrapped.ale.getRAM().tobytes())
        return len(found)

    assert rams(0.0) == 1
    assert rams(0.25) > 1


@pytest.mark.long
def test_how_many_flavours_there_are():
    games = [id.removeprefix("ALE/").removesuffix("-v5") for id in list_ids()]
    counts = []
    for game in games:
        parameters = make_family(f"ale:{game}").parameters
        counts.append(len(parameters["mode"].choices) * len(parameters["difficulty"].choices))
    found = (len(counts), sum(counts))
    if ale_py.__version__.startswith("0.12.1"):
        assert found == (104, 1090)
    elif found != (104, 1090):
        warnings.warn(f"ale-py {ale_py.__version__} has {found[1]} flavours of {found[0]} games", stacklevel=1)
