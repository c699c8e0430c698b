"""Statistics of scores against rliable, exhaustive resampling, and closed forms."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from gala.experiments.scores import (
    area_under,
    band,
    bootstrap,
    first_reached,
    improvement,
    improvement_interval,
    interval,
    non_inferior,
    on_grid,
    order,
    pooled,
)
from gala.experiments.statistics import Interval, iqm, performance_profile

# Two tasks, ten trainings each. The numbers below are rliable 1.2.0's, of 50,000 (IQM) and 20,000 resamples.
A = ([3.1, 5.0, 2.2, 4.4, 4.9, 3.7, 1.2, 4.1, 3.9, 4.6], [0.2, 0.9, 0.4, 0.7, 0.6, 0.5, 0.8, 0.1, 0.3, 0.95])
B = ([2.9, 4.1, 2.0, 4.4, 3.0, 3.3, 2.2, 3.6, 1.9, 4.0], [0.3, 0.7, 0.4, 0.2, 0.6, 0.1, 0.5, 0.15, 0.35, 0.45])
A, B = ([np.array(task) for task in group] for group in (A, B))


def test_estimates_are_those_of_rliable():
    assert pooled(iqm)(A) == pytest.approx(1.805) and pooled(iqm)(B) == pytest.approx(1.465)
    assert improvement(A, B) == pytest.approx(0.685) and improvement(B, A) == pytest.approx(0.315)
    profile = [performance_profile(task, [0.5, 1.0, 3.0, 4.5]) for task in A]
    assert np.mean(profile, 0) == pytest.approx([0.75, 0.5, 0.4, 0.15])


@pytest.mark.parametrize(("group", "low", "high"), [(A, 1.23, 2.36), (B, 1.225, 1.845)])
def test_resamples_are_spread_as_those_of_rliable(group, low, high):
    draws = bootstrap([group], pooled(iqm), repeats=10_000)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([low, high], abs=0.04)


def test_the_probability_of_improvement_is_spread_as_that_of_rliable():
    draws = bootstrap([A, B], improvement, repeats=6000)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([0.51, 0.845], abs=0.015)


def test_resamples_have_the_distribution_of_all_that_there_are():
    scores = np.array([0.0, 1.0, 4.0, 5.0])
    every = np.array([iqm(drawn) for drawn in itertools.product(scores, repeat=4)])
    draws = bootstrap([[scores]], pooled(iqm), repeats=8000)
    for x in (0.4, 1.2, 2.4, 3.1, 4.4):
        assert (draws <= x).mean() == pytest.approx((every <= x).mean(), abs=0.02)


def test_tasks_are_resampled_each_by_itself():
    draws = bootstrap([[np.zeros(5), np.full(5, 10.0)]], pooled(np.mean), repeats=50)
    assert (draws == 5.0).all()


def test_an_interval_is_wider_than_its_resamples_by_what_few_trainings_lack():
    scores = np.arange(5.0)
    draws = bootstrap([[scores]], pooled(np.mean))
    low, estimate, high = interval([[scores]], pooled(np.mean))
    plain = np.quantile(draws, [0.025, 0.975])
    assert estimate == 2.0
    assert [low - 2.0, high - 2.0] == pytest.approx((plain - 2.0) * math.sqrt(5 / 4))
    assert interval([[np.array([3.0])]], pooled(np.mean)) == (-math.inf, 3.0, math.inf)


def test_intervals_of_the_iqm_hold_the_truth_as_often_as_they_say():
    rng, held, samples = np.random.default_rng(0), 0, 250
    for k in range(samples):
        found = interval([[rng.standard_normal(8)]], pooled(iqm), repeats=200, seed=k)
        held += found.low <= 0.0 <= found.high
    assert 0.88 <= held / samples <= 0.99


def test_what_is_never_reached_stays_infinite_and_gives_no_nan():
    some = interval([[np.array([3.0, 4.0, 5.0, math.inf, math.inf])]], pooled(np.median))
    assert some.low in {3.0, 4.0}
    assert some.estimate == 5.0 and some.high == math.inf
    assert interval([[np.full(5, math.inf)]], pooled(np.median)) == (math.inf,) * 3


def test_the_area_under_a_straight_line_is_half_its_height():
    x = [0.0, 4.0, 10.0]
    assert area_under(x, [0.0, 8.0, 20.0], until=10.0) == pytest.approx(10.0)
    assert area_under(x, [0.0, 8.0, 20.0], until=5.0) == pytest.approx(5.0)
    assert area_under([2.0, 4.0], [1.0, 1.0], until=99.0) == 1.0  # flat before its first point, ends at its last
    assert math.isnan(area_under([], [], until=1.0))


def test_a_threshold_is_reached_at_the_first_point_that_is_there():
    assert first_reached([10, 20, 30], [0.1, 0.5, 0.4], 0.5) == 20
    assert first_reached([10, 20, 30], [0.1, 0.5, 0.4], 0.51) == math.inf
    assert first_reached([], [], 0.0) == math.inf


def test_curves_are_laid_over_each_other_where_all_of_them_are():
    grid, heights = on_grid([([0, 10], [0, 10]), ([2, 20], [4, 40])], points=9)
    assert grid[0] == 2 and grid[-1] == 10
    assert heights == pytest.approx(np.stack([grid, 2 * grid]))
    with pytest.raises(ValueError, match="no part of the x-axis in common"):
        on_grid([([0, 1], [0, 1]), ([2, 3], [0, 1])])
    with pytest.raises(ValueError, match="no points"):
        on_grid([([], [])])


def test_a_band_is_an_interval_at_each_point():
    heights = np.array([[0.0, 1.0], [0.0, 3.0], [0.0, 8.0]])
    low, middle, high = band(heights)
    assert (low[0], middle[0], high[0]) == (0.0, 0.0, 0.0)
    assert middle[1] == 4.0 and low[1] < 2.0 and high[1] > 6.0
    assert (band(heights[:1])[0] == heights[0]).all()


def test_a_band_is_wider_than_its_resamples_by_what_few_trainings_lack():
    """Of two curves a quarter of the resamples is twice the lower one, and a quarter twice the higher one."""
    low, middle, high = band(np.array([[0.0], [2.0]]))
    assert middle == [1.0] and (low[0], high[0]) == pytest.approx((1 - math.sqrt(2), 1 + math.sqrt(2)))


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ((2, 3, 4), (0, 1, 1.9), "higher"),
        ((0, 1, 1.9), (2, 3, 4), "lower"),
        ((2, 3, 4), (0, 1, 2), "undecided"),
        ((2, 3, 4), (1, 3.5, 9), "undecided"),
        ((3, 4, 5), (math.inf, math.inf, math.inf), "lower"),
        ((math.inf,) * 3, (math.inf,) * 3, "undecided"),
        ((-math.inf, 9, math.inf), (0, 0, 0), "undecided"),
    ],
)
def test_what_overlaps_is_not_ranked(a, b, wanted):
    assert order(Interval(*a), Interval(*b)) == wanted


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(-0.9, 3.0, "shown"), (-1.1, 3.0, "undecided"), (-3.0, -1.1, "refuted"), (-3.0, -0.9, "undecided")],
)
def test_no_worse_by_more_than_a_margin(low, high, wanted):
    assert non_inferior(Interval(low, (low + high) / 2, high), 1.0) == wanted


@pytest.mark.parametrize(("m", "n", "shift"), [(5, 5, 0.0), (5, 5, 1.5), (10, 10, 1.0), (5, 10, 2.5)])
def test_the_interval_of_an_improvement_holds_the_truth_as_often_as_it_says(m, n, shift):
    """By a Monte Carlo of normal scores, of which the probability is known in closed form."""
    rng, truth = np.random.default_rng(0), NormalDist().cdf(shift / math.sqrt(2))
    found = [improvement_interval(rng.normal(shift, 1, m), rng.normal(0, 1, n)) for _ in range(1000)]
    held = np.mean([each.low <= truth <= each.high for each in found])
    assert 0.93 <= held <= 0.99
    assert all(0 <= each.low <= each.estimate <= each.high <= 1 and each.low < each.high for each in found)


def test_the_interval_of_an_improvement_mirrors_and_narrows():
    few, more = (improvement_interval(np.arange(n) + 0.5 * n, np.arange(n)) for n in (5, 50))
    back = improvement_interval(np.arange(5), np.arange(5) + 2.5)
    assert (back.low, back.high) == pytest.approx((1 - few.high, 1 - few.low), abs=1e-3)
    assert more.high - more.low < 0.5 * (few.high - few.low)
    apart = improvement_interval([6, 7, 8, 9, 10], [1, 2, 3, 4, 5])
    assert apart[1:] == (1.0, 1.0) and apart.low == pytest.approx(0.64, abs=0.01)
