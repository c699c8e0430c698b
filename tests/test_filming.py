"""Films while a policy learns: complete, of the checkpoints, and no reason for a training to end."""

import dataclasses

import pytest
from test_evaluate import make_run
from training import TINY

from gala import cli
from gala.config.schema import Config
from gala.processes.fleet import Event
from gala.runs.run_dir import RunDir
from gala.training.filming import Filming

CATCH = ["env.id=helper_envs:Catch-v0", "model.encoder=minatar_cnn"]


def filming_of(run, every, said):
    log = dataclasses.replace(run.config.log, video_every=every)
    return Filming(dataclasses.replace(run.config, log=log), run, said.append)


def commit(run, steps):
    part, meta = run.load_part("latest", "learner0")
    run.write_part("staging", "learner0", part, meta)
    run.commit_checkpoint("staging", ["latest"], {"env_steps": steps, "ranks": [0], "moments": []})


class FakeFleet:
    """Films that end when they are told to."""

    def __init__(self, target):
        self.specs, self.over, self.killed = [], False, False
        fleets.append(self)

    def spawn(self, spec):
        self.specs.append(spec)

    def events(self, timeout_s):
        return [Event(0, "died", "exited with 0")] if self.over else []

    def kill(self):
        self.killed = True


fleets = []


def test_one_film_at_a_time_and_one_for_each_stretch(tmp_path, monkeypatch):
    monkeypatch.setattr("gala.training.filming.ProcessFleet", FakeFleet)
    fleets.clear()
    run, _ = make_run(tmp_path / "run", *CATCH)
    said = []
    filming = filming_of(run, 100, said)
    for steps in (10, 50, 120, 150, 310):
        commit(run, steps)
        filming.on_checkpoint()
        filming.advance()
        if steps == 150:
            fleets[-1].over = True  # the one of 10 takes until now
    filming.advance()
    made = [spec.path.rpartition("/")[2] for fleet in fleets for spec in fleet.specs]
    assert made[0] == "step10.mp4" and made[1:] == ["step310.mp4"]
    fleets[-1].over = True
    commit(run, 399)  # of the stretch that was filmed at 310
    filming.on_checkpoint()
    filming.advance()
    assert len(fleets) == 2
    filming.close(0.0)
    assert all(fleet.killed for fleet in fleets) and said == []


def test_without_the_setting_nothing_is_read_or_started(monkeypatch):
    monkeypatch.setattr("gala.training.filming.ProcessFleet", None)
    filming = Filming(Config(), None, print)
    filming.on_checkpoint()
    filming.advance()
    filming.close()


def test_what_cannot_be_drawn_is_refused_before_anything_starts(tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    words = ["env.id=helper_envs:Walk-v0", f"run={tmp_path / 'run'}", "log.video_every=1000"]
    assert cli.main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert "log.video_every=1000: helper_envs:Walk-v0 cannot be drawn" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_training_leaves_films_that_can_be_read_back(tmp_path, capsys):
    imageio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    run = tmp_path / "run"
    words = [f"run={run}", *TINY, *CATCH, "steps=60000", "log.video_every=1"]
    assert cli.main(["train", *words]) == 0
    assert "warning" not in capsys.readouterr().out
    films = sorted(run.glob("films/*"))
    assert films and all(film.name.startswith("step") and film.suffix == ".mp4" for film in films)
    last = RunDir.open(run).checkpoint_meta("latest")["env_steps"]
    assert run / f"films/step{last}.mp4" in films
    for film in films:
        assert len(imageio.mimread(film, memtest=False)) == 10  # nine decisions, and the start
