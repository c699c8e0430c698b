"""Statistics against closed forms, another library, and their own promises: coverage, power, uniform p-values."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from gala.experiments import statistics as st
from gala.experiments.gap_warnings import skewness, warnings_for
from gala.experiments.statistics import Interval


def null_scores(rng, runs, n, m, gap=0.0):
    """Score(run, context) = run + context + interaction + noise, sd 1, 1, 1/2, 1/2."""
    run = rng.normal(0, 1, runs)
    parts = [run[:, None] + rng.normal(0, 1, k) + rng.normal(0, 0.5, (2, runs, k)).sum(0) for k in (n, m)]
    return parts[0] + gap, parts[1]


def covers(interval, truth=0.0):
    return interval.low <= truth <= interval.high


def test_known_values():
    square = [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert (
        st.iqm(square) == 2.0 == st.iqm([[0, 9], [2, 2]])
        and st.iqm(range(1, 9)) == 4.5
        and st.optimality_gap(square) == 0.125
    )
    assert st.probability_of_improvement([1, 2, 3, 4], [2, 2, 2, 2]) == 0.625
    assert st.cvar(range(20)) == 0.5 and st.cvar([3, 1, 2]) == 1.0
    assert st.cvar(np.arange(20.0)[::-1].reshape(5, 4)) == 0.5, "of all scores, whatever their shape"
    np.testing.assert_array_equal(st.performance_profile([0, 1, 2, 3], [-1, 0, 2.5]), [1, 0.75, 0.25])
    for successes, low, high in ((0, 0.0, 0.1611), (19, 0.7639, 0.9911)):
        found = st.wilson(successes, 20)
        assert round(found.low, 4) == low and round(found.high, 4) == high


@pytest.mark.parametrize("n", [3, 4, 5, 7, 10, 101])
def test_the_interquartile_mean_is_scipys_trimmed_mean(n):
    x = np.random.default_rng(n).normal(size=n)
    assert st.iqm(x) == pytest.approx(stats.trim_mean(x, 0.25), abs=1e-12)


def test_probability_of_improvement_is_scipys_mann_whitney_statistic():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 30), rng.integers(0, 6, 20)
    assert st.probability_of_improvement(x, y) == pytest.approx(stats.mannwhitneyu(x, y).statistic / 600)


def test_the_probability_of_improvement_of_long_tables_needs_no_memory_for_all_pairs():
    n = 200_000  # all pairs: 320 GB
    assert st.probability_of_improvement(np.arange(n), np.arange(n)) == 0.5
    assert st.probability_of_improvement(np.arange(n) + 0.5, np.arange(n)) == 0.5 + 1 / (2 * n)


@pytest.mark.parametrize("df", [1, 2, 3, 7, 30, 199, 5000])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_quantiles_of_t_are_scipys(df, level):
    assert st.t_quantile(level, df) == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-9)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_where_only_runs_differ_the_interval_is_students(level):
    gaps, test = np.array([0.0, 1.0, 5.0, 2.5]), np.full((4, 6), 7.0)
    wanted = stats.t.interval(level, 3, gaps.mean(), stats.sem(gaps))
    for nested in (False, True):
        found = st.gap_interval(np.repeat(7.0 + gaps[:, None], 3, 1), test, nested=nested, level=level)
        assert (found.low, found.high) == pytest.approx(wanted) and found.estimate == gaps.mean()
    mean = st.mean_interval(np.repeat(gaps[:, None], 3, 1), level=level)
    assert (mean.low, mean.high) == pytest.approx(wanted)


def test_where_only_contexts_differ_each_set_adds_its_variance_with_its_own_t():
    a, b = np.array([0.0, 2.0, 4.0, 7.0]), np.arange(9.0)
    half = sum((stats.t.ppf(0.975, len(x) - 1) * stats.sem(x)) ** 2 for x in (a, b)) ** 0.5
    found = st.gap_interval(np.tile(a, (5, 1)), np.tile(b, (5, 1)))
    assert found == pytest.approx((a.mean() - 4 - half, a.mean() - 4, a.mean() - 4 + half))
    swapped = st.gap_interval(np.tile(b, (5, 1)), np.tile(a, (5, 1)))
    assert swapped == pytest.approx((4 - a.mean() - half, 4 - a.mean(), 4 - a.mean() + half))


def test_components_are_those_of_a_two_way_analysis_of_variance():
    """Against expected mean squares written out, on scores with runs, contexts and interactions."""
    train, test = null_scores(np.random.default_rng(3), 4, 200, 150)
    runs, own, other = st.gap_components(train, test)
    effects, interactions = [], []
    for x in (train, test):
        residual = x - x.mean(0) - x.mean(1)[:, None] + x.mean()
        interactions.append((residual**2).sum() / (3 * (x.shape[1] - 1)))
        effects.append(np.var(x.mean(0), ddof=1) - interactions[-1] / 4)
    assert own == (pytest.approx(effects[0] / 200), 199, pytest.approx(effects[0] / 200))
    assert other == (pytest.approx(max(effects) / 150), 149 if effects[1] >= effects[0] else 199, other.own)
    gaps, floor = np.var(train.mean(1) - test.mean(1), ddof=1), interactions[0] / 200 + max(interactions) / 150
    assert runs.variance == pytest.approx(max(gaps, floor) / 4) and runs.df == (3 if gaps > floor else 3 * 199)


def test_the_smaller_set_has_at_least_the_variance_of_the_larger():
    """Ten training MDPs that are all solved, where 97% of the others are, do not show a gap of 3%."""
    rng = np.random.default_rng(0)
    test = np.tile((rng.random(200) < 0.97).astype(float), (5, 1))
    assert 0.02 < 1 - test.mean() < 0.05
    for nested in (False, True):
        found = st.gap_interval(np.ones((5, 10)), test, nested=nested)
        assert found.low < 0 < found.high, nested
    assert [part.own for part in st.gap_components(np.ones((5, 10)), test)][:2] == [0.0, 0.0]
    wide = st.gap_interval(np.ones((5, 10)), np.tile(rng.random(200) < 0.5, (5, 1)).astype(float))
    assert wide.low > 0, "and a gap of a half is still seen"


def test_one_run_has_no_spread_but_that_of_its_contexts():
    assert st.mean_interval([[3.0] * 5]) == pytest.approx((3.0, 3.0, 3.0))
    half = stats.t.ppf(0.975, 2) * stats.sem([0.0, 10.0, 20.0])
    assert st.mean_interval([[0.0, 10.0, 20.0]]) == pytest.approx((10 - half, 10, 10 + half))
    assert st.mean_interval([[0.0, 10.0]] * 3, nested=True) == pytest.approx((5.0, 5.0, 5.0)), "contexts are the run's"


def test_draws_are_as_many_as_are_said_and_seeded_by_0():
    train, _ = null_scores(np.random.default_rng(0), 4, 6, 60)
    assert st.page_trend_test(train) == st.page_trend_test(train, permutations=9999, seed=0)


def test_intervals_read_and_move_no_generator():
    train, test = null_scores(np.random.default_rng(0), 4, 6, 60)
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    first = json.dumps(st.gap_interval(train, test))
    st.page_trend_test(train, permutations=9)
    assert (np.random.get_state()[1] == before).all() and json.dumps(st.gap_interval(train, test)) == first


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(-0.02, 0.03, "NO-GAP"), (0.2, 0.4, "OVERFIT"), (-0.1, 0.3, "INCONCLUSIVE"), (-0.4, -0.2, "INCONCLUSIVE")],
)
def test_verdicts(low, high, wanted):
    assert st.verdict(Interval(low, (low + high) / 2, high), 0.05) == wanted
    assert st.EXIT_CODES == {"NO-GAP": 0, "OVERFIT": 3, "INCONCLUSIVE": 4}


def test_two_runs_are_refused_and_few_are_warned_of():
    train, test = null_scores(np.random.default_rng(0), 2, 6, 60)
    for nested in (False, True):
        with pytest.raises(ValueError, match="2 training runs: a verdict needs at least 3"):
            st.gap_interval(train, test, nested=nested)


def test_what_makes_an_interval_unsure_is_said_and_nothing_else():
    rng = np.random.default_rng(0)

    def told(runs, n, m, make=lambda shape: np.linspace(0, 1, shape[1]) + 0.1 * rng.normal(size=shape)):
        return [text.split(":")[0] for text in warnings_for(make((runs, n)), make((runs, m)))]

    assert told(5, 10, 50) == [] and told(4, 10, 50) == ["4 training runs"]
    assert told(5, 10, 49) == ["49 test MDPs"]
    assert len(told(4, 10, 49)) == 2
    near = (np.arange(400).reshape(4, 100) % 25 > 0).astype(float)  # 96% are 1
    assert "9 of 10 test scores are the same" in warnings_for(rng.random((4, 100)), near)[1]
    assert not any("9 of 10" in text for text in warnings_for(near, rng.random((4, 100))))
    flat = warnings_for(np.ones((5, 10)), rng.normal(size=(5, 60)))
    assert [text.split(":")[0] for text in flat] == ["one set's scores spread far less than the other's"]


def test_skewed_scores_are_said_to_be_so_where_training_mdps_are_few():
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(0, 1, 200))
    assert skewness(x) == pytest.approx(stats.skew(x)) and skewness(np.ones(3)) == 0.0
    test = np.tile(x, (5, 1))
    for n, nested, wanted in ((10, False, True), (100, False, False), (10, True, True), (20, True, False)):
        train = np.exp(rng.normal(0, 1, (5, n)))
        assert any("very skewed" in text for text in warnings_for(train, test, nested=nested)) == wanted
    assert not any("skewed" in text for text in warnings_for(rng.normal(size=(5, 10)), rng.normal(size=(5, 200))))


def test_ends_and_bounds_are_where_they_are_said_to_be():
    assert st.verdict(Interval(-0.05, 0.0, 0.05), 0.05) == "NO-GAP"
    assert st.verdict(Interval(0.0, 0.3, 0.6), 0.05) == "INCONCLUSIVE"
    assert st.verdict(Interval(0.01, 0.03, 0.06), 0.05) == "OVERFIT"
    assert st.verdict(Interval(-0.06, -0.03, 0.05), 0.05) == "INCONCLUSIVE"
    for n in range(1, 400):
        none, all_ = st.wilson(0, n), st.wilson(n, n)
        assert 0.0 <= none.low < 1e-15 and none.estimate == 0.0 and 1 - 1e-15 < all_.high <= 1.0 == all_.estimate


def test_ranks_are_shuffled_within_runs():
    scores = np.array([[5, 1, 1], [5, 1, 1], [1, 1, 5]])  # ranks of a run stay in it
    orders = [set(itertools.permutations(row)) for row in (stats.rankdata(-scores, axis=1))]
    observed = sum(np.arange(1, 4) @ row for row in stats.rankdata(-scores, axis=1))
    exact = np.mean([sum(np.arange(1, 4) @ np.array(r) for r in rs) >= observed for rs in itertools.product(*orders)])
    assert st.page_trend_test(scores) == pytest.approx(exact, abs=0.02)
    uneven = np.array([[1, 1, 1, 1], [4, 3, 2, 1]])  # one run without any order: the other has 24
    assert st.page_trend_test(uneven) == pytest.approx(1 / 24, abs=0.01)


def test_a_power_law_that_never_falls_reaches_nothing_and_a_constant_below_0_is_not_fitted():
    for law in (st.PowerLaw(0.0, 1.0, 0.05), st.PowerLaw(1.0, 0.0, 0.0), st.PowerLaw(1.0, 1.0, 0.05)):
        assert law.reaches(0.05) == math.inf
    for law in (st.PowerLaw(0.0, 1.0, 0.0), st.PowerLaw(-1.0, 1.0, 0.0), st.PowerLaw(-1.0, 1.0, 0.04)):
        assert law.reaches(0.05) == 0.0, "below it everywhere"
    assert st.PowerLaw(1.0, 2.0, 0.0).reaches(0.04) == pytest.approx(5.0)
    assert st.PowerLaw(-1.0, 1.0, 0.06).reaches(0.05) == st.PowerLaw(1.0, -1.0, 0.0).reaches(0.05) == math.inf
    n, gaps = np.array([1.0, 4.0, 16.0]), np.array([0.9, 0.35, 0.05])
    law, best = st.fit_power_law(n, gaps), (math.inf, 0.0, 0.0)
    for b in np.arange(2, 301) / 100:  # least squares of a alone, for each exponent
        a = (n**-b @ gaps) / (n ** (-2 * b)).sum()
        best = min(best, (((a * n**-b - gaps) ** 2).sum(), a, b))
    assert law == pytest.approx((best[1], best[2], 0.0)) and 0.1 < law.b < 2.9
    exact = st.fit_power_law(n, 2.0 * n**-0.25 + 0.125)
    assert exact == pytest.approx((2.0, 0.25, 0.125), abs=1e-9)


def test_a_p_value_is_never_0_and_equal_scores_have_1():
    """The order that was seen is one of those that are possible."""
    falling = np.tile(np.arange(6)[::-1], (8, 1))
    assert st.page_trend_test(falling, permutations=99) == 1 / 100
    assert st.page_trend_test(falling[:, ::-1], permutations=99) == 1.0


def test_the_trend_test_agrees_with_scipys_page_test():
    rng = np.random.default_rng(3)
    for slope in (0.0, 0.3, 1.0):
        scores = rng.normal(size=(6, 4)) - slope * np.arange(4)
        exact = stats.page_trend_test(-scores, method="exact").pvalue
        assert st.page_trend_test(scores, seed=0) == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(
    "scores", [np.zeros((5, 4)), [[1, 1, 0], [2, 1, 1], [1, 1, 1]], [[0, 0, 1], [1, 0, 0], [2, 2, 1]]]
)
def test_equal_scores_are_no_trend(scores):
    """Against all orders of all runs, with scipy's mean ranks."""
    ranks = stats.rankdata(-np.asarray(scores, float), axis=1)
    weights = np.arange(1, ranks.shape[1] + 1)
    if (ranks == ranks[0, 0]).all():
        exact = 1.0
    else:
        sums = [sum(weights @ r for r in rs) for rs in itertools.product(*(itertools.permutations(r) for r in ranks))]
        exact = np.mean(np.array(sums) >= (ranks * weights).sum() - 1e-9)
    assert st.page_trend_test(scores) == pytest.approx(exact, abs=0.02)


def test_a_power_law_is_found_again_with_the_n_from_which_the_gap_is_small():
    n = np.array([1, 3, 10, 30, 100, 300])
    law = st.fit_power_law(n, 1.2 * n**-0.5 + 0.01)
    np.testing.assert_allclose(law(n), 1.2 * n**-0.5 + 0.01, atol=1e-6)
    assert law.reaches(0.05) == pytest.approx((1.2 / 0.04) ** 2, rel=1e-3) and law.reaches(0.005) == math.inf
    assert st.fit_power_law(n, 1 - 0.2 * np.log10(n)).c >= 0
    with pytest.raises(ValueError, match="three or more"):
        st.fit_power_law([1, 10, 10], [1, 0.5, 0.4])


def test_the_crossed_interval_covers_a_zero_gap_where_resampling_runs_alone_does_not():
    """And it sees a gap of 2."""
    rng, repeats = np.random.default_rng(0), 200
    crossed = alone = power = 0
    for k in range(repeats):
        train, test = null_scores(rng, 5, 10, 100)
        crossed += covers(st.gap_interval(train, test))
        gaps = train.mean(1) - test.mean(1)
        draws = gaps[np.random.default_rng(k).integers(0, 5, (300, 5))].mean(1)
        alone += covers(Interval(*np.quantile(draws, [0.025, 0.5, 0.975])))
        power += st.gap_interval(*null_scores(rng, 5, 10, 100, gap=2.0)).low > 0
    assert 0.90 <= crossed / repeats <= 0.995 and alone / repeats < 0.60 and power / repeats >= 0.90


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("nested", [False, True])
def test_runs_that_differ_in_their_gap_are_covered_too(runs, nested):
    """A true gap of 1/2 with sd 1 over runs, 100 train and 200 test MDPs: percentiles of a bootstrap hold it in 80 to
    91% of samples."""
    rng, covered, above, repeats = np.random.default_rng(runs), 0, 0, 400
    for _ in range(repeats):
        run, gap = rng.normal(0, 1, (2, runs, 1))
        own = rng.normal(0, 1, (runs if nested else 1, 100))
        train = run + gap + 0.5 + own + rng.normal(0, 0.7, (runs, 100))
        test = run + rng.normal(0, 1, 200) + rng.normal(0, 0.7, (runs, 200))
        found = st.gap_interval(train, test, nested=nested)
        covered += covers(found, 0.5)
        above += found.low > 0.5
    assert 0.92 <= covered / repeats <= 0.995 and above / repeats <= 0.04


def test_unequal_numbers_of_runs_are_told_apart():
    told = "^4 runs were scored on train contexts and 3 on test contexts$"
    with pytest.raises(ValueError, match=told):
        st.gap_interval(np.zeros((4, 2)), np.zeros((3, 2)))
