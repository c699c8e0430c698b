"""A bug report tells what is needed, and neither who nor where."""

import getpass
import platform
from pathlib import Path

import pytest

from gala import cli
from gala.commands.bug_report import Private, here, scrub
from gala.config.parse import parse_config
from gala.runs.run_dir import RunDir

ANN = Private("/home/ann", "ann", "box7.lab.example")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("run=/home/ann/secret/runs/x", "run=.../x"),
        ("~/secret/runs/x failed", ".../x failed"),
        ("in '/data/ann-projects/thing/env.py:Maze'", "in '.../env.py:Maze'"),
        ("/scratch/team/ann/a.json, /b/c", ".../a.json, .../c"),
        ("process 5 on box7.lab.example, or BOX7", "process 5 on HOST, or HOST"),
        ("by Ann, annotated", "by USER, annotated"),
        ("preset=atari/pong ALE/Pong-v5 charts/SPS 3/4", "preset=atari/pong ALE/Pong-v5 charts/SPS 3/4"),
        ("cluster.address=box7:6379", "cluster.address=HOST:6379"),
        ("C:\\Users\\ann\\runs", ".../runs"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("/home/ann", "~"),
        ("run='/data/My Client/new site/run' seed=7", "run='.../run' seed=7"),
        ("no /srv/Größe 2/My Client/ten/a.json (default '')", "no .../a.json (default '')"),
        ("run=/data/run preset=atari/pong --x a/b", "run=.../run preset=atari/pong --x a/b"),
        ("from /data/x.py to /data/y.py", "from .../x.py to .../y.py"),
        ("PYTHONPATH=/data/ann:/opt/ann/lib", "PYTHONPATH=.../USER:.../lib"),
    ],
)
def test_names_and_paths_are_scrubbed(text, clean):
    assert scrub(text, ANN) == clean


def test_names_that_are_nobodys_stay():
    assert scrub("root only, localhost", Private("/root", "root", "localhost")) == "root only, localhost"
    assert scrub("as it is", Private("", "", "")) == "as it is"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run in a home that names its user, who has typed their paths."""
    monkeypatch.setenv("HOME", str(tmp_path / "home-of-zoe"))
    monkeypatch.setattr(getpass, "getuser", lambda: "zoe")
    monkeypatch.setattr(platform, "node", lambda: "zoes-laptop")
    path = tmp_path / "home-of-zoe/private-project/run"
    words = [f"run={path}", "seed=7", "learners=2", "cluster.address=zoes-laptop:6379", "log.tensorboard=false"]
    run = RunDir.create(parse_config(words), words, overwrite=False)
    run.append_metrics({"global_step": 640, "charts/SPS": 123.0, "losses/entropy": 0.5})
    failures = [f"learner 1: FileNotFoundError: {path}/weights.npy of zoe"]
    run.write_summary({"status": "failed", "signal": None, "env_steps": 640, "failures": failures})
    run.close()
    return run


def test_the_report_has_what_is_needed_and_nothing_private(run, capsys):
    assert cli.main(["bug-report", str(run.path)]) == 0
    out = capsys.readouterr().out
    for told in ("## Versions", "torch 2", "cores: ", "- seed=7 (default 1)", "- learners=2 (default 1)"):
        assert told in out
    assert "- failed, signal None, 640 env_steps" in out and "FileNotFoundError: .../weights.npy of USER" in out
    assert "global_step 640" in out and "SPS 123" in out and "`gala train run=.../run" in out
    assert "cluster.address=HOST:6379" in out
    for private in ("zoe", "private-project", str(run.path.parent)):
        assert private not in out.lower()


def test_it_works_without_a_run_and_of_one_that_was_killed(tmp_path, capsys):
    assert cli.main(["bug-report"]) == 0
    out = capsys.readouterr().out
    assert "## Machine" in out and "Settings" not in out
    for name in (here().home, here().user, here().host):
        assert len(name) < 3 or name in ("root", "localhost") or name not in out
    run = RunDir.create(parse_config([f"run={tmp_path / 'run'}"]), [], overwrite=False)
    run.close()
    assert cli.main(["bug-report", str(run.path)]) == 0
    assert "no summary: it is still training, or was killed" in capsys.readouterr().out
    assert cli.main(["bug-report", "a", "b"]) == 2


def test_the_files_around_it_are_there_and_parse():
    root = Path(__file__).parent.parent
    from gala.files.plain_yaml import read_yaml

    cff = read_yaml(root / "CITATION.cff")
    assert cff["cff-version"] == "1.2.0" and {"message", "title", "authors", "license", "version"} <= cff.keys()
    from gala import __version__

    assert str(cff["version"]) == __version__
    for name in ("bug", "feature"):
        form = read_yaml(root / f".github/ISSUE_TEMPLATE/{name}.yml")
        assert {"name", "description", "body"} <= form.keys()
        assert all(part["type"] == "markdown" or part["attributes"]["label"] for part in form["body"])
    assert "gala bug-report" in (root / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    for name in ("CONTRIBUTING.md", "SECURITY.md"):
        text = (root / name).read_text()
        assert text.startswith("# ") and "@" not in text
