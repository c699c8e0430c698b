"""Ratios, rankings, losses and counters: what a report claims, against closed forms."""

import math
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from scipy import stats

from gala.bench.busy import Taken, disturbance, taken
from gala.bench.energy import _cpu_counters, joules
from gala.bench.ratios import FEWEST_ROUNDS, Interval, median_interval, paired_ratio, verdict
from gala.bench.roofline import Ceiling, average, settings
from gala.bench.throughput import losses, variants
from gala.config.parse import parse_config
from gala.reports import throughput as page
from gala.reports.throughput import notes, ranking


def test_the_median_interval_is_the_percentile_bootstrap():
    x = np.random.default_rng(4).lognormal(size=25)
    found = median_interval(x.tolist())
    reference = stats.bootstrap((x,), np.median, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert found.median == np.median(x)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), rel=0.05)
    assert median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0), "of a few values, all of their range"


def test_a_machine_that_wanders_does_not_hide_a_difference_that_every_round_shows():
    rng = np.random.default_rng(0)
    speed = rng.uniform(0.5, 2.0, size=9)  # of the machine, round by round
    a, b = 110 * speed, 100 * speed
    assert paired_ratio(a, b) == pytest.approx((1.1, 1.1, 1.1))
    assert verdict(paired_ratio(a, b), 9) == "faster" and verdict(paired_ratio(b, a), 9) == "slower"
    noise = rng.permutation([0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25, 1.0, 0.97])
    assert verdict(paired_ratio(b * noise, b), 9) == "undecided"


@pytest.mark.parametrize("rounds", [1, 2, 5, 6])
def test_too_few_rounds_decide_nothing_and_rank_nothing(rounds):
    """Of two equal variants one is ahead in all of five rounds in 6% of cases, and in one round always."""
    assert verdict(paired_ratio([2.0] * rounds, [1.0] * rounds), rounds) == ("faster" if rounds == 6 else "undecided")
    assert page.FEWEST_ROUNDS == FEWEST_ROUNDS == 1 + math.floor(math.log2(2 / 0.05))
    row = {"losses": {}, "joules_per_million_frames": None, "roofline_fraction": 0.5}
    row |= {"roofline_fraction_interval": [0.4, 0.6]}
    rows = [row | {"name": "a2c", "env_steps_per_s": 2.0, "against": {"gala": "faster"}}]
    rows += [row | {"name": "gala", "env_steps_per_s": 1.0, "against": {"a2c": "slower"}}]  # as old records say
    roof = {"env_steps_per_s": 4.0, "core_s_per_env_step": {"simulate": 1e-3}}
    record = {"roofline": roof, "rows": rows, "plan": {"rounds": rounds, "block_s": 1.0}, "envs": 4, "cores": 2}
    told = " ".join(notes(record))
    few = "with their range. Nothing is ranked: a 95% interval needs 6 rounds or more."
    assert (few if rounds < 6 else "with their 95% interval. Fast to slow: a2c > gala.") in told


def test_no_order_is_claimed_where_intervals_overlap():
    def row(name, rate, **against):
        return {"name": name, "env_steps_per_s": rate, "against": against}

    rows = [
        row("slow", 100.0, fast="slower", near="slower", same="slower"),
        row("fast", 200.0, slow="faster", near="undecided", same="faster"),
        row("near", 190.0, slow="faster", fast="undecided", same="undecided"),
        row("same", 180.0, slow="faster", fast="slower", near="undecided"),
    ]
    assert ranking(rows) == [["fast", "near", "same"], ["slow"]], "same cannot be told from near, nor near from fast"
    rows[0]["against"]["fast"] = "undecided"
    assert ranking(rows) == [["fast", "near", "same", "slow"]]
    apart = [row(str(k), 10.0 - k, **{str(j): "slower" for j in range(k)}) for k in range(3)]
    assert ranking(apart) == [["0"], ["1"], ["2"]]
    apart[2]["against"]["0"] = "undecided"
    assert ranking(apart) == [["0", "1", "2"]], "nor is an order claimed over one that lies between them"


def test_blocks_too_short_for_a_report_of_a_learner_still_have_their_rates_told():
    row = {"name": "a2c", "env_steps_per_s": 500.0, "against": {}, "losses": {}, "joules_per_million_frames": None}
    row |= {"roofline_fraction": 0.5, "roofline_fraction_interval": [0.4, 0.6]}
    roof = {"env_steps_per_s": 1000.0, "core_s_per_env_step": {"simulate": 1e-3}}
    record = {"roofline": roof, "rows": [row], "plan": {"rounds": 1, "block_s": 1.0}, "envs": 4, "cores": 2}
    told = "a2c: 50% [40%, 60%] of the roofline; where the rest goes a longer block_s would tell."
    assert told in notes(record)


def test_losses_and_the_parts_at_their_best_add_up_to_all_the_time_there_is():
    ceiling = Ceiling({"simulate": 2e-4, "forward": 3e-4, "backward": 5e-4}, cores=4)
    assert ceiling.env_steps_per_s == pytest.approx(4000)
    shares = {"simulate": 0.3, "act": 0.25, "learn": 0.35, "gossip": 0.04, "other": 0.06}
    lost = losses(shares, 3000.0, ceiling)
    assert sum(lost.values()) + sum(ceiling.core_s.values()) == pytest.approx(4 / 3000)
    assert lost["gossip"] == pytest.approx(0.04 * 4 / 3000)
    at_the_roof = losses({"simulate": 0.2, "act": 0.3, "learn": 0.5}, 4000.0, ceiling)
    assert max(map(abs, at_the_roof.values())) < 1e-12
    assert average([ceiling, ceiling, Ceiling(dict.fromkeys(ceiling.core_s, 1.0), 4)]) == ceiling


@pytest.mark.parametrize("cores", [1, 2, 3, 6, 12, 64])
def test_every_setting_of_the_roofline_uses_all_cores(cores):
    found = settings(cores, (16, 64))
    assert {s.processes * s.threads for s in found} == {cores} and len(set(found)) == len(found)
    assert {1, cores} <= {s.processes for s in found}


def test_variants_share_the_same_simulators():
    config = parse_config(["preset=classic/cartpole", "learners=3", "a2c.passes=1"])
    found = variants(config, 24, ["a2c", "textbook", "gala", "independent"], [1, 2, 4])
    assert list(found) == ["a2c", "textbook", "gala x2", "gala x4", "independent x2", "independent x4"]
    assert {c.learners * c.envs_per_learner for c in found.values()} == {24}
    assert [found[name].a2c.passes for name in ("a2c", "textbook", "gala x4")] == ["1", "2", "1"]
    for algos, envs, learners, told in (
        (["a2c", "ppo"], 24, [1], "algos=ppo is unknown; use some of a2c, two-pass, textbook"),
        (["gala"], 25, [2], "envs=25 cannot be shared equally among 2 learners"),
        (["gala"], 24, [1], "nothing to measure"),
    ):
        with pytest.raises(ValueError, match=told):
            variants(config, envs, algos, learners)


def test_a_processor_counter_that_starts_over_goes_on_and_its_parts_are_not_counted_twice(tmp_path):
    def write(zone, microjoules):
        folder = tmp_path / zone
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "max_energy_range_uj").write_text("10000000\n")
        (folder / "name").write_text("core\n" if zone.count(":") > 1 else f"package-{zone[-1]}\n")

    assert joules(_cpu_counters(tmp_path)) is None
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        write(zone, 9_000_000)
    counters = _cpu_counters(tmp_path)
    assert len(counters) == 2 and joules(counters) == 0
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        write(zone, 1_500_000)
    assert joules(counters) == pytest.approx(5.0)


@pytest.mark.parametrize(
    "names, counted",
    [
        (["package-0", "psys", "package-1"], 2),
        (["psys", "package-0"], 1),
        (["package-0", "dram"], 1),
        (["socket", "psys"], 1),
        ([None, None], 2),
        ([None, "psys"], 1),
    ],
)
def test_the_whole_platforms_counter_is_not_added_to_those_of_the_packages_within_it(tmp_path, names, counted):
    for zone, name in enumerate(names):
        folder = tmp_path / f"intel-rapl:{zone}"
        folder.mkdir()
        for file, text in (("energy_uj", "0"), ("max_energy_range_uj", "10000000"), ("name", name)):
            if text is not None:
                (folder / file).write_text(f"{text}\n")
    counters = _cpu_counters(tmp_path)
    for zone in range(len(names)):
        (tmp_path / f"intel-rapl:{zone}" / "energy_uj").write_text("1000000\n")
    assert joules(counters) == counted


def test_what_others_took_is_what_is_busy_and_not_ours():
    before, after = Taken(100.0, 1.0, 40.0, 1000.0, 4), Taken(118.0, 1.4, 50.0, 1010.0, 4)
    found = disturbance(before, after, [100.0, 109.0, 102.0])
    assert found["others"] == pytest.approx(8.0 / 40) and found["steal"] == pytest.approx(0.01)
    assert found["roofline_moved"] == pytest.approx(0.09)
    assert found["warnings"] == ["other processes took 20% of the cores"]
    alone = disturbance(before, Taken(111.0, 2.0, 50.5, 1010.0, 4), [100.0, 112.0])
    assert alone["warnings"] == [
        "the host took 2% of the cores for other machines (steal)",
        "the roofline moved by 12% between the rounds",
    ]
    assert disturbance(before, Taken(110.5, 1.0, 50.0, 1010.0, 4), [100.0, 101.0])["warnings"] == []


def test_cores_that_this_process_may_not_use_are_not_counted():
    """On a shared node the others may be busy without taking anything from us."""
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, mine[:1])
    try:
        before = taken()
        time.sleep(0.5)
        after = taken()
    finally:
        os.sched_setaffinity(0, mine)
    assert (before.cores, taken().cores) == (1, len(mine))
    assert after.busy_s - before.busy_s <= after.clock_s - before.clock_s + 0.05


def test_a_process_of_ours_is_counted_as_ours_and_one_that_is_not_as_others():
    """A child works for a while; whoever else works on this machine only adds to the others."""
    work = "import time; end = time.process_time() + 3.0\nwhile time.process_time() < end: pass\ntime.sleep(600)"
    before = taken()
    child = subprocess.Popen([sys.executable, "-c", work])
    try:
        while sum(psutil.Process(child.pid).cpu_times()[:2]) < 2.0:
            time.sleep(0.05)
        after = taken()
    finally:
        child.kill()
        child.wait()
    assert 2.0 <= after.own_s - before.own_s < 4.0
    assert after.busy_s - before.busy_s > 1.8
    gone = taken()
    assert gone.own_s < after.own_s - 1.9, "what has ended is nobody's: look while it lives"
