"""Film one episode of a trained policy as an mp4."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gala_envs.pictures import make_drawn
from gala_envs.trial import told
from numpy.typing import NDArray

from gala.build.envs import own_env, probe_spaces
from gala.config.extras import install
from gala.config.schema import Config
from gala.evaluation.load import load_policy
from gala.evaluation.play import LONGEST_EPISODE, play
from gala.models.actor_critic import ActorCritic
from gala.rl.normalise import ObsNormalizer
from gala.rl.simulators import Playable, Stepped
from gala.runs.run_dir import RunDir

FPS = 30


class Filmed:
    """One simulator behind the ``BatchedEnv`` contract, with a picture of each observation that its policy acted on.

    ``picture(obs)`` gets one observation; the last picture of an episode is of the state in which it ended. ``show`` is
    handed each as it is made: those of a long episode would not fit into memory.
    """

    def __init__(self, env: Playable, picture: Callable[[NDArray], NDArray], show: Callable[[NDArray], Any]) -> None:
        self._env, self._picture, self._show = env, picture, show
        self.num_envs = 1
        self.frames = 0

    def reset(self, seed: int | None = None) -> NDArray:
        obs = self._env.reset(seed)
        self._film(obs[0])
        return obs

    def step(self, actions: NDArray) -> Stepped:
        step = self._env.step(actions)
        ended = step.final_obs if step.episode_over[0] else None
        self._film((step.obs if ended is None else ended)[0])
        return step

    def _film(self, obs: NDArray) -> None:
        self._show(self._picture(obs))
        self.frames += 1


def record_episode(
    config: Config, policy: ActorCritic, normalizer: ObsNormalizer | None, path: Path, *, greedy: bool, seed: int
) -> int:
    """Play one whole episode and write it to ``path``: a frame per decision, and one of the start. Returns how many.

    Raises:
        ValueError: the extra ``video`` is missing, or the simulator cannot draw here; the message says what to do.
    """
    check_encoder()
    env, picture = _drawn(config)
    longest = max(LONGEST_EPISODE, config.env.max_episode_steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with mp4_file(path) as show:
            filmed = Filmed(env, picture, show)
            play(filmed, policy, normalizer, 1, mode="greedy" if greedy else "sampled", seed=seed, longest=longest)
    finally:
        env.close()
    return filmed.frames


@contextlib.contextmanager
def mp4_file(path: Path, fps: int = FPS) -> Iterator[Callable[[NDArray], Any]]:
    """Takes picture after picture [H, W, 3]; the file is there once it is whole. Needs the extra ``video``; see
    ``check_encoder``."""
    import imageio.v2 as imageio

    unfinished = path.with_name(f".{path.stem}.tmp.mp4")
    try:
        # The encoder wants even sides; its own default of whole blocks of 16 would rescale an Atari screen.
        writer: Any = imageio.get_writer(unfinished, fps=fps, macro_block_size=2, codec="libx264")
        with writer:
            yield writer.append_data
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def film_checkpoint(run_dir: RunDir, checkpoint: str, path: Path, *, seed: int) -> int:
    """The greedy policy of a checkpoint at one whole episode; the file is there when it is whole. Returns the frames.

    Raises:
        ValueError: as ``load_policy`` and ``record_episode``.
    """
    config = run_dir.config
    policy, normalizer = load_policy(run_dir, config, probe_spaces(config), checkpoint, "consensus")
    return record_episode(config, policy, normalizer, path, greedy=True, seed=seed)


def check_drawable(config: Config) -> None:
    """Raises ValueError, in one line, if not even the start of an episode can be drawn."""
    env = None
    try:
        env, picture = _drawn(config)
        Filmed(env, picture, lambda frame: None).reset(0)
    except ValueError:
        raise
    except Exception as error:  # a simulator's own, of whatever kind, says that it has no pictures
        why = told(error, "render()") if str(error) else f"{type(error).__name__}: has it render() and render_modes?"
        raise ValueError(f"{config.env.id} cannot be drawn: {why}") from error
    finally:
        if env is not None:
            env.close()


def _drawn(config: Config) -> tuple[Any, Callable[[NDArray], NDArray]]:
    """One simulator, and what draws it."""
    return make_drawn(**dataclasses.asdict(config.env) | {"threads": 1}, make_env=own_env(config))


def check_encoder() -> None:
    """Raises ValueError if the extra ``video`` is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):
        raise ValueError(f"writing a video needs imageio and ffmpeg: {install('video')}")
