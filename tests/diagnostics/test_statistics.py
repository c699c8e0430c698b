"""Statistics against closed forms, another library, and their own promises: coverage, power, uniform p-values."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import stats

from gala.experiments import statistics as st
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


def test_resampled_runs_give_the_extremes_and_an_interval_of_runs_alone_is_widened():
    """Of three runs, three draws are all the lowest in 1 of 27 cases: more than the 2.5% of either end. So the
    percentiles are the extremes, exactly; where runs carry their contexts with them, times sqrt(3 / 2)."""
    gaps, test = np.array([0.0, 1.0, 5.0]), np.full((3, 4), 7.0)
    train = np.repeat(7.0 + gaps[:, None], 2, 1)
    assert st.gap_interval(train, test) == pytest.approx((0.0, 2.0, 5.0), abs=1e-12)
    widened = (2 - 2 * math.sqrt(1.5), 2.0, 2 + 3 * math.sqrt(1.5))
    assert st.nested_gap_interval([[7.0 + g] * (2 + k) for k, g in enumerate(gaps)], test) == pytest.approx(widened)
    for nested in (False, True):
        mean = st.mean_interval(train, nested=nested)
        assert mean == pytest.approx([7 + x for x in widened])
    assert st.mean_interval([[3.0] * 5]) == pytest.approx((3.0, 3.0, 3.0)), "one run has no spread to widen"
    # Three contexts of a set, the same runs: its extremes alike, of the train and of the test set.
    same = np.tile(gaps, (4, 1))
    assert st.gap_interval(same, np.full((4, 1), 1.0)) == pytest.approx((-1.0, 1.0, 4.0))
    assert st.gap_interval(np.full((4, 1), 1.0), same) == pytest.approx((-4.0, -1.0, 1.0))
    assert st.nested_gap_interval(np.full((4, 1), 1.0), same) == pytest.approx(
        (-1 - 3 * math.sqrt(4 / 3), -1.0, -1 + 2 * math.sqrt(4 / 3))
    )
    assert st.mean_interval(same) == pytest.approx((2 - 2 * math.sqrt(4 / 3), 2.0, 2 + 3 * math.sqrt(4 / 3)))
    assert st.mean_interval([[0.0, 10.0]] * 3, nested=True) == pytest.approx((5.0, 5.0, 5.0)), (
        "contexts are their run's"
    )


@pytest.mark.parametrize("interval", [st.gap_interval, st.nested_gap_interval, st.mean_interval])
def test_the_level_is_the_share_between_the_ends(interval):
    """Runs of 0, 0 and 3: their resampled means are 0, 1, 2, 3 with probabilities 8, 12, 6 and 1 of 27."""
    runs, zeros = np.array([[0.0], [0.0], [3.0]]), np.zeros((3, 1))
    data, widen = ((runs,), 1.5**0.5) if interval is st.mean_interval else ((runs, zeros), 1.5**0.5)
    widen = 1.0 if interval is st.gap_interval else widen
    for level, low, high in ((0.6, 0, 2), (0.99, 0, 3), (0.2, 1, 1)):
        wanted = (1 + (low - 1) * widen, 1.0, 1 + (high - 1) * widen)
        assert interval(*data, level=level, repeats=4000) == pytest.approx(wanted)


def test_draws_are_as_many_as_are_said_and_seeded_by_0():
    train, test = null_scores(np.random.default_rng(0), 4, 6, 60)
    for interval in (st.gap_interval, st.nested_gap_interval):
        assert interval(train, test) == interval(train, test, repeats=2000, level=0.95, seed=0)
        assert interval(train, test, repeats=2000) != interval(train, test, repeats=2001)
    assert st.mean_interval(test) == st.mean_interval(test, repeats=1000, level=0.95, seed=0)
    assert st.label_permutation_test(train, test) == st.label_permutation_test(train, test, permutations=999, seed=0)
    assert st.page_trend_test(train) == st.page_trend_test(train, permutations=9999, seed=0)


def test_a_seed_fixes_an_interval_and_the_global_generator_is_neither_read_nor_moved():
    train, test = null_scores(np.random.default_rng(0), 4, 6, 60)
    first = json.dumps(st.gap_interval(train, test, seed=3))
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    assert json.dumps(st.gap_interval(train, test, seed=3)) == first
    assert (np.random.get_state()[1] == before).all()
    assert json.dumps(st.gap_interval(train, test, seed=4)) != first


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(-0.02, 0.03, "NO-GAP"), (0.2, 0.4, "OVERFIT"), (-0.1, 0.3, "INCONCLUSIVE"), (-0.4, -0.2, "INCONCLUSIVE")],
)
def test_verdicts(low, high, wanted):
    assert st.verdict(Interval(low, (low + high) / 2, high), 0.05) == wanted
    assert st.EXIT_CODES == {"NO-GAP": 0, "OVERFIT": 3, "INCONCLUSIVE": 4}


def test_two_runs_are_refused_and_few_are_warned_of():
    train, test = null_scores(np.random.default_rng(0), 2, 6, 60)
    for interval in (st.gap_interval, st.nested_gap_interval):
        with pytest.raises(ValueError, match="2 training runs: a verdict needs at least 3"):
            interval(train, test)
    assert len(st.warnings_for(4, 20, 2)) == 3 and not st.warnings_for(5, 50, 10) and not st.warnings_for(5, 50)


def test_ends_and_bounds_are_where_they_are_said_to_be():
    assert st.verdict(Interval(-0.05, 0.0, 0.05), 0.05) == "NO-GAP"
    assert st.verdict(Interval(0.0, 0.3, 0.6), 0.05) == "INCONCLUSIVE"
    assert st.verdict(Interval(0.01, 0.03, 0.06), 0.05) == "OVERFIT"
    assert st.verdict(Interval(-0.06, -0.03, 0.05), 0.05) == "INCONCLUSIVE"
    for n in range(1, 400):
        none, all_ = st.wilson(0, n), st.wilson(n, n)
        assert 0.0 <= none.low < 1e-15 and none.estimate == 0.0 and 1 - 1e-15 < all_.high <= 1.0 == all_.estimate
    for counts in ((4, 50, 10), (5, 49, 10), (5, 50, 9), (4, 50), (5, 49)):
        assert len(st.warnings_for(*counts)) == 1
    # One run has no spread; what is left is that of its contexts, and nothing widens it.
    assert st.mean_interval([[0.0, 10.0, 20.0]]) == pytest.approx((0.0, 10.0, 20.0))


def test_labels_are_shuffled_within_one_order_and_runs_within_themselves():
    """Three ones against three zeros: 1 of 20 orders. Draws with replacement would give 1 of 64."""
    assert st.label_permutation_test([1, 1, 1], [0, 0, 0], permutations=9999) == pytest.approx(0.05, abs=0.01)
    scores = np.array([[5, 1, 1], [5, 1, 1], [1, 1, 5]])  # ranks of a run stay in it
    orders = [set(itertools.permutations(row)) for row in (stats.rankdata(-scores, axis=1))]
    observed = sum(np.arange(1, 4) @ row for row in stats.rankdata(-scores, axis=1))
    exact = np.mean([sum(np.arange(1, 4) @ np.array(r) for r in rs) >= observed for rs in itertools.product(*orders)])
    assert st.page_trend_test(scores) == pytest.approx(exact, abs=0.02)
    uneven = np.array([[1, 1, 1, 1], [4, 3, 2, 1]])  # one run without any order: the other has 24
    assert st.page_trend_test(uneven) == pytest.approx(1 / 24, abs=0.01)


def test_a_power_law_that_never_falls_reaches_nothing_and_a_constant_below_0_is_not_fitted():
    for law in (st.PowerLaw(0.0, 1.0, 0.0), st.PowerLaw(1.0, 0.0, 0.0), st.PowerLaw(1.0, 1.0, 0.05)):
        assert law.reaches(0.05) == math.inf
    assert st.PowerLaw(1.0, 2.0, 0.0).reaches(0.04) == pytest.approx(5.0)
    assert st.PowerLaw(-1.0, 1.0, 0.0).reaches(0.05) == st.PowerLaw(1.0, -1.0, 0.0).reaches(0.05) == math.inf
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
    assert st.label_permutation_test(np.arange(20) + 100.0, np.arange(20), permutations=99) == 1 / 100
    assert st.label_permutation_test([1.0] * 5, [1.0] * 7, permutations=99) == 1.0
    assert st.label_permutation_test(np.arange(20), np.arange(20) + 100.0, permutations=99) == 1.0
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
        crossed += covers(st.gap_interval(train, test, repeats=300, seed=k))
        gaps = train.mean(1) - test.mean(1)
        draws = gaps[np.random.default_rng(k).integers(0, 5, (300, 5))].mean(1)
        alone += covers(Interval(*np.quantile(draws, [0.025, 0.5, 0.975])))
        power += st.gap_interval(*null_scores(rng, 5, 10, 100, gap=2.0), repeats=300, seed=k).low > 0
    assert 0.90 <= crossed / repeats <= 0.99 and alone / repeats < 0.60 and power / repeats >= 0.90


def test_the_nested_interval_covers_too_where_every_run_has_contexts_of_its_own():
    rng, covered, repeats = np.random.default_rng(1), 0, 300
    for k in range(repeats):
        run = rng.normal(0, 1, 5)
        train = [r + rng.normal(0, 1, 10) + rng.normal(0, 0.7, 10) for r in run]
        test = run[:, None] + rng.normal(0, 1, 100) + rng.normal(0, 0.7, (5, 100))
        covered += covers(st.nested_gap_interval(train, test, repeats=300, seed=k))
    assert 0.90 <= covered / repeats <= 0.99


def test_permutation_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(0)
    p = []
    for k in range(500):
        scores = rng.normal(size=24)
        p.append(st.label_permutation_test(scores[:8], scores[8:], permutations=199, seed=k))
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert st.label_permutation_test([3, 3.1, 3.2, 2.9], np.linspace(0, 1, 20), seed=0) < 0.01


@pytest.mark.parametrize("interval", [st.gap_interval, st.nested_gap_interval])
def test_unequal_numbers_of_runs_are_told_apart(interval):
    told = "^4 runs were scored on train contexts and 3 on test contexts$"
    with pytest.raises(ValueError, match=told):
        interval(np.zeros((4, 2)), np.zeros((3, 2)))
