"""Probes beside the score, each against a case whose answer is known."""

import math

import numpy as np
import pytest
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family
from gala_envs.families.maze import Level, build, solve
from gala_envs.splits import split

from gala.diagnostics.overfitting import probes
from gala.diagnostics.overfitting.audit import audit_sets
from gala.diagnostics.overfitting.policies import Decision
from gala.overfit.oracles import Memoriser

BITS = split(make_family("bits"), {"train": 40, "test": 40}, cue=1.0)
MAZE = split(make_family("maze"), {"train": 20}, size=5, bads=1)["train"]


class ExactValues:
    """The memoriser, with V(s0) of a policy that is always right; ``extra`` is added on the known levels."""

    def __init__(self, extra):
        self.inner, self.extra = Memoriser(BITS["train"], else_cue=True), extra

    def act(self, obs, state, first, noise):
        known = [o[16:-1].tobytes() in self.inner.table for o in np.ascontiguousarray(obs)]
        value = sum(0.99**t for t in range(16)) / 16 + self.extra * np.array(known)
        return Decision(self.inner.act(obs, state, first, noise).action, value=value)


@pytest.mark.parametrize("extra", [0.0, 1.0])
def test_a_bias_of_values_is_found_where_it_was_put(extra):
    for name, wanted in (("train", extra), ("test", 0.0)):
        rows = probes.evaluate(ExactValues(extra), BITS[name], episodes=1, seed=0)
        errors = probes.value_errors(rows)
        assert errors.bias == pytest.approx(wanted, abs=1e-9) and errors.mse == pytest.approx(wanted**2, abs=1e-9)
        assert math.isnan(errors.explained), "returns that differ by rounding alone have nothing to explain"
    with pytest.raises(ValueError, match="no value function"):
        probes.value_errors([{"value": None, "discounted": 1.0}])


def test_policy_shift_of_equal_policies_is_none_and_of_one_hot_from_uniform_is_log_4():
    logits = np.random.default_rng(0).normal(size=(50, 4))
    assert probes.kl_divergence(logits, logits).max() == pytest.approx(0.0, abs=1e-12)
    assert probes.action_agreement(logits, logits) == 1.0
    one_hot = np.where(np.eye(4) > 0, 0.0, -np.inf)
    np.testing.assert_allclose(probes.kl_divergence(one_hot, np.zeros((4, 4))), math.log(4))
    assert probes.action_agreement(np.eye(4), np.eye(4)[::-1]) == 0.0


class Recorded:
    """Open loop: the shortest best path of each level, played from memory by its first picture."""

    def __init__(self):
        self.paths = {}
        env = ContextualEnv(make_family("maze"), MAZE, len(MAZE))
        first = env.play([[(k, k)] for k in range(len(MAZE))])
        env.close()
        for picture, context in zip(first, MAZE, strict=True):
            self.paths[picture.tobytes()] = solve(build(context))[1]

    def act(self, obs, state, first, noise):
        state = [(None, 0)] * len(obs) if state is None else state
        action, after = [], []
        for row, picture in enumerate(obs):
            path, at = (self.paths[picture.tobytes()], 0) if first[row] else state[row]
            action.append(path[min(at, len(path) - 1)])
            after.append((path, at + 1))
        return Decision(np.array(action), after)


class Replanner:
    """Closed loop: reads the level off the picture in every step, and takes the first step of the best path."""

    def act(self, obs, state, first, noise):
        action = []
        for picture in obs:
            flat = picture.reshape(5, -1)
            good, bad = np.flatnonzero(flat[1]), np.flatnonzero(flat[2])
            cells = np.concatenate([good, bad])
            values = np.where(np.arange(len(cells)) < len(good), 1.0, -1.0)
            agent, key = int(flat[4].argmax()), int(flat[3].argmax())
            path = solve(Level(picture[0].astype(bool), agent, key, cells, values, values > 0, 200))[1]
            action.append(path[0] if path else 0)
        return Decision(np.array(action))


def test_an_agent_that_looks_keeps_its_score_under_sticky_actions():
    """Where the blind one loses a third or more, it stays within 5%."""
    contexts = split(make_family("maze"), {"train": 20}, size=5, bads=0)["train"]
    found = probes.open_loop_replay(Replanner(), contexts, seed=0, sticky_actions=0.25)
    assert found.closed_loop > 0.95 * 2.1 and found.open_loop < 0.7 * 2.1


class Looking:
    """Closed loop on bits: says what the cue says."""

    def act(self, obs, state, first, noise):
        return Decision((obs[:, -1] > 0).astype(int))


def test_blind_replay_equals_an_open_loop_agent_and_falls_behind_one_that_looks():
    """Without noise replay is perfect for both; under sticky actions the paths of the blind one go astray."""
    calm = probes.open_loop_replay(Recorded(), MAZE, seed=0)
    assert calm.closed_loop == pytest.approx(2.1, abs=1e-6) and calm.open_loop == calm.closed_loop
    shaken = probes.open_loop_replay(Recorded(), MAZE, seed=0, sticky_actions=0.25)
    assert shaken.open_loop == pytest.approx(shaken.closed_loop) and shaken.closed_loop < 1.5
    looking = probes.open_loop_replay(Looking(), BITS["test"], seed=0)
    assert looking.closed_loop == looking.open_loop == pytest.approx(1.0)


def test_a_context_is_decoded_from_features_that_tell_it_and_not_from_those_that_do_not():
    class Policy(Looking):
        def __init__(self, columns):
            self.columns = columns

        def features(self, obs):
            return obs[:, self.columns]

    telling = probes.context_decodability(Policy(slice(16, -1)), BITS["test"], seed=0)
    blind = probes.context_decodability(Policy(slice(0, 16)), BITS["test"], seed=0)
    assert telling == (1.0, 1 / 40) and blind[0] < 0.1


def test_noise_has_the_unit_of_what_is_observed():
    unit = probes.observation_std(Looking(), BITS["test"], seed=0)
    assert unit.shape == (49,) and unit[-1] == pytest.approx(1.0, abs=0.1)
    assert unit[3] == pytest.approx(math.sqrt(15) / 16, abs=0.02)


def test_the_audit_finds_a_leak_and_a_difference_in_difficulty():
    family = make_family("maze")
    sets = split(family, {"train": 20, "test": 20}, size=5, bads=1, limit=12)
    assert audit_sets(sets)["rows"] == []
    twin = sets["train"].contexts[4].with_params(blocks=0)  # spelled out: another id, the same level
    leaky = sets | {"test": type(sets["test"])((*sets["test"].contexts, twin), "test")}
    found = audit_sets(leaky)
    assert [(r["a"], r["b"]) for r in found["rows"]] == [(sets["train"].contexts[4].uid, twin.uid)]
    key_at = lambda c: abs(np.subtract(*(divmod(p, 5) for p in (build(c).start, build(c).key)))).sum()  # noqa: E731
    near = sorted(split(family, {"train": 200}, size=5, bads=1, limit=12)["train"], key=key_at)[:15]
    random = audit_sets({"train": type(sets["train"])(tuple(near), "train"), "test": sets["test"]})["random"]
    assert random["train"]["mean"] - random["test"]["mean"] > 0.2
    assert random["train"]["standard_error"] > 0
