"""From rows to a verdict: an unlucky split is told from overfitting, robustness from generalisation."""

import itertools
import re

import numpy as np
import pytest

from gala.diagnostics.overfitting.generalisation import judge
from gala.experiments import statistics as st

OPTIMAL = {f"{name}{k}": best for name, best in (("train", 2.0), ("test", 1.0)) for k in range(60)}


def rows(agent, runs=5, baselines=True, condition="", n_train=60, random=0.0):
    """``agent(set, context number, run) -> return``; best scores are 2 on train and 1 on test contexts."""
    head = {"episode": 0, "length": 1, "success": None, "value": None, "discounted": 0.0, "entropy": None, "params": {}}
    out = []
    for name, k in itertools.product(("train", "test"), range(60)):
        base = head | {"set": name, "context": f"{name}{k}", "condition": condition}
        for run in range(runs):
            out.append(base | {"run": run, "policy": "agent", "return": agent(name, k, run), "n_train": n_train})
        if baselines:
            for policy, score in (("random", random), ("reference", OPTIMAL[f"{name}{k}"])):
                out.append(base | {"run": -1, "policy": policy, "return": score, "n_train": None})
    return out


def test_an_unlucky_split_shows_a_raw_gap_and_no_adjusted_one():
    """The optimal policy, on a train set that is easier."""
    found = judge(rows(lambda name, k, run: OPTIMAL[f"{name}{k}"]))
    head = found["headline"]
    assert head.gap == pytest.approx((1.0, 1.0, 1.0)) and head.adjusted == (0.0, 0.0, 0.0)
    assert found["verdict"] == "NO-GAP"
    assert any("sets differ in difficulty" in w for w in head.warnings)


def test_a_gap_is_normalised_by_what_separates_the_best_from_random():
    rng = np.random.default_rng(0)
    found = judge(rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] - 0.4 * (name == "test") + 0.01 * rng.normal()))
    assert found["verdict"] == "OVERFIT" and found["headline"].adjusted.estimate == pytest.approx(0.4, abs=0.01)
    half = judge(rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] - 0.4 * (name == "test"), random=-1.0))
    assert half["headline"].adjusted.estimate == pytest.approx(0.2) and half["headline"].scale == 2.0
    assert half["headline"].train_normalised == pytest.approx(1.5)


def test_a_single_run_of_many_is_not_hidden_by_the_others():
    """One lucky run in five widens the interval over 0: contexts alone would not."""
    found = judge(rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] - 0.5 * (name == "test" and run == 0)))
    assert found["verdict"] == "INCONCLUSIVE" and found["headline"].judged.low < 0


def test_two_runs_and_a_missing_set_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        judge(rows(lambda name, k, run: 0.0, runs=2))
    with pytest.raises(ValueError, match="train and on test"):
        judge([r for r in rows(lambda name, k, run: 0.0) if r["set"] == "train"])
    with pytest.raises(ValueError, match="no agent"):
        judge([])
    with pytest.raises(ValueError, match="1 returns are not finite, as in context t"):
        judge([r | ({"return": np.nan} if i == 67 * 7 else {}) for i, r in enumerate(rows(lambda name, k, run: 0.0))])


def test_without_a_reference_the_scale_is_the_solved_score_and_never_what_the_agents_reached():
    """An agent at 30 of 500 has learned 6% of the task; without a 500, nobody can say."""
    noise = np.random.default_rng(0).normal(size=1000)
    poor = rows(lambda name, k, run: 30.0 + noise[7 * k + run], baselines=False)
    found = judge(poor, solved=500.0, random=0.0)
    head = found["headline"]
    assert (head.scale, head.in_return, head.adjusted) == (500.0, False, None)
    assert head.train_normalised == pytest.approx(0.06, abs=0.01) and found["verdict"] == "INCONCLUSIVE"
    assert "learned 6% of the task" in head.refusals[0]
    unknown = judge(poor)["headline"]
    assert (unknown.scale, unknown.in_return, unknown.train_normalised) == (1.0, True, None)
    assert unknown.verdict == "INCONCLUSIVE" and any("units of return" in w for w in unknown.warnings)
    gap = judge(rows(lambda name, k, run: 20.0 * (name == "train") + noise[7 * k + run], baselines=False))["headline"]
    assert gap.verdict == "OVERFIT" and gap.judged == gap.gap, "a gap is one in any unit"


def test_conditions_of_a_study_share_the_scale_and_what_has_not_learned_gets_no_verdict():
    able = rows(lambda name, k, run: 10.0, baselines=False, condition="algo=a2c")
    unable = rows(lambda name, k, run: 1.0 if name == "train" else 0.8, baselines=False, condition="algo=gala")
    stressed = rows(lambda name, k, run: 50.0, baselines=False, condition="sticky=0.5")
    a2c, gala, _ = judge(able + unable + stressed, solved=10.0, random=0.0, stress=True)["groups"]
    assert a2c.scale == gala.scale == 10.0 and gala.normalised.estimate == pytest.approx(0.02)
    assert gala.train_normalised == pytest.approx(0.1)
    assert any("has learned 10% of the task" in w for w in gala.warnings)
    assert (a2c.verdict, gala.verdict) == ("NO-GAP", "INCONCLUSIVE") and not a2c.refusals


def test_one_training_mdp_for_all_runs_gets_no_verdict_and_ranges_are_kept():
    one = [
        r for r in rows(lambda name, k, run: 2.0 * (name == "train")) if r["context"] == "train0" or r["set"] == "test"
    ]
    head = judge(one)["headline"]
    assert head.verdict == "INCONCLUSIVE" and "same for all runs" in head.refusals[0]
    full = judge(rows(lambda name, k, run: 480.0 if run == 0 else 500.0, runs=3, baselines=False))["headline"]
    assert st.mean_interval([[480.0] * 60, [500.0] * 60, [500.0] * 60]).high > 515
    assert full.sets["train"]["mean"].high == 500.0, "no mean is above all returns"


def test_runs_without_test_scores_or_with_other_test_contexts_are_refused():
    played = rows(lambda name, k, run: 1.0)
    with pytest.raises(ValueError, match="run 3 has scores on one set only"):
        judge([r for r in played if (r["run"], r["set"]) != (3, "test")])
    with pytest.raises(ValueError, match="tested on different contexts"):
        judge([r for r in played if (r["run"], r["context"]) != (3, "test7")])


def test_a_reference_that_misses_an_mdp_is_said_to_adjust_nothing():
    played = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"])
    head = judge([r for r in played if (r["policy"], r["context"]) != ("reference", "test3")])["headline"]
    assert head.adjusted is None and any("not played on every MDP" in w for w in head.warnings)


def test_sizes_with_other_runs_have_no_trend_and_few_shared_mdps_are_warned_of():
    found = []
    for k, n in enumerate((1, 10)):
        played = rows(lambda name, k, run: 0.5, n_train=n, baselines=k == 0)
        found += [r | {"run": r["run"] + 10 * k} for r in played if r["set"] == "test" or r["context"] == "train0"]
    result = judge(found)
    assert result["trends"] == {"": None}
    assert any("the same for all runs" in w for w in result["headline"].warnings)


def test_changes_of_the_mdp_are_robustness_and_get_no_verdict():
    base = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"])
    sticky = rows(lambda name, k, run: 0.0, condition="sticky=0.25", baselines=False)
    found = judge(base + sticky, stress=True)
    assert [g.verdict for g in found["groups"]] == ["NO-GAP", None] and found["verdict"] == "NO-GAP"
    said = judge([*base, *(row | {"condition": "sticky=0.25"} for row in base)])["groups"]  # no stress test was said
    assert [g.verdict for g in said] == ["NO-GAP", "NO-GAP"]


@pytest.mark.parametrize("change", ["sigma=0.1", "init_mult=2", "easier=cue:1.0", "random_start"])
def test_no_change_of_a_stress_test_heads_the_report_or_counts_as_a_comparison(change):
    """Other MDPs, on which nobody played the reference: its gap is in units of return."""
    base = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] - 0.1 * (name == "test") * (run > 0))
    changed = rows(lambda name, k, run: 100.0 * (name == "train"), condition=change, baselines=False)
    changed = [r | {"context": f"changed-{r['context']}"} for r in changed]
    found = judge(base + changed, stress=True)
    assert found["headline"] == judge(base)["headline"] and found["headline"].condition == ""
    assert found["groups"][1].verdict is None and found["groups"][1].in_return


@pytest.mark.parametrize("gap, heads", [(0.0, ""), (100.0, "own")])
def test_gaps_in_units_of_return_are_not_compared_with_normalised_ones(gap, heads):
    """A gap of 4 in units of return may be smaller than one of 0.4 of the task; but a report hides no gap."""
    rng = np.random.default_rng(0)
    scaled = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] + 0.01 * rng.normal())
    own = rows(lambda name, k, run: gap * (name == "train") + 40.0 * rng.normal(), condition="own", baselines=False)
    own = [r | {"context": f"own-{r['context']}"} for r in own]
    found = judge(scaled + own)
    assert [g.in_return for g in found["groups"]] == [False, True]
    assert found["groups"][1].judged.estimate > found["groups"][0].judged.estimate
    assert found["headline"].condition == heads and found["verdict"] == ("OVERFIT" if heads else "NO-GAP")


def test_training_sets_that_some_runs_share_are_refused():
    """Where they counted as draws of their own, 14 of 100 tables of noise showed a gap."""
    played = own_sets(lambda name, k, run: float(k % 3 + run), runs=4)
    assert judge(played)["headline"].design.startswith("a training set of its own")
    shared = [row | {"context": re.sub("train[12]-", "train0-", row["context"])} for row in played]
    with pytest.raises(
        ValueError, match="some runs share their training contexts, and others have their own; give all"
    ):
        judge(shared)
    one_less = [r for r in rows(lambda name, k, run: float(k)) if (r["run"], r["context"]) != (2, "train3")]
    with pytest.raises(ValueError, match="run 2 lacks the training context train3 of run 0, with which it shares"):
        judge(one_less)


def test_what_nobody_knows_the_random_score_of_is_never_no_gap():
    """Agents that earn what random actions do: with 200 of 500 they have learned nothing."""
    rng = np.random.default_rng(0)
    lazy = rows(lambda name, k, run: 200.0 + rng.normal(), baselines=False)
    assert judge(lazy, solved=500.0)["verdict"] == "INCONCLUSIVE"
    assert any("give random=RETURN" in w for w in judge(lazy, solved=500.0)["headline"].warnings)
    assert judge(lazy, solved=500.0, random=200.0)["verdict"] == "INCONCLUSIVE"
    assert judge(lazy, solved=500.0, random=0.0)["verdict"] == "NO-GAP"


def test_many_conditions_of_noise_show_a_gap_no_more_often_than_one():
    """Of twenty 95% intervals the highest lies above 0 in a quarter of the tables: the level is that of all."""
    false = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = [rows(lambda name, k, run: rng.normal(), baselines=False, condition=f"c={c}") for c in range(10)]  # noqa: B023
        false += judge([row for part in noise for row in part])["verdict"] == "OVERFIT"
    assert false <= 2
    real = rows(lambda name, k, run: (name == "train") + 0.1 * rng.normal(), baselines=False, condition="c=0")
    found = judge(real + [row for part in noise[1:] for row in part])
    assert found["verdict"] == "OVERFIT" and found["headline"].condition == "c=0"


def test_a_condition_with_fewer_training_mdps_is_not_hidden_by_one_with_more():
    rng = np.random.default_rng(0)
    fine = rows(lambda name, k, run: 1.0 + 0.01 * rng.normal(), baselines=False, condition="algo=a2c", n_train=61)
    bad = rows(
        lambda name, k, run: 1.0 * (name == "train") + 0.01 * rng.normal(), baselines=False, condition="algo=gala"
    )
    assert judge(fine + bad)["headline"].condition == "algo=gala" and judge(fine + bad)["verdict"] == "OVERFIT"


def test_two_runs_that_agree_in_every_context_are_named_unless_they_play_as_the_best_do():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(5, 2, 60))
    scores[3] = scores[1]
    twins = judge(rows(lambda name, k, run: scores[run, int(name == "test"), k]))["headline"].warnings
    assert any("runs 1 and 3 scored the same in every context" in w for w in twins)
    for plain in (lambda name, k, run: OPTIMAL[f"{name}{k}"], lambda name, k, run: 0.5):
        assert not any("every context" in w for w in judge(rows(plain))["headline"].warnings)


def test_a_sweep_has_a_trend_a_fit_and_a_capacity():
    found = []
    rng = np.random.default_rng(0)
    for n, gap in ((1, 0.8), (10, 0.4), (100, 0.2), (1000, 0.1)):
        train = 0.5 if n < 1000 else 0.25

        def agent(name, k, run, gap=gap, train=train):
            return (OPTIMAL[f"{name}{k}"] * train if name == "train" else 1.0 - gap) + 0.001 * rng.normal()

        found += rows(agent, n_train=n, baselines=n == 1)
    result = judge(found)
    trend = result["trends"][""]
    assert trend["n"] == [1, 10, 100, 1000] and trend["capacity"] == 100  # train: 1 up to there, then 0.5
    assert trend["page_p"] < 0.01 and trend["law"] is not None
    assert result["headline"].n_train == 1000
    assert [round(g.test_normalised, 2) for g in result["groups"]] == [0.2, 0.6, 0.8, 0.9]


def test_agents_that_are_worse_than_random_get_no_verdict():
    rng = np.random.default_rng(0)
    poor = rows(lambda name, k, run: -3.0 - (name == "test") + 0.01 * rng.normal(), baselines=False)
    random = [r | {"policy": "random", "run": -1} for r in rows(lambda name, k, run: 0.0, runs=1, baselines=False)]
    found = judge(poor + random)
    assert found["verdict"] == "INCONCLUSIVE" and found["headline"].scale == 1.0
    assert any("no better than the random policy (0)" in w for w in found["headline"].warnings)
    level = judge(poor + random, solved=-1.0)["headline"]
    assert level.in_return and any("does not beat the random policy" in w for w in level.warnings)


def own_sets(agent, runs=4, contexts=5):
    """As ``rows``, where every run was trained on contexts of its own. Without baselines."""
    head = {"episode": 0, "length": 1, "success": None, "value": None, "discounted": 0.0, "entropy": None, "params": {}}
    head |= {"policy": "agent", "condition": "", "n_train": contexts}
    out = []
    for run, k in itertools.product(range(runs), range(contexts)):
        for name, context in (("train", f"train{run}-{k}"), ("test", f"test{k}")):
            out.append(head | {"run": run, "set": name, "context": context, "return": agent(name, k, run)})
    return out


def test_runs_with_training_sets_of_their_own_are_judged_as_nested():
    """The run is then what varies: its training contexts come with it, and are not drawn again within it."""
    rng = np.random.default_rng(0)
    table = {"train": rng.normal(2, 1, (4, 5)), "test": rng.normal(1, 1, (4, 5))}
    head = judge(own_sets(lambda name, k, run: table[name][run, k]))["headline"]
    nested = st.gap_interval(table["train"], table["test"], nested=True)
    assert head.gap == pytest.approx(nested, rel=1e-12) and head.design.startswith("a training set of its own")
    crossed = st.gap_interval(table["train"], table["test"])
    assert abs(crossed.low - nested.low) > 0.01
    assert head.sets["train"]["mean"] == pytest.approx(st.mean_interval(table["train"], nested=True))
    assert head.sets["test"]["mean"] == pytest.approx(st.mean_interval(table["test"]))
    assert head.sets["train"]["contexts"] == 20 and head.sets["test"]["contexts"] == 5
    assert head.runs == 4 and not any("the same for all runs" in w for w in head.warnings)
    together = judge(rows(lambda name, k, run: float(k % 7 + run), baselines=False))["headline"]
    scores = np.array([[k % 7 + run for k in np.argsort([f"test{k}" for k in range(60)])] for run in range(5)], float)
    assert together.gap == pytest.approx(st.gap_interval(scores, scores), abs=1e-12)
    assert together.design == "one training set for all runs"


@pytest.mark.parametrize("name, told", [("val", "validation"), ("extrap", "extrapolation")])
def test_runs_may_have_validation_sets_of_their_own_and_of_any_size_but_share_no_part_of_them(name, told):
    played = own_sets(lambda name, k, run: float(k % 3 + run))
    mine = [r for r in played if r["set"] == "train"]

    def others(kept, rename):
        return [r | {"set": name, "context": rename(r)} for r in mine if kept(r, int(r["context"][-1]))]

    own = others(lambda r, k: k >= r["run"], lambda r: f"{name}{r['run']}-{r['context'][-1]}")
    found = judge([*played, *own])["headline"]
    scores = [[float(k % 3 + run) for k in range(run, 5)] for run in range(4)]
    assert found.sets[name]["mean"] == pytest.approx(st.mean_interval(scores, nested=True))
    assert found.sets[name]["contexts"] == 5 + 4 + 3 + 2 and found.judged == judge(played)["headline"].judged
    same = others(lambda r, k: True, lambda r: f"{name}{r['context'][-1]}")
    crossed = [[float(k % 3 + run) for k in range(5)] for run in range(4)]
    within = np.clip(st.mean_interval(crossed), 0.0, 5.0)  # no mean is outside of all returns
    assert judge([*played, *same])["headline"].sets[name]["mean"] == pytest.approx(within)
    with pytest.raises(ValueError, match=f"^run 1 lacks the {told} context {name}0 of run 0, with which it shares"):
        judge([*played, *others(lambda r, k: k >= r["run"], lambda r: f"{name}{r['context'][-1]}")])


def test_a_rate_of_success_counts_mdps_and_not_episodes():
    """300 episodes of 60 MDPs, by five runs: no more certain than 60 trials."""
    played = rows(lambda name, k, run: 1.0)
    every = {"train": 3, "test": 4}
    won = [r | {"success": int(r["context"][len(r["set"]) :]) % every[r["set"]] == 0} for r in played]
    sets = judge(won)["headline"].sets
    assert sets["test"]["success"] == st.wilson(15, 60) and sets["train"]["success"] == st.wilson(20, 60)
    assert judge(played)["headline"].sets["test"]["success"] is None


def test_of_several_conditions_the_largest_gap_heads_the_report():
    gaps = {"a": 0.3, "b": 0.9, "c": 0.1}
    played = []
    for condition, gap in gaps.items():
        played += rows(lambda name, k, run, gap=gap: 1 + gap * (name == "train"), condition=condition, baselines=False)
    found = judge(played)
    assert found["headline"].condition == "b" and [g.condition for g in found["groups"]] == ["a", "b", "c"]
    assert found["verdict"] == found["headline"].verdict == "OVERFIT"


def simple(train, test, **settings):
    """The headline of agents with one score on each set, without noise."""
    words = {k: settings.pop(k) for k in list(settings) if k in ("baselines", "condition", "n_train", "random")}
    found = judge(rows(lambda name, k, run: train if name == "train" else test, **words), **settings)
    return found["headline"]


def test_the_defaults_are_those_that_a_report_names():
    rng = np.random.default_rng(0)
    played = rows(lambda name, k, run: rng.normal())
    assert judge(played)["headline"].gap == judge(played, delta=0.05)["headline"].gap
    assert judge(played)["delta"] == 0.05 and judge(played)["sign"].endswith("positive = overfit")


def test_the_gap_of_each_run_and_the_summary_of_each_set_are_plain_means():
    scores = lambda name, k, run: OPTIMAL[f"{name}{k}"] - 0.25 * run * (name == "test") + (k == 7)  # noqa: E731
    head = judge(rows(scores, random=-1.0))["headline"]
    assert head.scale == 2.0 and head.j_random == -1.0 and head.j_reference == 1.0
    assert head.by_run == pytest.approx({run: 0.125 * run for run in range(5)})
    assert head.p_train_better == pytest.approx(
        np.mean(
            [
                t + (a == 7) > 1 - 0.25 * r + (b == 7)
                for t in (2,)
                for a in range(60)
                for r in range(5)
                for b in range(60)
            ]
        )
        + 0.5
        * np.mean([2 + (a == 7) == 1 - 0.25 * r + (b == 7) for a in range(60) for r in range(5) for b in range(60)])
    )
    test = head.sets["test"]
    flat = [1 - 0.25 * run + (k == 7) for run in range(5) for k in range(60)]
    assert test["mean"].estimate == pytest.approx(np.mean(flat)) and test["iqm"] == pytest.approx(st.iqm(flat))
    assert test["worst"] == pytest.approx(0.5) and (test["random"], test["reference"]) == (-1.0, 1.0)
    assert (test["contexts"], test["episodes"], head.sets["train"]["reference"]) == (60, 300, 2.0)
    assert head.train_normalised == pytest.approx((2 + 1 / 60 + 1) / 2)
    assert head.test_normalised == pytest.approx((0.5 + 1 / 60 + 1) / 2)
    assert any("own gap is +0.500, normalised" in w for w in head.warnings)


def test_episodes_are_counted_by_set():
    played = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] - 0.5 * (name == "test"))
    first = next(r for r in played if r["policy"] == "agent" and r["set"] == "train")
    sets = judge([*played, first | {"episode": 1}, first | {"episode": 2}])["headline"].sets
    assert (sets["train"]["episodes"], sets["test"]["episodes"]) == (302, 300)


def test_episodes_of_one_context_are_averaged_before_anything_else():
    played = rows(lambda name, k, run: 1.0)
    again = [r | {"return": r["return"] + 2.0, "episode": 1} for r in played if r["policy"] == "agent"]
    head = judge(played + again)["headline"]
    assert head.sets["test"]["mean"].estimate == 2.0 and head.sets["test"]["episodes"] == 600


def test_without_a_reference_random_play_is_what_is_taken_from_the_best_and_from_the_gap():
    played = rows(lambda name, k, run: 0.9 if name == "train" else 0.5)
    random = [r | {"return": 0.1 + 0.2 * (r["set"] == "train")} for r in played if r["policy"] == "random"]
    head = judge([r for r in played if r["policy"] == "agent"] + random, solved=0.9)["headline"]
    assert head.scale == pytest.approx(0.8) and head.adjusted.estimate == pytest.approx((0.4 - 0.2) / 0.8)
    assert head.train_normalised == pytest.approx(1.0) and head.test_normalised == pytest.approx(0.5)
    level = [r | {"return": 1.0} for r in played if r["policy"] != "reference"]
    head = judge(level)["headline"]
    assert head.scale == 1.0 and head.verdict == "INCONCLUSIVE"
    assert any("no better than the random policy (1)" in w for w in head.warnings)


def test_a_stress_test_has_the_plain_baselines_and_any_other_condition_its_own():
    plain = rows(lambda name, k, run: 1.0)
    stressed = rows(lambda name, k, run: 9.0 if name == "train" else 1.0, condition="sigma=0.5", random=-9.0)
    noisy = rows(lambda name, k, run: 1.0 if name == "train" else 0.5, condition="algo=gala", random=-1.0)
    found = judge(plain + stressed + noisy, stress=True)
    base, own, robust = found["groups"]
    assert [g.condition for g in found["groups"]] == ["", "algo=gala", "sigma=0.5"]
    assert (base.scale, robust.scale) == (1.0, 1.0) and robust.robustness and not own.robustness
    assert own.j_random == pytest.approx(-0.5) and own.scale == pytest.approx(1.5)  # its own, and the plain ones
    assert found["headline"].condition != "sigma=0.5" and robust.gap.estimate == 8.0
    assert set(found["trends"]) == {"", "algo=gala"}


def test_the_most_training_mdps_head_the_report_and_a_set_without_a_number_can_too():
    few = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] - (name == "test"), n_train=10)
    many = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"], n_train=60, baselines=False)
    head = judge(few + many)["headline"]
    assert head.n_train == 60 and head.verdict == "NO-GAP"
    assert simple(2.0, 1.0, n_train=None).n_train is None
    mixed = judge(few + [r | {"n_train": None} for r in many])
    assert [g.n_train for g in mixed["groups"]] == [None, 10] and mixed["headline"].n_train == 10


@pytest.mark.parametrize(("train", "told"), [(0.25, None), (0.24, "24%"), (-0.5, "0%")])
def test_less_than_a_quarter_learned_is_called_out(train, told):
    warnings = simple(train, 0.0).warnings
    assert [w for w in warnings if "has learned" in w][:1] == [
        *([f"it has learned {told} of the task: what was not learned cannot be memorised"] if told else [])
    ]


def test_a_trend_needs_two_sizes_and_a_fit_three():
    found = {}
    for count in (1, 2, 3):
        played = []
        for i in range(count):
            gap = 0.6 * 4.0**-i
            agent = lambda name, k, run, gap=gap: (0.9 * 2 if name == "train" else 1.0 - gap) + 0.0 * run  # noqa: E731
            played += rows(agent, n_train=4**i, baselines=i == 0)
        found[count] = judge(played)["trends"][""]
    assert found[1] is None and found[2]["law"] is None and found[2]["n05"] is None and found[2]["n"] == [1, 4]
    assert found[3]["law"] is not None and found[3]["n"] == [1, 4, 16] and found[3]["capacity"] == 16
    table = [0.6 * 4.0**-i - 0.2 for i in range(3)]  # the gap to the reference on train, which is 2
    assert found[3]["law"] == pytest.approx(st.fit_power_law([1, 4, 16], table))
    assert found[3]["n05"] == found[3]["law"].reaches(0.05) < 16
    low = [rows(lambda name, k, run: 0.5, n_train=n, baselines=n == 1) for n in (1, 4)]
    assert judge(low[0] + low[1])["trends"][""]["capacity"] == 0


def test_only_returns_that_are_not_finite_are_counted_and_the_first_context_is_named():
    played = rows(lambda name, k, run: float("inf") if k == 3 and run < 2 else 0.0)
    with pytest.raises(ValueError, match=r"^4 returns are not finite, as in context train3: nothing can be judged$"):
        judge(played)


def test_warnings_name_the_number_that_is_too_small_and_a_difference_of_delta_is_none():
    warnings = judge(rows(lambda name, k, run: OPTIMAL[f"{name}{k}"], runs=4), delta=1.0)["headline"]
    assert warnings.warnings == [
        "4 training runs: with fewer than 5 the interval is wide, and has lain above the gap in 5%"
    ]
    short = [r for r in rows(lambda name, k, run: 1.0) if r["set"] == "train" or int(r["context"][4:]) < 20]
    told = judge(short, delta=1.0)["headline"].warnings
    assert told == ["20 test MDPs: with fewer than 50 the test score depends on their luck"]


def test_the_adjusted_interval_is_that_of_the_scores_less_the_references():
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=(5, 60)) for name in ("train", "test")}
    order = np.argsort([f"test{k}" for k in range(60)])
    played = rows(lambda name, k, run: OPTIMAL[f"{name}{k}"] + table[name][run, k], random=-1.0)
    head = judge(played)["headline"]
    wanted = st.gap_interval(table["train"][:, order], table["test"][:, order])
    assert head.adjusted == pytest.approx([x / 2 for x in wanted]) == head.judged
    raw = st.gap_interval(table["train"][:, order] + 2, table["test"][:, order] + 1)
    assert head.gap == pytest.approx(raw) and head.normalised == pytest.approx([x / 2 for x in raw])


def test_a_return_that_was_no_number_when_it_was_written_is_named_too():
    """A study's rows hold null where a return was not finite."""
    played = rows(lambda name, k, run: 0.0)
    played[0]["return"] = None
    with pytest.raises(ValueError, match=r"^1 returns are not finite, as in context train0: nothing can be judged$"):
        judge(played)


def test_a_gap_that_is_small_but_not_zero_is_none_and_a_reference_of_zero_is_a_score():
    rng = np.random.default_rng(1)
    best = {name: -0.02 * name.startswith("test") for name in OPTIMAL}  # the reference scores 0 on every training MDP
    found = rows(lambda name, k, run: best[f"{name}{k}"] - 0.01 * (name == "test") + 1e-3 * rng.normal(), random=-1.0)
    found = [r | {"return": best[r["context"]]} if r["policy"] == "reference" else r for r in found]
    verdict = judge(found)
    assert verdict["verdict"] == "NO-GAP" and verdict["headline"].judged.estimate == pytest.approx(0.01, abs=1e-3)
    assert not any("difficulty" in text for text in verdict["headline"].warnings)
