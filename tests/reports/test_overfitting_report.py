"""The report of a study: every number on the page comes from the rows, and nothing is fetched from outside."""

import csv
import dataclasses
import json
import re

import numpy as np
import pytest

from gala.diagnostics.overfitting.generalisation import judge
from gala.reports.figures import figure_with_axes
from gala.reports.overfitting import write_report
from gala.reports.overfitting_figures import PANELS, Study, capacity, gap_against_n, robustness


def study(folder, *, overfit=0.5, runs=5, n_train=(5, 20, 80), condition=""):
    """Rows of agents that lose ``overfit / sqrt(n)`` on test contexts; two parameters vary."""
    rng, rows, curves = np.random.default_rng(0), [], []

    def row(run, name, k, policy, value, n):
        params = {"length": 0.1 * (k % 7), "mass": 0.2 * (k % 5)}
        head = {"run": run, "set": name, "context": f"{name}{k}", "episode": 0, "policy": policy, "return": value}
        tail = {"length": 9, "success": value > 0.8, "value": value, "discounted": 0.9 * value, "entropy": 0.1}
        return head | tail | {"n_train": n, "condition": condition, "params": params, "part": "x"}

    for n in n_train:
        for run in range(runs):
            for name, count in (("train", n), ("test", 60)):
                loss = overfit / n**0.5 * (name == "test")
                rows += [row(run, name, k, "agent", 0.95 - loss + 0.02 * rng.normal(), n) for k in range(count)]
                curves += [
                    {
                        "run": run,
                        "n_train": n,
                        "condition": condition,
                        "env_steps": s,
                        "set": name,
                        "return": s / 900 - loss,
                    }
                    for s in (100, 400, 900)
                ]
    for name, count in (("train", max(n_train)), ("test", 60)):
        for k in range(count):
            rows += [row(-1, name, k, "random", 0.1, None), row(-1, name, k, "reference", 1.0, None)]
    meta = {
        "protocol": "sweep", "family": "maze", "command": "gala overfit sweep maze n=5,20,80", "delta": 0.05,
        "created": "2026-01-01T00:00:00", "versions": {"python": "3.11"}, "mode": "sampled", "expose": False,
        "sets": {"train": {"sha256": "ab" * 32, "size": 5}, "test": {"sha256": "cd" * 32, "size": 60}},
        "selection": "latest checkpoint", "normaliser": "none", "notes": ["<a note & more>"],
    }  # fmt: skip
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(meta))
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "curves.jsonl").write_text("".join(json.dumps(c) + "\n" for c in curves))
    return rows


def test_every_number_on_the_page_is_found_again_in_the_rows(tmp_path):
    rows = study(tmp_path / "s")
    result = write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    page = (tmp_path / "s" / "report.html").read_text()
    again = judge(rows, delta=0.05)
    headline = [float(x) for x in re.search(r'data-headline="([^"]+)"', page)[1].split()]
    assert headline == list(again["headline"].judged)
    sections = re.findall(r"<h3>([^<]+)</h3><p>(.*?)</p><div class=wide><table>(.*?)</table>", page, re.S)
    assert len(sections) == 3 and sections[0][0] == "80 training MDPs"
    for title, gaps, table in sections:
        group = next(g for g in again["groups"] if f"{g.n_train} training MDPs" == title)
        for key, values in re.findall(r'data-gap=(\w+) data-value="([^"]+)"', gaps):
            assert [float(x) for x in values.split()] == list(getattr(group, key))
        for name, cells in re.findall(r"<tr data-set=(\w+)>(.*?)</tr>", table, re.S):
            found = [v.split() for v in re.findall(r'data-value="([^"]+)"', cells)]
            s = group.sets[name]
            wanted = [[s["mean"].estimate], [s["mean"].low, s["mean"].high], [s["iqm"]], [s["worst"]]]
            wanted += [[s["success"].estimate], [s["random"]], [s["reference"]]]
            assert [[float(x) for x in v] for v in found] == wanted
            mine = [r for r in rows if (r["policy"], r["set"], r["n_train"]) == ("agent", name, group.n_train)]
            assert s["mean"].estimate == pytest.approx(np.mean([r["return"] for r in mine]))
    assert result["verdict"] in page and result["headline"].n_train == 80
    table = list(csv.DictReader((tmp_path / "s" / "rows.csv").open()))
    assert len(table) == len(rows) and float(table[7]["return"]) == rows[7]["return"]


def test_the_page_opens_offline_and_shows_the_panels_that_have_content(tmp_path):
    study(tmp_path / "s")
    write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    page = (tmp_path / "s" / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert "&lt;a note &amp; more&gt;" in page and "positive = overfit" in page and "gala overfit sweep maze" in page
    drawn = {p.stem for p in (tmp_path / "s" / "figures").glob("*.png")}
    assert drawn == {"curves", "gap", "profiles", "contexts", "values", "heatmap"}
    assert re.findall(r"<section id=(\w+)>", page) == [key for key in PANELS if key in drawn]
    assert re.findall(r"<h3>(\d+)\. ", page) == [str(k) for k in range(1, 7)]
    assert "prefers-color-scheme: dark" in page and page.count("<div class=wide><table>") == 4
    assert re.findall(r"<tr><td>(\d+) training MDPs", page) == ["5", "20", "80"], "few training MDPs first"


@pytest.mark.parametrize("lacking", ["train", "test"])
@pytest.mark.parametrize("key, nothing", [("params", {}), ("value", None), ("discounted", None), ("entropy", None)])
def test_what_one_set_alone_can_tell_is_drawn_without_the_other(tmp_path, lacking, key, nothing):
    """As MDPs at their defaults, which write no numbers down."""
    rows = study(tmp_path / "s")
    rows = [r | {key: nothing} if r["set"] == lacking else r for r in rows]
    (tmp_path / "s" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert write_report(tmp_path / "s", tmp_path / "s" / "report.html")["verdict"] == "OVERFIT"
    drawn = {p.stem for p in (tmp_path / "s" / "figures").glob("*.png")}
    assert drawn == {"curves", "gap", "profiles", "contexts", "values", "heatmap"}


def test_leaks_audits_and_checkpoints_stand_before_the_numbers(tmp_path):
    study(tmp_path / "s")
    meta = json.loads((tmp_path / "s" / "study.json").read_text())
    random = {name: {"mean": 0.1, "standard_error": None} for name in ("train", "test")}
    audit = {"checked": 65, "rows": [{}], "looked_for": ["the same MDP: layouts"], "random": random}
    for extra, told in (
        ({}, "Leaks between sets: none; the sets were drawn together"),
        ({"audit": audit}, "Duplicates: 1 pair within a set, of 65 MDPs (the same MDP: layouts)"),
        ({"outside": True}, "Leaks: not checked here"),
        ({"checkpoints": {"n5-run0": "ab", "n5-run1": "cd"}}, "Checkpoints: 2 runs, latest checkpoint"),
    ):
        (tmp_path / "s" / "study.json").write_text(json.dumps(meta | extra))
        write_report(tmp_path / "s", tmp_path / "s" / "report.html")
        page = (tmp_path / "s" / "report.html").read_text()
        assert told in page and page.index(told) < page.index("<table>")


@pytest.mark.parametrize(
    "overfit, told", [(0.0, "at every N tried"), (0.05, "at every N tried"), (0.2, "from N = "), (9.0, "by N = 800")]
)
def test_a_gap_that_is_small_from_the_start_is_said_to_be_so(tmp_path, overfit, told):
    """No gap at all has a fit that does not fall."""
    study(tmp_path / "s", overfit=overfit)
    write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    assert f"below 0.05 {told}" in (tmp_path / "s" / "report.html").read_text()


def test_a_gap_that_rounds_to_nothing_has_no_sign(tmp_path):
    rows = study(tmp_path / "s", n_train=(60,), overfit=0.0)
    rows = [r | {"return": 0.9 + 1e-5 * (r["set"] == "test")} if r["policy"] == "agent" else r for r in rows]
    (tmp_path / "s" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    result = write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    assert result["headline"].judged.estimate < 0 and "gap +0.000" in result["lines"][1]
    page = (tmp_path / "s" / "report.html").read_text()
    assert "-0.000" not in page and not any("-0.000" in line for line in result["lines"])


def test_the_terminal_gets_the_verdict_and_the_reason_in_80_columns(tmp_path):
    study(tmp_path / "s", overfit=3.0)
    lines = write_report(tmp_path / "s", tmp_path / "s" / "report.html")["lines"]
    assert lines[0].startswith("OVERFIT: 80 training MDPs") and all(len(line) <= 80 for line in lines)
    study(tmp_path / "t", overfit=0.0)
    assert write_report(tmp_path / "t", tmp_path / "t" / "report.html")["verdict"] == "NO-GAP"


def test_the_reason_fits_the_verdict_and_warnings_fit_the_terminal(tmp_path):
    """An agent that plays as the reference does, where training MDPs are easier; and one that is worse on them."""
    rows = study(tmp_path / "s", n_train=(60,))
    for harder, verdict, reason in (
        (0.0, "NO-GAP", "next to the reference, the same"),
        (0.3, "INCONCLUSIVE", "better on others"),
    ):
        played = [
            r
            | {
                "return": (r["policy"] != "random") * (1.0 + (r["set"] == "train"))
                - harder * (r["policy"] == "agent" and r["set"] == "train")
            }
            for r in rows
            if r["run"] < 3
        ]
        (tmp_path / "s" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in played))
        lines = write_report(tmp_path / "s", tmp_path / "s" / "report.html")["lines"]
        assert lines[0].startswith(verdict) and reason in " ".join(line.strip() for line in lines)
        assert any("warning: sets differ" in line for line in lines) and all(len(line) <= 80 for line in lines)


def test_a_study_of_randomised_rewards_shows_the_capacity(tmp_path):
    study(tmp_path / "s", condition="flip=0.5")
    write_report(tmp_path / "s", tmp_path / "s" / "report.html", figures=("png", "svg"))
    assert (tmp_path / "s" / "figures" / "capacity.png").is_file()
    assert (tmp_path / "s" / "figures" / "capacity.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("panel, lines_of_each", [(gap_against_n, 1), (capacity, 2)])
def test_more_conditions_than_colours_are_all_drawn(tmp_path, panel, lines_of_each):
    rows = study(tmp_path / "s", condition="flip=0.5")
    result = judge(rows)
    names = [f"flip=0.{k}" for k in range(1, 9)]
    groups = [dataclasses.replace(g, condition=name) for name in names for g in result["groups"]]
    _, axes = figure_with_axes()
    assert panel(Study({}, rows, [], result | {"groups": groups}), axes) is None
    labels = axes.get_legend_handles_labels()[1]
    assert len(labels) == 8 * lines_of_each and all(any(label.startswith(name) for label in labels) for name in names)


def test_a_gap_in_another_unit_than_the_first_says_so(tmp_path):
    """Of MDPs that neither the random policy nor the reference has played."""
    rows = study(tmp_path / "s", n_train=(20,))
    told = write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    assert not any("units of return" in line for line in told["lines"])
    mine = [r for r in rows if r["policy"] == "agent"]
    own = [r | {"condition": "own", "context": f"own-{r['context']}", "return": 9 + r["return"]} for r in mine]
    also = [r | {"condition": "also"} for r in mine]
    (tmp_path / "s" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (*rows, *own, *also)))
    told = write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    lines, page = told["lines"], (tmp_path / "s" / "report.html").read_text()
    assert told["headline"].condition in ("", "also") and all(len(line) <= 80 for line in lines)
    starred = [line.split()[0] for line in lines if "]*" in line]
    assert starred == ["own"] and lines.count("  * in units of return") == 1
    cells = dict(
        re.findall(r"<tr><td>([^<]*)20 training MDPs</td><td>[^<]*</td><td[^>]*>[^<]*</td>(<td.*?</td>)", page)
    )
    assert {name for name, cell in cells.items() if ", in units of return</td>" in cell} == {"own, "} and len(
        cells
    ) == 3


def stressed(folder, changes):
    """Axes with the panel of a stress test that tried these ``changes``."""
    rows = study(folder, n_train=(20,))
    mine = [r for r in rows if r["policy"] == "agent"]
    rows += [r | {"condition": change, "return": r["return"] / 2} for change in changes for r in mine]
    _, axes = figure_with_axes()
    assert robustness(Study({}, rows, [], judge(rows, stress=True)), axes) is None
    return axes


def test_a_change_without_a_strength_is_a_bar_beside_all_others(tmp_path):
    changes = ["sticky=0.25", "easier=cue:1.0", "random_start"]
    axes = stressed(tmp_path / "s", changes)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["as it is", *sorted(changes)]
    assert len(axes.patches) == 2 * 4 and axes.get_legend_handles_labels()[1] == ["train", "test"]


def test_the_mdps_as_they_are_lie_at_their_place_among_the_strengths(tmp_path):
    axes = stressed(tmp_path / "s", ["init_mult=0.5", "init_mult=2", "sticky=0.25"])
    assert {tuple(line.get_xdata()) for line in axes.lines} == {(0.5, 1.0, 2.0), (0.0, 0.25)}


def test_two_runs_give_no_report(tmp_path):
    study(tmp_path / "s", runs=2)
    with pytest.raises(ValueError, match="at least 3"):
        write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    assert not (tmp_path / "s" / "report.html").exists()
