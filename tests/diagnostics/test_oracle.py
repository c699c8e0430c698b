"""The oracle gap against its closed form and a Monte Carlo, and easier variants of every family."""

import numpy as np
import pytest
from gala_envs.contexts import ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.families import make_family
from gala_envs.families.easier import easier_variants
from gala_envs.families.maze import build
from gala_envs.splits import split

from gala.diagnostics.overfitting.oracle import oracle_gap, told
from gala.experiments import statistics as st


def table(scores):
    return {run: {f"c{k}": float(x) for k, x in enumerate(row)} for run, row in enumerate(scores)}


def test_it_is_the_mean_difference_and_its_variance_that_of_runs_contexts_and_oracles():
    rng = np.random.default_rng(0)
    agents, oracles = rng.normal(1.0, 0.3, (5, 40)), rng.normal(1.5, 0.3, (4, 40))
    gap = oracle_gap(table(agents), table(oracles))
    assert gap.gap.estimate == pytest.approx(oracles.mean() - agents.mean()) and gap.runs == 4
    assert (gap.oracle, gap.agent) == pytest.approx((oracles.mean(), agents.mean()))
    alone = st.mean_interval(oracles.mean(0) - agents)
    extra = st.t_quantile(0.95, 3) ** 2 * oracles.mean(1).var(ddof=1) / 4
    half = (gap.gap.high - gap.gap.low) / 2
    assert half**2 == pytest.approx(((alone.high - alone.low) / 2) ** 2 + extra)
    one = oracle_gap(table(agents), table(oracles[:1]))
    assert one.gap == pytest.approx(st.mean_interval(oracles[0] - agents))
    with pytest.raises(ValueError, match="the same contexts"):
        oracle_gap(table(agents), table(oracles[:, :39]))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, held, trials = np.random.default_rng(1), 0, 600
    for _ in range(trials):
        contexts, gains = rng.normal(0, 1, 50), rng.normal(0.4, 0.5, 50)
        agents = contexts + rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.2, (5, 50))
        oracles = contexts + gains + rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 0.2, (5, 50))
        gap = oracle_gap(table(agents), table(oracles)).gap
        held += gap.low <= 0.4 <= gap.high
    assert 0.93 < held / trials <= 1.0


def test_what_it_means_is_said():
    sure = table(np.full((3, 10), 1.0) + np.arange(3)[:, None] * 1e-3)
    better = table(np.full((3, 10), 2.0) + np.arange(3)[:, None] * 1e-3)
    assert "tells those who know it from those who do not" in told(oracle_gap(sure, better), 0.05)
    assert "knowing the test MDPs gains nothing" in told(oracle_gap(sure, sure), 0.05)
    assert "is open" in told(oracle_gap(sure, sure), 0.0)
    lazy = told(oracle_gap(sure, better), 0.05, random=1.9, scale=10.0)
    assert "the oracle has learned 1% of the task, so nothing follows" in lazy and "tells those" not in lazy


FAMILIES = [
    ("bits", {}, {"cue:1.0"}),
    ("maze", {"size": 6, "flip": 0.5}, {"bads:0", "flip:0.0"}),
    ("maze", {"size": 6, "bads": 0}, set()),
    ("tiny_objects", {"side": 16, "background": "noise"}, {"coverage:0.0", "background:plain"}),
    ("classic:CartPole-v1", {}, {"init_mult:0.5"}),
    ("mujoco:InvertedPendulum-v5", {"delay": 2}, {"init_mult:0.5", "delay:0"}),
    ("ale:Breakout", {}, {"sticky:0.0", "difficulty:0"}),
    ("backgrounds:classic:CartPole-v1", {}, {"background:plain", "init_mult:0.5"}),
]


@pytest.mark.parametrize(("name", "settings", "wanted"), FAMILIES)
def test_variants_are_playable_and_are_those_that_are_easier(name, settings, wanted):
    if name.startswith("ale"):
        pytest.importorskip("ale_py")
    family = make_family(name)
    train = split(family, {"train": 3, "test": 2}, **settings)["train"]
    variants = easier_variants(family, train)
    assert set(variants) == wanted
    space = None
    for change in ({}, *variants.values()):
        env = ContextualEnv(family, train.with_params(**change), 2)
        space = space or env.obs_space
        assert env.obs_space == space
        env.reset(0)
        env.step(np.array([env.action_space.sample() for _ in range(2)]))
        env.close()
        assert (
            easier_variants(family, train.with_params(**{k: v for c in variants.values() for k, v in c.items()})) == {}
        )


def test_an_easier_maze_is_the_same_maze():
    family = make_family("maze")
    mazes = split(family, {"train": 5, "test": 2}, blocks=4)["train"]
    assert isinstance(mazes, ContextSet)
    for hard, easy in zip(mazes, mazes.with_params(bads=0), strict=True):
        a, b = build(hard), build(easy)
        assert (a.start, a.key) == (b.start, b.key) and (a.walls == b.walls).all()
        assert a.cells[a.good_looking].tolist() == b.cells.tolist() and (b.values > 0).all()
