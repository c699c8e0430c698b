"""``gala compare`` as a user types it: refusals, real grids that are cut off and go on, and runs that exist."""

import json
import os
import re
import signal
from pathlib import Path

import gymnasium
import pytest
from test_evaluate import make_run
from training import TINY, Gala, spawn

from gala import cli
from gala.commands.compare.dispatch import terms
from gala.commands.compare.progress import Progress, short
from gala.commands.compare.words import cells, sort_words
from gala.config.parse import parse_config, schema
from gala.config.preset_files import preset_names
from gala.config.schema import Config
from gala.experiments.grid import Grid, Plan
from gala.experiments.rows import read_rows, settings_of
from gala.runs.lock import lock
from gala.runs.run_dir import RunDir

GRID = (
    *[word for word in TINY if not word.startswith(("steps=", "envs_per_learner=", "log.panel", "log.tensorboard"))],
    *("learners=2", "envs=4", "episodes=4"),
)
NAMED = [{"group": f"algo={algo}", "settings": {"algo": algo}} for algo in ("gala", "a2c")]
SHOWN = ("group", "seed", "settings", "env_steps", "updates", "evaluation", "judged", "solved_return")
"""What of a row does not depend on time. (Points of its curve are where a record happened to be written.)"""


def rows_of(out: Path) -> list[dict]:
    return read_rows(out / "results.jsonl") if (out / "results.jsonl").is_file() else []


def shown(out: Path) -> dict[str, dict]:
    return {row["name"]: {key: row[key] for key in SHOWN} for row in rows_of(out)}


def grid(out: Path, *words: str) -> Gala:
    program = " ".join(["python", "-m", "gala", "compare", *GRID, f"out={out}", *words])
    return Gala(out, program=f"{os.fspath(Path(os.sys.executable).parent)}/{program}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algos=a2c,gla"], "algos=gla is unknown; use some of a2c,"),
        (["algos=a2c,a2c"], "names one twice"),
        (["seeds=0"], "seeds=0 must be at least 1"),
        (["first_seed=0"], "first_seed=0 must be at least 1"),
        (["envs=6"], "envs=6 cannot be shared equally among 4 learners"),
        (["algo=gala"], "algo=gala: a comparison decides that by algos="),
        (["seed=3"], "seed=3: a comparison decides that by seeds= and first_seed="),
        (["cluster.address=auto"], "cluster.address=auto: a comparison trains on this machine"),
        (["optim.lt=1"], "unknown setting 'optim.lt'; did you mean 'optim.lr'?"),
        (["lr=0.01"], "unknown setting 'lr'; did you mean 'optim.lr'?"),
        (["ent_coef=0.01"], "unknown setting 'ent_coef'; did you mean 'a2c.entropy_coef'?"),
        (["optim.lr=x"], "optim.lr=x: wants a number"),
        (["baseline=independent"], "baseline=independent: wants one of a2c, gala"),
        (["algos=gala,slowmo-gala", "slowmo.every=16"], "slowmo.every=16: slowmo-gala decides that itself (48)"),
        (["algos=a2c,gala-sync", "gossip.tau=4"], "gossip.tau=4: gala-sync decides that itself (0)"),
        (["--seeds", "0"], "seeds=0 must be at least 1"),
        (["trust=true"], "trust=true is for runs that name code"),
        (["threshold=many"], "threshold=many must be a number"),
        (["margin=-1"], "margin=-1.0 must be 0 or more"),
        (["steps=5"], "gala: error: steps=5 is less than one update"),
        (["on_failure=restart"], "algos=a2c: on_failure=restart needs learners that do not wait for each other"),
        (["algos=a2c,gala,independent", "gossip.certify=true"], "algos=a2c, independent: gossip.certify needs"),
        (["max_learners=2"], "or train gala without that in another out=, and compare by --from"),
        (["runs/one"], "preset=classic/cartpole is a setting of training, which is over"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(words, message, capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "preset=classic/cartpole", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.iterdir())


def test_a_preset_that_wants_a_cluster_is_refused_too(capsys, tmp_path):
    preset = tmp_path / "far.yaml"
    preset.write_text("base: classic/cartpole\ncluster:\n  address: auto\n")
    for command in (["compare", "--dry-run"], ["sweep", "optim.lr=log(1e-4,1e-2)", f"out={tmp_path / 'out'}"]):
        assert cli.main([*command, f"preset={preset}"]) == 2
        assert "cluster.address=auto: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_runs_and_rows_that_are_not_there_are_one_line(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    for words, message in [
        ([str(tmp_path)], "one run cannot be compared"),
        ([str(tmp_path / "a"), str(tmp_path / "b")], "is not a run directory"),
        (["--from"], "--from wants a file of rows"),
        (
            [str(tmp_path / "a"), str(tmp_path / "b"), "seeds=3"],
            "seeds=3 would change nothing in what is there already",
        ),
        (["--from", str(tmp_path / "x.jsonl"), "episodes=3"], "episodes=3 would change nothing"),
        (["--from", str(tmp_path / "x.jsonl")], "there is no file"),
        (["--from", str(tmp_path / "x.jsonl"), "--dry-run"], "--dry-run shows what would be trained"),
        ([str(tmp_path / "lr=0.1"), str(tmp_path / "lr=0.2")], "lr=0.1 is not a run directory"),
    ]:
        assert cli.main(["compare", *words]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_report_of_several_files_of_rows_has_a_folder_of_its_own(capsys, tmp_path, monkeypatch):
    """Before, it was written into that of the first file alone, over what was there."""
    pytest.importorskip("matplotlib")
    kept = Path(__file__).parents[1] / "benchmarks" / "results" / "compare" / "minatar_breakout.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    for name, more in (("here", 0), ("there", 100)):
        (tmp_path / name).mkdir()
        text = "".join(json.dumps(row | {"seed": row["seed"] + more}) + "\n" for row in rows)
        (tmp_path / name / "results.jsonl").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "--from", "here/results.jsonl", "there/results.jsonl"]) == 0
    assert "report: runs/compare-from-here-and-there/report.html" in capsys.readouterr().out
    assert cli.main(["compare", "--from", "here/results.jsonl"]) == 0
    assert "report: runs/compare-from-here/report.html" in capsys.readouterr().out
    many = [f"{i}{'x' * 60}.jsonl" for i in range(3)]
    for i, name in enumerate(many):
        Path(name).write_text("".join(json.dumps(row | {"seed": row["seed"] + 100 * i}) + "\n" for row in rows))
    assert cli.main(["compare", "--from", *many]) == 2
    assert "say where the report goes by out=DIRECTORY" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Glyph 27:UserWarning")
def test_a_name_that_would_move_the_cursor_is_written_out(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    kept = Path(__file__).parents[1] / "benchmarks" / "results" / "compare" / "minatar_breakout.jsonl"
    (tmp_path / "rows.jsonl").write_text(kept.read_text().replace('"group": "gala"', '"group": "\\u001b[31mred"'))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "--from", "rows.jsonl", "out=report"]) == 0
    said = capsys.readouterr().out
    assert r"\x1b[31mred" in said and "\x1b" not in said


def test_rows_of_one_seed_count_once_though_their_seconds_differ(capsys, tmp_path):
    """Two machines that were given the same seeds: three trainings would have been taken for six."""
    pytest.importorskip("matplotlib")
    kept = Path(__file__).parents[1] / "benchmarks" / "results" / "compare" / "minatar_breakout.jsonl"
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(row | {"seconds": row["seconds"] * 1.01}) + "\n" for row in rows))
    assert cli.main(["compare", "--from", str(kept), str(again), f"out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is there twice" in line and "first_seed=" in line and not (tmp_path / "out").exists()


def test_runs_are_checked_before_any_is_judged(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [str(make_run(tmp_path / f"lr={lr}", "env.id=CartPole-v1", f"optim.lr={lr}")[0].path) for lr in (0.1, 0.2)]
    out = tmp_path / "out"
    assert cli.main(["compare", *runs, "--baseline", "typo", f"out={out}"]) == 2
    assert "baseline=typo: wants one of optim.lr=0.1, optim.lr=0.2" in capsys.readouterr().err and not out.exists()
    assert [
        terms(sort_words(runs), rows).baseline for rows in (NAMED, NAMED[:1], [*NAMED, NAMED[1] | {"group": "c"}])
    ] == [
        "algo=a2c",
        "algo=gala",
        "algo=gala",
    ]
    other = str(make_run(tmp_path / "other", "env.id=Acrobot-v1")[0].path)
    assert cli.main(["compare", runs[0], other, f"out={out}"]) == 2
    assert "several tasks (Acrobot-v1, CartPole-v1)" in capsys.readouterr().err and not out.exists()


def test_solved_returns_that_differ_are_not_left_out_of_account():
    """Before, no threshold was taken, and `faster` meant something else, without a word."""
    rows = [row | {"solved_return": bar} for row, bar in zip(NAMED, (400.0, 475.0), strict=True)]
    with pytest.raises(ValueError, match=r"several solved returns \(400, 475\); say which counts, threshold=RETURN"):
        terms(sort_words(["a", "b"]), rows)
    assert terms(sort_words(["a", "b", "threshold=400"]), rows).threshold == 400.0
    assert terms(sort_words(["a", "b"]), rows[:1]).threshold == 400.0


def test_a_run_that_is_being_trained_is_not_judged(capsys, tmp_path):
    """Its score would be of one moment, and what it took of another."""
    pytest.importorskip("matplotlib")
    runs = [str(RunDir.create(Config(run=str(tmp_path / name)), [], False).path) for name in ("a", "b")]
    with lock(Path(runs[1])):
        assert cli.main(["compare", *runs, f"out={tmp_path / 'out'}"]) == 2
    assert "b is being trained; compare it when that has ended" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_progress_counts_a_training_that_has_ended_to_its_end(tmp_path):
    plan = Plan(tmp_path, 4, "sampled", 1, 1, {}, lambda: None)
    grid = Grid(cells(sort_words(["preset=classic/cartpole", "algos=a2c", "seeds=2", "steps=10000"])), plan)
    job, progress = grid.training(grid.cells[0]), Progress(grid)
    job.run.mkdir(parents=True)
    records = job.run / "metrics.jsonl"
    for steps, running in ((4000, [job]), (10_000, [])):
        with records.open("a") as file:
            file.write(json.dumps({"global_step": steps}) + "\n")
        progress.tick(running)
        assert f"0/2 done, {short(steps)}/{short(20_000)} env_steps" in progress.line([], 1.0)


@pytest.mark.long
def test_another_comparison_of_runs_of_the_same_names_is_not_written_over(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    sets = [
        [str(make_run(tmp_path / each / f"s{lr}", "env.id=CartPole-v1", f"optim.lr={lr}")[0].path) for lr in (1, 2)]
        for each in "AB"
    ]
    words = ["episodes=1", f"out={tmp_path / 'out'}"]
    assert cli.main(["compare", *sets[0], *words]) == 0 == cli.main(["compare", *sets[0], *words])
    rows = (tmp_path / "out" / "results.jsonl").read_text()
    for k, text in enumerate(("{bad", '{"request": 3}')):  # what is damaged is judged again
        next((tmp_path / "out" / "judged").glob(f"{k}-*.json")).write_text(text)
    assert cli.main(["compare", *sets[0], *words]) == 0
    assert cli.main(["compare", *sets[1], *words]) == 2
    assert "holds another comparison" in capsys.readouterr().err
    assert (tmp_path / "out" / "results.jsonl").read_text() == rows


def test_a_dry_run_prints_the_grid_in_80_columns_and_writes_nothing(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    words = ["preset=classic/cartpole", "algos=a2c,gala,slowmo-gala", "steps=2e6", "--dry-run"]
    assert cli.main(["compare", *words]) == 0
    out = capsys.readouterr().out
    assert re.search(r"a2c +1 +64 +2,000,000 +10 +0\n", out) and re.search(r"slowmo-gala +4 +16 +2,000,000", out)
    assert "30 trainings" in out and max(map(len, out.splitlines())) <= 80 and not list(tmp_path.iterdir())
    assert cli.main(["compare", "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_solved_returns_of_presets_are_those_that_gymnasium_registers():
    told = 0
    for name in preset_names():
        config = parse_config([f"preset={name}"]) if schema(name) is Config else Config()
        if config.solved_return and config.env.id in gymnasium.registry and not config.env.id.startswith("ALE/"):
            assert float(config.solved_return) == gymnasium.spec(config.env.id).reward_threshold, name
            told += 1
    assert told >= 10


def test_machines_share_a_grid_by_their_seeds():
    """Each cell's settings and name are those of the whole grid."""
    whole = cells(sort_words([*GRID, "algos=a2c,gala", "steps=24000", "seeds=5"]))
    parts = [["seeds=2"], ["first_seed=3", "seeds=3"]]
    shared = [cell for part in parts for cell in cells(sort_words([*GRID, "algos=a2c,gala", "steps=24000", *part]))]
    assert [(c.name, c.words, settings_of(c.config)) for c in shared] == [
        (c.name, c.words, settings_of(c.config)) for c in whole
    ]
    assert [cell.seed for cell in whole[::2]] == [1, 2, 3, 4, 5]


def test_a_grid_of_which_nothing_is_there_yet_is_trained_judged_and_reported(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "grid"
    status, text, err = grid(out, "algos=a2c,gala-sync", "seeds=1", "steps=2000").end()
    assert status == 0, err
    assert "gala-sync against a2c: learns as well: undecided" in text and set(shown(out)) == {"a2c-s1", "gala-sync-s1"}
    assert (out / "report.html").is_file()
    again = ("algos=a2c,gala-sync", "seeds=1", "steps=2000", "solved_return=400")
    status, _, err = grid(out, *again).end()
    assert status == 0, err
    assert json.loads((out / "report.json").read_text())["threshold"] == 400, "what was typed, not what was"


def test_a_training_that_fails_ends_no_other_and_is_tried_again_last(tmp_path):
    pytest.importorskip("matplotlib")
    out, words = tmp_path / "grid", ("env.id=helper_envs:RaisesOne-v0", "algos=gala-sync,a2c", "steps=2000", "jobs=1")
    reason = "gala-sync-s1 failed: helper_envs:RaisesOne-v0, row 0: step() raised KeyError: 'the simulator of learner 1"
    status, text, err = grid(out, *words, "seeds=1").end()
    assert status == 1, err
    assert reason in err and "trainings that failed: gala-sync-s1 (helper_envs" in re.sub(r"\s+", " ", text)
    assert (out / "report.html").is_file() and [row["name"] for row in rows_of(out)] == ["gala-sync-s1", "a2c-s1"]
    status, text, err = grid(out, *words, "algos=gala-sync,a2c,independent", "seeds=1").end()
    assert status == 1 and reason in err, err
    ended = [line.split()[1] for line in text.splitlines() if re.match(r" *\d+/3 ", line)]
    assert ended == ["independent-s1", "gala-sync-s1"], text


@pytest.mark.long
def test_a_grid_that_is_stopped_goes_on_and_refuses_other_settings(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "grid"
    first = grid(out, "algos=a2c,gala-sync", "seeds=1", "steps=60000")
    first.wait_for((out / "runs" / "gala-sync-s1" / "metrics.jsonl").exists, "a record of the second training")
    os.killpg(first.process.pid, signal.SIGTERM)
    status, text, _ = first.end()
    assert status == 128 + signal.SIGTERM
    assert "this goes on where it was:\ngala compare preset=classic/cartpole" in text
    second = grid(out, "algos=a2c,gala-sync", "seeds=1", "steps=60000")
    status, text, err = second.end()
    assert status == 0, err
    assert "gala-sync against a2c: learns as well: undecided" in text and len(rows_of(out)) == 2
    page = (out / "report.html").read_text()
    facts = json.loads((out / "report.json").read_text())
    assert f"{facts['groups']['a2c']['scores'][0]:.4g}" in page
    parts = {row["name"]: row["parts"] for row in rows_of(out)}
    assert parts["a2c-s1"] == 1 and parts["gala-sync-s1"] == 2
    for place in (str(tmp_path), os.uname().nodename):
        assert place not in (out / "results.jsonl").read_text()
    words = [*GRID, "algos=a2c", "seeds=1", "steps=60000", f"out={out}"]
    assert cli.main(["compare", *words, "optim.lr=0.01", "--dry-run"]) == 2
    assert "holds a2c-s1 with optim.lr=0.003, not 0.01; choose another out=" in capsys.readouterr().err
    assert cli.main(["compare", *words, "--dry-run"]) == 0


@pytest.mark.long
def test_a_grid_that_was_killed_ends_with_the_rows_of_one_that_never_stopped_and_its_runs_compare(tmp_path):
    pytest.importorskip("matplotlib")
    words = ("algos=a2c,gala-sync", "seeds=2", "steps=24000")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    status, _, err = grid(whole, *words).end(within_s=600.0)
    assert status == 0, err
    for name in ("a2c-s1", "gala-sync-s1", "gala-sync-s2"):
        killed = grid(cut, *words)
        checkpoint = cut / "runs" / name / "checkpoints" / "latest"
        killed.wait_for(checkpoint.exists, f"checkpoint of {name}")
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        killed.leaves_nothing()
    status, _, err = grid(cut, *words).end(within_s=600.0)
    assert status == 0, err
    assert len(shown(whole)) == 4 and shown(cut) == shown(whole)
    runs = [str(cut / "runs" / name) for name in ("a2c-s1", "gala-sync-s1")]
    both, _ = spawn(["compare", *runs, "episodes=2", f"out={tmp_path / 'runs'}"])
    text, err = both.communicate()
    assert both.returncode == 0, err
    assert "algo=gala" in text and len(rows_of(tmp_path / "runs")) == 2
