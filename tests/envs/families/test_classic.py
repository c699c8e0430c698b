"""Classic control with other physics: Gymnasium's single environments, everything set by hand, as the oracle."""

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.families.classic_dynamics import cartpole_constants
from gala_envs.splits import split
from rows_agree import assert_rows_agree

TASK_IDS = ["CartPole-v1", "MountainCar-v0", "Acrobot-v1", "Pendulum-v1"]
PACKER = {
    "CartPole-v1": {
        "force": (10, (5, 15), [(1, 5), (15, 20)]),
        "length": (0.5, (0.25, 0.75), [(0.05, 0.25), (0.75, 1)]),
        "mass": (0.1, (0.05, 0.5), [(0.01, 0.05), (0.5, 1)]),
    },
    "MountainCar-v0": {
        "force": (0.001, (0.0005, 0.005), [(0.0001, 0.0005), (0.005, 0.01)]),
        "mass": (0.0025, (0.001, 0.005), [(0.0005, 0.001), (0.005, 0.01)]),
    },
    "Acrobot-v1": {name: (1, (0.75, 1.25), [(0.5, 0.75), (1.25, 1.5)]) for name in ("length", "mass", "moi")},
    "Pendulum-v1": {name: (1, (0.75, 1.25), [(0.5, 0.75), (1.25, 1.5)]) for name in ("length", "mass")},
}


def by_hand(id, context):
    """A Gymnasium environment with the context's physics, derived constants recomputed."""
    env = gym.make(id, disable_env_checker=True)
    raw = env.unwrapped
    if id == "CartPole-v1":
        raw.force_mag, raw.length, raw.masspole = context["force"], context["length"], context["mass"]
        raw.total_mass, raw.polemass_length = raw.masspole + raw.masscart, raw.masspole * raw.length
    elif id == "MountainCar-v0":
        raw.force, raw.gravity = context["force"], context["mass"]
    elif id == "Acrobot-v1":
        raw.LINK_LENGTH_1 = raw.LINK_LENGTH_2 = context["length"]
        raw.LINK_COM_POS_1 = raw.LINK_COM_POS_2 = context["length"] / 2
        raw.LINK_MASS_1 = raw.LINK_MASS_2 = context["mass"]
        raw.LINK_MOI = context["moi"]
    else:
        raw.l, raw.m = context["length"], context["mass"]
    return env


@pytest.mark.parametrize("region", ["D", "R", "E"])
@pytest.mark.parametrize("id", TASK_IDS)
def test_rows_equal_gymnasium_with_the_same_physics(id, region):
    family = make_family(f"classic:{id}")
    contexts = split(family, {"train": 4}, region=region, seed=1)["train"]
    env = ContextualEnv(family, contexts, 4)
    env.play([[(i, 50 + i)] * 40 for i in range(4)])
    oracles = [by_hand(id, c) for c in contexts]
    for i, (oracle, c) in enumerate(zip(oracles, contexts, strict=True)):
        oracle.reset(seed=50 + i if c.seed is None else c.seed)
        np.testing.assert_array_equal(env.simulators.state[i], oracle.unwrapped.state)
    rng, ended, over = np.random.default_rng(0), 0, np.zeros(4, bool)
    for _ in range(520):
        actions = rng.uniform(-2.5, 2.5, (4, 1)).astype(np.float32) if id == "Pendulum-v1" else rng.integers(0, 2, 4)
        before = env.simulators.state.copy()
        step = env.step(actions)
        for i, oracle in enumerate(oracles):
            oracle.unwrapped.state = np.array(before[i])  # a chaotic system: rounding must not add up over steps
            a = actions[i].astype(np.float64) if id == "Pendulum-v1" else int(actions[i])
            _, reward, terminated, truncated, _ = oracle.step(a)
            assert step.reward[i] == np.float32(reward) and step.terminated[i] == terminated
            assert step.truncated[i] == (truncated and not terminated)
            over[i] = terminated or truncated
            if over[i]:
                oracle.reset(seed=50 + i if contexts.contexts[i].seed is None else contexts.contexts[i].seed)
                ended += 1
            np.testing.assert_allclose(env.simulators.state[i], oracle.unwrapped.state, rtol=1e-12, atol=1e-12)
    assert ended >= 4


@pytest.mark.parametrize("id", TASK_IDS)
def test_a_step_from_anywhere_with_any_action_is_gymnasiums(id):
    """States up to every bound and both ends of an episode, which random play from the start does not reach."""
    family = make_family(f"classic:{id}")
    contexts = split(family, {"train": 400}, seed=4)["train"]
    sims = ContextualEnv(family, contexts, 400).simulators
    sims.start(np.arange(400), contexts.contexts, [np.random.default_rng(0)] * 400)
    rng = np.random.default_rng(6)
    high = {
        "CartPole-v1": [2.7, 3, 0.25, 3],
        "MountainCar-v0": [0.9, 0.07],
        "Acrobot-v1": [np.pi, np.pi, 4 * np.pi, 9 * np.pi],
        "Pendulum-v1": [9, 8],
    }[id]
    sims.state = before = rng.uniform(-1, 1, (400, len(high))) * high + ([-0.3, 0.0] if id == "MountainCar-v0" else 0)
    pendulum = id == "Pendulum-v1"
    actions = (
        rng.uniform(-3, 3, (400, 1)).astype(np.float32) if pendulum else rng.integers(sims.action_space.n, size=400)
    )
    step = sims.step(actions)
    for i, context in enumerate(contexts):
        oracle = by_hand(id, context).unwrapped
        oracle.reset()
        oracle.state = before[i].copy()
        obs, reward, terminated, _, _ = oracle.step(actions[i].astype(np.float64) if pendulum else int(actions[i]))
        np.testing.assert_allclose(sims.state[i], oracle.state, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(step.obs[i], obs, rtol=3e-7, atol=3e-7)
        assert step.terminated[i] == terminated and step.reward[i] == pytest.approx(reward, rel=1e-12)
    assert pendulum or 10 < step.terminated.sum() < 390


def test_a_heavier_longer_pole_changes_what_follows_from_it_and_one_step_is_the_closed_form():
    family = make_family("classic:CartPole-v1")
    c = Context.of("classic:CartPole-v1", force=10.0, length=0.8, mass=0.3)
    env = ContextualEnv(family, ContextSet((c,), "train"), 1)
    env.play([[(0, 7)]])
    sims = env.simulators
    total_mass, polemass_length = cartpole_constants(sims.params)
    assert total_mass[0] == pytest.approx(1.3, abs=1e-15) and polemass_length[0] == pytest.approx(0.24, abs=1e-15)
    x, v, angle, spin = sims.state[0]
    temp = (10.0 + 0.24 * spin**2 * np.sin(angle)) / 1.3
    acc = (9.8 * np.sin(angle) - np.cos(angle) * temp) / (0.8 * (4 / 3 - 0.3 * np.cos(angle) ** 2 / 1.3))
    wanted = [
        x + 0.02 * v,
        v + 0.02 * (temp - 0.24 * acc * np.cos(angle) / 1.3),
        angle + 0.02 * spin,
        spin + 0.02 * acc,
    ]
    env.step(np.array([1]))
    np.testing.assert_allclose(sims.state[0], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("id", TASK_IDS)
def test_the_start_is_k_times_as_far_from_rest(id):
    family = make_family(f"classic:{id}")
    starts = []
    for k in (1.0, 2.0, 0.0):
        contexts = ContextSet((Context.of(family.name, 0, init_mult=k),), "train")
        env = ContextualEnv(family, contexts, 1)
        env.play([[(0, 3)]])
        starts.append(env.simulators.state[0].copy())
    np.testing.assert_array_equal(starts[1], 2 * starts[0])
    assert starts[0].any() and not starts[2].any()
    if id == "CartPole-v1":
        assert starts[0][0] == pytest.approx(0.0137, abs=5e-5) and starts[1][0] == pytest.approx(0.0274, abs=5e-5)


@pytest.mark.parametrize("id", TASK_IDS)
def test_contexts_come_from_packers_regions(id):
    """E is drawn uniformly over the union of its two intervals; 4 sigma."""
    family = make_family(f"classic:{id}")
    sets = split(family, {"train": 300, "test": 100, "extrap": 400})
    plain = split(family, {"train": 3}, region="D")["train"]
    assert len({c.seed for c in plain}) == 3 and set(family.parameters) == {*PACKER[id], "init_mult"}
    for name, (default, (low, high), (below, above)) in PACKER[id].items():
        assert family.parameters[name].default == default and {c[name] for c in plain} == {default}
        r = np.array([c[name] for s in ("train", "test") for c in sets[s]])
        slack = 0.05 * (high - low)
        assert low <= r.min() < low + slack and high - slack < r.max() <= high
        e = np.array([c[name] for c in sets["extrap"]])
        in_lower = (below[0] <= e) & (e <= below[1])
        assert (in_lower ^ ((above[0] <= e) & (e <= above[1]))).all()
        assert e.min() < below[0] + slack and above[1] - slack < e.max()
        share = (below[1] - below[0]) / (below[1] - below[0] + above[1] - above[0])
        assert in_lower.mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 400))


@pytest.mark.parametrize("id", TASK_IDS)
def test_the_contract_holds_and_rows_agree(id):
    family = make_family(f"classic:{id}")
    contexts = split(family, {"train": 5})["train"]
    check_batched_env(ContextualEnv(family, contexts, 3, obs_noise=0.01, sticky_actions=0.1))
    assert_rows_agree(family, contexts)


@pytest.mark.parametrize("id", TASK_IDS)
def test_the_widest_start_is_inside_the_observation_space(id):
    family = make_family(f"classic:{id}")
    widest = family.parameters["init_mult"].high
    contexts = tuple(Context.of(family.name, seed, init_mult=widest) for seed in range(200))
    env = ContextualEnv(family, ContextSet(contexts, "train"), 200)
    assert all(env.obs_space.contains(obs) for obs in env.play([[(i, 0)] for i in range(200)]))


def test_settings_hold_and_what_is_impossible_is_refused():
    family = make_family("classic:CartPole-v1")
    assert {c["mass"] for c in split(family, {"train": 3}, mass=0.2)["train"]} == {0.2}
    with pytest.raises(ValueError, match="no parameter 'moi'; it has force, length, mass, init_mult"):
        family.simulators([Context.of(family.name, moi=1.0)], 1, 1)
    with pytest.raises(ValueError, match="init_mult=9 must be a number from 0 to 8"):
        family.simulators([Context.of(family.name, init_mult=9)], 1, 1)
    with pytest.raises(ValueError, match="wants one of CartPole-v1"):
        make_family("classic:Breakout-v1")


def finish(env_id, policy, seed=0, **params):
    """(steps, success) of one episode with ``policy``: state -> action."""
    family = make_family(f"classic:{env_id}")
    env = ContextualEnv(family, ContextSet((Context.of(family.name, seed, **params),), "train"), 1)
    env.play([[(0, 0)]])
    while True:
        s = env.step(np.array([policy(env.simulators.state[0])]))
        if s.episode_over[0]:
            return int(s.episode_length[0]), bool(s.success[0])


def test_success_of_cartpole():
    def balance(state):
        return int(state @ [0.1, 0.5, 10.0, 2.0] > 0)

    assert finish("CartPole-v1", balance) == (500, True)
    for let_go, expected in ((470, False), (487, True)):
        count = iter(range(600))
        steps, success = finish("CartPole-v1", lambda s, n=count, end=let_go: balance(s) if next(n) < end else 1)
        assert let_go < steps < 500 and success == expected == (steps >= 488)


def test_success_of_mountain_car():
    def energy(state):
        return 2 if state[1] >= 0 else 0

    assert finish("MountainCar-v0", lambda _: 1) == (200, False)
    outcomes = {finish("MountainCar-v0", energy, seed, force=f) for seed in range(20) for f in (1e-3, 1.1e-3, 1.2e-3)}
    assert {steps <= 110 for steps, _ in outcomes} == {True, False}
    assert all(success == (steps <= 110) for steps, success in outcomes)


def test_success_of_acrobot():
    def energy(state):
        return 2 if state[3] > 0 else 0

    outcomes = {finish("Acrobot-v1", energy, seed, mass=m) for seed in range(8) for m in (0.8, 1.0, 1.2)}
    assert {steps <= 80 for steps, _ in outcomes} == {True, False}
    assert all(success == (steps <= 80) for steps, success in outcomes)


def test_success_of_pendulum():
    """Held upright by feedback but for 12 steps of pushing; the rule is then read off all angles of the episode."""
    outcomes = set()
    for first in range(60, 120, 3):
        angles = []

        def policy(state, first=first, angles=angles):
            angle = (state[0] + np.pi) % (2 * np.pi) - np.pi
            pushed = first < len(angles) <= first + 12
            angles.append(angle)
            return np.array([2.0 if pushed else np.clip(-10 * angle - 3 * state[1], -2, 2)])

        steps, success = finish("Pendulum-v1", policy, 0, init_mult=0.01, length=0.6)
        assert steps == len(angles) == 200
        outcomes.add(success)
        # The last of the 200 states is reached by the last action, and no policy sees it; it was held by then.
        assert success == (np.abs(angles[101:]) <= np.pi / 3).all()
    assert outcomes == {True, False}
    assert finish("Pendulum-v1", lambda _: np.array([0.0])) == (200, False)


@pytest.mark.parametrize(("id", "state", "action"), [("MountainCar-v0", -0.5, 1), ("Pendulum-v1", 0.0, [0.0])])
def test_an_episode_cut_short_is_no_success(id, state, action):
    """Nor do the steps upright of one episode count in the next."""
    family = make_family(f"classic:{id}")
    env = ContextualEnv(family, ContextSet((Context.of(family.name),), "train"), 1, max_episode_steps=60)
    env.reset(0)
    for _ in range(180):
        env.simulators.state[:] = [[state, 0.0]]
        step = env.step(np.array([action]))
        assert not step.success[0]
    assert step.episode_over[0]
