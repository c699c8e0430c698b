"""The same task next to a projection of it that is each context's own, against the base family played alone."""

import numpy as np
import pytest
from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import check_batched_env
from gala_envs.families import make_family
from gala_envs.splits import split
from rows_agree import assert_rows_agree

BASE = "seeds:CartPole-v1"


@pytest.fixture
def family():
    return make_family(f"confounded:{BASE}")


@pytest.mark.parametrize("shown", ["both", "f", "g"])
def test_the_contract_holds_and_rows_agree(family, shown):
    contexts = split(family, {"train": 4}, shown=shown, noise_dims=7)["train"]
    env = ContextualEnv(family, contexts, 3, obs_noise=0.1)
    assert env.obs_space.shape == ({"both": 11, "f": 4, "g": 7}[shown],)
    check_batched_env(env)
    assert_rows_agree(family, contexts)


def test_it_is_the_base_family_with_a_projection_of_its_observation(family):
    """Rewards, ends and f are the base's. g is one linear function of f in each context, and not the same in two."""
    contexts = split(family, {"train": 2}, noise_dims=6)["train"]
    inner = ContextSet(tuple(family.inner(c) for c in contexts), "train")
    ours, base = ContextualEnv(family, contexts, 2), ContextualEnv(make_family(BASE), inner, 2)
    plan = [[(0, 3)], [(1, 4)]]
    seen = [ours.play(plan)]
    np.testing.assert_array_equal(seen[0][:, :4], base.play(plan))
    for k in range(60):
        actions = np.array([k // 2 % 2, k // 3 % 2])
        a, b = ours.step(actions), base.step(actions)
        np.testing.assert_array_equal(a.obs[:, :4], b.obs)
        for field in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        seen.append(a.obs)
    seen = np.stack(seen, 1)
    weights = []
    for row in seen:
        w, *_ = np.linalg.lstsq(row[:, :4], row[:, 4:], rcond=None)
        np.testing.assert_allclose(row[:, :4] @ w, row[:, 4:], atol=1e-5)
        weights.append(w)
    assert np.abs(weights[0] - weights[1]).max() > 0.1
    shown = {s: ContextualEnv(family, contexts.with_params(shown=s), 2).play(plan) for s in ("f", "g")}
    np.testing.assert_array_equal(np.concatenate([shown["f"], shown["g"]], 1), seen[:, 0])


def test_g_is_of_the_scale_of_the_observation(family):
    """Oracle: E |W s|^2 = |s|^2 noise_dims / d; 10,000 terms have a relative error of 1.4 %."""
    contexts = ContextSet((Context.of(family.name, 1, theta=5, noise_dims=10_000),), "train")
    obs = ContextualEnv(family, contexts, 1).reset(0)[0]
    assert np.square(obs[4:]).mean() == pytest.approx(np.square(obs[:4]).mean(), rel=0.1)


def test_a_context_keeps_the_bases_seed_and_parameters():
    family = make_family(f"confounded:{BASE}")
    (context,) = split(family, {"train": 1}, init_mult=2.0, theta=9)["train"]
    assert family.inner(context) == Context.of(BASE, context.seed, init_mult=2.0)
    assert context["theta"] == 9
    contexts = split(family, {"train": 50, "test": 50})
    assert len({c["theta"] for s in contexts.values() for c in s}) == 100


def test_the_fingerprint_sees_theta_and_the_base(family):
    a = Context.of(family.name, 1, theta=1)
    others = [a.with_params(theta=2), Context.of(family.name, 2, theta=1), a.with_params(noise_dims=8)]
    assert len({family.fingerprint(c) for c in [a, *others]}) == 4
    assert family.fingerprint(a) == family.fingerprint(a.with_params(shown="both", init_mult=1.0))


def test_other_bases():
    bits = make_family("confounded:bits")
    assert bits.optimal_return(Context.of("confounded:bits", 1)) == 1.0
    assert bits.optimal_return(Context.of("confounded:bits", 1, shown="g")) is None
    assert_rows_agree(bits, split(bits, {"train": 3}, length=8)["train"])
    with pytest.raises(ValueError, match="there are only 4"):
        split(bits, {"train": 5}, length=2)


def test_what_cannot_be_confounded_is_refused(family):
    with pytest.raises(ValueError, match="shown=h must be one of both, f, g"):
        split(family, {"train": 1}, shown="h")
    with pytest.raises(ValueError, match="one noise_dims, not"):
        ContextualEnv(family, ContextSet(tuple(Context.of(family.name, 1, noise_dims=k) for k in (3, 4)), "train"), 1)
    with pytest.raises(ValueError, match="has a parameter noise_dims of its own"):
        make_family(f"confounded:confounded:{BASE}")
    with pytest.raises(ValueError, match="write the family as confounded:"):
        make_family("confounded")
    pytest.importorskip("ale_py")
    pong = make_family("confounded:ale:Pong")
    with pytest.raises(ValueError, match="must have observations that are float vectors"):
        ContextualEnv(pong, split(pong, {"train": 1})["train"], 1)
