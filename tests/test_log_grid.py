"""When learners report: at moments that they share, without a word between them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gala.training.board import slots_of_one_moment
from gala.training.interval import LogGrid, interval_at


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: 1.7e9 + now[0])
    return now


def test_in_lock_step_learners_whose_clocks_differ_report_after_the_same_updates(clock):
    """Each measures its own rate, a little off the other's. Where the pace changes they may disagree for a moment."""
    rng, updates = np.random.default_rng(0), 100
    offsets = [0.0, 0.013]
    grids, reports = [LogGrid(2.0, True, updates) for _ in offsets], ([0.0, 0.0], [0.0, 0.0])
    matched = []
    for update_s in [0.5, *[0.004] * 4000, *[0.02] * 500, *[0.0021] * 4000]:
        updates += 1
        clock[0] += update_s * rng.uniform(0.8, 1.2)
        for grid, offset, stamps in zip(grids, offsets, reports, strict=True):
            clock[0] += offset * update_s
            if grid.reached(updates):
                stamps[:] = [stamps[1], grid.stamp(updates)]
                slots = slots_of_one_moment(np.array(reports))
                matched.append(len({r[slot] for r, slot in zip(reports, slots, strict=True)}) == 1)
    assert len(matched) > 30 and np.mean(matched[4:]) > 0.9


def test_in_lock_step_an_interval_is_kept_to_a_factor_of_two_and_after_a_slowdown(clock):
    grid, times = LogGrid(2.0, True, 7), []
    for updates in itertools.count(8):
        clock[0] += 0.01 if updates < 15_000 else 0.3
        if grid.reached(updates):
            times.append(clock[0])
        if updates == 16_000:
            break
    times = np.array(times) - 1000.0
    gaps, grown = np.diff(times), (times[:-1] > 90) & (times[:-1] < 140)
    assert len(gaps) > 50 and 0.99 < np.median(gaps[grown]) <= 2.0
    assert gaps[3:].max() < 2 * 2.0 + 0.3, "no longer silence where updates become slow"


def test_without_lock_step_all_report_when_the_clock_passes_the_interval(clock):
    fast, slow, told = LogGrid(2.0, False, 0), LogGrid(2.0, False, 0), {"fast": [], "slow": []}
    for tick in range(1, 12021):
        clock[0] += 0.01
        if fast.reached(tick):
            told["fast"].append(fast.stamp(tick))
        if tick % 13 == 0 and slow.reached(tick // 13):
            told["slow"].append(slow.stamp(tick // 13))
    late = {name: [stamp for stamp in stamps if stamp > 1.7e9 + 1101] for name, stamps in told.items()}
    assert len(late["fast"]) == len(late["slow"]) == 10
    assert all(0 <= b - a <= 0.13 + 1e-6 for a, b in zip(late["fast"], late["slow"], strict=True))


def test_a_young_run_reports_often_and_at_moments_that_older_learners_share(clock):
    """A learner that joins a minute later is the younger one; the others' moments are among its own."""
    grids, told = {"old": LogGrid(2.0, False, 0)}, {"old": [], "young": []}
    for tick in range(1, 12001):
        clock[0] += 0.01
        if tick == 9000:
            grids["young"] = LogGrid(2.0, False, 0)
        for name, grid in grids.items():
            if grid.reached(tick):
                told[name].append(round(grid.stamp(tick), 2))
    first_s = [stamp - 1.7e9 - 1000 for stamp in told["old"]]
    assert sum(x < 3 for x in first_s) >= 20 and 110 < len(first_s) < 150
    assert {stamp for stamp in told["old"] if stamp > 1.7e9 + 1091} <= set(told["young"])


def test_an_interval_grows_with_the_age_of_a_run_to_what_was_asked_for():
    ages = np.linspace(0, 200, 2001)
    each = np.array([interval_at(age, 2.0) for age in ages])
    assert (np.diff(each) >= 0).all() and each[0] == 0.125 and each[-1] == 2.0
    assert set(2.0 / each) == {1, 2, 4, 8, 16} and (each[ages < 80] <= np.maximum(ages[ages < 80] / 20, 0.2)).all()
    assert [interval_at(age, 0.05) for age in (0, 1e9)] == [0.05, 0.05]
