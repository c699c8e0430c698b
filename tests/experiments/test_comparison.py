"""Comparisons of made-up rows whose answers are known, and what the report makes of them."""

import copy
import json
import math
import re

import numpy as np
import pytest

from gala import cli
from gala.config.schema import Config
from gala.experiments.compared import Terms
from gala.experiments.comparison import analyse
from gala.experiments.rows import curve, differing, make_row, name_groups, read_rows, settings_of, write_rows
from gala.experiments.statistics import wilson
from gala.reports.comparison import plain, tables, write_report
from gala.runs.run_dir import RunDir

TERMS = Terms("a2c", "sampled", 10.0, 0.1)


def row(group: str, seed: int, score: float, *, seconds: float = 100.0, steps: int = 1000, watts: float | None = None):
    """Its curve rises straight from 0 to the score."""
    config = Config(algo="a2c" if group == "a2c" else "gala", learners=1 if group == "a2c" else 4, envs_per_learner=4)
    policies = {"learner0": {"return_mean": score}} | ({} if group == "a2c" else {"consensus": {"return_mean": score}})
    x = np.linspace(0, 1, 21)
    return {
        "name": f"{group}-s{seed}",
        "group": group,
        "seed": seed,
        "command": f"gala train algo={group} seed={seed}",
        "settings": settings_of(config) | {"envs_per_learner": 16 // config.learners},
        "solved_return": 10.0,
        "env_steps": steps,
        "seconds": seconds,
        "watts": watts,
        "evaluation": {"score": {"sampled": score}, "policies": {"sampled": policies}, "random_return": 2.0},
        "curve": {"env_steps": (x * steps).tolist(), "seconds": (x * seconds).tolist(), "return": (x * score).tolist()},
        "trained_with": {"gala-rl": "1", "git": "0123456789abcdef"},
        "machine": {"cpu": "x", "cores": 2},
    }


def rows_of(**groups):
    return [row(g, s, score, **more) for g, (scores, more) in groups.items() for s, score in enumerate(scores, 1)]


BETTER, WORSE = [11.0, 11.5, 12.0, 12.5, 13.0, 12.2], [5.0, 5.5, 6.0, 6.5, 7.0, 6.2]


def test_a_group_that_is_better_in_everything_is_said_to_be():
    found = analyse(rows_of(a2c=(WORSE, {}), gala=(BETTER, {"seconds": 50.0})), TERMS)
    against = found["against"]["gala"]
    assert against["answers"] == {"as_well": "shown", "faster": "shown", "more_robustly": "shown"}
    assert against["order"] == {
        **dict.fromkeys(("score", "auc_steps", "auc_seconds", "above"), "higher"),
        **dict.fromkeys(("env_steps", "seconds"), "lower"),
        "joules": "undecided",
    }
    assert against["improvement"][1:] == (1.0, 1.0) and 0.6 < against["improvement"].low < 0.75
    assert found["groups"]["gala"]["above_count"] == 6 and found["groups"]["a2c"]["above_count"] == 0
    assert found["range"]["low"] == 2.0 and found["margin"]["return"] == pytest.approx(0.1 * 8.0)


def test_a_group_that_is_worse_in_everything_is_refuted():
    found = analyse(rows_of(a2c=(BETTER, {}), gala=(WORSE, {})), TERMS)["against"]["gala"]
    assert found["answers"] == {"as_well": "refuted", "faster": "refuted", "more_robustly": "refuted"}


def test_equal_groups_are_undecided_but_no_worse_by_a_wide_margin():
    rows = rows_of(a2c=(BETTER, {}), gala=(BETTER, {}))
    found = analyse(rows, TERMS)["against"]["gala"]
    assert found["difference"].estimate == 0.0 and found["improvement"].estimate == 0.5
    assert found["answers"] == {"as_well": "undecided", "faster": "undecided", "more_robustly": "undecided"}
    assert analyse(rows, Terms("a2c", "sampled", 10.0, 0.5))["against"]["gala"]["non_inferior"] == "shown"


def test_four_trainings_decide_nothing_however_far_apart():
    found = analyse(rows_of(a2c=(WORSE[:4], {}), gala=(BETTER[:4], {})), TERMS)
    assert set(found["against"]["gala"]["order"].values()) == {"undecided"}
    assert set(found["against"]["gala"]["answers"].values()) == {"undecided"}
    assert "few trainings (4 of a2c, 4 of gala)" in found["notes"][0]


def test_costs_to_the_threshold_are_read_off_the_curves():
    found = analyse(rows_of(a2c=([20.0] * 5, {"watts": 30.0}), gala=([12.0, 12.0, 9.0, 12.0, 9.0], {})), TERMS)
    a2c, gala = found["groups"]["a2c"], found["groups"]["gala"]
    assert a2c["to_threshold_env_steps"] == (500.0,) * 3  # half of 20 at half of the steps
    assert a2c["to_threshold_seconds"] == (50.0,) * 3 and a2c["to_threshold_joules"] == (1500.0,) * 3
    assert gala["to_threshold_env_steps"].estimate == pytest.approx(850.0)  # the first of 21 points at 10 / 12 or above
    assert gala["to_threshold_env_steps"].high == math.inf
    assert gala["reached_seconds"] == 3 and gala["to_threshold_joules"] is None


def test_a_cost_that_nobody_measured_has_no_column():
    for watts, wanted in (({"watts": 30.0}, 1), ({}, 0)):
        found = analyse(rows_of(a2c=(BETTER, watts), gala=(BETTER, {})), TERMS)
        head = dict(tables(found))["Reaching 10"][0]
        assert sum("joules" in cell for cell in head) == wanted and sum("seconds" in cell for cell in head) == 1


def test_areas_by_seconds_end_where_the_shortest_training_ends():
    found = analyse(rows_of(a2c=([10.0] * 5, {"seconds": 50.0}), gala=([10.0] * 5, {"seconds": 100.0})), TERMS)
    assert found["groups"]["a2c"]["auc_seconds"].estimate == pytest.approx(5.0)
    assert found["groups"]["gala"]["auc_seconds"].estimate == pytest.approx(2.5)  # half way up by then
    assert found["groups"]["gala"]["auc_steps"].estimate == pytest.approx(5.0)


@pytest.mark.parametrize(("kept", "decided"), [(slice(None, None, 2), True), (slice(None, None, 4), False)])
def test_curves_of_few_records_decide_nothing(kept, decided):
    """The better one is, too: its score does not come from its curve."""
    rows = rows_of(a2c=(WORSE, {}), gala=(BETTER, {"seconds": 50.0}))
    for coarse in rows[:2]:
        coarse["curve"] = {axis: column[kept] for axis, column in coarse["curve"].items()}
        coarse["curve"] = {axis: column[:11] for axis, column in coarse["curve"].items()}
    found = analyse(rows, TERMS)
    answers, orders = (found["against"]["gala"][key] for key in ("answers", "order"))
    assert answers == {"as_well": "shown", "faster": "shown" if decided else "undecided", "more_robustly": "shown"}
    assert orders["env_steps"] == ("lower" if decided else "undecided")
    assert orders["auc_steps"] == ("higher" if decided else "undecided") and orders["auc_seconds"] == "undecided"
    told = "fewer than 10 records before the shortest training's end (a2c-s1, a2c-s2): areas and what it took"
    assert any(note.startswith(told) for note in found["notes"])


def test_without_a_solved_return_the_report_says_what_was_not_fixed():
    found = analyse(rows_of(a2c=(WORSE, {}), gala=(BETTER, {"seconds": 50.0})), Terms("a2c", "sampled", None))
    assert found["against"]["gala"]["answers"]["faster"] == "shown"  # by the area
    assert found["against"]["gala"]["answers"]["more_robustly"] == "undecided"
    assert "known only afterwards" in found["notes"][-1]


def test_unequal_conditions_are_noted():
    rows = rows_of(a2c=(BETTER, {}), gala=(BETTER, {"steps": 4000}))
    rows[0]["machine"]["cores"] = 4
    rows[0]["parts"], rows[1]["parts"] = 2, 1
    rows[1]["settings"]["envs_per_learner"] = 64
    notes = " ".join(analyse(rows, TERMS)["notes"])
    for part in (
        "differ in env_steps, 1,000 to 4,000",
        "numbers of simulators",
        "went on: 1;",
        "seconds and joules are not",
    ):
        assert part in notes


def test_versions_and_episodes_that_differ_between_groups_are_noted():
    rows = rows_of(a2c=(BETTER, {}), gala=(BETTER, {}))
    for each in rows:
        each["judged"] = [100, "sampled"]
    assert not any("versions" in note or "judged" in note for note in analyse(rows, TERMS)["notes"])
    for each in rows:
        if each["group"] == "gala":
            each["trained_with"], each["judged"] = {"git": "f" * 40}, [1, "sampled"]
    notes = " ".join(analyse(rows, TERMS)["notes"])
    assert "the groups were trained with different versions of gala" in notes and "more than once" not in notes
    rows[1]["seed"] = rows[0]["seed"]
    assert "a seed is there more than once in a2c:" in " ".join(analyse(rows, TERMS)["notes"])
    assert "judged by 1 to 100 episodes" in notes


def failed_row(group: str, seed: int, reason: str = "loss inf: not finite"):
    found = {key: row(group, seed, 0.0)[key] for key in ("name", "group", "seed", "settings", "solved_return")}
    return found | {"trained_with": {"gala-rl": "1", "git": "0123456789abcdef"}, "failed": reason}


def test_a_training_that_failed_is_named_and_has_not_reached_the_threshold(tmp_path):
    pytest.importorskip("matplotlib")
    rows = rows_of(a2c=(BETTER, {"watts": 30.0}), gala=(BETTER, {}))
    lost = [failed_row("a2c", 7), failed_row("a2c", 8), failed_row("gala", 7, "the disk is full")]
    write_rows(tmp_path / "results.jsonl", [*lost, *rows])
    found = write_report(name_groups(read_rows(tmp_path / "results.jsonl")), TERMS, tmp_path, "gala compare")
    a2c = found["groups"]["a2c"]
    assert a2c["above_count"] == 6 and a2c["above"] == wilson(6, 8) and a2c["failed"] == [7, 8]
    assert a2c["reached_joules"] == 6 and a2c["to_threshold_joules"].high == math.inf and len(a2c["scores"]) == 6
    told = "trainings that failed: a2c-s7, a2c-s8 (loss inf: not finite); gala-s7 (the disk is full). Scores"
    assert found["notes"][0].startswith(told) and "does not reach the threshold" in found["notes"][0]
    by_title = dict(tables(found))
    assert by_title["Scores of the trained policies"][1][2] == "6 of 8" and "6 of 8" in by_title["Reaching 10"][1][1]
    assert "6 seeds, 2 more failed" in plain(found) and max(map(len, plain(found).splitlines())) <= 80
    unknown = analyse([*rows, lost[0]], Terms("a2c", "sampled", None))
    assert unknown["notes"][0].endswith("no figure counts them")


def test_learners_that_were_lost_are_in_the_row_and_in_the_notes(tmp_path):
    run = RunDir.create(Config(run=str(tmp_path / "gala-s1"), learners=4), [], overwrite=False)
    run.write_part("staging", "learner1", {}, {})
    run.commit_checkpoint("staging", ["latest"], {"ranks": [1], "env_steps": 40})
    judged = {"score": {}, "policies": {}, "random_return": 0.0}
    made = make_row(run, "gala", judged, None)
    assert made["ranks"] == [1] and "failures" not in made, "there is no summary"
    run.write_summary({"status": "finished", "failures": [{"rank": 0}, {"rank": 2}, {"rank": 3}]})
    made = make_row(run, "gala", judged, None)
    run.close()
    rows = rows_of(a2c=(BETTER, {}), gala=(BETTER, {}))
    assert not any("learners" in note for note in analyse(rows, TERMS)["notes"])
    rows[6] |= {key: made[key] for key in ("failures", "ranks")}
    rows[7]["failures"], rows[8]["ranks"] = 1, [0, 1, 2, 3, 4]
    told = "learners failed, came or went: gala-s1 (3 failures, 1 of 4 learners at its end), gala-s2 (1 failure, 4 of "
    told += "4 learners at its end), gala-s3 (5 of 4 learners at its end); the score"
    assert analyse(rows, TERMS)["notes"][0].startswith(told)
    (tmp_path / "gala-s2").mkdir()
    whole = RunDir.create(Config(run=str(tmp_path / "gala-s2"), learners=1), [], overwrite=False)
    whole.write_part("staging", "learner0", {}, {})
    whole.commit_checkpoint("staging", ["latest"], {"ranks": [0], "env_steps": 40})
    whole.write_summary({"status": "finished", "failures": []})
    assert not {"failures", "ranks"} & make_row(whole, "gala", judged, None).keys()
    whole.close()


def test_what_a_run_without_records_took_is_not_known():
    rows = rows_of(a2c=(WORSE, {}), gala=(BETTER, {}))
    rows[-1]["curve"] = {axis: [] for axis in rows[-1]["curve"]}
    found = analyse(rows, TERMS)
    assert found["groups"]["gala"]["to_threshold_seconds"] is None
    assert found["against"]["gala"]["answers"]["faster"] == "undecided"


def test_what_survivors_score_decides_nothing():
    """Who diverges is not left to chance: five that came through would speak for the fifteen that did not."""
    rows = rows_of(a2c=(WORSE, {}), gala=(BETTER, {}))
    assert analyse(rows, TERMS)["against"]["gala"]["answers"]["as_well"] == "shown"
    for group in ("gala", "a2c"):
        against = analyse([*rows, failed_row(group, 7)], TERMS)["against"]["gala"]
        assert against["answers"]["as_well"] == against["non_inferior"] == "undecided"
        assert {against["order"][measure] for measure in ("score", "auc_steps", "auc_seconds")} == {"undecided"}


def test_a_baseline_whose_trainings_all_failed_is_said_to_have(tmp_path):
    with pytest.raises(ValueError, match=r"baseline=a2c \(all of its trainings failed\): wants one of gala"):
        analyse([failed_row("a2c", 1), *rows_of(gala=(BETTER, {}))], TERMS)
    with pytest.raises(ValueError, match="there is no finished training to compare"):
        analyse([failed_row("a2c", 1)], TERMS)


@pytest.mark.parametrize(
    ("change", "terms", "message"),
    [
        ({}, Terms("gala", "sampled", None), "baseline=gala: wants one of a2c"),
        ({}, Terms("a2c", "greedy", None), "was judged sampled, not greedy"),
        ({"settings": {"env.id": "Other-v0"}}, TERMS, "several tasks (CartPole-v1, Other-v0)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(change, terms, message):
    rows = rows_of(a2c=(BETTER, {}))
    with pytest.raises(ValueError, match=re.escape(message)):
        analyse([{**rows[0], **change}, *rows[1:]], terms)


def test_groups_are_named_by_the_settings_in_which_runs_differ():
    runs = [{**row("a2c", s, 1.0), "group": ""} for s in (1, 2, 3, 4)]
    for one in runs[2:]:
        one["settings"] = {**one["settings"], "optim.lr": 0.01}
    assert [one["group"] for one in name_groups(runs)] == ["optim.lr=0.0007"] * 2 + ["optim.lr=0.01"] * 2
    runs[3]["trained_with"] = {"git": "fedcba9876543210-dirty"}
    assert name_groups(runs)[3]["group"] == "optim.lr=0.01 version=fedcba987-dirty"
    assert {one["group"] for one in name_groups(runs[:2])} == {"all"}
    close = [
        {**runs[k], "settings": {**runs[k]["settings"], "a2c.gamma": gamma}}
        for k, gamma in enumerate((1 - 1e-7, 1 - 5e-7))
    ]
    assert [one["group"] for one in name_groups(close)] == ["a2c.gamma=0.9999999", "a2c.gamma=0.9999995"]
    named = rows_of(a2c=(BETTER, {}), gala=(BETTER, {}))
    assert name_groups(named) == named
    named[0]["trained_with"] = {"gala-rl": "2"}
    assert {one["group"] for one in name_groups(named)} == {"a2c version=2", "a2c version=012345678", "gala"}
    assert "several versions of gala are taken together in a2c" in " ".join(analyse(named, TERMS)["notes"])


def test_a_run_that_was_resumed_with_more_patience_stays_in_its_group():
    runs = [{**row("a2c", s, 1.0), "group": ""} for s in (1, 2, 3, 4)]
    for name, value in (("env.watchdog_s", 300.0), ("max_restarts", 9), ("diagnose.noise", 5)):
        assert runs[0]["settings"][name] != value
        runs[0]["settings"][name] = value
    assert {one["group"] for one in name_groups(runs)} == {"all"} and not differing(*(r["settings"] for r in runs[:2]))
    runs[3]["settings"]["device"] = "cuda"  # its arithmetic is another
    assert [one["group"] for one in name_groups(runs)] == ["device=auto"] * 3 + ["device=cuda"]
    named = rows_of(a2c=(BETTER, {}))
    named[0]["settings"]["torch_threads"] = 2
    assert name_groups(named) == named and not differing(*(r["settings"] for r in named[:2]))
    notes = " ".join(analyse(named, Terms("a2c", "sampled", None))["notes"])
    assert "of one group differ in torch_threads: their seconds do not compare" in notes
    runs = [{**row("a2c", s, 1.0), "group": ""} for s in (1, 2)]
    runs[1]["settings"]["torch_threads"] = 2
    assert [one["group"] for one in name_groups(runs)] == ["torch_threads=0", "torch_threads=2"], "what pays? is asked"


def test_curves_are_thinned_and_keep_their_end():
    records = [{"global_step": s, "perf/wall_s": s / 10, "charts/episodic_return": float(s)} for s in range(1001)]
    found = curve([{"global_step": 0, "perf/wall_s": 0.0}, *records])
    assert len(found["env_steps"]) <= 202 and found["env_steps"][-1] == 1000 and found["return"][-1] == 1000.0
    assert found["seconds"][1] == found["env_steps"][1] / 10 and "consensus" not in found
    assert curve([]) == {"env_steps": [], "seconds": [], "return": []}


def test_the_report_is_made_of_rows_alone_and_says_the_numbers_of_its_json(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = rows_of(a2c=(WORSE, {}), gala=([*BETTER, 3.0], {"watts": 20.0}))
    write_rows(tmp_path / "results.jsonl", rows)
    assert read_rows(tmp_path / "results.jsonl") == rows
    out = tmp_path / "out"
    assert cli.main(["compare", "--from", str(tmp_path / "results.jsonl"), f"out={out}", "margin=0.2"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines()[:-1])) <= 80
    found, page = json.loads((out / "report.json").read_text()), (out / "report.html").read_text()
    assert found["baseline"] == "a2c" and found["threshold"] == 10.0 and found["margin"]["return"] == 1.6
    low, estimate, high = found["groups"]["gala"]["score"]
    assert f"{estimate:.4g} [{low:.4g}, {high:.4g}]" in page and "6 of 7" in page and "never" in page
    assert found["against"]["gala"]["answers"]["as_well"] in page and "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 5 == len(list(out.glob("*.png")))
    assert found["groups"]["a2c"]["to_threshold_env_steps"] == [None, None, None]
    assert cli.main(["compare", "--from", *[str(tmp_path / "results.jsonl")] * 2, f"out={out}"]) == 2
    assert "a2c-s1 is there twice" in capsys.readouterr().err


def test_rows_are_read_up_to_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "results.jsonl"
    write_rows(path, rows_of(a2c=(BETTER, {})))
    whole = path.read_text()
    path.write_text(whole + whole[:50])
    assert len(read_rows(path)) == 6
    path.write_text(whole[:50] + "\n" + whole)
    with pytest.raises(ValueError, match="line 1, is no JSON"):
        read_rows(path)
    path.write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="line 1, has no name: it is no row"):
        read_rows(path)


def test_a_row_without_what_was_not_measured_has_a_report(tmp_path):
    pytest.importorskip("matplotlib")
    rows = copy.deepcopy(rows_of(a2c=(BETTER[:1], {}), gala=(BETTER, {})))
    rows[0]["seconds"] = None
    rows[1]["curve"] = {"env_steps": [], "seconds": [], "return": []}
    found = write_report(rows, TERMS, tmp_path, "gala compare")
    assert found["groups"]["a2c"]["wall_s"] is None and found["groups"]["gala"]["auc_steps"] is None
    assert "[one training: no interval]" in (tmp_path / "report.html").read_text()
