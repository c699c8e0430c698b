"""Scores and tasks in tables: verdicts on what was trained anywhere, without torch and without simulators."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from gala.cli import main
from gala.experiments import statistics as st
from gala.overfit.csv_tables import read_table
from gala.overfit.scores import read_scores
from gala.overfit.tasks import audit_tasks


def table(path, gap=0.0, level=450.0, extra="", runs=4, seed=0):
    """Runs on 20 training contexts of their own and 60 test contexts. Returns the two tables of returns."""
    rng, lines = np.random.default_rng(seed), ["run,context,set,return" + (",algo" if extra else "")]
    train, test = level + rng.normal(0, 5, (runs, 20)), level - gap + rng.normal(0, 5, (runs, 60))
    for run in range(runs):
        lines += [f"r{run},t{run}-{k},train,{x!r}{extra}" for k, x in enumerate(train[run].tolist())]
        lines += [f"r{run},e{k},test,{x!r}{extra}" for k, x in enumerate(test[run].tolist())]
    path.write_text("\n".join(lines) + "\n")
    return train, test


@pytest.mark.parametrize(
    ("gap", "level", "words", "wanted"),
    [
        (100.0, 450.0, ["solved=500", "random=20"], ("OVERFIT", 3)),
        (0.0, 450.0, ["solved=500", "random=20"], ("NO-GAP", 0)),
        (0.0, 450.0, [], ("INCONCLUSIVE", 4)),
        (100.0, 450.0, [], ("OVERFIT", 3)),
        (0.0, 30.0, ["solved=500", "random=20"], ("INCONCLUSIVE", 4)),
    ],
)
def test_a_table_gets_the_gap_of_the_statistics_a_verdict_and_a_report(gap, level, words, wanted, tmp_path, capsys):
    train, test = table(tmp_path / "scores.csv", gap, level)
    code = main(["overfit", "judge", str(tmp_path / "scores.csv"), *words, f"out={tmp_path / 'study'}"])
    out = capsys.readouterr().out
    assert (out.split(":")[0], code) == wanted and max(map(len, out.splitlines()[:-1])) <= 80
    page = (tmp_path / "study" / "report.html").read_text()
    interval = st.gap_interval(train, test, nested=True)
    shown = re.search(r'data-gap=gap data-value="([^"]+)"', page)[1].split()
    assert [float(x) for x in shown] == pytest.approx(interval)
    assert ("units of return" in page) == (not words) and "made elsewhere" in page


def test_extra_columns_are_conditions_and_rows_of_baselines_set_the_scale(tmp_path):
    table(tmp_path / "a.csv", 100.0, extra=",ppo")
    text = (tmp_path / "a.csv").read_text()
    rows = read_scores(tmp_path / "a.csv")
    assert {row["condition"] for row in rows} == {"algo=ppo"} and {row["n_train"] for row in rows} == {20}
    assert {row["run"] for row in rows} == {0, 1, 2, 3}
    lines = text.replace(",algo", ",algo,policy").replace(",ppo\n", ",ppo,agent\n")
    (tmp_path / "b.csv").write_text(lines + "x,e0,test,10,ppo,random\nx,e0,test,510,ppo,reference\n")
    from gala.diagnostics.overfitting.generalisation import judge

    head = judge(read_scores(tmp_path / "b.csv"))["headline"]
    assert (head.scale, head.j_random, head.j_reference) == (500.0, 10.0, 510.0)


def judged(folder, capsys, *words):
    """(exit status, stdout, header, rows) of a judged ``scores.csv``."""
    code = main(["overfit", "judge", str(folder / "scores.csv"), *words, f"out={folder / 'study'}"])
    meta = json.loads((folder / "study" / "study.json").read_text())
    return code, capsys.readouterr().out, meta, (folder / "study" / "rows.jsonl").read_text().splitlines()


def test_agents_that_have_earned_nothing_get_no_verdict_for_their_gap_of_nothing(tmp_path, capsys):
    lines = [f"{r},{name}{k},{name},0" for r in range(4) for name in ("train", "test") for k in range(9)]
    (tmp_path / "scores.csv").write_text("\n".join(["run,context,set,return", *lines]) + "\n")
    code, out, _, _ = judged(tmp_path, capsys)
    told = " ".join(out.split())
    assert code == 4 and out.startswith("INCONCLUSIVE") and "nobody knows whether anything was learned" in told
    assert "none is small enough for NO-GAP" in told and max(map(len, out.splitlines()[:-1])) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solved=nan"], "solved=nan is no return"),
        (["solved=500", "random=inf"], "random=inf is no return"),
        (["delta=inf"], "delta=inf must be above 0 and below 1"),
        (["delta=1"], "delta=1 must be above 0 and below 1"),
    ],
)
def test_numbers_that_are_none_are_refused_before_anything_is_written(words, message, tmp_path, capsys):
    table(tmp_path / "scores.csv")
    assert main(["overfit", "judge", str(tmp_path / "scores.csv"), *words, f"out={tmp_path / 'study'}"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "study").exists()


def test_an_agent_is_no_reference_for_itself(tmp_path, capsys):
    table(tmp_path / "scores.csv", 100.0)
    header, *lines = (tmp_path / "scores.csv").read_text().splitlines()
    own = [line for line in lines if line.startswith("r1,")]
    text = "\n".join([f"{header},policy", *(f"{x},agent" for x in lines), *(f"{x},reference" for x in own)])
    (tmp_path / "scores.csv").write_text(text + "\n")
    assert main(["overfit", "judge", str(tmp_path / "scores.csv"), "random=20", f"out={tmp_path / 'study'}"]) == 2
    assert "the reference scored as run 1 did in every context" in capsys.readouterr().err


def test_a_number_is_one_run_and_one_context_however_it_is_spelled(tmp_path):
    lines = ["run,context,set,return", "0,1,train,1", "0.0,2.0,train,3", "0.50,-3.0,train,3", "0.50,v1.0,test,4"]
    (tmp_path / "scores.csv").write_text("\n".join(lines) + "\n")
    told = [(row["run"], row["context"]) for row in read_scores(tmp_path / "scores.csv")]
    assert told == [(0, "1"), (0, "2"), (1, "-3"), (1, "v1.0")]
    (tmp_path / "scores.csv").write_text("\n".join([*lines, "0,1.0,test,1"]) + "\n")
    with pytest.raises(ValueError, match="context 1 is in the train and in the test set"):
        read_scores(tmp_path / "scores.csv")


@pytest.mark.parametrize("name", ["sigma", "sticky", "init_mult", "easier"])
def test_a_column_with_the_name_of_a_stress_test_is_a_condition_like_any_other(name, tmp_path, capsys):
    table(tmp_path / "scores.csv", 100.0, extra=",0.5")
    text = (tmp_path / "scores.csv").read_text()
    (tmp_path / "scores.csv").write_text(text.replace(",algo", f",{name}"))
    code, out, _, _ = judged(tmp_path, capsys, "solved=500", "random=20")
    assert code == 3 and out.startswith(f"OVERFIT: {name}=0.5, 20 training MDPs")
    assert "<td>robustness</td>" not in (tmp_path / "study" / "report.html").read_text()


def test_baselines_without_a_condition_are_set_beside_all_agents_and_those_of_nobody_are_refused(tmp_path, capsys):
    table(tmp_path / "scores.csv", 100.0, extra=",ppo,agent")
    text = (tmp_path / "scores.csv").read_text().replace(",algo", ",algo,policy")
    (tmp_path / "scores.csv").write_text(text + "x,e0,test,10,,random\nx,e0,test,510,,reference\n")
    from gala.diagnostics.overfitting.generalisation import judge

    head = judge(read_scores(tmp_path / "scores.csv"))["headline"]
    assert (head.condition, head.scale, head.j_random) == ("algo=ppo", 500.0, 10.0)
    (tmp_path / "scores.csv").write_text(text + "x,e0,test,10,pop,random\n")
    with pytest.raises(ValueError, match="random rows of algo=pop, which no agent has"):
        read_scores(tmp_path / "scores.csv")


def test_a_table_that_has_changed_is_judged_again_under_its_own_header(tmp_path, capsys):
    table(tmp_path / "scores.csv", 100.0)
    _, _, before, old = judged(tmp_path, capsys)
    table(tmp_path / "scores.csv", 0.0, seed=1)
    _, _, changed, new = judged(tmp_path, capsys)
    assert changed["sets"] == before["sets"] and changed["scores"] != before["scores"] and not set(old) & set(new)
    assert changed["scores"] in (tmp_path / "study" / "report.html").read_text()
    text = (tmp_path / "scores.csv").read_text()
    (tmp_path / "scores.csv").write_text(re.sub(r"r\d,e59,.*\n", "", text))
    _, _, fewer, rows = judged(tmp_path, capsys)
    assert fewer["sets"]["test"]["size"] == 59 and fewer["sets"]["test"] != before["sets"]["test"]
    assert len(rows) == len(old) - 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,context,set\n1,a,train\n", "has no column 'return'"),
        ("run,context,set,return\n", "has no rows"),
        ("run,context,set,return\n1,a,train,nan\n", "scores.csv:2: return is nan"),
        ("run,context,set,return\n1,a,train,1\n1,b,test,good\n", "scores.csv:3: return 'good' is no number"),
        ("run,context,set,return\n1,a,trian,1\n", "scores.csv:2: set 'trian' is none of train, val, test, extrap"),
        ("run,context,set,return\n1,a,train,1\n1,a,test,1\n", "context a is in the train and in the test set"),
        ("run,context,set,return\n1,a,train\n", "scores.csv:2: 4 columns were wanted"),
        ("run,context,set,return\n1,,train,1\n", "scores.csv:2: context is empty"),
        ("run,context,set,return,policy\n1,a,train,1,me\n", "policy 'me' is none of agent"),
        (
            "run,context,set,return\n1,a,train,1\n1,b,test,1\n1,c,test,1\n",
            "1 training runs: a verdict needs at least 3",
        ),
        ("".join(["run,context,set,return\n", *(f"{r},a{r},train,1\n{r},b,test,1\n" for r in range(3))]), "1 test MDP"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line_and_nothing_is_written(text, message, tmp_path, capsys):
    (tmp_path / "scores.csv").write_text(text)
    code = main(["overfit", "judge", str(tmp_path / "scores.csv"), f"out={tmp_path / 'study'}"])
    err = capsys.readouterr().err
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "study").exists()


def test_the_same_task_is_found_by_its_text_and_by_a_function(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tasks.csv"
    path.write_text(
        "set,context,words,size\ntrain,a,Go  left,5\ntest,b,go left,5.0\ntest,c,go right,5\ntest,d,left go,5\n"
    )
    assert [(row["a"], row["b"]) for row in audit_tasks(path)["rows"]] == [("a", "b")]
    found = audit_tasks(path, lambda row: sorted(row["words"].lower().split()))
    assert [(row["a"], row["b"]) for row in found["rows"]] == [("a", "b"), ("a", "d")]
    with pytest.raises(ValueError, match=r"tasks.csv:2: same= failed: KeyError"):
        audit_tasks(path, lambda row: row["colour"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tasks.py").write_text("def key(row):\n    return sorted(row['words'].lower().split())\n")
    assert main(["overfit", "audit", "tasks.csv", "same=my_tasks:key"]) == 1
    out = capsys.readouterr().out
    assert "a (train) is d (test)" in out and "by your function" in out
    path.write_text("set,context\ntrain,a\ntest,b\n")
    assert main(["overfit", "audit", "tasks.csv"]) == 0


def test_scores_are_judged_where_there_is_no_torch_and_no_simulator(tmp_path):
    table(tmp_path / "scores.csv", 100.0)
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'mujoco', 'ale_py', 'minatar', 'envpool'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import gala.overfit, gala.experiments.statistics\n"
        "from gala.cli import main\n"
        f"sys.exit(main(['overfit', 'judge', {str(tmp_path / 'scores.csv')!r}, 'out={tmp_path / 'study'}']))\n"
    )
    env = {"PYTHONPATH": ":".join(sys.path), "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert done.returncode == 3 and done.stdout.startswith("OVERFIT"), done.stderr
    assert json.loads((tmp_path / "study" / "study.json").read_text())["outside"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    (table := tmp_path / "odd.csv").write_text("run,set,context,return,return\n0,train,a,1,5\n")
    with pytest.raises(ValueError, match="has two columns 'return'; rename or remove one"):
        read_table(table, ("run", "set", "context", "return"))


def test_settings_of_judge_may_be_two_words_and_out_is_no_part_of_what_makes_the_study(tmp_path, capsys):
    table(tmp_path / "scores.csv", 100.0)
    words = ["judge", "--solved", "500", str(tmp_path / "scores.csv"), "--random", "20", "--out", str(tmp_path / "out")]
    assert main(["overfit", *words]) == 3, capsys.readouterr().err
    command = json.loads((tmp_path / "out" / "study.json").read_text())["command"]
    assert command.count(str(tmp_path / "out")) == 1 and command.endswith(f"out={tmp_path / 'out'}")


def test_a_return_whose_square_is_no_number_is_refused(tmp_path):
    (tmp_path / "scores.csv").write_text("run,context,set,return\n1,a,train,-1e200\n")
    with pytest.raises(ValueError, match=r"scores\.csv:2: return is -1e200: its square is no number"):
        read_scores(tmp_path / "scores.csv")
