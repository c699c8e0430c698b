"""What ``gala resume`` starts from, when checkpoints are damaged, copied, foreign or missing: looked through first."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
from training import TINY, Gala, parts, status

from gala.build.learning import learning_rate
from gala.cli import main
from gala.config import derived
from gala.runs.following import Follower
from gala.runs.run_dir import RunDir
from gala.training import supervisor

WORDS = (*TINY, "algo=gala", "learners=2", "steps=1_000", "log.keep_milestones=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with the checkpoints step500 and latest, and nothing else; slow enough for a checkpoint on its way."""
    path = tmp_path_factory.mktemp("finished") / "run"
    words = ("log.checkpoint_interval_s=1000", "delay.mean_s=0.01", "delay.sigma=0")
    assert Gala(path, *WORDS, *words).end()[0] == 0
    run = RunDir.open(path)
    if "best" in run.checkpoints.names():
        (path / "checkpoints/best").unlink()
    assert run.checkpoints.names() == ["latest", "step500"]
    return path


@pytest.fixture
def run(finished, tmp_path):
    return RunDir.open(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@pytest.fixture
def resume(run, monkeypatch, capsys):
    """``gala resume RUN steps=3000 WORDS``: (exit status, what would be resumed from, what was said)."""

    def call(*words, schedule="stretch"):
        started = []

        def train(config, run_dir, resume_from):
            started.append(resume_from)
            run_dir.close()
            return 0

        monkeypatch.setattr(supervisor, "train", train)
        code = main(["resume", str(run.path), "steps=3000", *words, *[f"schedule={schedule}"][: len(schedule)]])
        said = capsys.readouterr()
        return code, started, said.out + said.err

    return call


def content(path: Path) -> dict[str, bytes | str]:
    files = [p for p in sorted(path.rglob("*")) if p.name != ".lock"]
    return {str(p): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else "" for p in files}


def rewrite(run, change):
    """``latest`` again, with every learner's tensors changed: whole, and not what it should be."""
    meta = run.checkpoint_meta("latest")
    for rank in meta["ranks"]:
        tensors, part = run.load_part("latest", f"learner{rank}")
        change(tensors["policy"])
        run.write_part("staging", f"learner{rank}", tensors, part)
    run.commit_checkpoint("staging", ["latest"], meta)


def flip(run):
    path = run.path / "checkpoints/latest/learner1.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def lie(run):
    path = run.path / "checkpoints/latest/meta.json"
    path.write_text(path.read_text().replace('"learners": 2', '"learners": 3'))


def poison(policy):
    next(iter(policy.values())).view(-1)[0] = float("nan")


def widen(policy):
    policy.update({key: tensor.double() for key, tensor in policy.items()})


DAMAGE = {
    "a bit of a part": (flip, "learner1.safetensors is damaged"),
    "a figure of the meta": (lie, "meta.json is damaged"),
    "half a meta": (lambda run: os.truncate(run.path / "checkpoints/latest/meta.json", 40), "meta.json is damaged"),
    "no part": (lambda run: (run.path / "checkpoints/latest/learner0.json").unlink(), "latest has no learner0.json"),
    "no folder": (lambda run: shutil.rmtree((run.path / "checkpoints/latest").resolve()), "latest has no meta.json"),
    "NaN": (lambda run: rewrite(run, poison), "learner0.safetensors holds numbers that are not finite, in policy."),
    "float64": (lambda run: rewrite(run, widen), "learner0.safetensors is of another network"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_noticed_before_anything_changes_and_the_newest_whole_one_is_taken(kind, run, resume):
    damage, message = DAMAGE[kind]
    damage(run)
    before = content(run.path)
    code, started, said = resume("checkpoint=latest")
    assert (code, started) == (2, []) and message in said and str(run.path) in said and content(run.path) == before
    code, started, said = resume()
    assert (code, started) == (0, ["step500"]) and message in said and "resuming from step500" in said
    assert max(r["global_step"] for r in run.read_metrics()) <= run.checkpoint_meta("step500")["env_steps"]


def test_a_checkpoint_can_be_named_and_without_a_whole_one_nothing_is_changed(run, resume):
    assert resume("checkpoint=step500")[:2] == (0, ["step500"])
    assert "has no checkpoint 'worst'" in resume("checkpoint=worst")[2]
    for name in run.checkpoints.names():
        os.truncate(run.path / "checkpoints" / name / "learner0.safetensors", 100)
    before = content(run.path)
    code, started, said = resume()
    assert (code, started) == (2, []) and "no checkpoint can be resumed from" in said and content(run.path) == before
    damaged = {(run.path / "checkpoints" / name).resolve().name for name in run.checkpoints.names()}
    assert said.count("is damaged") == len(damaged) and "other checkpoints" not in said, "each once, and none to try"


def test_a_resumed_run_says_what_a_new_one_is_warned_of(run, resume):
    assert "warning" not in resume()[2]
    settings = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(re.sub(r"(\noptim:\n  name: )\w+", r"\1ekfac", settings))
    code, started, said = resume()
    assert "warning: ekfac needs other settings; add optim.lr=0.25" in said and (code, started) == (0, ["latest"])


def test_a_run_of_another_kind_of_device_goes_on_with_another_stream_of_actions(run):
    """A GPU's generator has a state of 16 bytes, which no generator of a CPU takes."""
    meta = run.checkpoint_meta("latest")
    for rank in meta["ranks"]:
        tensors, part = run.load_part("latest", f"learner{rank}")
        tensors["in_progress"]["action_stream"] = torch.zeros(16, dtype=torch.uint8)
        run.write_part("staging", f"learner{rank}", tensors, part)
    run.commit_checkpoint("staging", ["latest"], meta)
    code, _, err = Gala(run.path, f"steps={meta['env_steps'] + 200}", "schedule=stretch", command="resume").end()
    assert (code, err) == (0, "")


def test_a_run_whose_simulators_are_not_restored_says_so(run, resume):
    assert "new episodes" not in resume()[2]
    meta = run.checkpoint_meta("latest")
    for rank, why in ((0, {}), (1, {"new_episodes": "rows[0][0].engine is a lock"})):
        tensors, part = run.load_part("latest", f"learner{rank}")
        kept = tensors if rank == 0 else {k: v for k, v in tensors.items() if k != "in_progress"}
        run.write_part("staging", f"learner{rank}", kept, part | why)
    run.commit_checkpoint("staging", ["latest"], meta)
    line = (
        "helper_envs:Walk-v0 begins new episodes, so the run differs from one that never stopped: rows[0][0].engine is"
    )
    assert line in resume()[2]


def commit(run, name, env_steps):
    """The latest parts once more, as of ``env_steps``, under a name."""
    meta = run.checkpoint_meta("latest")
    for rank in meta["ranks"]:
        run.write_part("staging", f"learner{rank}", *run.load_part("latest", f"learner{rank}"))
    run.commit_checkpoint("staging", [name], {**meta, "env_steps": env_steps})


def hashes(run, name):
    return run.checkpoint_meta(name)["files"]


@pytest.mark.parametrize("links", ["kept", "followed"])
def test_from_a_named_checkpoint_on_the_rest_is_given_up_also_if_the_run_is_killed_at_once(
    run, resume, tmp_path, links
):
    if links == "followed":
        copy = shutil.copytree(run.path, tmp_path / "copy")
        shutil.rmtree(run.path)
        shutil.copytree(copy, run.path)
    commit(run, "step900", 900)
    commit(run, "best", 950)
    wanted, best, done = hashes(run, "step500"), hashes(run, "best"), run.checkpoint_meta("step500")["env_steps"]
    assert wanted != hashes(run, "latest")
    code, started, said = resume("checkpoint=step500")
    assert (code, started) == (0, ["step500"]) and run.checkpoints.names() == ["given-up-best", "latest", "step500"]
    assert "best is newer than step500: it is kept as given-up-best" in said
    assert "newer than step500, and dropped: step900" in said
    assert hashes(run, "latest") == hashes(run, "step500") == wanted and hashes(run, "given-up-best") == best
    assert resume()[:2] == (0, ["latest"]) and hashes(run, "latest") == wanted, "nothing was saved in between"
    assert max(record["global_step"] for record in run.read_metrics()) <= done
    assert "is of a part of the run that was given up" in resume("checkpoint=given-up-best")[2]
    os.truncate(run.path / "checkpoints/latest/learner0.json", 3)
    if links == "followed":  # else they are one and the same
        assert resume()[:2] == (0, ["step500"])
    else:
        assert resume()[0] == 2, "and never from what was given up"


def test_a_copy_that_dropped_the_links_goes_on_and_loses_nothing(finished, run, resume):
    whole = RunDir.open(finished)
    for link in (path for path in (run.path / "checkpoints").iterdir() if path.is_symlink()):
        link.unlink()
    assert run.checkpoints.names() == ["latest", "stored000001"]
    assert hashes(run, "latest") == hashes(whole, "latest") and hashes(run, "stored000001") == hashes(whole, "step500")
    assert resume()[:2] == (0, ["latest"]) and len(run.read_metrics()) == len(whole.read_metrics())
    commit(run, "latest", 950)
    assert hashes(run, "stored000001") == hashes(whole, "step500"), "it has its name from now on"
    assert resume("checkpoint=stored000001")[:2] == (0, ["stored000001"]) and run.checkpoints.names() == [
        "latest",
        "stored000001",
    ]


def test_a_best_that_is_older_stays_and_a_second_one_that_is_given_up_replaces_none(run, resume):
    for _ in range(2):
        commit(run, "best", 950)
        resume("checkpoint=step500")
    assert [n for n in run.checkpoints.names() if "best" in n] == ["given-up-best", "given-up-best2"]
    commit(run, "best", 10)
    assert resume("checkpoint=step500")[0] == 0 and run.checkpoint_meta("best")["env_steps"] == 10


def test_the_checkpoint_is_chosen_once_nobody_else_trains_there(run, resume, monkeypatch):
    """Another process saves, and ends, between the command's first look and its lock."""
    claim, newer = RunDir.claim, run.checkpoint_meta("latest")["env_steps"] + 500

    def claim_later(self):
        commit(run, "latest", newer)
        run.append_metrics({"global_step": newer})
        claim(self)

    monkeypatch.setattr(RunDir, "claim", claim_later)
    assert resume()[:2] == (0, ["latest"])
    assert max(record["global_step"] for record in run.read_metrics()) == newer


def test_the_summary_of_the_first_part_is_not_the_end_of_the_second(run, resume):
    assert status(run) == "finished" and Follower(run).state() == "ended"
    assert resume("checkpoint=worst")[0] == 2 and status(run) == "finished"
    assert resume()[0] == 0 and not (run.path / "summary.json").exists()
    run.append_metrics({"global_step": 2_000})
    assert Follower(run).summary() is None and Follower(run).state() == "gone", "as if it were killed now"


@pytest.mark.parametrize("anew", [True, False])
def test_what_learners_logged_is_dropped_where_a_run_starts_anew(run, resume, anew):
    record = run.path / "gossip/record0.txt"
    record.parent.mkdir(exist_ok=True)
    record.write_text("u 0.0\n")
    if anew:
        shutil.rmtree(run.path / "checkpoints")
    assert resume()[:2] == (0, [""] if anew else ["latest"])
    assert record.exists() != anew


def test_a_resume_that_is_refused_lets_others_train(run, resume):
    assert resume("checkpoint=worst")[0] == 2
    other = RunDir.open(run.path)
    other.claim()
    assert "is written to by process" in resume()[2]
    other.close()
    assert resume()[0] == 0


DECAYED = {"hold": (0, 1_000, 0.0), "stretch": (0, 0, 2 / 3), "restart": (1_000, 0, 1.0)}


def test_an_extended_run_whose_learning_rate_has_decayed_asks_how_it_goes_on(run, resume):
    before, lr = content(run.path), run.config.optim.lr
    done = run.checkpoint_meta("latest")["env_steps"]
    code, started, said = resume(schedule="")
    assert (code, started) == (2, []) and content(run.path) == before
    assert f"the learning rate has decayed to 0 at {done:,} of 1,000 env_steps" in said
    assert f"schedule=stretch (jumps to {lr * (1 - done / 3000):.3g}) or schedule=restart (jumps to {lr:.3g})" in said
    assert "schedule=up: wants hold, stretch or restart" in resume(schedule="up")[2]


@pytest.mark.parametrize("choice", DECAYED)
def test_a_schedule_goes_on_as_chosen(run, resume, choice):
    code, started, said = resume(schedule=choice)
    assert (code, started) == (0, ["latest"]) and ("nothing is learned" in said) == (choice == "hold")
    config, done = RunDir.open(run.path).config, run.checkpoint_meta("latest")["env_steps"]
    begin, end, factor = DECAYED[choice]
    assert (config.schedule_from, config.schedule_to) == (begin and done, end)
    at = lambda steps: learning_rate(config)(derived.scheduled(config, steps / 3000)) / config.optim.lr  # noqa: E731
    assert at(1_000 if choice == "stretch" else done) == pytest.approx(factor)
    assert at(3_000) == 0.0 and (at(2_000) == 0.0) == (choice == "hold")
    if choice == "restart":
        assert at((done + 3_000) / 2) == pytest.approx(0.5)


def test_a_choice_of_schedule_can_be_taken_back(run, resume):
    done = run.checkpoint_meta("latest")["env_steps"]
    assert "schedule=restart raises it" in resume(schedule="hold")[2]
    assert "nothing is learned" in resume(schedule="")[2], "as it was said"
    assert "nothing is learned" not in resume(schedule="restart")[2], "what was told to do"
    assert RunDir.open(run.path).config.schedule_from == done


def test_words_of_its_own_are_understood_in_both_spellings_and_patience_may_grow(run, resume):
    assert resume("--checkpoint", "step500", "--env.watchdog_s", "300", "max_restarts=2")[:2] == (0, ["step500"])
    config = RunDir.open(run.path).config
    assert (config.env.watchdog_s, config.max_restarts) == (300.0, 2)
    assert "checkpoint needs a value" in resume("--checkpoint", schedule="")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_run_is_not_changed_to_need_one_and_one_that_does_is_played(run, resume, capsys):
    before = content(run.path)
    assert "PyTorch sees no CUDA GPU here" in resume("device=cuda")[2] and content(run.path) == before
    run.replace_config(dataclasses.replace(run.config, device="cuda"))
    assert main(["eval", str(run.path), "episodes=1"]) == 0
    assert main(["eval", str(run.path), "episodes=1", "device=cuda"]) == 2
    assert "use device=auto or device=cpu" in capsys.readouterr().err
    assert resume("device=auto")[0] == 0


def test_the_checkpoint_of_another_run_is_refused(run, resume, tmp_path):
    versions = json.loads((run.path / "versions.json").read_text())
    (run.path / "versions.json").write_text(json.dumps({**versions, "run": "0123"}))
    code, started, said = resume()
    assert (code, started) == (2, []) and f"is of another run ({versions['run']}, this is 0123)" in said


def test_a_broken_line_of_metrics_costs_that_line(run):
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    broken = [b'{"global_step": 1', *lines[:-1], b"\xff\x00", b"7", b'{"global_step": "x"}', lines[0]]
    path.write_bytes(b"\n".join(broken))
    assert run.read_metrics() == [json.loads(line) for line in (*lines[:-1], lines[0])]


def spoil(path: Path) -> None:
    """What file managers leave."""
    for folder in ("", "checkpoints", "checkpoints/.store", "checkpoints/latest"):
        (path / folder / ".DS_Store").write_text("x")
        (path / folder / "Thumbs.db").write_text("x")


@pytest.mark.long
@pytest.mark.parametrize("links", [pytest.param("kept", marks=pytest.mark.long), "followed"])
def test_a_copy_of_a_run_is_a_run(finished, tmp_path, links):
    copy = Path(shutil.copytree(finished, tmp_path / "copy", symlinks=links == "kept"))
    spoil(copy)
    run = RunDir.open(copy)
    before = run.checkpoint_meta("latest")["env_steps"]
    assert main(["eval", str(copy), "episodes=1"]) == 0
    code, _, err = Gala(copy, "steps=2_000", "schedule=hold", command="resume").end()
    assert (code, err) == (0, "")
    assert run.checkpoint_meta("latest")["env_steps"] >= 2_000 > before and len(parts(run)) == 2
    assert run.checkpoint_meta("step500")["env_steps"] < before
    assert not [p for p in (copy / "checkpoints").iterdir() if p.suffix in (".tmp", ".old")]


def test_names_without_links(tmp_path, run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    for value in (1.0, 2.0):
        run.write_part("staging", "learner0", {"policy": {"w": torch.tensor([value])}}, {})
        run.commit_checkpoint("staging", ["latest", "new"], {"env_steps": 3})
        assert run.checkpoints.names() == ["latest", "new", "step500"]
        for name in ("latest", "new"):
            assert run.load_part(name, "learner0")[0]["policy"]["w"].item() == value
    assert len(list((run.path / "checkpoints/.store").iterdir())) == 2


@pytest.mark.long
def test_a_run_without_a_checkpoint_starts_anew(tmp_path):
    gala = Gala(tmp_path / "run", *WORDS, "log.checkpoint_interval_s=1000", "steps=1e9", "log.keep_milestones=0")
    gala.wait_for((gala.run / "metrics.jsonl").is_file, "metrics")
    code, _, err = Gala(gala.run, command="resume").end()
    assert code == 2 and f"is written to by process {gala.process.pid} on" in err, "there is one that trains"
    os.kill(gala.process.pid, signal.SIGKILL)
    gala.end()
    code, out, err = Gala(gala.run, "steps=2_000", command="resume").end()
    run = RunDir.open(gala.run)
    assert (code, err, status(run)) == (0, "", "finished") and "has no checkpoint yet: it starts anew" in out
    assert [r["global_step"] for r in run.read_metrics()] == sorted(r["global_step"] for r in run.read_metrics())
    assert 2_000 <= run.checkpoint_meta("latest")["env_steps"] < 3_000
