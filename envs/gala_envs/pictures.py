"""Simulators that can be drawn, and how each is: for films and figures."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gala_envs.gymnasium_backend import GymnasiumEnv
from gala_envs.masks import gives_masks
from gala_envs.registry import make, resolve_backend

_PIXELS_PER_CELL = 24
_PALETTE = np.array(
    [
        *((230, 80, 60), (70, 150, 240), (250, 200, 60), (90, 200, 120), (200, 110, 220)),
        *((250, 140, 40), (80, 210, 210), (240, 160, 190), (170, 170, 170), (140, 110, 80)),
    ],
    np.uint8,
)


def make_drawn(
    id: str, *, backend: str = "auto", make_env: Callable[..., gym.Env] | None = None, **options: Any
) -> tuple[Any, Callable[[NDArray], NDArray]]:
    """One simulator, with the options of ``gala_envs.registry.make``, and what makes an RGB picture of an observation.
    ``make_env`` is called with ``render_mode="rgb_array"``.

    Raises:
        ValueError: the simulator cannot be drawn here; the message says what to do.
    """
    backend = resolve_backend(id, backend)
    if backend == "envpool":
        raise ValueError("EnvPool's simulators cannot be filmed; train with env.backend=gymnasium where there is one")
    if backend == "minatar":
        return make(id, 1, backend=backend, **options), draw_channels
    if backend == "mujoco":
        check_gl()
    game = _atari_game(id, options) if backend == "atari" else _gymnasium_game(id, make_env)
    env = GymnasiumEnv(
        id,
        1,
        make_env=lambda: game,
        autoreset="next-step",  # the picture after the last decision is then of the episode's end, not of the next one
        max_episode_steps=options["max_episode_steps"],
        action_masks="on" if backend == "gymnasium" and _is_masked(game, options.get("action_masks")) else "off",
    )

    def picture(obs: NDArray) -> NDArray:
        try:
            drawn: Any = game.render()
        except gym.error.DependencyNotInstalled as error:
            raise ValueError(f"{id} cannot be drawn: {error}") from None
        if not isinstance(drawn, np.ndarray) or drawn.ndim != 3 or drawn.shape[2] not in (3, 4):
            raise ValueError(f"{id} cannot be drawn: its render() gives no picture [height, width, 3]")
        if drawn.dtype.kind == "f" and 0 < drawn.max() <= 1:  # as uint8 it would be black
            raise ValueError(f"{id} cannot be drawn: its render() gives {drawn.dtype} up to 1; return uint8, 0 to 255")
        return drawn.astype(np.uint8, copy=False)

    return env, picture


def _is_masked(game: gym.Env, action_masks: str | None) -> bool:
    return action_masks == "on" or (action_masks != "off" and gives_masks(game))


def check_gl() -> None:
    """Raises ValueError if MuJoCo cannot draw here. Without a screen and without MUJOCO_GL, EGL is taken."""
    backend = os.environ.setdefault("MUJOCO_GL", "glfw" if os.environ.get("DISPLAY") else "egl")
    try:
        importlib.import_module(f"mujoco.{backend}").GLContext(64, 64).free()
    except Exception as error:
        raise ValueError(
            f"MuJoCo cannot draw with MUJOCO_GL={backend} ({type(error).__name__}: {' '.join(str(error).split())}); "
            "set MUJOCO_GL=egl (GPU driver) or MUJOCO_GL=osmesa (software)"
        ) from None


def _gymnasium_game(id: str, make_env: Callable[..., gym.Env] | None) -> gym.Env:
    if make_env is None:
        return gym.make(id, render_mode="rgb_array")
    try:
        return make_env(render_mode="rgb_array")
    except TypeError as error:
        raise ValueError(f"{id} cannot be drawn: it must take render_mode='rgb_array' ({error})") from None


def _atari_game(id: str, options: dict[str, Any]) -> gym.Env:
    """The preprocessing of ``gala_envs.atari`` around one emulator that can be drawn.

    Gymnasium's ``AtariPreprocessing`` would need OpenCV for its resizing. The random no-ops after a reset are left out.
    """
    from gala_envs.atari import game_rom_id

    game_rom_id(id)  # registers the games
    game = gym.make(
        id,
        render_mode="rgb_array",
        obs_type="grayscale",
        frameskip=1,
        repeat_action_probability=options["sticky_actions"],
        full_action_space=options["full_action_space"],
    )
    pooled = gym.wrappers.MaxAndSkipObservation(game, options["frame_skip"]) if options["frame_skip"] > 1 else game
    assert pooled.observation_space.shape is not None
    rows, columns = (area_weights(size, options["image_size"]) for size in pooled.observation_space.shape)
    resized = gym.wrappers.TransformObservation(
        pooled,
        lambda frame: np.rint(rows @ frame @ columns.T).astype(np.uint8),
        gym.spaces.Box(0, 255, (options["image_size"], options["image_size"]), np.uint8),
    )
    return gym.wrappers.FrameStackObservation(resized, options["frame_stack"], padding_type="zero")


def area_weights(size: int, new_size: int) -> NDArray:
    """[new_size, size]: row i averages the pixels that new pixel i covers, each by the share that it covers of it."""
    edges = np.arange(new_size + 1) * (size / new_size)
    pixels = np.arange(size)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(covered, 0.0, None) * (new_size / size)


def draw_channels(obs: NDArray) -> NDArray:
    """uint8 [C, H, W] of 0 and 1 -> RGB [24 H, 24 W, 3]: a colour per channel, black where there is none."""
    channels, height, width = obs.shape
    image = np.zeros((height, width, 3), np.uint8)
    for channel in reversed(range(channels)):  # low channels, where the games keep the player, are drawn on top
        image[obs[channel] > 0] = _PALETTE[channel % len(_PALETTE)]
    return image.repeat(_PIXELS_PER_CELL, 0).repeat(_PIXELS_PER_CELL, 1)
