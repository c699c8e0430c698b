"""Classic control with other physics: Gymnasium's single environments, everything set by hand, as the oracle."""

import gymnasium as gym
import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.families.classic_dynamics import TASKS, cartpole_constants
from gala_envs.splits import split
from rows_agree import assert_rows_agree

TASK_IDS = list(TASKS)


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
    for k in (1.0, 2.0, 5.0):
        contexts = ContextSet((Context.of(family.name, 0, init_mult=k),), "train")
        env = ContextualEnv(family, contexts, 1)
        env.play([[(0, 3)]])
        starts.append(env.simulators.state[0].copy())
    np.testing.assert_array_equal(starts[1], 2 * starts[0])
    np.testing.assert_array_equal(starts[2], 5 * starts[0])
    if id == "CartPole-v1":
        assert starts[0][0] == pytest.approx(0.0137, abs=5e-5) and starts[1][0] == pytest.approx(0.0274, abs=5e-5)


@pytest.mark.parametrize("id", TASK_IDS)
def test_contexts_come_from_their_region(id):
    family = make_family(f"classic:{id}")
    sets = split(family, {"train": 60, "test": 60, "extrap": 200})
    for name, (default, (low, high), ((a, b), (c, d))) in TASKS[id].ranges.items():
        assert all(low <= x[name] <= high for s in ("train", "test") for x in sets[s])
        outside = [x[name] for x in sets["extrap"]]
        assert all(a <= v <= b or c <= v <= d for v in outside) and min(outside) < low and max(outside) > high
        assert family.parameters[name].default == default
    plain = split(family, {"train": 3}, region="D")["train"]
    assert (
        all(c[name] == r[0] for c in plain for name, r in TASKS[id].ranges.items())
        and len({c.seed for c in plain}) == 3
    )


@pytest.mark.parametrize("id", TASK_IDS)
def test_the_contract_holds_and_rows_agree(id):
    family = make_family(f"classic:{id}")
    contexts = split(family, {"train": 5})["train"]
    check_batched_env(ContextualEnv(family, contexts, 3, obs_noise=0.01, sticky_actions=0.1))
    assert_rows_agree(family, contexts)


def test_success_is_packers():
    family = make_family("classic:Pendulum-v1")
    env = ContextualEnv(family, split(family, {"train": 1})["train"], 2)
    env.reset(0)
    env.simulators.state[:] = [[0.0, 0.0], [np.pi, 0.0]]
    for _ in range(200):
        env.simulators.state[0] = 0.0  # held upright
        step = env.step(np.zeros((2, 1), np.float32))
    assert step.episode_over.all() and step.success.tolist() == [True, False]
    with pytest.raises(ValueError, match="wants one of CartPole-v1"):
        make_family("classic:Breakout-v1")
