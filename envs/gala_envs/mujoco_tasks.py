"""Gymnasium's ten MuJoCo v5 tasks as records of pure functions over a whole batch.

Numbers and formulas: gymnasium 1.4, ``gymnasium/envs/mujoco/*_v5.py``. Every function maps float64 arrays with a
leading axis of B simulations to arrays with the same leading axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gala_envs.contract import Array


@dataclass(frozen=True)
class Sim:
    """Live arrays over a batch: ``qpos`` [B, nq] and ``qvel`` [B, nv] now, ``derived`` fields one substep behind them.

    The lag is MuJoCo's (``mj_step`` integrates last), and Gymnasium's rewards and observations have it too.
    """

    model: Any
    dt: float
    qpos: Array
    qvel: Array
    derived: Mapping[str, Array]


@dataclass(frozen=True)
class Task:
    """One task. ``reward`` gets the simulation, the velocity [B] of ``position`` over the step, actions, ``alive``."""

    xml: str
    frame_skip: int
    start: Callable[[np.random.Generator, Any, float], tuple[Array, Array]]
    """(random stream, model, multiplier of the noise) -> qpos [nq], qvel [nv]; draws in Gymnasium's order.

    The multiplier is that of Gymnasium's ``reset_noise_scale``. Reacher and Pusher have no such argument: there too it
    multiplies the noise, while goals and objects are drawn as ever.
    """
    obs: Callable[[Sim], Array]
    reward: Callable[[Sim, Array, Array, Array], Array]
    alive: Callable[[Sim], Array]
    """False ends the episode."""
    position: Callable[[Sim], Array]
    derived: tuple[str, ...] = ()
    max_episode_steps: int = 1000


def _start(qpos_noise: float, qvel_noise: float, qvel_normal: bool = False) -> Callable[..., tuple[Array, Array]]:
    """Uniform noise around the model's pose; velocities uniform or normal."""

    def start(rng: np.random.Generator, model: Any, k: float) -> tuple[Array, Array]:
        qpos = model.qpos0 + rng.uniform(-k * qpos_noise, k * qpos_noise, model.nq)
        if qvel_normal:
            return qpos, k * qvel_noise * rng.standard_normal(model.nv)
        return qpos, rng.uniform(-k * qvel_noise, k * qvel_noise, model.nv)

    return start


def _start_reacher(rng: np.random.Generator, model: Any, k: float) -> tuple[Array, Array]:
    qpos = model.qpos0 + rng.uniform(-k * 0.1, k * 0.1, model.nq)
    while np.linalg.norm(goal := rng.uniform(-0.2, 0.2, 2)) >= 0.2:
        pass
    qpos[-2:] = goal
    qvel = rng.uniform(-k * 0.005, k * 0.005, model.nv)
    qvel[-2:] = 0.0
    return qpos, qvel


def _start_pusher(rng: np.random.Generator, model: Any, k: float) -> tuple[Array, Array]:
    while np.linalg.norm(cylinder := np.array([rng.uniform(-0.3, 0.0), rng.uniform(-0.2, 0.2)])) <= 0.17:
        pass
    qpos = model.qpos0.copy()
    qpos[-4:] = *cylinder, 0.0, 0.0
    qvel = rng.uniform(-k * 0.005, k * 0.005, model.nv)
    qvel[-4:] = 0.0
    return qpos, qvel


def _x(sim: Sim) -> Array:
    return sim.qpos[:, 0]


def _torso_x(sim: Sim) -> Array:
    return sim.derived["xpos"][:, 1, 0]


def _mass_center_x(sim: Sim) -> Array:
    mass = sim.model.body_mass
    # Not a matrix product: BLAS may round a row differently among others.
    return (sim.derived["xipos"][:, :, 0] * (mass / mass.sum())).sum(1)


def _body(sim: Sim, name: str) -> Array:
    return sim.derived["xpos"][:, sim.model.body(name).id]


def _state(skip: int) -> Callable[[Sim], Array]:
    """Positions without the first ``skip``, which say where the body is in the world, and velocities."""
    return lambda sim: np.concatenate([sim.qpos[:, skip:], sim.qvel], axis=1)


def _walker_obs(sim: Sim) -> Array:
    return np.concatenate([sim.qpos[:, 1:], np.clip(sim.qvel, -10, 10)], axis=1)


def _ant_forces(sim: Sim) -> Array:
    return np.clip(sim.derived["cfrc_ext"], -1.0, 1.0)


def _ant_obs(sim: Sim) -> Array:
    return np.concatenate([sim.qpos[:, 2:], sim.qvel, _flat(_ant_forces(sim)[:, 1:])], axis=1)


def _humanoid_obs(sim: Sim) -> Array:
    d = sim.derived
    bodies = [_flat(d[name][:, 1:]) for name in ("cinert", "cvel")]
    return np.concatenate(
        [sim.qpos[:, 2:], sim.qvel, *bodies, d["qfrc_actuator"][:, 6:], _flat(d["cfrc_ext"][:, 1:])], axis=1
    )


def _reacher_obs(sim: Sim) -> Array:
    theta = sim.qpos[:, :2]
    to_target = (_body(sim, "fingertip") - _body(sim, "target"))[:, :2]
    return np.concatenate([np.cos(theta), np.sin(theta), sim.qpos[:, 2:], sim.qvel[:, :2], to_target], axis=1)


def _pusher_obs(sim: Sim) -> Array:
    bodies = [_body(sim, name) for name in ("tips_arm", "object", "goal")]
    return np.concatenate([sim.qpos[:, :7], sim.qvel[:, :7], *bodies], axis=1)


def _double_pendulum_obs(sim: Sim) -> Array:
    angles = sim.qpos[:, 1:]
    force = sim.derived["qfrc_constraint"][:, :1]
    clipped = [np.clip(v, -10, 10) for v in (sim.qvel, force)]
    return np.concatenate([sim.qpos[:, :1], np.sin(angles), np.cos(angles), *clipped], axis=1)


def _run(survive: float, control_cost: float, speed: float = 1.0) -> Callable[[Sim, Array, Array, Array], Array]:
    """speed x velocity + survive while alive - control_cost |action|^2."""
    return lambda sim, velocity, action, alive: speed * velocity + survive * alive - control_cost * _squares(action)


def _ant_reward(sim: Sim, velocity: Array, action: Array, alive: Array) -> Array:
    return _run(1.0, 0.5)(sim, velocity, action, alive) - 5e-4 * _squares(_ant_forces(sim))


def _humanoid_reward(sim: Sim, velocity: Array, action: Array, alive: Array) -> Array:
    contact = np.minimum(5e-7 * _squares(sim.derived["cfrc_ext"]), 10.0)
    return _run(5.0, 0.1, speed=1.25)(sim, velocity, action, alive) - contact


def _reacher_reward(sim: Sim, _velocity: Array, action: Array, _alive: Array) -> Array:
    return -_distance(_body(sim, "fingertip"), _body(sim, "target")) - _squares(action)


def _pusher_reward(sim: Sim, _velocity: Array, action: Array, _alive: Array) -> Array:
    near = _distance(_body(sim, "object"), _body(sim, "tips_arm"))
    far = _distance(_body(sim, "object"), _body(sim, "goal"))
    return -far - 0.1 * _squares(action) - 0.5 * near


def _double_pendulum_reward(sim: Sim, _velocity: Array, _action: Array, alive: Array) -> Array:
    x, y = sim.derived["site_xpos"][:, 0, 0], sim.derived["site_xpos"][:, 0, 2]
    v1, v2 = sim.qvel[:, 1], sim.qvel[:, 2]
    return 10.0 * alive - 0.01 * x**2 - (y - 2) ** 2 - 1e-3 * v1**2 - 5e-3 * v2**2


def _always(sim: Sim) -> Array:
    return np.ones(len(sim.qpos), bool)


def _hopper_alive(sim: Sim) -> Array:
    bounded = (np.abs(sim.qpos[:, 2:]) < 100).all(1) & (np.abs(sim.qvel) < 100).all(1)
    return bounded & (sim.qpos[:, 1] > 0.7) & (np.abs(sim.qpos[:, 2]) < 0.2)


def _walker_alive(sim: Sim) -> Array:
    z = sim.qpos[:, 1]
    return (z > 0.8) & (z < 2.0) & (np.abs(sim.qpos[:, 2]) < 1.0)


def _ant_alive(sim: Sim) -> Array:
    finite = np.isfinite(sim.qpos).all(1) & np.isfinite(sim.qvel).all(1)
    return finite & (sim.qpos[:, 2] >= 0.2) & (sim.qpos[:, 2] <= 1.0)


def _humanoid_alive(sim: Sim) -> Array:
    return (sim.qpos[:, 2] > 1.0) & (sim.qpos[:, 2] < 2.0)


def _pendulum_alive(sim: Sim) -> Array:
    finite = np.isfinite(sim.qpos).all(1) & np.isfinite(sim.qvel).all(1)
    return finite & (np.abs(sim.qpos[:, 1]) <= 0.2)


def _double_pendulum_alive(sim: Sim) -> Array:
    return sim.derived["site_xpos"][:, 0, 2] > 1.0


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _squares(x: Array) -> Array:
    return np.add.reduce(np.square(_flat(x)), 1)


def _distance(a: Array, b: Array) -> Array:
    return np.linalg.norm(a - b, axis=1)


# xml, frame_skip, start, obs, reward, alive, position, derived fields, time limit
TASKS: dict[str, Task] = {
    "HalfCheetah-v5": Task("half_cheetah.xml", 5, _start(0.1, 0.1, True), _state(1), _run(0.0, 0.1), _always, _x),
    "Hopper-v5": Task("hopper.xml", 4, _start(5e-3, 5e-3), _walker_obs, _run(1.0, 1e-3), _hopper_alive, _x),
    "Walker2d-v5": Task("walker2d_v5.xml", 4, _start(5e-3, 5e-3), _walker_obs, _run(1.0, 1e-3), _walker_alive, _x),
    "Swimmer-v5": Task("swimmer.xml", 4, _start(0.1, 0.1), _state(2), _run(0.0, 1e-4), _always, _x),
    "Ant-v5": Task(
        "ant.xml", 5, _start(0.1, 0.1, True), _ant_obs, _ant_reward, _ant_alive, _torso_x, ("xpos", "cfrc_ext")
    ),
    "Humanoid-v5": Task(
        "humanoid.xml",
        5,
        _start(0.01, 0.01),
        _humanoid_obs,
        _humanoid_reward,
        _humanoid_alive,
        _mass_center_x,
        ("xipos", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"),
    ),
    "Reacher-v5": Task("reacher.xml", 2, _start_reacher, _reacher_obs, _reacher_reward, _always, _x, ("xpos",), 50),
    "Pusher-v5": Task("pusher_v5.xml", 5, _start_pusher, _pusher_obs, _pusher_reward, _always, _x, ("xpos",), 100),
    "InvertedPendulum-v5": Task(
        "inverted_pendulum.xml", 2, _start(0.01, 0.01), _state(0), _run(1.0, 0.0, speed=0.0), _pendulum_alive, _x
    ),
    "InvertedDoublePendulum-v5": Task(
        "inverted_double_pendulum.xml",
        5,
        _start(0.1, 0.1, True),
        _double_pendulum_obs,
        _double_pendulum_reward,
        _double_pendulum_alive,
        _x,
        ("site_xpos", "qfrc_constraint"),
    ),
}
