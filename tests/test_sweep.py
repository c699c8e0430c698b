"""``gala sweep``: ranges, pruning, and a search that is cut off and goes on."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training import TINY, Gala

from gala import cli
from gala.commands.sweep import check_ends, sort_words
from gala.config.parse import parse_config
from gala.config.schema import Config
from gala.runs.run_dir import RunDir

optuna = pytest.importorskip("optuna")

from gala.experiments.jobs import TrainingJob  # noqa: E402
from gala.experiments.ranges import Range, parse_range  # noqa: E402
from gala.experiments.search import Search, Trials, open_study  # noqa: E402

RANGE = "optim.lr=log(1e-4,1e-2)"


def test_ranges_are_read_by_the_type_of_their_setting():
    assert parse_range("optim.lr", "log(1e-4,1e-2)") == Range("log", (1e-4, 1e-2))
    assert parse_range("a2c.num_steps", "uniform(5, 20)") == Range("uniform", (5, 20))
    assert isinstance(parse_range("a2c.num_steps", "log(5,20)").values[0], int)
    assert parse_range("optim.name", "choice(adam,rmsprop)") == Range("choice", ("adam", "rmsprop"))
    assert parse_range("optim.lr", "1e-3") is None


def test_a_comma_within_brackets_is_of_the_value():
    """Before, the values were `(64`, `64)`, `(256` and `256)`: networks of one layer, trained without a word."""
    chosen = parse_range("model.hidden", "choice((64,64),[256,[1,2]],32)")
    assert chosen == Range("choice", ("(64,64)", "[256,[1,2]]", "32"))
    assert parse_range("model.hidden", str(chosen)) == chosen
    _, words, ranges = sort_words(["preset=classic/cartpole", "model.hidden=choice((64,64),(256,256))"])
    assert check_ends(words, ranges).model.hidden == (64, 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lr=log(1e-2,1e-4)"], "wants a lower and a higher number, above 0"),
        (["optim.lr=log(0,1)"], "wants a lower and a higher number, above 0"),
        (["optim.lr=uniform(1)"], "wants two numbers"),
        (["gossip.tau=uniform(0.2,0.9)"], "gossip.tau is a whole number, and so are its ends"),
        (["slowmo.every=log(0.5,64)"], "slowmo.every is a whole number, and so are its ends"),
        (["seed=choice(1,2)"], "seed=choice(1,2): the best seed is luck"),
        (["optim.lr=1e-3", RANGE], "optim.lr is given twice"),
        ([RANGE, "optim.lr=1e-3"], "optim.lr is given twice"),
        (["optim.name=log(1,2)"], "optim.name is no number; use choice"),
        (["optim.name=choice(adam)"], "wants two values or more"),
        (["optim.name=choice(adam,adm)"], "optim.name=adm: wants one of"),
        (["model.hidden=choice((64,64),(256,256)"], "wants each bracket closed"),
        (["model.hidden=choice((64,64],[256)"], "wants each bracket closed"),
        (["model.hidden=choice(64),(256)"], "wants each bracket closed"),
        (["a2c.gamma=uniform(0.5,1.5)"], "a2c.gamma=1.5 must be between 0 and 1"),
        (["optim.lt=log(1,2)"], "did you mean 'optim.lr'?"),
        (["run=x", RANGE], "a search decides that itself"),
        ([], "nothing to search"),
        (["replay=1"], "replay=N wants the search"),
        (["replay=-3", "out=x"], "replay=-3: trials count from 0"),
        (["replay=1", "out=nowhere"], "nowhere holds no search"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "preset=classic/cartpole", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not list(tmp_path.iterdir())


def test_the_help_fits_80_columns(capsys):
    assert cli.main(["sweep", "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_trial_below_the_median_of_the_others_is_hopeless_and_one_above_is_not(tmp_path):
    search = Search(tmp_path, ("steps=2000",), {"optim.lr": Range("log", (1e-4, 1e-2))})
    study = open_study(tmp_path, search)
    for value in (10.0, 20.0, 30.0, 40.0):
        trial = study.ask()
        for point in range(1, 20):
            trial.report(value, point)
        study.tell(trial, value)
    trials = Trials(search, study, 6, print)
    jobs = trials._jobs()
    for value, hopeless in ((5.0, True), (35.0, False)):
        (job,) = next(jobs)
        run = RunDir.create(Config(run=str(job.run), steps=2000), [], overwrite=False)
        run.append_metrics({"global_step": 300, "charts/episodic_return": value})
        assert not trials._is_hopeless(job)  # it is too early to tell
        run.append_metrics({"global_step": 1200, "charts/episodic_return": value})
        assert trials._is_hopeless(job) is hopeless
        assert not trials._is_hopeless(job)  # said once
        run.close()
    assert len(study.trials) == 6 and not list(jobs)


def test_a_journal_of_another_search_is_refused_and_another_start_draws_other_trials(tmp_path):
    search = Search(tmp_path, ("steps=10",), {"optim.lr": Range("log", (1e-4, 1e-2))})
    drawn = [search.ranges["optim.lr"].suggest(open_study(tmp_path, search).ask(), "optim.lr") for _ in range(3)]
    assert len(set(drawn)) == 3 and all(1e-4 <= float(text) <= 1e-2 for text in drawn)
    with pytest.raises(ValueError, match="holds another search"):
        open_study(tmp_path, search._replace(words=("steps=20",)))


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0" * 99])
def test_a_line_of_the_journal_that_was_cut_short_ends_no_search(tmp_path, torn):
    """Before, what was written next was glued to it, and no start could read the journal any more."""
    search = Search(tmp_path, ("steps=10",), {"optim.lr": Range("log", (1e-4, 1e-2))})
    open_study(tmp_path, search).ask()
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    assert len(open_study(tmp_path).trials) == 1 and journal.read_bytes() == whole + torn, "who looks writes nothing"
    for number in (1, 2):
        assert open_study(tmp_path, search).ask().number == number
    assert journal.read_bytes().startswith(whole)
    journal.write_bytes(torn)
    assert open_study(tmp_path, search).ask().number == 0


def test_a_lock_that_a_kill_has_left_keeps_nobody_waiting(tmp_path, monkeypatch):
    """Optuna's, of the journal: by a relative path it was never given up, and the next start hung for ever."""
    monkeypatch.chdir(tmp_path)
    out = Path("runs/sweep")
    out.mkdir(parents=True)
    search = Search(out, ("steps=10",), {"optim.lr": Range("log", (1e-4, 1e-2))})
    open_study(out, search).ask()
    lock = out / "journal.log.lock"
    lock.symlink_to("runs/sweep/journal.log")
    program = "from pathlib import Path; from gala.experiments.search import open_study; "
    program += "print(len(open_study(Path('runs/sweep')).trials))"
    looked = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert looked.stdout == "1\n" and lock.is_symlink(), "who looks takes no lock, and none away"
    (tmp_path / "journal.log").touch()
    with pytest.raises(ValueError, match=r"holds no search: its journal.log is empty"):
        open_study(tmp_path)
    program = "from pathlib import Path; from gala.experiments.search import Range, Search, open_study; "
    program += "s = Search(Path('runs/sweep'), ('steps=10',), {'optim.lr': Range('log', (1e-4, 1e-2))}); "
    program += "print(open_study(s.out, s).ask().number)"
    went_on = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert went_on.stdout == "1\n" and not lock.is_symlink()


def test_the_same_search_in_other_words_goes_on(tmp_path):
    """Before, its words were compared letter by letter."""
    words, ranges = ("preset=classic/cartpole", "steps=1e6", "gossip.tau=2"), {"a2c.num_steps": Range("log", (5, 20))}
    ranges["optim.lr"] = Range("log", (1e-4, 1e-2))
    search = Search(tmp_path, words, ranges)
    open_study(tmp_path, search).ask()
    turned = {
        key: parse_range(key, text) for key, text in (("optim.lr", "log(0.0001,0.01)"), ("a2c.num_steps", "log(5,2e1)"))
    }
    for again in (("steps=1M", *words[::2]), ("preset=classic/cartpole", "gossip.tau=2", "steps=1_000_000")):
        assert len(open_study(tmp_path, Search(tmp_path, again, turned)).trials) == 1
    for other in (
        search._replace(words=(*words, "seed=3")),
        search._replace(words=words[1:]),
        search._replace(ranges={**ranges, "optim.lr": Range("uniform", (1e-4, 1e-2))}),
        search._replace(ranges={"optim.lr": ranges["optim.lr"]}),
    ):
        with pytest.raises(ValueError, match="holds another search"):
            open_study(tmp_path, other)
    open_study(tmp_path).set_user_attr("search", '[["no.such=1"], {}]')  # of a version that had such a setting
    with pytest.raises(ValueError, match="holds another search"):
        open_study(tmp_path, search)


def test_a_run_whose_journal_is_gone_is_not_taken_for_a_new_trial(tmp_path):
    """Its trial had another learning rate than the one that the new journal would write beside its return."""
    words = ("preset=classic/cartpole", "steps=64", "optim.lr=0.5")
    run = tmp_path / "runs" / "trial-0"
    RunDir.create(parse_config([*words, f"run={run}"]), words, overwrite=False).close()
    search = Search(tmp_path, ("preset=classic/cartpole", "steps=64"), {"optim.lr": Range("log", (1e-4, 1e-3))})
    study = open_study(tmp_path, search)
    with pytest.raises(ValueError, match=r"trial-0 was trained with optim.lr=0.5, not 0.000\d+; give those settings"):
        next(Trials(search, study, 1, print)._jobs())


def test_a_finished_run_whose_journal_is_gone_is_a_trial_again(tmp_path, monkeypatch):
    """Before, it was never told: the trial counted, and had no return."""
    words = ("preset=classic/cartpole", "steps=64", "optim.lr=0.5")
    run = tmp_path / "runs" / "trial-0"
    RunDir.create(parse_config([*words, f"run={run}"]), words, overwrite=False).close()
    monkeypatch.setattr(TrainingJob, "finished", property(lambda job: job.name == "trial-0"))
    search = Search(tmp_path, words[:2], {"optim.lr": Range("choice", ("0.5", "0.5"))})
    study = open_study(tmp_path, search)
    (jobs,) = Trials(search, study, 2, lambda text: None)._jobs()
    assert [job.name for job in jobs] == ["trial-1"] and study.trials[0].state.is_finished()


def test_a_preset_that_has_changed_is_another_search(tmp_path):
    """Before, the words alone were compared: trials of two rates of entropy were one search."""
    preset = tmp_path / "mine.yaml"
    preset.write_text("env:\n  id: CartPole-v1\na2c:\n  gamma: 0.9\n")
    search = Search(tmp_path, (f"preset={preset}", "steps=64"), {"optim.lr": Range("log", (1e-4, 1e-2))})
    open_study(tmp_path, search).ask()
    preset.write_text("# The same.\nenv:\n  id: CartPole-v1\na2c:\n  gamma: 0.95\n")
    with pytest.raises(ValueError, match=r"holds another search with a2c.gamma=0.9, not 0.95; choose another out="):
        open_study(tmp_path, search)
    more = (f"preset={preset}", "steps=64", "a2c.gamma=0.9", "log.interval_s=1", "log.tensorboard=false")
    assert len(open_study(tmp_path, search._replace(words=more)).trials) == 1, "what is logged decides nothing"


@pytest.mark.parametrize("damaged", ['{"op_code": 99}', '{"op_code": 4}'])
def test_a_line_that_optuna_cannot_read_is_one_line_too(tmp_path, damaged):
    search = Search(tmp_path, ("env.id=CartPole-v1", "steps=10"), {"optim.lr": Range("log", (1e-4, 1e-2))})
    open_study(tmp_path, search).ask()
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write(damaged + "\n")
    for again in (search, None):
        with pytest.raises(ValueError, match=r"journal\.log is damaged \("):
            open_study(tmp_path, again)


@pytest.mark.parametrize("damaged", ["{bad", "5", '{"op": 3}'])
def test_a_damaged_line_of_the_journal_is_named(tmp_path, damaged):
    search = Search(tmp_path, ("env.id=CartPole-v1", "steps=10"), {"optim.lr": Range("log", (1e-4, 1e-2))})
    open_study(tmp_path, search).ask()
    journal = tmp_path / "journal.log"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], damaged, *lines[1:]]) + "\n")
    for again in (search, None):
        with pytest.raises(ValueError, match=r"journal\.log, line 2, is no line of a search's journal"):
            open_study(tmp_path, again)


FAILS = ("env.id=helper_envs:NanReward-v0", "steps=200_000", "torch_threads=1")


@pytest.fixture
def helpers(monkeypatch):
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def test_trainings_that_fail_are_trials_that_failed_and_others_are_drawn_in_their_place(tmp_path, helpers):
    search = Search(tmp_path, FAILS, {"optim.lr": Range("choice", ("1e-3", "2e-3"))})
    said = []
    study = open_study(tmp_path, search)
    trials = Trials(search, study, 2, said.append)
    trials.run(2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    assert len(said) == 2 and all("failed: " in line and "; see " in line for line in said)
    (reason,) = trials.failures
    assert "finite" in reason and sorted(trials.failures[reason]) == [0, 1]
    (job,) = next(Trials(search, study, 1, said.append)._jobs())
    assert job.name == "trial-2", "the two that failed are not counted"


def test_a_search_whose_first_trials_all_fail_ends(tmp_path, capsys, helpers):
    words = ["sweep", *FAILS, "optim.lr=choice(1e-3,2e-3)", f"out={tmp_path}", "trials=9", "jobs=2"]
    assert cli.main(words) == 1
    told = capsys.readouterr()
    assert "trials have failed; the search ends" in told.err and "finite" in told.out
    assert 3 <= len(open_study(tmp_path).trials) <= 4


@pytest.mark.long
def test_a_search_that_was_killed_goes_on_and_its_trials_can_be_repeated(tmp_path, capsys):
    out = tmp_path / "sweep"
    tiny = [word for word in TINY if not word.startswith(("steps=", "log.panel", "log.tensorboard"))]
    words = [*tiny, RANGE, "trials=3", "steps=12000", f"out={out}", "pruning=false"]
    program = shlex.join([sys.executable, "-m", "gala", "sweep", *words])
    killed = Gala(out, program=program)
    killed.wait_for((out / "runs" / "trial-1" / "checkpoints" / "latest").exists, "checkpoint of trial 1")
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    killed.leaves_nothing()
    before = open_study(out).trials
    status, text, err = Gala(out, program=program).end()
    assert status == 0, err
    trials = open_study(out).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert [t.params for t in trials[: len(before)]] == [t.params for t in before]
    best = max(trials, key=lambda trial: trial.value)
    assert f"best: trial {best.number}, return {best.value:.2f}" in text
    assert cli.main(["sweep", f"out={out}", f"replay={best.number}"]) == 0
    command = shlex.split(capsys.readouterr().out)
    config = parse_config(command[2:])
    assert command[:2] == ["gala", "train"] and config.optim.lr == best.params["optim.lr"]
