"""A run of ``gala video`` that is gone on with after something has happened to its folder, or to who wrote it."""

import json
import shutil

import pytest

from gala import cli
from gala.runs.checkpoints import Checkpoints

TINY = (
    *("data=coin-flip", "likelihood=gaussian", "frames=3", "context=1", "scales=1", "levels=1", "width=4"),
    *("latent=2", "batch_size=2", "log_every=2", "save_every=2", "iterations=4"),
)


def run(*words):
    return cli.main(["video", *words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("video") / "run"
    assert run("train", *TINY, f"out={out}") == 0
    return out


@pytest.fixture
def out(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run", symlinks=True)


def edit(out, was, now):
    text = (out / "config.yaml").read_text()
    assert was in text
    (out / "config.yaml").write_text(text.replace(was, now))


def records(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "wall_s"} for row in rows]


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ("data: coin-flip", "data: alternating", "data=coin-flip, and config.yaml says alternating"),
        ("seed: 0", "seed: 1", "seed=0, and config.yaml says 1"),
        ("width: 4", "width: 5", "width=4, and config.yaml says 5"),
        ("latent: 2", "latent: 3", "latent=2, and config.yaml says 3"),
        ("momentum: 0.6", "momentum: 0.5", "slowmo.momentum=0.6, and config.yaml says 0.5"),
    ],
)
def test_settings_that_were_edited_since_are_named(was, now, told, out, capsys):
    edit(out, was, now)
    before = (out / "config.yaml").read_bytes(), (out / "metrics.jsonl").read_bytes()
    for words in (("resume", str(out), "iterations=6"), ("eval", str(out), "videos=2", "encoder=0")):
        assert run(*words) == 2
        assert f"latest was trained with {told}: undo that" in capsys.readouterr().err
    assert ((out / "config.yaml").read_bytes(), (out / "metrics.jsonl").read_bytes()) == before
    edit(out, now, was)
    assert run("eval", str(out), "videos=2", "weights=1", "samples=1", "encoder=0") == 0


def test_a_checkpoint_older_than_the_record_of_settings_is_believed(out):
    checkpoints = Checkpoints(out / "checkpoints")
    tensors, meta = checkpoints.load_part("latest", "learner0")
    checkpoints.write_part("staging", "learner0", tensors, meta)
    checkpoints.commit("staging", ["latest"], {"iteration": 4, "learners": 1})
    edit(out, "seed: 0", "seed: 1")
    assert run("resume", str(out), "iterations=6") == 0


def test_a_refused_resume_leaves_the_settings_alone(out, capsys):
    (part,) = (out / "checkpoints" / "latest").resolve().glob("*.safetensors")
    part.write_bytes(part.read_bytes()[:-1])
    before = (out / "config.yaml").read_bytes()
    assert run("resume", str(out), "iterations=6") == 2 and "is damaged" in capsys.readouterr().err
    assert (out / "config.yaml").read_bytes() == before


def test_a_copy_without_links_goes_on_from_what_it_has(out, tmp_path, trained, capsys):
    (out / "checkpoints" / "latest").unlink()
    whole = shutil.copytree(trained, tmp_path / "whole", symlinks=True)
    for folder in (out, whole):
        assert run("resume", str(folder), "iterations=6") == 0
        assert "from iteration 4" in capsys.readouterr().out
        assert Checkpoints(folder / "checkpoints").meta("latest")["iteration"] == 6
    assert records(out) == records(whole) and [row["iteration"] for row in records(out)] == [2, 4, 6]


def test_a_copy_without_links_is_judged(out, trained, capsys):
    (out / "checkpoints" / "latest").unlink()
    words = ("videos=2", "weights=1", "samples=1", "encoder=0")
    assert run("eval", str(out), *words) == 0
    judged = json.loads(capsys.readouterr().out)
    assert run("eval", str(trained), *words) == 0
    assert judged["iteration"] == 4 and judged == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("lost", ["samples-0000004.png", "samples-0000004.mp4"])
def test_pictures_that_a_kill_has_cut_off_are_drawn(lost, out, trained):
    if not (out / lost).exists():
        pytest.skip("no encoder of films is installed")
    (out / lost).unlink()
    (out / "samples-0000004.png.tmp").write_bytes(b"half")
    assert run("resume", str(out)) == 0
    assert (out / lost).read_bytes() == (trained / lost).read_bytes()
    assert not list(out.glob("*.tmp"))


def test_a_training_begins_where_one_was_killed_before_it_had_settings(trained, tmp_path, capsys):
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in (".lock", "data.json", "config.yaml.tmp"):
        (begun / name).write_text("{")
    assert run("train", *TINY, "iterations=2", f"out={begun}") == 0
    assert not (begun / "data.json").exists(), "of other rollouts"
    (tmp_path / "file").write_text("")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for name, told in (("file", "is a file; give another out="), ("other", "already exists; give another out=")):
        assert run("train", *TINY, f"out={tmp_path / name}") == 2
        error = capsys.readouterr().err
        assert told in error and "gala video resume" not in error


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trian", "iterations=2"), "did you mean 'train'?"),
        (("evaluate", "run"), "did you mean 'eval'?"),
        (("train", "data=coinflip"), "did you mean 'coin-flip'?"),
        (("train", *TINY, "batch_size=1000000000000000"), "does not fit into memory; lower batch_size"),
        (("train", *TINY, "width=1000000000"), "does not fit into memory; lower batch_size"),
    ],
)
def test_a_slip_is_one_line_with_a_remedy(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), OSError("Broken pipe\n\nFFMPEG COMMAND:\n...")])
def test_a_film_that_cannot_be_written_does_not_end_the_training(error, tmp_path, monkeypatch, capsys):
    pytest.importorskip("imageio_ffmpeg")

    class Full:
        def __init__(self, path, **settings):
            path.write_bytes(b"half")

        def __enter__(self):
            raise error

        def __exit__(self, *raised):
            raise AssertionError("nothing was entered")

    monkeypatch.setattr("imageio.v2.get_writer", Full)
    out = tmp_path / "run"
    assert run("train", *TINY, f"out={out}") == 0
    assert [row["iteration"] for row in records(out)] == [2, 4]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("mp4 was not written: " in line and "Broken pipe" in line for line in told), told
    assert sorted(path.name for path in out.glob("*sample*")) == ["samples-0000002.png", "samples-0000004.png"]


def test_a_rate_that_rises_again_is_told(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", *TINY, "schedule=linear", "lr=0.004", f"out={out}") == 0
    capsys.readouterr()
    assert run("resume", str(out), "iterations=5") == 0
    assert "the learning rate goes from 0 to 0.0008: schedule=linear falls over all 5\n" in capsys.readouterr().out
    assert run("resume", str(out), "iterations=5") == 0 and "rate goes" not in capsys.readouterr().out


@pytest.mark.parametrize("learners", [1, 2])
def test_a_file_in_the_place_of_the_checkpoints_is_told_before_the_training(learners, out, capsys):
    shutil.rmtree(out / "checkpoints")
    (out / "checkpoints").write_text("")
    edit(out, "learners: 1", f"learners: {learners}")
    before = (out / "config.yaml").read_bytes()
    assert run("resume", str(out), "iterations=6") == 2
    assert f"{out / 'checkpoints'}: nothing can be written there (File exists)" in capsys.readouterr().err
    assert (out / "config.yaml").read_bytes() == before
