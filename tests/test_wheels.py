"""The script behind ``make wheels``: it tries the Pythons that the project claims, and says which it did not run."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile

import pytest
import wheels
from documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def without_pip(monkeypatch, tmp_path):
    """No wheel is built, and nothing installed."""
    monkeypatch.setattr(wheels, "build", lambda out: tmp_path / "gala.whl")
    monkeypatch.setattr(wheels, "install", lambda interpreter, wheel, folder: folder)


def test_it_tries_the_pythons_that_the_package_claims_and_the_extras_of_the_image():
    claimed = [c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert [name.removeprefix("python") for name in wheels.DEFAULT_INTERPRETERS] == claimed
    assert f"EXTRAS={wheels.EXTRAS}\n" in (ROOT / "Dockerfile").read_text()
    assert set(wheels.EXTRAS.split(",")) <= set(PROJECT["optional-dependencies"])


def test_a_python_that_is_missing_is_said_and_is_no_success(without_pip, monkeypatch, capsys):
    monkeypatch.setattr(wheels, "smoke", lambda bin, folder: "3.99.0 2.0 2.0")
    assert wheels.main(["python-that-is-not-here"]) == 1
    assert capsys.readouterr().out == "python-that-is-not-here: not run, it is not here\n"
    assert wheels.main(["python-that-is-not-here", sys.executable]) == 0
    assert capsys.readouterr().out.endswith("Python 3.99.0, torch 2.0, numpy 2.0: passed\n")


def test_one_failure_among_successes_is_a_failure(without_pip, monkeypatch, capsys):
    def smoke(bin, folder):
        if folder.name == "0":
            wheels.run([sys.executable, "-c", "raise SystemExit('no such thing')"], folder)
        return "3.11.7 2.0 2.0"

    monkeypatch.setattr(wheels, "smoke", smoke)
    assert wheels.main([sys.executable, sys.executable]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "exit 1" in out and "no such thing" in out and out.count("passed") == 1


def test_what_it_runs_sees_nothing_of_the_clone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = [sys.executable, "-c", "import os; print(os.getcwd(), os.environ.get('PYTHONPATH'))"]
    assert wheels.run(words, tmp_path).split() == [str(tmp_path), "None"]


def test_a_wheel_that_lacks_a_file_of_the_other_is_noticed(tmp_path, monkeypatch):
    def build(words, folder):
        out = tmp_path / "dist" / ("again" if "sdist" not in words else "")
        out.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(out / "gala.whl", "w") as archive:
            archive.writestr("gala/__init__.py", "" if "sdist" in words else "other")
        if "sdist" in words:
            with tarfile.open(out / "gala.tar.gz", "w:gz") as archive:
                archive.add(__file__, "gala/test.py")
        return ""

    monkeypatch.setattr(wheels, "run", build)
    with pytest.raises(wheels.Failed, match="other files"):
        wheels.build(tmp_path / "dist")
