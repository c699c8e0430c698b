"""The examples do what they say, run as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name):
    path = ROOT / "examples" / name
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=env, timeout=280, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_gossip_in_a_loop_of_ones_own_teaches_every_learner_what_only_others_saw():
    errors = [float(x) for x in re.findall(r"largest error of a weight (\S+)", run("gossip_in_your_loop.py"))]
    assert len(errors) == 4 and max(errors) < 0.3  # alone, a learner keeps an error of 0.71 or 1


def test_sgp_learns_the_spirals():
    out = run("sgp_classifier.py")
    right = [float(x) for x in re.findall(r"learner \d: (\S+)% of new points right", out)]
    assert len(right) == 4 and min(right) > 95.0
    assert float(re.findall(r"consensus distance (\S+)", out)[0]) < 0.1


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it(path):
    assert re.search(rf"^    (python|torchrun.*) examples/{path.name}$", path.read_text(), re.M)
    assert len(path.read_text().splitlines()) <= 80
