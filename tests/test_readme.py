"""What the README tells a newcomer to type and look at is there. Its `gala` lines: test_documented_commands.py."""

import re
import shlex
import subprocess

import pytest
from documents import ROOT, commands

TEXT = (ROOT / "README.md").read_text()
MAKE = commands("make", page="README.md")


def test_the_readme_is_one_page_with_its_commands():
    assert MAKE[:2] == ["make train", "make test"] and len(TEXT.splitlines()) <= 100


@pytest.mark.parametrize("line", MAKE)
def test_every_make_line_has_a_target_and_passes_its_settings(line):
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
    if "train" in line:
        train, play = (next(x for x in done.stdout.splitlines() if f"gala {verb} " in x) for verb in ("train", "eval"))
        assert f"preset={words.get('PRESET', 'minatar/breakout')}" in train and words.get("ARGS", "") in train
        run = re.search(r"run=(\S+)", train)
        assert run is not None and play.endswith(f"gala eval {run[1]}")


def test_make_train_evaluates_the_run_that_the_user_named():
    done = subprocess.run(
        ["make", "-n", "train", "ARGS=seed=2 run=runs/mine"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "gala train preset=minatar/breakout run=runs/mine seed=2 run=runs/mine" in done.stdout
    assert "gala eval runs/mine\n" in done.stdout


def test_the_table_of_where_things_are_names_what_is_there():
    """Each path exists, and holds the registry that is named beside it."""
    table = TEXT.split("| what | where |")[1].split("\n\n")[0]
    paths = re.findall(r"`([\w/]+/[\w/.]*)`", table)
    assert len(paths) >= 16 and not [path for path in paths if not (ROOT / path).exists()]
    registries = re.findall(r"`([A-Z]+)` in `([^`]+)`", table)
    assert len(registries) == 7
    for name, path in registries:
        assert re.search(rf"^{name}\b.* = {{", (ROOT / path).read_text(), re.MULTILINE), (name, path)
    wanted = {"the loss", "the exchange", "a topology", "an environment", "an encoder", "an optimiser", "a command"}
    assert wanted | {"a diagnostic"} <= set(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE))
