"""The examples do what they say, run as a reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gala import cli

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name, *words, cwd=None):
    path = ROOT / "examples" / name
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'envs'}", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [sys.executable, str(path), *words], cwd=cwd, capture_output=True, text=True, env=env, timeout=280, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.long
def test_gossip_in_a_loop_of_ones_own_teaches_every_learner_what_only_others_saw():
    errors = [float(x) for x in re.findall(r"largest error of a weight (\S+)", run("gossip_in_your_loop.py"))]
    assert len(errors) == 4 and max(errors) < 0.3  # alone, a learner keeps an error of 0.71 or 1


@pytest.mark.long
def test_sgp_learns_the_spirals():
    out = run("sgp_classifier.py")
    right = [float(x) for x in re.findall(r"learner \d: (\S+)% of new points right", out)]
    assert len(right) == 4 and min(right) > 95.0
    assert float(re.findall(r"consensus distance (\S+)", out)[0]) < 0.1


@pytest.mark.long
def test_a2c_in_one_file_learns_cartpole():
    out = run("a2c_with_gossip.py", "300")
    steps = [float(x) for x in re.findall(r"an episode lasts (\S+) steps", out)]
    assert len(steps) == 2 and min(steps) > 35.0  # a random policy falls after 22
    assert float(re.findall(r"learners are (\S+)% apart", out)[0]) < 40.0  # alone: over 50; on a busy machine up to 30


def test_train_and_act(tmp_path):
    out = run("train_and_act.py", "3000", cwd=tmp_path)
    assert "learners=2, finished" in out
    assert re.search(r"^\d+ records of \d+ columns$", out, re.MULTILINE)
    assert re.search(r"^10 episodes: return \d+\.\d, 95% interval \(", out, re.MULTILINE)
    assert 8 <= float(re.findall(r"one more episode, by hand: (\d+)", out)[0]) <= 500


def test_an_environment_of_ones_own_is_solved(tmp_path):
    out = run("custom_environment.py", cwd=tmp_path)
    assert "return 0.50 of 0.50" in out
    assert f"env.id={ROOT}/examples/custom_environment.py:Corridor" in out


def judged(out):
    """{name: verdict} of examples/judge_sb3.py."""
    return dict(re.findall(r"^(\w+)\n([A-Z-]+): 10 training MDPs$", out, re.MULTILINE))


@pytest.fixture
def few_mazes(tmp_path, monkeypatch):
    """The example's sets with fewer MDPs to judge on."""
    monkeypatch.chdir(tmp_path)
    words = ["size=5", "bads=1", "limit=50", "train=10", "test=40"]
    assert cli.main(["overfit", "split", "maze", *words, "out=sets"]) == 0
    return tmp_path


def test_a_policy_that_solves_mazes_has_no_gap_and_a_table_of_them_is_overfit(few_mazes):
    out = run("judge_sb3.py", "0", cwd=few_mazes)
    assert judged(out) == {"solver": "NO-GAP", "table": "OVERFIT"}


@pytest.mark.long
def test_ppo_of_stable_baselines3_is_overfit(few_mazes):
    pytest.importorskip("stable_baselines3")
    assert judged(run("judge_sb3.py", "100000", "3", cwd=few_mazes))["ppo"] == "OVERFIT"


def test_an_encoder_of_ones_own(tmp_path):
    out = run("custom_encoder.py", "3000", cwd=tmp_path)
    assert "custom_encoder.py:FourierFeatures; " in out and re.search(r"^return \d+\.\d$", out, re.MULTILINE)


@pytest.mark.long
def test_a_topology_of_ones_own(tmp_path):
    out = run("custom_topology.py", "6000", cwd=tmp_path)
    assert int(re.findall(r"^(\d+) messages$", out, re.MULTILINE)[0]) > 0
    assert float(re.findall(r"distance between the learners (\S+)", out)[0]) < 1.0


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it(path):
    assert re.search(rf"^    (python|torchrun.*) examples/{path.name}$", path.read_text(), re.M)
    assert len(path.read_text().splitlines()) <= 80
