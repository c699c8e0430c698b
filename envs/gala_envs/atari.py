"""Atari games through ale-py's own batched emulator. ale-py is GPL-2.0, an extra, and imported in this file only."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, Autoreset, EpisodeTracker, Step, check_actions
from gala_envs.watchdog import TimedCaller


def list_ids() -> list[str]:
    """Every ``ALE/*`` id that Gymnasium knows."""
    import ale_py

    gym.register_envs(ale_py)
    return [name for name in gym.registry if name.startswith("ALE/")]


def game_rom_id(env_id: str) -> str:
    """``ALE/MsPacman-v5`` -> ``ms_pacman``, through Gymnasium's registry.

    Raises:
        ValueError: the game is not registered; the nearest names are given.
    """
    games = list_ids()
    if env_id not in games:
        near = difflib.get_close_matches(env_id, games, n=3) or ["ALE/Pong-v5"]
        raise ValueError(f"unknown Atari game '{env_id}'; did you mean {', '.join(near)}? `gala envs atari` lists all")
    return str(gym.registry[env_id].kwargs["game"])


Snapshot = tuple[Any, Array]
"""The console's whole state, and its screen."""


class Emulator:
    """One console with one game, frame by frame: for modes and difficulties, which the batched emulator cannot set.

    Nothing here is random: sticky actions are the caller's.
    """

    def __init__(self, rom_id: str, mode: int | None = None, difficulty: int | None = None) -> None:
        """Freshly loaded (80 ms) and reset, with the given mode and difficulty or the game's defaults."""
        import ale_py
        from ale_py.roms import get_rom_path

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.setInt("random_seed", 0)
        path = get_rom_path(rom_id)
        assert path is not None, f"ale-py ships no cartridge {rom_id}"
        self._ale.loadROM(path)
        self.modes = tuple(int(m) for m in self._ale.getAvailableModes())
        self.difficulties = tuple(int(d) for d in self._ale.getAvailableDifficulties())
        self._ale.setMode(self.modes[0] if mode is None else mode)
        self._ale.setDifficulty(self.difficulties[0] if difficulty is None else difficulty)
        self._ale.reset_game()
        self._actions = self._ale.getMinimalActionSet()
        self.num_actions, self.screen_shape = len(self._actions), self._ale.getScreenDims()
        self.can_fire = ale_py.Action.FIRE in self._actions

    def act(self, action: int) -> float:
        """One frame with this action of the minimal set (0: none, 1: fire where the game has it); its reward."""
        return float(self._ale.act(self._actions[action]))

    def read_screen(self, into: Array) -> None:
        """The grey levels, uint8 ``screen_shape``."""
        self._ale.getScreenGrayscale(into)

    @property
    def game_over(self) -> bool:
        return bool(self._ale.game_over())

    @property
    def frames(self) -> int:
        """Since the game began."""
        return int(self._ale.getEpisodeFrameNumber())

    def snapshot(self) -> Snapshot:
        """For ``restore`` in any emulator of the same game."""
        return self._ale.cloneSystemState(), self._ale.getScreenGrayscale().copy()

    def restore(self, snapshot: Snapshot) -> None:
        """The screen is not restored: it is the snapshot's until the next frame."""
        self._ale.restoreSystemState(snapshot[0])


_MODES = {"same-step": gym.vector.AutoresetMode.SAME_STEP, "next-step": gym.vector.AutoresetMode.NEXT_STEP}


class AtariEnv:
    """``num_envs`` copies of one game, preprocessed in C++ (grey, max-pooled, resized, stacked). See ``BatchedEnv``.

    Rewards and episode returns are the game's own: ale-py clips by default and then hides the true reward.
    ``life_loss_ends_episode`` marks a lost life as terminated while the game goes on. ale-py's option of that name
    (``episodic_life``) restarts the whole game instead, so the one used here is its ``life_loss_info``.
    """

    autoreset: Autoreset

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        threads: int = 0,
        autoreset: Autoreset = "same-step",
        max_episode_steps: int = 0,
        watchdog_s: float = 60.0,
        **preprocessing: Any,
    ) -> None:
        """``threads`` 0 uses every core; ``max_episode_steps`` counts decisions (0: 108,000 frames, half an hour);
        ``preprocessing``: see ``_preprocessing``."""
        rom = game_rom_id(id)
        from ale_py.vector_env import AtariVectorEnv

        settings = _preprocessing(**preprocessing)
        skip = settings["frameskip"]
        self.num_envs, self.autoreset, self.frames_per_step = num_envs, autoreset, skip
        self._env: Any = AtariVectorEnv(
            rom,
            num_envs,
            num_threads=threads,
            max_num_frames_per_episode=max_episode_steps * skip or 108_000,
            autoreset_mode=_MODES[autoreset],
            reward_clipping=False,
            **settings,
        )
        self.obs_space = gym.spaces.Box(0, 255, self._env.single_observation_space.shape, np.uint8)
        self.action_space: gym.Space = self._env.single_action_space
        self._call = TimedCaller(watchdog_s, id)
        self._tracker = EpisodeTracker(num_envs)
        self._over = np.zeros(num_envs, bool)
        self._lives = np.zeros(num_envs, np.int32)

    def reset(self, seed: int | None = None) -> Array:
        self._tracker.reset()
        self._over = np.zeros(self.num_envs, bool)
        seed = None if seed is None else seed % (2**31 - self.num_envs)
        obs, info = self._call(lambda: self._env.reset(seed=seed))
        self._lives = info["lives"]
        return obs

    def step(self, actions: Array) -> Step:
        actions = check_actions(actions, self.action_space, self.num_envs)
        obs, raw_reward, terminated, truncated, info = self._call(lambda: self._env.step(actions))
        done = terminated | truncated
        if self.autoreset == "same-step":
            # A lost life leaves fewer lives than before; after a finished game the row already shows the next one's.
            over = truncated | (terminated & (info["lives"] >= self._lives))
            valid = np.ones(self.num_envs, bool)
            # ale-py fills final_obs only where it reset the game: rows of lost lives are uninitialised memory.
            final_obs = np.where(_rows(over, obs), info["final_obs"], obs) if done.any() else None
        else:
            over = truncated | (terminated & (info["lives"] == 0))
            valid = ~self._over
            final_obs = obs if done.any() else None
        reward = np.where(valid, raw_reward, 0).astype(np.float32)
        first = done if self.autoreset == "same-step" else ~valid | (done & ~over)
        self._over, self._lives = over, info["lives"]
        returns, lengths = self._tracker.update(reward, valid, over)
        return Step(obs, reward, terminated, truncated, first, valid, final_obs, over, returns, lengths)

    def close(self) -> None:
        self._call.close()
        self._env = None


def _preprocessing(
    sticky_actions: float = 0.0,
    full_action_space: bool = False,
    frame_skip: int = 4,
    frame_stack: int = 4,
    image_size: int = 84,
    noop_max: int = 30,
    life_loss_ends_episode: bool = True,
) -> dict[str, Any]:
    """The field's names for these settings -> ale-py's. Defaults: Mnih et al. 2015 (no sticky actions)."""
    return {
        "repeat_action_probability": sticky_actions,
        "full_action_space": full_action_space,
        "frameskip": frame_skip,
        "stack_num": frame_stack,
        "img_height": image_size,
        "img_width": image_size,
        "noop_max": noop_max,
        "life_loss_info": life_loss_ends_episode,
    }


def _rows(mask: Array, like: Array) -> Array:
    return mask.reshape(-1, *([1] * (like.ndim - 1)))
