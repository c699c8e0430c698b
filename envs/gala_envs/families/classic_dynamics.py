"""The classic control tasks of Gymnasium 1.4 for rows of different physics: pure functions of float64 arrays.

``advance(state [B, k], action [B, ...], p)`` -> (state, reward, terminated); ``p``: one array [B], or one number, for
each parameter. Constants that Gymnasium derives once, in its constructor, are derived here in every step, from the
row's parameters.

With Gymnasium's own parameters as numbers, and actions in its dtype, results are Gymnasium's to the last bit: the order
of its sums is kept, and what it takes from C's library, one number at a time, is taken from there here too (``_cos``,
``_squared``), because NumPy may compute whole arrays by other code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array

Params = Mapping[str, Array | float]
_PI = np.pi


class Task(NamedTuple):
    """One task: how it starts, moves and looks; its limit in steps; Packer's ranges (D, (R), ((E), (E))); success.

    ``widest_start``: a start further from rest by a larger factor may be outside of ``obs_space``.
    """

    start: Callable[[np.random.Generator], Array]
    advance: Callable[[Array, Array, Params], tuple[Array, Array, Array]]
    observe: Callable[[Array], Array]
    obs_space: gym.spaces.Box
    action_space: gym.Space
    limit: int
    ranges: Mapping[str, tuple[float, tuple[float, float], tuple[tuple[float, float], tuple[float, float]]]]
    success: Callable[[Array, Array, Array], Array]
    """(steps of the episode, terminated, steps since the pole was last outside 60 degrees), each [B] -> bool [B]."""
    widest_start: float


def _cos(x: Array) -> Array:
    """``math.cos`` of each of [B], in float64."""
    return np.fromiter(map(math.cos, x.tolist()), np.float64, len(x))


def _squared(x: Array) -> Array:
    """[B] to the power of 2 as C's pow rounds it; x * x differs in the last bit of one number in a thousand."""
    if x.dtype == np.float32:  # pow in float64, which Python's own numbers would take, rounds to other values
        return np.array([each**2 for each in x], np.float32)
    return np.fromiter(map(math.pow, x.tolist(), itertools.repeat(2.0)), np.float64, len(x))


def cartpole_constants(p: Params) -> tuple[Array | float, Array | float]:
    """(total mass, pole mass x length): what a changed mass or length changes too."""
    return p["mass"] + 1.0, p["mass"] * p["length"]


def cartpole(state: Array, action: Array, p: Params) -> tuple[Array, Array, Array]:
    """Barto, Sutton and Anderson 1983; Euler steps of 0.02 s. ``length`` is half the pole's, as in Gymnasium."""
    x, x_dot, theta, theta_dot = state.T
    total_mass, polemass_length = cartpole_constants(p)
    cos, sin = np.cos(theta), np.sin(theta)
    force = np.where(action == 1, p["force"], -p["force"])
    temp = (force + polemass_length * np.square(theta_dot) * sin) / total_mass
    theta_acc = (9.8 * sin - cos * temp) / (p["length"] * (4.0 / 3.0 - p["mass"] * np.square(cos) / total_mass))
    x_acc = temp - polemass_length * theta_acc * cos / total_mass
    x, theta = x + 0.02 * x_dot, theta + 0.02 * theta_dot
    new = np.stack([x, x_dot + 0.02 * x_acc, theta, theta_dot + 0.02 * theta_acc], 1)
    return new, np.ones(len(x)), (np.abs(x) > 2.4) | (np.abs(theta) > 12 * 2 * _PI / 360)


def mountain_car(state: Array, action: Array, p: Params) -> tuple[Array, Array, Array]:
    """Moore 1990. ``mass`` is Packer's name for the pull of the hill (Gymnasium's ``gravity``)."""
    position, velocity = state.T
    velocity = velocity + ((action - 1) * p["force"] + _cos(3 * position) * (-p["mass"]))
    velocity = np.clip(velocity, -0.07, 0.07)
    position = np.clip(position + velocity, -1.2, 0.6)
    velocity = np.where((position == -1.2) & (velocity < 0), 0.0, velocity)
    return np.stack([position, velocity], 1), -np.ones(len(position)), (position >= 0.5) & (velocity >= 0.0)


def acrobot(state: Array, action: Array, p: Params) -> tuple[Array, Array, Array]:
    """Sutton 1996, the book's equations; one Runge-Kutta step of 0.2 s. Both links alike, their mass in the middle."""
    torque, h = np.asarray(action - 1, np.float64), 0.2

    def slope(s: Array) -> Array:
        return _acrobot_slope(s, torque, p)

    k1 = slope(state)
    k2 = slope(state + h / 2.0 * k1)
    k3 = slope(state + h / 2.0 * k2)
    k4 = slope(state + h * k3)
    new = state + h / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
    new[:, :2] = _wrap(new[:, :2])
    new[:, 2], new[:, 3] = np.clip(new[:, 2], -4 * _PI, 4 * _PI), np.clip(new[:, 3], -9 * _PI, 9 * _PI)
    up = -np.cos(new[:, 0]) - np.cos(new[:, 1] + new[:, 0]) > 1.0
    return new, np.where(up, 0.0, -1.0), up


def _acrobot_slope(s: Array, torque: Array, p: Params) -> Array:
    m, length, inertia, g = p["mass"], p["length"], p["moi"], 9.8
    theta1, theta2, dtheta1, dtheta2 = s.T
    c = length / 2
    cos2, sin2 = np.cos(theta2), np.sin(theta2)
    spin1, spin2 = _squared(dtheta1), _squared(dtheta2)
    d1 = m * c**2 + m * (length**2 + c**2 + 2 * length * c * cos2) + inertia + inertia
    d2 = m * (c**2 + length * c * cos2) + inertia
    phi2 = m * c * g * np.cos(theta1 + theta2 - _PI / 2.0)
    phi1 = (
        -m * length * c * spin2 * sin2
        - 2 * m * length * c * dtheta2 * dtheta1 * sin2
        + (m * c + m * length) * g * np.cos(theta1 - _PI / 2)
        + phi2
    )
    ddtheta2 = (torque + d2 / d1 * phi1 - m * length * c * spin1 * sin2 - phi2) / (
        m * c**2 + inertia - _squared(d2) / d1
    )
    return np.stack([dtheta1, dtheta2, -(d2 * ddtheta2 + phi1) / d1, ddtheta2], 1)


def _wrap(x: Array) -> Array:
    """Into [-pi, pi], by whole turns; a Runge-Kutta step makes few."""
    while (over := x > _PI).any():
        x = np.where(over, x - 2 * _PI, x)
    while (under := x < -_PI).any():
        x = np.where(under, x + 2 * _PI, x)
    return x


def pendulum(state: Array, action: Array, p: Params) -> tuple[Array, Array, Array]:
    """Swing a pendulum up with a torque of at most 2, in steps of 0.05 s."""
    theta, theta_dot = state.T
    u = np.clip(action[:, 0], -2.0, 2.0)
    cost = _squared(((theta + _PI) % (2 * _PI)) - _PI) + 0.1 * _squared(theta_dot) + 0.001 * _squared(u)
    acceleration = 3 * 10.0 / (2 * p["length"]) * np.sin(theta) + 3.0 / (p["mass"] * p["length"] ** 2) * u
    theta_dot = np.clip(theta_dot + acceleration * 0.05, -8.0, 8.0)
    return np.stack([theta + theta_dot * 0.05, theta_dot], 1), -cost, np.zeros(len(theta), bool)


def mountain_car_continuous(state: Array, action: Array, p: Params) -> tuple[Array, Array, Array]:
    """Moore 1990 with a force in [-1, 1]. ``state`` is (position, velocity, 1 at the start of an episode, else 0): the
    first step starts from float64 numbers, all others from the float32 ones that the task then keeps."""
    force = action[:, 0]
    new = _climb(state[:, :2].astype(np.float32), force, p)
    if (opening := state[:, 2] == 1).any():
        new[opening] = _climb(state[opening, :2], force[opening], p)
    up = (new[:, 0] >= np.float32(0.45)) & (new[:, 1] >= 0)
    reward = np.where(up, 100.0, 0.0) - np.square(force, dtype=np.float64) * 0.1  # exact, as the square of a float32
    return np.column_stack([new, np.zeros(len(new))]), reward, up


def _climb(state: Array, force: Array, p: Params) -> Array:
    """(position, velocity) after a step, in the precision of ``state``."""
    position, velocity = state.T
    hill = (0.0025 * _cos(3 * position)).astype(np.float32)
    velocity = np.clip(velocity + (force * p["power"] - hill), -0.07, 0.07)
    position = np.clip(position + velocity, -1.2, 0.6)
    return np.stack([position, np.where((position == -1.2) & (velocity < 0), 0, velocity)], 1)


def _box(*high: float) -> gym.spaces.Box:
    bound = np.array(high, np.float32)
    return gym.spaces.Box(-bound, bound, dtype=np.float32)


def _acrobot_start(rng: np.random.Generator) -> Array:
    return rng.uniform(-0.1, 0.1, 4).astype(np.float32).astype(np.float64)


_LINK = (1.0, (0.75, 1.25), ((0.5, 0.75), (1.25, 1.5)))
TASKS: dict[str, Task] = {
    "CartPole-v1": Task(
        lambda rng: rng.uniform(-0.05, 0.05, 4),
        cartpole,
        lambda s: s,
        _box(4.8, np.inf, 24 * 2 * _PI / 360, np.inf),
        gym.spaces.Discrete(2),
        500,
        {
            "force": (10.0, (5.0, 15.0), ((1.0, 5.0), (15.0, 20.0))),
            "length": (0.5, (0.25, 0.75), ((0.05, 0.25), (0.75, 1.0))),
            "mass": (0.1, (0.05, 0.5), ((0.01, 0.05), (0.5, 1.0))),
        },
        lambda steps, terminated, calm: steps >= 0.975 * 500,  # Packer's 195 of 200
        8.0,
    ),
    "MountainCar-v0": Task(
        lambda rng: np.array([rng.uniform(-0.6, -0.4), 0.0]),
        mountain_car,
        lambda s: s,
        gym.spaces.Box(np.array([-1.2, -0.07], np.float32), np.array([0.6, 0.07], np.float32)),
        gym.spaces.Discrete(3),
        200,
        {
            "force": (0.001, (0.0005, 0.005), ((0.0001, 0.0005), (0.005, 0.01))),
            "mass": (0.0025, (0.001, 0.005), ((0.0005, 0.001), (0.005, 0.01))),
        },
        lambda steps, terminated, calm: terminated & (steps <= 110),
        2.0,
    ),
    "Acrobot-v1": Task(
        _acrobot_start,
        acrobot,
        lambda s: np.stack([np.cos(s[:, 0]), np.sin(s[:, 0]), np.cos(s[:, 1]), np.sin(s[:, 1]), s[:, 2], s[:, 3]], 1),
        _box(1.0, 1.0, 1.0, 1.0, 4 * _PI, 9 * _PI),
        gym.spaces.Discrete(3),
        500,
        {"length": _LINK, "mass": _LINK, "moi": _LINK},
        lambda steps, terminated, calm: terminated & (steps <= 80),
        100.0,
    ),
    "Pendulum-v1": Task(
        lambda rng: rng.uniform(-np.array([_PI, 1.0]), np.array([_PI, 1.0])),
        pendulum,
        lambda s: np.stack([np.cos(s[:, 0]), np.sin(s[:, 0]), s[:, 1]], 1),
        _box(1.0, 1.0, 8.0),
        gym.spaces.Box(-2.0, 2.0, (1,), np.float32),
        200,
        {"length": _LINK, "mass": _LINK},
        lambda steps, terminated, calm: calm >= 100,
        8.0,
    ),
}
