"""Policies that were trained elsewhere: what is refused before a verdict, and what the terminal and the report say."""

import json
import re

import pytest
from gala_envs.families import make_family
from gala_envs.splits import MOST, split

from gala.cli import main
from gala.commands.overfit import dispatch
from gala.commands.overfit.words import default_out, resumable
from gala.overfit.study import Study

AGENTS = """
import sys

def cue(obs, state, rng):
    return int(obs[-1] > 0)

def leaves(obs, state, rng):
    sys.exit()

def make(seed):
    sys.exit(0)
"""


def gala(capsys, *words):
    """(exit status, stdout, stderr) of ``gala overfit WORDS``."""
    code = main(["overfit", *map(str, words)])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory to work in, with sets of bits whose cue says what to do, and agents in Python."""
    monkeypatch.chdir(tmp_path)
    for name, contexts in split(make_family("bits"), {"train": 4, "test": 8}, length=4, cue=1).items():
        contexts.write(tmp_path / "sets" / f"{name}.json")
    (tmp_path / "outside.py").write_text(AGENTS)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "runs" / "maze" / "run0").mkdir(parents=True)
    (tmp_path / "runs" / "maze" / "run0" / "config.yaml").write_text("")
    (tmp_path / "tasks.txt").write_text("set,context\n")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["eval", "policy=outside:leaves"], "failed on observations of shape (37,): SystemExit"),
        (["eval", "policy=outside:make?seed={run}"], "cannot be made: SystemExit: 0"),
        (["eval", "policy=outside:cue", "played=empty.jsonl"], "empty.jsonl names no MDP"),
        (["eval", "policy=outside:cue", "played=,"], "played=, names no file"),
        (["eval", "policy=outside:make?seed={rank}"], "has braces other than {run}"),
        (["eval", "policy=outside:make?seed={run"], "has braces other than {run}"),
        (["eval", "runs/maze"], "runs/maze is a folder of runs; name the runs: runs/maze/run*"),
        (["audit", "tasks.txt"], "tasks.txt is a file; a table of tasks has a name that ends in .csv"),
        (["judge", "=scores.csv"], "=scores.csv has no name before the ="),
        (["judge", "nowhere.csv"], "there is no file nowhere.csv"),
        (["split", "bits", "test=1e9"], f"1,000,000,010 contexts were asked for; at most {MOST:,}"),
    ],
)
def test_what_cannot_be_judged_is_one_line_and_nothing_is_written(words, told, here, capsys):
    code, _, err = gala(capsys, *words, *(["out=study"] if words[0] != "audit" else []))
    assert code == 2 and told in err and err.count("\n") == 1 and not (here / "study").exists()


def test_code_that_ends_the_program_is_no_verdict_wherever_it_is_called(monkeypatch, capsys):
    def ends(words):
        raise SystemExit

    monkeypatch.setattr("gala.commands.overfit.selftest.main", ends)
    code, _, err = gala(capsys, "selftest")
    assert code == 2 and "has ended with sys.exit(None); nothing was judged" in err
    assert dispatch.SUBCOMMANDS["selftest"][0] == "gala.commands.overfit.selftest:main"


def test_one_policy_is_told_on_the_terminal_and_the_first_screen_says_what_is_unchecked(here, capsys):
    code, out, _ = gala(capsys, "eval", "policy=outside:cue", "out=study")
    assert code in (0, 4) and "note: one policy: its repetitions differ in noise only" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80 and "-0.000" not in out
    page = (here / "study" / "report.html").read_text()
    told = "Policy: outside:cue, made elsewhere; training: unchecked."
    assert told in page and page.index(told) < page.index("<table>") and "Checkpoint: latest" not in page
    (here / "three.py").write_text(AGENTS + "first = second = third = cue\n")
    _, out, _ = gala(capsys, "eval", "policy=three:first,three:second,three:third", "out=other")
    assert "one policy" not in out


def test_a_directory_by_default_is_never_one_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
    made = []
    for _ in range(3):
        made.append(default_out("judge", ""))
        (tmp_path / made[-1]).mkdir(parents=True)
    stamp = "runs/overfit-judge-20260101-000000"
    assert made == [stamp, f"{stamp}-2", f"{stamp}-3"] and default_out("judge", made[0]) == made[0]


def test_an_interrupted_sweep_says_how_it_goes_on(capsys):
    with pytest.raises(KeyboardInterrupt), resumable("runs/mine"):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == "interrupted; the same command with out=runs/mine goes on where it was\n"


def test_a_study_without_an_agent_has_no_report_yet(tmp_path, capsys):
    study = Study.create(tmp_path / "study", {"protocol": "sweep", "command": "gala overfit sweep bits"})
    study.append("baselines", [{"policy": "random", "set": "test", "context": "a", "run": -1, "return": 0.0}])
    code, _, err = gala(capsys, "report", tmp_path / "study")
    assert code == 2 and "has no judged agent yet; its command goes on with it: gala overfit sweep bits" in err


def test_a_schema_that_is_a_text_is_shown_as_one(here, capsys):
    tree = json.loads((here / "sets" / "train.json").read_text())
    (here / "sets" / "train.json").write_text(json.dumps(tree | {"schema": str(tree["schema"])}))
    _, _, err = gala(capsys, "audit", "sets")
    assert re.search(r"context set of schema '(\d)'; this version reads \1", err)
