"""It learns, with and without gossip, from vectors and from pixels; and the same checks fail where it cannot learn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from training import Gala

CARTPOLE_RANDOM, CARTPOLE_LEARNED = 40.0, 150.0  # a random policy: about 22
CATCH_RANDOM, CATCH_LEARNED = -0.3, 0.5  # a random policy: about -0.6
PLAIN = ("torch_threads=1", "log.tensorboard=false", "log.panel=off", "log.checkpoint_interval_s=1000")
PIXELS = (
    *("preset=minatar/breakout", "env.id=helper_envs:Catch-v0", "env.sticky_actions=0", "algo=a2c", "learners=1"),
    *("a2c.num_steps=10", "optim.lr=2e-3", "optim.schedule=constant", "steps=150_000"),
)


def train(path, *words: str) -> dict[str, Any]:
    code, _, err = Gala(path, *words, *PLAIN).end(within_s=200.0)
    assert (code, err) == (0, "")
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    assert summary["episodes"] >= 100
    return summary


@pytest.mark.long
@pytest.mark.parametrize("words", [["algo=a2c"], ["algo=gala", "learners=2"]], ids=["a2c", "gala"])
def test_cartpole_is_learned(tmp_path, words):
    steps = 100_000 * (1 if "algo=a2c" in words else 2)
    summary = train(tmp_path / "run", "preset=classic/cartpole", *words, f"steps={steps}")
    assert summary["return_mean"] >= CARTPOLE_LEARNED
    assert all(learner["return_mean"] >= 100.0 for learner in summary["learners"])


@pytest.mark.long
def test_without_a_learning_rate_cartpole_is_not_learned(tmp_path):
    summary = train(
        tmp_path / "run", "preset=classic/cartpole", "algo=gala", "learners=2", "steps=10_000", "optim.lr=0"
    )
    assert 15.0 < summary["return_mean"] < CARTPOLE_RANDOM < CARTPOLE_LEARNED


@pytest.mark.long
def test_pixels_are_learned(tmp_path):
    assert train(tmp_path / "run", *PIXELS)["return_mean"] > CATCH_LEARNED


@pytest.mark.long
def test_without_a_learning_rate_pixels_are_not_learned(tmp_path):
    assert -0.9 < train(tmp_path / "run", *PIXELS, "optim.lr=0", "steps=8_000")["return_mean"] < CATCH_RANDOM
