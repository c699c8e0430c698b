"""The variance components of a gap, term by term, against sums written out on tables small enough to do by hand."""

import numpy as np
import pytest
from scipy import stats

from gala.experiments import statistics as st
from gala.experiments.statistics import Component

TEST = [[0.0, 3.0], [0.0, 3.0], [0.0, 3.0]]
"""Two contexts whose effects have a variance of 4.5; no interactions, 4.5 within each run."""


def anova(x):
    """(contexts, interaction, within) from loops over the cells."""
    runs, k = len(x), len(x[0])
    run, context = [sum(row) / k for row in x], [sum(row[j] for row in x) / runs for j in range(k)]
    grand = sum(run) / runs
    rest = sum((x[i][j] - run[i] - context[j] + grand) ** 2 for i in range(runs) for j in range(k))
    interaction = rest / ((runs - 1) * (k - 1))
    effects = sum((c - grand) ** 2 for c in context) / (k - 1) - interaction / runs
    within = sum((x[i][j] - run[i]) ** 2 for i in range(runs) for j in range(k)) / (k - 1) / runs
    return max(effects, 0.0), interaction, within


def test_nested_runs_with_one_context_each_have_no_spread_within():
    """Gaps 1, 3, 5 have a variance of 4, below what the test set's spread within runs alone would make: 4.5 / 1."""
    runs, tests = st.gap_components([[2.5], [4.5], [6.5]], TEST, nested=True)
    assert runs == (pytest.approx(4.5 / 3), 1, pytest.approx(4 / 3))
    assert tests == (pytest.approx(4.5 / 2), 1, pytest.approx(4.5 / 2))
    _, tests = st.gap_components([[2.5], [4.5], [6.5]], [[1.0, 1.0]] * 3, nested=True)
    assert tests.variance == 0.0, "one context each has no spread to lend"


def test_of_nested_runs_the_floor_holds_what_interactions_put_into_the_test_mean():
    test = [[0.0, 3.0, 1.0], [1.0, 3.0, 2.0], [0.0, 4.0, 0.0]]
    _, interaction, within = anova(test)
    means = [sum(row) / 3 for row in test]
    runs, _ = st.gap_components([[mean, mean] for mean in means], test, nested=True)  # no run has a gap
    assert interaction > 0 and runs == (pytest.approx((within / 2 + interaction / 3) / 3), 2, pytest.approx(0.0))


def test_nested_runs_that_differ_more_than_their_contexts_explain_count_as_they_are():
    runs, _ = st.gap_components([[1.5], [11.5], [21.5]], TEST, nested=True)
    assert runs == (pytest.approx(100 / 3), 2, pytest.approx(100 / 3))


def test_what_nested_training_contexts_vary_is_lent_to_fewer_test_contexts_only():
    train = [[0.0, 10.0], [2.0, 12.0], [1.0, 11.0]]  # 50 within each run
    test = [[0.0, 3.0, 1.0], [1.0, 3.0, 2.0], [0.0, 4.0, 0.0]]
    context, interaction, _ = anova(test)
    _, tests = st.gap_components(train, test, nested=True)
    assert tests == (pytest.approx((50 - interaction) / 3), 3 * 2 - 1, pytest.approx(context / 3))
    many = [[*row, *row] for row in test]  # six of them, as many as the training runs have together: no longer fewer
    _, tests = st.gap_components(train, many, nested=True)
    assert tests == (pytest.approx(anova(many)[0] / 6), 5, pytest.approx(anova(many)[0] / 6))


def test_one_training_context_for_all_runs_varies_as_the_test_contexts_do():
    test = [[0.0, 3.0, 1.0], [1.0, 3.0, 2.0], [0.0, 4.0, 0.0]]
    context, interaction, _ = anova(test)
    runs, trains, tests = st.gap_components([[5.0], [5.0], [5.0]], test)
    gaps = np.var([5 - np.mean(row) for row in test], ddof=1)
    floor = interaction / 1 + interaction / 3
    assert floor > gaps, "or the floor would not be seen"
    assert runs == (pytest.approx(floor / 3), (3 - 1) * (3 - 1), pytest.approx(gaps / 3))
    assert trains == (pytest.approx(context / 1), 2, 0.0)
    assert tests == (pytest.approx(context / 3), 2, pytest.approx(context / 3))
    low, estimate, high = st.gap_interval([[5.0], [5.0], [5.0]], test)
    half = sum(stats.t.ppf(0.975, part.df) ** 2 * part.variance for part in (runs, trains, tests)) ** 0.5
    assert (low, high) == pytest.approx((estimate - half, estimate + half)) and estimate == pytest.approx(5 - 14 / 9)


def test_of_two_equal_variances_a_set_takes_its_own():
    """Both 2: the degrees of freedom are then those of its own two contexts, not of the other's four."""
    _, trains, tests = st.gap_components([[0.0, 2.0]] * 3, [[-2.0, 1.0, 1.0, 0.0]] * 3)
    assert trains == Component(1.0, 1, 1.0) and tests == Component(0.5, 3, 0.5)


def test_two_test_contexts_are_enough_and_one_is_refused():
    assert st.gap_interval(TEST, TEST).estimate == 0.0
    with pytest.raises(ValueError, match="1 test MDP"):
        st.gap_interval(TEST, [[1.0]] * 3)


def test_a_mean_over_two_runs_has_the_spread_of_both():
    scores = [[0.0, 4.0, 2.0], [6.0, 10.0, 8.0]]
    half = stats.t.ppf(0.975, 1) * stats.sem([2.0, 8.0])
    assert st.mean_interval(scores, nested=True) == pytest.approx((5 - half, 5, 5 + half))
    contexts = (stats.t.ppf(0.975, 2) * stats.sem([3.0, 7.0, 5.0])) ** 2
    both = (half**2 + contexts) ** 0.5
    assert st.mean_interval(scores) == pytest.approx((5 - both, 5, 5 + both))
    more = Component(2.0, 4, 2.0)
    wide = (half**2 + stats.t.ppf(0.975, 4) ** 2 * 2) ** 0.5
    assert st.mean_interval(scores, nested=True, more=[more]) == pytest.approx((5 - wide, 5, 5 + wide))


def test_a_nested_interval_is_that_of_nested_components_and_has_its_sides_the_right_way_round():
    train, test = [[0.0, 10.0], [2.0, 12.0], [4.0, 11.0]], [[0.0, 3.0, 1.0], [1.0, 3.0, 2.0], [0.0, 4.0, 0.0]]
    for nested in (False, True):
        parts = st.gap_components(train, test, nested=nested)
        half = sum(stats.t.ppf(0.975, part.df) ** 2 * part.variance for part in parts) ** 0.5
        gap = float(np.mean(train) - np.mean(test))
        assert st.gap_interval(train, test, nested=nested) == pytest.approx((gap - half, gap, gap + half)), nested
    assert st.gap_components(train, test) != st.gap_components(train, test, nested=True)
    assert st.gap_components(train, test) != st.gap_components(test, train)


@pytest.mark.parametrize("flip", [False, True])
def test_of_two_sets_of_one_size_the_training_set_takes_at_least_what_the_other_varies(flip):
    """One of them has interactions and contexts that vary, the other has none of either."""
    varied, even = [[0.0, 3.0, 1.0], [1.0, 3.0, 2.0], [0.0, 4.0, 0.0]], [[2.0] * 3, [2.0] * 3, [2.0] * 3]
    train, test = (varied, even) if flip else (even, varied)
    context, interaction, _ = anova(varied)
    runs, trains, tests = st.gap_components(train, test)
    gaps = np.var([2 - sum(row) / 3 for row in varied], ddof=1)
    floor = interaction / 3 if flip else interaction / 3 + interaction / 3
    assert context > 0 and floor > gaps, "or the floor would not be seen"
    assert runs == (pytest.approx(floor / 3), 2 * 2, pytest.approx(gaps / 3))
    own = pytest.approx(context / 3)
    assert trains == (own, 2, own if flip else 0.0) and tests == ((0.0, 2, 0.0) if flip else (own, 2, own))
