"""How a table in CSV may be written: the same rows, whatever separates them and however its columns are spelt."""

import pytest

from gala.cli import main
from gala.overfit.csv_tables import read_table
from gala.overfit.scores import read_scores
from gala.overfit.study import Study
from gala.reports.overfitting import write_report

HEADER, ROWS = "run,context,set,return,algo", ["0,a,train,1,ppo", "0,b,test,2,ppo"]
NEEDED = ("run", "context", "set", "return")


def written(path, header=HEADER, mark=",", rows=ROWS):
    path.write_text("\n".join([header, *rows]).replace(",", mark) + "\n")
    return read_table(path, NEEDED)


@pytest.mark.parametrize("mark", [";", "\t", " , ", ", "])
def test_the_separator_is_found_and_spaces_are_no_part_of_a_value(mark, tmp_path):
    assert written(tmp_path / "a.csv", mark=mark) == written(tmp_path / "b.csv")


def test_columns_are_known_in_any_case_and_others_keep_theirs(tmp_path):
    table = written(tmp_path / "a.csv", "Run,CONTEXT,Set,Return,Algo")
    assert table == [{"Algo" if k == "algo" else k: v for k, v in row.items()} for row in written(tmp_path / "b.csv")]
    with pytest.raises(ValueError, match="two columns 'run'"):
        written(tmp_path / "c.csv", "run,context,set,return,Run")


def test_a_text_with_another_separator_in_it_stays_whole(tmp_path):
    rows = ["0,a,train,1,x;y;z;u;v", '0,b,test,2,"left, right"']
    assert [row["algo"] for row in written(tmp_path / "a.csv", rows=rows)] == ["x;y;z;u;v", "left, right"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_a_word_is_empty(text, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=r"a\.csv is empty"):
        read_table(tmp_path / "a.csv", NEEDED)
    with pytest.raises(ValueError, match=r"there is no file .*b\.csv"):
        read_table(tmp_path / "b.csv", NEEDED)
    with pytest.raises(ValueError, match="is a directory"):
        read_table(tmp_path, NEEDED)


def test_baselines_need_no_run_and_agents_do(tmp_path):
    (path := tmp_path / "a.csv").write_text("run,context,set,return,policy\n0,a,train,1,agent\n,a,train,0,random\n")
    assert [row["run"] for row in read_scores(path)] == [0, -1]
    path.write_text("run,context,set,return,policy\n,a,train,1,agent\n")
    with pytest.raises(ValueError, match=r"a\.csv:2: run is empty"):
        read_scores(path)


def scores(path, more=lambda run, name, k: {}):
    """Three runs that do better on their training contexts, with further columns."""
    rows = [
        {"run": run, "context": f"{name}{k}", "set": name, "return": 1.0 * (name == "train") + 0.01 * run * k}
        | more(run, name, k)
        for run in range(3)
        for name in ("train", "test")
        for k in range(9)
    ]
    path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (lambda run, name, k: {"": 100 * run + 10 * (name == "test") + k}, "''"),  # the index that pandas writes
        (lambda run, name, k: {"length": 7 * k, "seed": run}, "'length', 'seed'"),
    ],
)
def test_columns_that_split_a_table_so_that_it_cannot_be_judged_are_named(more, named, tmp_path, capsys):
    path = scores(tmp_path / "a.csv", more)
    assert main(["overfit", "judge", str(path), f"out={tmp_path / 'study'}"]) == 2
    err = capsys.readouterr().err
    assert f"read as conditions: {named}: remove the columns that are none" in err and err.count("\n") == 1
    assert main(["overfit", "judge", str(scores(path)), f"out={tmp_path / 'study'}"]) == 3


def test_the_rows_that_a_study_writes_are_judged_as_the_study_was(tmp_path, capsys):
    """With two sizes of training sets, a condition, baselines of it and oracles."""
    rows, blank = [], {"episode": 0, "value": 0.5, "discounted": None, "entropy": 0.1, "params": {"size": 5}}
    for n in (2, 5):
        for run in range(3):
            for name, count in (("train", n), ("test", 9)):
                for k in range(count):
                    head = {"run": run, "n_train": n, "condition": "algo=gala", "policy": "agent", "set": name}
                    score = 0.9 - 0.3 * (name == "test") + 0.01 * run * k
                    rows.append(head | blank | {"context": f"{name}{k}", "return": score, "length": k, "success": True})
    for policy, score, run, condition in (
        ("random", 0.1, -1, "algo=gala"),
        ("reference", 1.0, -1, "algo=gala"),
        ("oracle", 0.95, 0, ""),
        ("oracle", 0.97, 1, ""),
    ):
        head = {"run": run, "n_train": None, "condition": condition, "policy": policy, "set": "test"}
        others = [
            head | blank | {"context": f"test{k}", "return": score, "length": 3, "success": None} for k in range(9)
        ]
        rows += others + [row | {"set": "train", "context": f"train{k}"} for k, row in enumerate(others[:5]) if run < 0]
    meta = {"protocol": "compare", "family": "maze", "command": "gala overfit", "delta": 0.05, "mode": "sampled"}
    study = Study.create(tmp_path / "s", meta | {"sets": {}, "expose": False, "selection": "", "normaliser": "none"})
    study.append("all", rows)
    was = write_report(tmp_path / "s", tmp_path / "s" / "report.html")
    assert main(["overfit", "judge", str(tmp_path / "s" / "rows.csv"), f"out={tmp_path / 'again'}"]) == 3
    capsys.readouterr()
    now = write_report(tmp_path / "again", tmp_path / "again" / "report.html")
    assert [(g.condition, g.n_train) for g in now["groups"]] == [("algo=gala", 2), ("algo=gala", 5)]
    for one, other in zip(was["groups"], now["groups"], strict=True):
        assert list(one.judged) == pytest.approx(list(other.judged)) and one.verdict == other.verdict
    assert now["oracle"].runs == 2 and list(now["oracle"].gap) == pytest.approx(list(was["oracle"].gap))
