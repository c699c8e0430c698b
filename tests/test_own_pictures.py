"""Environments of one's own whose render() is wrong: the line that says how."""

import gymnasium as gym
import numpy as np
import pytest

from gala.config.parse import parse_config
from gala.evaluation import film


class Drawn(gym.Env):
    observation_space, action_space = gym.spaces.Box(0, 1, (1,), np.float32), gym.spaces.Discrete(2)

    def __init__(self, render):
        self.render = render

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}


@pytest.mark.parametrize(
    ("render", "told"),
    [
        (lambda: {}["screen"], r"KeyError: 'screen' \(test_own_pictures.py, line \d+\)"),
        (lambda: np.full((8, 8, 3), 0.5), "its render\\(\\) gives float64 up to 1; return uint8, 0 to 255"),
        (lambda: np.zeros((3, 8, 8), np.uint8), "its render\\(\\) gives no picture"),
    ],
)
def test_what_is_wrong_with_a_picture_of_ones_own_is_named(render, told, monkeypatch):
    monkeypatch.setattr(film, "own_env", lambda config: lambda render_mode: Drawn(render))
    with pytest.raises(ValueError, match=rf"^mine:Drawn cannot be drawn: {told}"):
        film.check_drawable(parse_config(["env.id=mine:Drawn", "env.backend=gymnasium"]))


@pytest.mark.parametrize("value", [0.0, 200.0])
def test_a_picture_of_large_or_no_numbers_is_taken_as_it_is(value, monkeypatch):
    monkeypatch.setattr(film, "own_env", lambda config: lambda render_mode: Drawn(lambda: np.full((8, 8, 3), value)))
    film.check_drawable(parse_config(["env.id=mine:Drawn", "env.backend=gymnasium"]))
