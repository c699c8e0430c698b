"""Film one episode of a trained policy as an mp4."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from gala.build.envs import make_env
from gala.config.schema import Config
from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer

FPS = 30
_PIXELS_PER_CELL = 24
_PALETTE = np.array(
    [
        *((230, 80, 60), (70, 150, 240), (250, 200, 60), (90, 200, 120), (200, 110, 220)),
        *((250, 140, 40), (80, 210, 210), (240, 160, 190), (170, 170, 170), (140, 110, 80)),
    ],
    np.uint8,
)


class Filmed:
    """One simulator behind the ``BatchedEnv`` contract, with a picture of each observation that its policy acted on.

    ``picture(obs)`` gets one observation; the last picture of an episode is of the state in which it ended.
    """

    def __init__(self, env: Any, picture: Callable[[NDArray], NDArray]) -> None:
        self._env, self._picture = env, picture
        self.num_envs = 1
        self.frames: list[Any] = []

    def reset(self, seed: int | None = None) -> NDArray:
        obs = self._env.reset(seed)
        self.frames = [self._picture(obs[0])]
        return obs

    def step(self, actions: NDArray) -> Any:
        step = self._env.step(actions)
        self.frames.append(self._picture((step.final_obs if step.episode_over[0] else step.obs)[0]))
        return step


def record_episode(
    config: Config, policy: ActorCritic, normalizer: ObsNormalizer | None, path: Path, *, greedy: bool, seed: int
) -> int:
    """Play one whole episode and write it to ``path``: a frame per decision, and one of the start. Returns the frames.

    Raises:
        ValueError: the extra ``video`` is missing, or the simulator cannot draw here; the message says what to do.
    """
    check_encoder()
    from gala.evaluation.play import play

    env, picture = _simulator(config)
    filmed = Filmed(env, picture)
    try:
        play(filmed, policy, normalizer, 1, mode="greedy" if greedy else "sampled", seed=seed)
    finally:
        env.close()
    import imageio.v2 as imageio

    path.parent.mkdir(parents=True, exist_ok=True)
    # The encoder wants even sides; its own default of whole blocks of 16 would rescale an Atari screen.
    imageio.mimwrite(path, filmed.frames, fps=FPS, macro_block_size=2, codec="libx264")
    return len(filmed.frames)


def check_encoder() -> None:
    """Raises ValueError if the extra ``video`` is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):
        raise ValueError("writing a video needs imageio and ffmpeg: pip install 'gala-rl[video]'")


def _simulator(config: Config) -> tuple[Any, Callable[[NDArray], NDArray]]:
    """One simulator as the policy was trained on, and how to draw it."""
    from gala_envs.gymnasium_backend import GymnasiumEnv
    from gala_envs.registry import resolve_backend

    backend = resolve_backend(config.env.id, config.env.backend)
    if backend == "envpool":
        raise ValueError("EnvPool's simulators cannot be filmed; train with env.backend=gymnasium where there is one")
    if backend == "minatar":
        return make_env(config, 1), draw_channels
    if backend == "mujoco":
        check_gl()
    game = _atari_game(config) if backend == "atari" else gym.make(config.env.id, render_mode="rgb_array")
    env = GymnasiumEnv(
        config.env.id,
        1,
        make_env=lambda: game,
        autoreset="next-step",  # the picture after the last decision is then of the episode's end, not of the next one
        max_episode_steps=config.env.max_episode_steps,
    )

    def picture(obs: NDArray) -> NDArray:
        try:
            return np.asarray(game.render(), np.uint8)
        except gym.error.DependencyNotInstalled as error:
            raise ValueError(f"{config.env.id} cannot be drawn: {error}") from None

    return env, picture


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


def _atari_game(config: Config) -> gym.Env:
    """The preprocessing of ``gala_envs.atari`` around one emulator that can be drawn.

    Gymnasium's ``AtariPreprocessing`` would need OpenCV for its resizing. The random no-ops after a reset are left out.
    """
    from gala_envs.atari import game_rom_id

    e = config.env
    game_rom_id(e.id)  # registers the games
    game = gym.make(
        e.id,
        render_mode="rgb_array",
        obs_type="grayscale",
        frameskip=1,
        repeat_action_probability=e.sticky_actions,
        full_action_space=e.full_action_space,
    )
    pooled = gym.wrappers.MaxAndSkipObservation(game, e.frame_skip) if e.frame_skip > 1 else game
    assert pooled.observation_space.shape is not None
    rows, columns = (area_weights(size, e.image_size) for size in pooled.observation_space.shape)
    resized = gym.wrappers.TransformObservation(
        pooled,
        lambda frame: np.rint(rows @ frame @ columns.T).astype(np.uint8),
        gym.spaces.Box(0, 255, (e.image_size, e.image_size), np.uint8),
    )
    return gym.wrappers.FrameStackObservation(resized, e.frame_stack, padding_type="zero")


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
