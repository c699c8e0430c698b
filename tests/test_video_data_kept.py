"""A video run and the rollouts that it learned from: told apart from others, found where they were moved."""

import json

import pytest
from test_video_rollouts import write

from gala import cli
from gala.runs.rollouts import MANIFEST, digest
from gala.supervised.video_checkpoint import load_video_model
from gala.supervised.video_settings import DATA, find_data, read_settings

TINY = ("frames=3", "context=1", "scales=1", "levels=1", "width=4", "latent=1", "batch_size=2", "save_every=1")
EVAL = ("videos=2", "weights=1", "samples=1", "encoder=0")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The folder that holds ``rollouts``, and ``run``, which learned from them by their relative path."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rollouts", [6] * 6, lambda e, t, a: 16 * e + t)
    assert cli.main(["video", "train", "data=rollouts", *TINY, "iterations=1", "out=run"]) == 0
    return tmp_path


def record_anew(folder):
    """The same but for what was played: one chunk has another hash."""
    told = json.loads((folder / MANIFEST).read_text())
    told.pop("sha256")
    told["chunks"] = told["chunks"][:1]
    (folder / MANIFEST).write_text(json.dumps({**told, "sha256": digest(told)}))


def test_rollouts_that_have_changed_since_are_refused_before_anything_is_written(trained, capsys):
    settings = (trained / "run" / "config.yaml").read_text()
    record_anew(trained / "rollouts")
    for words in (("resume", "run", "iterations=2"), ("eval", "run", *EVAL)):
        assert cli.main(["video", *words]) == 2
        error = capsys.readouterr().err
        assert f"{trained}/rollouts has changed since run began; train into another out=" in error
        assert error.count("\n") == 1
    assert (trained / "run" / "config.yaml").read_text() == settings
    assert not (trained / "run" / "eval.json").exists()
    (trained / "run" / DATA).unlink()  # a run that is older than digests
    assert cli.main(["video", "resume", "run", "iterations=2"]) == 0
    assert (trained / "run" / DATA).exists()


def test_a_run_is_used_from_another_directory_and_after_its_rollouts_were_moved(trained, monkeypatch, capsys):
    (trained / "elsewhere").mkdir()
    monkeypatch.chdir(trained / "elsewhere")
    assert cli.main(["video", "eval", "../run", *EVAL]) == 0
    (trained / "rollouts").rename(trained / "moved")
    capsys.readouterr()
    for words in (("eval", "../run", *EVAL), ("resume", "../run", "iterations=2")):  # resume notes the new place
        assert cli.main(["video", *words]) == 2
        error = capsys.readouterr().err
        assert f"../run learned from {trained}/rollouts, which is not here; give data=" in error
        assert cli.main(["video", *words, "data=../moved"]) == 0
    assert read_settings(trained / "run").data == str(trained / "moved")
    write(trained / "others", [6] * 6, lambda e, t, a: t)
    assert cli.main(["video", "eval", "../run", *EVAL, "data=../others"]) == 2
    assert "../others holds other rollouts than ../run learned from" in capsys.readouterr().err


def test_python_is_told_where_to_note_another_place(trained, capsys):
    (trained / "rollouts").rename(trained / "moved")
    out = trained / "run"
    remedy = f"`gala video resume {out} data=FOLDER` notes the place"
    with pytest.raises(ValueError, match=remedy):
        load_video_model(out)
    assert cli.main(["video", "resume", str(out), f"data={trained / 'moved'}"]) == 0
    assert load_video_model(out)[0].data == str(trained / "moved")


def test_what_cannot_be_compared_is_not_believed(trained):
    out = trained / "run"
    (out / DATA).unlink()
    (trained / "rollouts").rename(trained / "moved")
    with pytest.raises(ValueError, match="keeps no digest"):
        find_data(out, read_settings(out), str(trained / "moved"))
    (out / DATA).write_text("{}")
    with pytest.raises(ValueError, match=r"data\.json is damaged"):
        find_data(out, read_settings(out), str(trained / "moved"))


def test_videos_made_by_rule_have_no_folder(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["video", "train", "data=wall-bounce", *TINY, "iterations=1", f"out={out}"]) == 0
    assert not (out / DATA).exists() and read_settings(out).data == "wall-bounce"
    assert cli.main(["video", "resume", str(out), "iterations=2", "data=random-walk"]) == 2
    assert "data cannot change" in capsys.readouterr().err
