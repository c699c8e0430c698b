"""Learners that die, come back, join and leave while the others train, in real processes."""

from __future__ import annotations

import json
import os
import signal

import pytest
from training import TINY, Gala, parts

from gala.cli import main
from gala.runs.run_dir import RunDir

END_S = 120.0
WORDS = ("algo=gala", "learners=3", "normalize.obs=true", "log.checkpoint_interval_s=1")


def failures(run: RunDir) -> list[dict]:
    return json.loads((run.path / "summary.json").read_text())["failures"]


def steps_of(gala: Gala) -> list[int]:
    """env_steps of each learner, from the newest record."""
    record = RunDir.open(gala.run).read_metrics()[-1]
    return [record.get(f"learner{rank}", {}).get("env_steps", 0) for rank in range(6)]


def recorded(gala: Gala, ranks: set[int]) -> bool:
    """Whether the newest record speaks of exactly these learners."""
    records = RunDir.open(gala.run).read_metrics()
    return bool(records) and {int(key[7:]) for key in records[-1] if key.startswith("learner")} == ranks


def test_the_others_go_on_without_a_killed_learner_and_the_run_can_be_resumed(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, *WORDS)
    gala.wait_for_checkpoint()
    victim = gala.learners()[1]
    os.kill(victim, signal.SIGKILL)
    gala.wait_for(lambda: recorded(gala, {0, 2}), "records of the others")
    reached = RunDir.open(gala.run).read_metrics()[-1]["global_step"]
    gala.wait_for_checkpoint(after=reached)
    gala.ctrl_c()
    code, out, err = gala.end(END_S)
    run = RunDir.open(gala.run)
    assert code == 130 and not err and "learner 1 was killed by SIGKILL; the other 2 go on" in out
    (failure,) = failures(run)
    assert failure["rank"] == 1
    assert run.checkpoint_meta("latest")["ranks"] == [0, 2]
    weights = [meta["gossip"]["weight"] for _, meta in parts(run)]
    assert sum(weights) == pytest.approx(3 - failure["lost_weight"], abs=1e-9) and min(weights) > 0
    assert failure["lost_share"] == pytest.approx(failure["lost_weight"] / 3)
    assert main(["eval", str(run.path), "episodes=2"]) == 0  # with the statistics of the dead learner, too

    resumed = Gala(run.path, command="resume")
    resumed.wait_for(lambda: recorded(resumed, {0, 1, 2}), "the learner that was missing")
    resumed.ctrl_c()
    assert resumed.end(END_S)[0] == 130
    weights = [meta["gossip"]["weight"] for _, meta in parts(run)]
    assert sum(weights) == pytest.approx(3 - failure["lost_weight"], abs=1e-9)  # the newcomer brought none
    assert run.checkpoint_meta("latest")["ranks"] == [0, 1, 2]
    assert run.checkpoint_meta("latest")["env_steps"] >= reached


@pytest.mark.long
def test_a_killed_learner_starts_again_from_a_live_peer_and_the_count_goes_on(tmp_path):
    gala = Gala(tmp_path / "run", *TINY, *WORDS, "on_failure=restart", "max_restarts=1")
    gala.wait_for(lambda: (gala.run / "config.yaml").exists() and recorded(gala, {0, 1, 2}), "all learners")
    before = steps_of(gala)
    os.kill(gala.learners()[0], signal.SIGKILL)
    gala.wait_for(lambda: recorded(gala, {1, 2}), "its absence")
    gala.wait_for(lambda: recorded(gala, {0, 1, 2}), "its return")
    assert steps_of(gala)[0] > before[0]
    os.kill(gala.learners()[0], signal.SIGKILL)  # of those that live; beyond max_restarts
    gala.wait_for(lambda: any(recorded(gala, set(left)) for left in ([0, 1], [0, 2], [1, 2])), "the other two")
    gala.ctrl_c()
    code, out, err = gala.end(END_S)
    assert code == 130 and not err
    assert out.count("it starts again from a live learner's state") == 1 and out.count("the other 2 go on") == 1
    assert len(failures(RunDir.open(gala.run))) == 2


@pytest.mark.long
def test_learners_join_and_leave_a_running_job(tmp_path, capsys):
    gala = Gala(tmp_path / "run", *TINY, *WORDS)
    gala.wait_for(lambda: (gala.run / "config.yaml").exists() and recorded(gala, {0, 1, 2}), "all learners")
    assert main(["scale", str(gala.run), "learners=4"]) == 0
    gala.wait_for(lambda: recorded(gala, {0, 1, 2, 3}), "the newcomer")
    assert main(["scale", str(gala.run), "learners=2"]) == 0
    gala.wait_for(lambda: recorded(gala, {0, 1}), "the leave of two")
    gala.ctrl_c()
    code, out, err = gala.end(END_S)
    run = RunDir.open(gala.run)
    assert code == 130 and not err and "scaling from 3 to 4" in out and "scaling from 4 to 2" in out
    assert not failures(run)
    weights = [meta["gossip"]["weight"] for _, meta in parts(run)]
    assert len(weights) == 2 and sum(weights) == pytest.approx(3, abs=1e-9)  # what left was handed over
    for wanted in (2, 4):
        resumed = Gala(run.path, command="resume")
        resumed.wait_for_checkpoint(after=run.checkpoint_meta("latest")["env_steps"])
        if wanted == 2:
            main(["scale", str(gala.run), "learners=4"])
            resumed.wait_for(lambda: recorded(gala, {0, 1, 2, 3}), "the newcomers")
        resumed.ctrl_c()
        assert resumed.end(END_S)[0] == 130
        assert run.checkpoint_meta("latest")["ranks"] == [0, 1, 2, 3], "a resume undoes no scaling"
        assert sum(meta["gossip"]["weight"] for _, meta in parts(run)) == pytest.approx(3, abs=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("silent_after_s", [1.5, 1000.0])
def test_a_stopped_learner_is_left_out_of_checkpoints_and_comes_back(tmp_path, silent_after_s):
    """Also long before it counts as silent: the others would stand still so long."""
    gala = Gala(tmp_path / "run", *TINY, *WORDS, f"gossip.silent_after_s={silent_after_s}")
    gala.wait_for_checkpoint()
    frozen = gala.learners()[2]
    os.kill(frozen, signal.SIGSTOP)
    run = RunDir.open(gala.run)
    gala.wait_for(lambda: run.checkpoint_meta("latest")["ranks"] == [0, 1], "a checkpoint without it")
    os.kill(frozen, signal.SIGCONT)
    gala.wait_for(lambda: run.checkpoint_meta("latest")["ranks"] == [0, 1, 2], "a checkpoint with it")
    gala.ctrl_c()
    assert gala.end(END_S)[0] == 130
    weights = [meta["gossip"]["weight"] for _, meta in parts(run)]
    assert sum(weights) == pytest.approx(3, abs=1e-9)


@pytest.mark.long
def test_a_fault_that_all_learners_share_ends_the_run_with_one_traceback(tmp_path):
    code, out, err = Gala(tmp_path / "run", *TINY, *WORDS, "env.id=helper_envs:Raises-v0").end()
    assert code == 1 and "the run has ended" in err
    assert (out + err).count('raise KeyError("the simulator broke")') == 1, (out, err)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["learners=2", "max_learners=1"], "max_learners=1 is less"),
        (["learners=2", "algo=allreduce", "on_failure=continue"], "do not wait for each other"),
        (["learners=2", "gossip.tau=0", "on_failure=restart"], "do not wait for each other"),
        (["learners=2", "algo=independent", "on_failure=restart"], "algo=gala"),
    ],
)
def test_bad_settings(words, text, capsys, tmp_path):
    assert main(["train", "preset=classic/cartpole", f"run={tmp_path / 'run'}", *words]) == 2
    assert text in capsys.readouterr().err


def test_scaling_what_does_not_train(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("gala.commands.scale.PATIENCE_S", 0.2)
    (path := tmp_path / "run").mkdir()
    (path / "config.yaml").write_text("algo: gala\nlearners: 2\n")
    assert main(["scale", str(path), "learners=3"]) == 2
    assert "is not training now" in capsys.readouterr().err and not (path / "wanted_learners").exists()
    assert main(["scale", str(path), "--learners", "9"]) == 2
    assert "can have 1 to 4 learners (max_learners), not 9" in capsys.readouterr().err
    (path / "config.yaml").write_text("algo: gala\nlearners: 2\ngossip:\n  tau: 0\n")
    assert main(["scale", str(path), "learners=3"]) == 2
    assert "wait for each other" in capsys.readouterr().err
    for words, text in {
        (str(path),): "a number of learners from 1 on",
        (str(path), "3", "learners=3"): "a number of learners from 1 on",
        (str(path), "learners=0"): "a number of learners from 1 on",
        (str(path), "learners=none"): "learners",
        (str(path), "learner=2"): "learners",
        (str(tmp_path / "no"), "2"): "no",
    }.items():
        assert main(["scale", *words]) == 2
        assert (err := capsys.readouterr().err).startswith("gala: error: ") and text in err
