"""Jobs run in the order and number that was asked for, and end with those who asked."""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from gala.config.derived import threads_per_learner
from gala.config.parse import parse_config
from gala.config.schema import Config
from gala.experiments.grid import PowerMeter
from gala.experiments.jobs import TrainingJob, check_settings, run_all, why
from gala.experiments.judging import JudgingJob
from gala.experiments.rows import differing, settings_of
from gala.processes.resources import available_cores
from gala.runs.run_dir import RunDir
from gala.training.restoring import choose


class Python(NamedTuple):
    """A line of Python that leaves a file when it is done."""

    folder: Path
    name: str
    code: str = "pass"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    @property
    def done(self) -> Path:
        return self.folder / self.name

    @property
    def finished(self) -> bool:
        return self.done.exists()

    def argv(self) -> list[str]:
        code = (
            f"import os, time, pathlib\n{self.code}\npathlib.Path({str(self.done)!r}).write_text(str(time.monotonic()))"
        )
        return ["-S", "-c", code]


def test_chains_run_in_order_and_what_is_done_is_left_out(tmp_path):
    chains = [[Python(tmp_path, f"{c}{i}") for i in range(2)] for c in "abc"]
    chains[1][0].done.write_text("0")
    told = []
    run_all(chains, 2, lambda job, seconds: told.append(job.name))
    assert sorted(told) == ["a0", "a1", "b1", "c0", "c1"]
    assert chains[0][0].log.read_text().startswith("$ python -S -c ")
    for first, second in (chains[0], chains[2]):
        assert float(first.done.read_text()) < float(second.done.read_text())


def test_a_job_that_fails_ends_the_others_and_its_last_words_are_the_message(tmp_path):
    bad = Python(tmp_path, "bad", "time.sleep(0.3); raise KeyError('the reason')")
    endless = Python(tmp_path, "endless", "pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)")
    endless = endless._replace(code=endless.code.replace("'pid'", repr(str(tmp_path / "pid"))))
    with pytest.raises(RuntimeError, match="the reason"):
        run_all([[bad], [endless]], 2, lambda job, seconds: None)
    pid = tmp_path / "pid"
    assert not pid.exists() or not Path(f"/proc/{pid.read_text()}").exists()


def test_why_a_job_failed_is_its_last_line_of_this_start_or_the_signal(tmp_path):
    told: dict[str, str] = {}
    silent, loud = Python(tmp_path, "silent", "os._exit(1)"), Python(tmp_path, "loud", "raise KeyError('the reason')")
    killed, good = Python(tmp_path, "killed", "os.kill(os.getpid(), 9)"), Python(tmp_path, "good")
    silent.log.write_text("what an earlier part said\n")
    chains = [[silent], [loud, Python(tmp_path, "never")], [killed], [good]]
    run_all(chains, 1, lambda job, s: None, failed=lambda job, message: told.update({job.name: why(message)}))
    assert told.pop("silent") != "what an earlier part said"
    assert told == {"loud": "KeyError: 'the reason'", "killed": "it was killed by SIGKILL"}
    assert (
        why("x failed: python -m gala train\n$ python -m gala train\nbad\n$ python -m gala resume") == "it said nothing"
    )
    assert good.finished and not (tmp_path / "never").exists()


@pytest.mark.parametrize(("told", "wanted"), [("", max(1, available_cores() // 2)), ("7", 7)])
def test_two_jobs_at_a_time_share_the_threads_unless_the_user_has_said_how_many(tmp_path, monkeypatch, told, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", told) if told else monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = "pathlib.Path({!r}).write_text(os.environ['OMP_NUM_THREADS'])"
    files = [tmp_path / f"threads{i}" for i in range(2)]
    jobs = [[Python(tmp_path, f"j{i}", code.format(str(file)))] for i, file in enumerate(files)]
    run_all(jobs, 2, lambda job, seconds: None)
    assert [int(file.read_text()) for file in files] == [wanted, wanted]


@pytest.mark.parametrize(
    ("told", "threads"),
    [("1", 1), ("1,4", 1), ("100000", available_cores()), ("", available_cores()), ("many", available_cores())],
)
def test_a_learner_has_as_many_threads_as_omp_num_threads_says_at_most(monkeypatch, told, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert threads_per_learner(parse_config(["env.id=CartPole-v1", "learners=1"])) == threads


@pytest.mark.skipif(available_cores() < 2 or not hasattr(os, "sched_getaffinity"), reason="needs two cores and Linux")
def test_jobs_that_are_pinned_share_no_core(tmp_path):
    wait = f"until = time.monotonic() + 60\nwhile len(os.sched_getaffinity(0)) > {available_cores() // 2}:"
    wait += " assert time.monotonic() < until; time.sleep(0.01)"
    code = wait + "\npathlib.Path({!r}).write_text(str(sorted(os.sched_getaffinity(0))))"
    files = [tmp_path / f"cores{i}" for i in range(2)]
    jobs = [[Python(tmp_path, f"j{i}", code.format(str(file)))] for i, file in enumerate(files)]
    run_all(jobs, 2, lambda job, seconds: None, pinned=True)
    a, b = (set(json.loads(file.read_text())) for file in files)
    assert a and len(a) == len(b) and not a & b


def test_a_training_that_was_interrupted_is_not_finished_and_goes_on(tmp_path):
    job = TrainingJob(tmp_path / "run", ("preset=classic/cartpole", "seed=1"))
    assert not job.finished and job.argv()[2] == "train" and "preset=classic/cartpole" in job.argv()
    run = RunDir.create(Config(run=str(job.run), steps=100), [], overwrite=False)
    run.write_part("staging", "learner0", {}, {})
    run.commit_checkpoint("staging", ["latest"], {"ranks": [0], "env_steps": 40})
    run.write_summary({"status": "interrupted"})
    run.append_metrics({"global_step": 50})
    run.close()
    assert not job.finished and job.env_steps() == 50
    assert job.argv()[1:] == ["gala", "resume", str(job.run), "trust=true"]
    run.write_summary({"status": "finished"})
    assert job.finished


def test_power_is_measured_while_one_training_is_alone_also_in_two_parts(tmp_path):
    joules = iter([0.0, 100.0, 250.0, 1000.0, 1050.0])
    job, other = (TrainingJob(tmp_path / name, ()) for name in ("a", "b"))
    meter = PowerMeter(tmp_path, lambda: next(joules))
    started = time.monotonic()
    meter.tick([job])
    time.sleep(0.02)
    meter.tick([job])
    meter.tick([job, other])  # nobody's
    again = PowerMeter(tmp_path, lambda: next(joules))
    again.tick([job])
    time.sleep(0.02)
    again.tick([job])
    seconds = time.monotonic() - started
    watts = again.watts("a")
    assert watts is not None and 150.0 / seconds <= watts <= 150.0 / 0.04
    assert meter.watts("b") is None
    unknown = PowerMeter(tmp_path / "none", lambda: None)
    unknown.tick([job])
    unknown.tick([job])
    assert unknown.watts("a") is None


def test_a_schedule_of_its_own_is_another_training_and_what_older_rows_do_not_say_is_the_default(tmp_path):
    mine = settings_of(Config())
    assert differing(mine, settings_of(Config(schedule_to=1000))) == ["schedule_to"]
    older = {key: value for key, value in mine.items() if key not in ("schedule_to", "track")}
    assert differing(older, mine) == [] and differing(older, settings_of(Config(schedule_to=9))) == ["schedule_to"]
    assert differing(older, mine | {"env.action_masks": "off"}) == []
    assert differing(older, mine | {"env.action_masks": "on"}) == ["env.action_masks"]
    words = ("preset=classic/cartpole", "steps=64", "log.panel=off")
    job = TrainingJob(tmp_path / "run", words)
    RunDir.create(parse_config([*words, "schedule_to=32", f"run={job.run}"]), words, overwrite=False).close()
    with pytest.raises(ValueError, match="was trained with schedule_to=32, not 0; give those settings"):
        check_settings([job])


def test_a_run_that_is_not_there_yet_is_not_judged(tmp_path):
    """Asked of every job of a grid before the first is trained, and where a run was removed after it was judged."""
    job = JudgingJob(tmp_path / "run", tmp_path / "judged.json", 4, "sampled")
    assert not job.finished and not job.is_of_another_run
    job.out.write_text(json.dumps({"request": {"run": "x"}}))
    assert not job.finished


def test_a_training_that_was_cut_off_before_its_run_was_there_has_one_part(tmp_path):
    job = TrainingJob(tmp_path / "run", ("preset=classic/cartpole",))
    assert job.parts() == 0
    begin, go_on = "$ python -m gala train seed=1 overwrite=true\nstarting ...\n", "$ python -m gala resume run\n"
    _, told = choose(RunDir(job.run, Config()), Config(), "")
    anew = f"{go_on}{told[0]}\nstarting ...\n"
    texts = {begin: 1, begin + begin: 1, begin + go_on: 2, begin + begin + go_on + go_on: 3}
    for text, parts in (texts | {begin + anew: 1, begin + anew + go_on: 2, begin + go_on + anew: 1}).items():
        job.log.write_text(text)
        assert job.parts() == parts
