"""Run directories of earlier versions: ``data/run-schema1`` was made by gala 0.1.0, and every later gala reads it.

It was made by `gala train` with the words in its command.txt, and `gala eval RUN episodes=4 mode=greedy`; its .lock,
which names a machine, was left out. A new schema gets a directory of its own beside it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import gala
from gala.cli import main
from gala.runs.evaluations import read_evaluations
from gala.runs.run_dir import SCHEMA, RunDir

GAPS = [0.0963803, 0.1022915, 0.0374596, 0.0594104, 0.0821380, 0.0548818]
DATA = Path(__file__).parent / "data"


@pytest.fixture
def old(tmp_path):
    """A copy: what reads a run may write its own things beside it."""
    return Path(shutil.copytree(DATA / "run-schema1", tmp_path / "old", symlinks=True))


def test_there_is_a_run_of_every_schema_and_it_is_small():
    folders = [DATA / f"run-schema{n}" for n in range(1, SCHEMA + 1)]
    assert all((folder / "config.yaml").is_file() for folder in folders)
    for folder in folders:
        assert json.loads((folder / "versions.json").read_text())["schema"] == int(
            folder.name.removeprefix("run-schema")
        )
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 50_000


def test_settings_records_and_summary_of_an_old_run(old):
    run = RunDir.open(old)
    c = run.config
    assert (c.env.id, c.learners, c.model.hidden, c.optim.lr, c.normalize.obs) == ("CartPole-v1", 2, (4,), 3e-3, True)
    records = run.read_metrics()
    assert [record["global_step"] for record in records] == [560, 1608]
    assert records[-1]["charts/episodic_return"] == pytest.approx(20.997453)
    assert {"learner0", "learner1", "gossip/consensus_distance"} <= set(records[-1])
    assert run.read_summary()["updates"] == 201 and read_evaluations(old)[0]["return_mean"] == 9.5
    assert run.identity() is not None and run.checkpoint_meta("latest")["env_steps"] == 1608


def test_weights_of_an_old_run_act_as_they_did(old):
    agent = gala.Run(old).load()
    parameters = np.concatenate([p.detach().numpy().ravel() for p in agent._policy.parameters()])
    assert len(parameters) == 55 and parameters.astype(float).sum() == pytest.approx(4.171662608958286, abs=1e-5)
    obs = np.random.default_rng(0).normal(0, 2, (6, 4))
    assert agent.act(obs).tolist() == [0] * 6
    seen = torch.from_numpy(agent._normalizer(obs.astype(np.float32)))
    logits = agent._policy(seen, agent._policy.initial_state(6), torch.zeros(6, dtype=torch.bool)).params
    np.testing.assert_allclose((logits[:, 0] - logits[:, 1]).detach(), GAPS, rtol=1e-3)


def test_commands_read_an_old_run(old, capsys):
    assert main(["report", str(old)]) == 0 and main(["export", str(old), f"out={old / 'agent.safetensors'}"]) == 0
    assert main(["eval", str(old), "episodes=2", "mode=greedy", "env.max_episode_steps=50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 2


@pytest.mark.long
def test_an_old_run_goes_on(old, capsys):
    assert main(["resume", str(old), "steps=1800", "schedule=restart", "log.panel=off"]) == 0
    records = RunDir.open(old).read_metrics()
    assert records[0]["global_step"] == 560 and records[-1]["global_step"] >= 1800


def test_a_run_of_a_newer_gala_is_one_line(old, capsys):
    """Before its settings are read, which may be others by then."""
    (old / "config.yaml").write_text((old / "config.yaml").read_text() + "teleport: true\n")
    told = json.loads((old / "versions.json").read_text())
    (old / "versions.json").write_text(json.dumps(told | {"schema": SCHEMA + 1, "gala-rl": "9.9.9"}))
    for command in ("eval", "resume", "report", "watch", "export"):
        assert main([command, str(old)]) == 2
        line = f"has schema {SCHEMA + 1}, of gala 9.9.9; this is gala {gala.__version__}, which reads schemas up to "
        assert line in " ".join(capsys.readouterr().err.split())


def test_a_run_that_says_no_schema_is_the_first(old):
    told = json.loads((old / "versions.json").read_text())
    del told["schema"]
    (old / "versions.json").write_text(json.dumps(told))
    assert RunDir.open(old).config.learners == 2
    (old / "versions.json").unlink()
    assert RunDir.open(old).config.learners == 2
