"""How a run ends: by a signal, without anybody who reads its output, with a learner that hangs."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import sys

import pytest
from training import TINY, Gala, parts, spawn_program, status

from gala.processes.output import ForgivingStream
from gala.runs.run_dir import RunDir
from gala.training import signals

END_S = 120.0
TWO = ("algo=gala", "learners=2", "log.checkpoint_interval_s=1000")


def progress(run: RunDir) -> int:
    return run.read_metrics()[-1]["global_step"]


def assert_saved(gala: Gala) -> RunDir:
    """The last state was saved, though the interval between checkpoints is longer than the run."""
    run = RunDir.open(gala.run)
    assert status(run) == "interrupted" and len(parts(run)) == 2
    assert run.checkpoint_meta("latest")["env_steps"] == progress(run) > 0
    assert run.config.optim.schedule == "linear" and progress(run) < run.config.steps / 100
    assert run.read_metrics()[-1]["charts/learning_rate"] > 0.98 * run.config.optim.lr, "not that of the schedule's end"
    return run


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(s, marks=LONG) for s in (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1))]
)
def test_each_signal_that_ends_a_program_saves_a_checkpoint_first(tmp_path, number):
    gala = Gala(tmp_path / "run", *TINY, *TWO)
    gala.wait_for((gala.run / "metrics.jsonl").is_file, "metrics")
    for pid in gala.processes():  # as a scheduler does, which knows nothing of who is whose child
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    os.kill(gala.process.pid, number)  # a terminal that closes may send it twice
    code, out, err = gala.end(END_S)
    assert (code, err) == (128 + number, "") and f"{number.name}: saving a checkpoint" in out
    assert f'"signal": "{number.name}"' in (assert_saved(gala).path / "summary.json").read_text()


@pytest.mark.long
def test_nohup_is_obeyed(tmp_path):
    program = f"nohup {sys.executable} -m gala train run={tmp_path / 'run'} {' '.join((*TINY, *TWO))}"
    gala = Gala(tmp_path / "run", program=program)
    gala.wait_for((gala.run / "metrics.jsonl").is_file, "metrics")
    os.kill(gala.process.pid, signal.SIGHUP)
    before = progress(RunDir.open(gala.run))
    gala.wait_for_metrics(after=before)
    gala.ctrl_c()
    assert gala.end(END_S)[0] == 130
    assert_saved(gala)


@pytest.mark.parametrize("env", [pytest.param("Walk", marks=LONG), "Chatty"])
def test_ctrl_c_after_the_reader_of_the_output_is_gone(tmp_path, env):
    """As in ``gala train ... | tee log``: Ctrl-C ends ``tee`` as well."""
    gala = Gala(tmp_path / "run", *TINY, *TWO, f"env.id=helper_envs:{env}-v0")
    gala.process.stdout.close()
    gala.process.stderr.close()
    gala.wait_for((gala.run / "metrics.jsonl").is_file, "metrics")
    gala.ctrl_c()
    assert gala.process.wait(END_S) == 130
    gala.leaves_nothing()
    assert_saved(gala)


def test_a_terminal_that_closes_ends_the_run_in_order(tmp_path):
    ours, theirs = pty.openpty()
    words = (*TINY, *TWO, "log.panel=on", f"run={tmp_path / 'run'}")
    command = " ".join([sys.executable, "-m", "gala", "train", *words])
    name = os.ttyname(theirs)
    process, _ = spawn_program(["sh", "-c", f"exec {command} <{name} >{name} 2>&1"])
    gala = Gala.__new__(Gala)
    gala.run, gala.process = tmp_path / "run", process
    gala.wait_for(lambda: (gala.run / "metrics.jsonl").is_file() and os.read(ours, 1000), "metrics")
    os.close(theirs)
    os.close(ours)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(END_S) == 128 + signal.SIGHUP
    assert_saved(gala)


@pytest.mark.long
def test_a_terminal_without_the_letters_is_written_to_with_those_it_has(tmp_path):
    words = [*TINY, *TWO, "steps=400", "log.panel=on", "log.interval_s=0.05"]
    code, out, err = Gala(tmp_path / "run", *words, PYTHONIOENCODING="ascii", PYTHONUTF8="0").end()
    assert (code, err) == (0, "") and "finished: return" in out and out.isascii()


ALLREDUCE = pytest.param(("algo=allreduce",), marks=LONG)
SYNCHRONOUS = pytest.param(("algo=gala", "gossip.tau=0", "gossip.wait_timeout_s=1000"), marks=LONG)


@pytest.mark.parametrize("algo", [ALLREDUCE, SYNCHRONOUS])
def test_ctrl_c_ends_a_lock_step_run_and_names_the_learner_that_hangs(tmp_path, algo):
    words = (*TINY, *algo, "learners=3", "env.id=helper_envs:StuckOne-v0", "env.watchdog_s=5")
    gala = Gala(tmp_path / "run", *words, GALA_TEST_TRACE=str(tmp_path))
    trace = tmp_path / "gala-learner-1"
    gala.wait_for(lambda: trace.is_file() and "stuck" in trace.read_text(), "a learner that hangs")
    gala.ctrl_c()
    code, out, err = gala.end(END_S)
    assert (code, err) == (130, "") and status(RunDir.open(gala.run)) == "interrupted"
    (line,) = [line for line in out.splitlines() if "has not moved" in line]
    assert line.startswith("learner 1 has not moved for") and "without a new checkpoint" in line


@pytest.mark.long
@pytest.mark.parametrize("algo", [ALLREDUCE, SYNCHRONOUS])
def test_a_simulator_that_hangs_ends_a_run_whose_learners_wait_for_each_other(tmp_path, algo):
    words = (*algo, "learners=3", "env.id=helper_envs:StuckOne-v0", "env.watchdog_s=3")
    code, _, err = Gala(tmp_path / "run", *TINY, *words).end()
    assert code == 1 and err.startswith("\nlearner 1 has not moved for") and "env.watchdog_s" in err, err
    assert err.count("\n") == 3 and "gala resume" in err


@pytest.mark.long
def test_a_simulator_that_hangs_costs_its_learner_only_where_the_others_do_not_wait(tmp_path):
    words = ("algo=gala", "learners=3", "env.id=helper_envs:StuckOne-v0", "env.watchdog_s=3")
    gala = Gala(tmp_path / "run", *TINY, *words)
    gala.wait_for(lambda: gala.run.joinpath("metrics.jsonl").is_file(), "metrics")
    gala.wait_for(lambda: len(gala.learners()) == 2, "the end of learner 1")
    gala.wait_for_metrics(after=progress(RunDir.open(gala.run)))
    gala.ctrl_c()
    code, out, err = gala.end(END_S)
    assert (code, err) == (130, "") and "learner 1 has not moved for" in out and "the other 2 go on" in out


def test_a_stream_that_breaks_says_no_more_and_raises_never(tmp_path):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    class Unwritable(io.RawIOBase):
        """Takes text, and cannot flush it."""

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise BrokenPipeError

    for stream in (Full(), io.TextIOWrapper(Unwritable())):
        forgiving = ForgivingStream(stream)
        for _ in range(2):
            assert forgiving.write("text") == 4 and forgiving.flush() is None
    with (tmp_path / "closed").open("w") as file:
        closed = ForgivingStream(file)
    assert closed.write("text") == 4
    with (tmp_path / "latin").open("w", encoding="latin-1") as file:
        print("a \N{GREEK SMALL LETTER ALPHA} b", file=ForgivingStream(file))
    assert (tmp_path / "latin").read_text() == "a ? b\n"


def test_a_second_ctrl_c_kills_unless_it_comes_with_the_first(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    request = signals.EndRequest()
    request._on_signal(signal.SIGINT, None)
    now[0] += 0.05
    request._on_signal(signal.SIGINT, None)
    assert request.signal == signal.SIGINT and not request.kill
    now[0] += 1.0
    with pytest.raises(KeyboardInterrupt):
        request._on_signal(signal.SIGINT, None)
    assert request.kill
