"""Gossip between processes that torchrun starts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gala.gossip.from_env import init_from_env

ROOT = Path(__file__).parents[2]


def torchrun(script, processes):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=env, timeout=280, check=False, cwd=ROOT
    )


def test_every_process_learns_what_only_the_others_saw():
    done = torchrun("examples/gossip_with_torchrun.py", 3)
    errors = [float(x) for x in re.findall(r"largest error of a weight (\S+)", done.stdout)]
    assert done.returncode == 0, done.stderr
    assert len(errors) == 3 and max(errors) < 0.3  # alone, a learner keeps most of its random weights


@pytest.mark.long
def test_models_that_differ_are_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch\nfrom gala.gossip.from_env import init_from_env\n"
        "init_from_env(torch.nn.Linear(*((2, 3) if os.environ['RANK'] == '0' else (3, 2)), bias=False), timeout_s=20)\n"
    )
    done = torchrun(script, 2)
    assert done.returncode != 0 and "build the same model in both" in done.stderr


@pytest.mark.parametrize(
    ("env", "error"),
    [
        ({}, "RANK is not set: start this script with `torchrun"),
        (
            {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "4 processes, of which 2 are on this machine",
        ),
    ],
)
def test_what_the_environment_lacks_is_said(monkeypatch, env, error):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(error)):
        init_from_env(torch.nn.Linear(2, 2))
