"""Any Gymnasium environment, stepped in this process (sync) or in one process per simulator (async)."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from itertools import islice
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from gala_envs.contract import Array, Autoreset, EnvError, EpisodeTracker, Step, check_actions, row_seeds
from gala_envs.gymnasium_row import LastWords, row_builder
from gala_envs.masks import gives_masks
from gala_envs.parts import join_mask, with_mask
from gala_envs.snapshots import State, Unrestorable, get_state, python_state, set_python_state, set_state
from gala_envs.spaces import action_adapter, observation_adapter, stack_observations
from gala_envs.trial import fault_of_step

_MODES = {"same-step": gym.vector.AutoresetMode.SAME_STEP, "next-step": gym.vector.AutoresetMode.NEXT_STEP}
_CLOSE_S = 5.0


class GymnasiumEnv:
    """``num_envs`` copies of a registered environment, or of what ``make_env`` builds. See ``BatchedEnv``.

    Float observations become float32, images [H, W, C] become [C, H, W], all else one float32 vector; discrete actions
    start at 0. See ``gala_envs.spaces``. Where actions are masked, the mask lies behind each observation: ``FlatBox``.
    """

    autoreset: Autoreset
    frames_per_step = 1

    def __init__(
        self,
        id: str,
        num_envs: int,
        *,
        vectorization: Literal["sync", "async"] = "sync",
        autoreset: Autoreset = "same-step",
        max_episode_steps: int = 0,
        watchdog_s: float = 60.0,
        action_masks: Literal["auto", "on", "off"] = "auto",
        make_env: Callable[[], gym.Env] | None = None,
        **kwargs: Any,
    ) -> None:
        """``max_episode_steps`` 0 keeps the registered limit; ``kwargs`` go to ``gymnasium.make``. ``action_masks``
        auto builds and resets one more simulator, to see whether it gives any.

        ``watchdog_s`` holds for async only: Python code in this process cannot be interrupted safely. Async needs a
        process that may have children (not a daemonic one).

        Raises:
            ValueError: the spaces are not supported, or the environment needs a package that is not installed.
            EnvError: the environment cannot be built, or a simulator process fails at once.
        """
        self.id, self.num_envs, self.autoreset, self._watchdog_s = id, num_envs, autoreset, watchdog_s
        build = make_env or (lambda: gym.make(id, disable_env_checker=True, **kwargs))
        self._env: Any = None
        self._last_words: list[LastWords] = []
        masked = action_masks == "on" or (action_masks == "auto" and self._guard(lambda: _gives_masks(build)))
        if isinstance(masked, ValueError):
            raise ValueError(f"{id}: {masked}")
        if vectorization == "async":
            self._last_words = [LastWords() for _ in range(num_envs)]
        told_to = [words.told_to for words in self._last_words] or [None] * num_envs
        rows = [row_builder(i, id, build, max_episode_steps, masked, file) for i, file in enumerate(told_to)]
        vector = gym.vector.AsyncVectorEnv if vectorization == "async" else gym.vector.SyncVectorEnv
        self._env = self._guard(lambda: vector(rows, autoreset_mode=_MODES[autoreset]))
        try:
            if masked and isinstance(space := self._env.single_action_space, gym.spaces.Box):
                raise ValueError(f"{id}: env.action_masks=on masks discrete actions, not {space}")
            self.obs_space, self._convert = _observations(self._env.single_observation_space, id, masked)
            self.action_space, self._to_simulators = action_adapter(self._env.single_action_space, id)
        except ValueError:
            self.close()
            raise
        self._tracker = EpisodeTracker(num_envs)
        self._waiting = np.zeros(num_envs, bool)

    def reset(self, seed: int | None = None) -> Array:
        self._tracker.reset()
        self._waiting[:] = False
        seeds = row_seeds(seed, self.num_envs)
        if not self._processes:
            obs, _ = self._guard(lambda: self._env.reset(seed=seeds))
        else:
            self._guard(lambda: self._env.reset_async(seed=seeds))
            obs, _ = self._guard(lambda: self._env.reset_wait(self._watchdog_s))
        return self._guard(lambda: self._convert(obs))

    def step(self, actions: Array) -> Step:
        actions = self._to_simulators(check_actions(actions, self.action_space, self.num_envs))
        if not self._processes:
            obs, reward, terminated, truncated, info = self._guard(lambda: self._env.step(actions))
        else:
            self._guard(lambda: self._env.step_async(actions))
            obs, reward, terminated, truncated, info = self._guard(lambda: self._env.step_wait(self._watchdog_s))
        obs = self._guard(lambda: self._convert(obs))
        done = terminated | truncated
        if self.autoreset == "same-step":
            valid, first, final_obs = np.ones(self.num_envs, bool), done, None
            if done.any():
                final_obs, space = obs.copy(), self._env.single_observation_space
                final_obs[done] = self._convert(stack_observations(space, info["final_obs"][done]))
        else:
            valid, first, final_obs = ~self._waiting, self._waiting, obs
            self._waiting = done
        reward = reward.astype(np.float32)
        returns, lengths = self._tracker.update(reward, valid, done)
        return Step(obs, reward, terminated, truncated, first, valid, final_obs, done, returns, lengths)

    def get_state(self) -> State:
        """See ``gala_envs.snapshots``; what the simulators hold must be data."""
        if self._processes:
            raise Unrestorable(f"{self.id}: simulators in processes of their own (env.vectorization=async)")
        rows = [python_state(row.simulator) for row in self._env.envs]
        return {"rows": rows, "tracker": get_state(self._tracker), "waiting": self._waiting}

    def set_state(self, state: State) -> None:
        self.reset(0)
        for row, its in zip(self._env.envs, state["rows"], strict=True):
            set_python_state(row.simulator, its)
        set_state(self._tracker, state["tracker"])
        self._waiting = state["waiting"]
        self._env._autoreset_envs = self._waiting.copy()  # read with next-step autoreset only

    def close(self) -> None:
        for words in self._last_words:
            words.close()
        if self._env is None:
            return
        # Closing is a conversation with each process; one that does not answer is killed.
        timer = threading.Timer(_CLOSE_S, self._kill)
        timer.start()
        with contextlib.suppress(EOFError, OSError, EnvError), _quiet():
            self._env.close()
        timer.cancel()
        self._env.closed = True
        self._env = None

    @property
    def _processes(self) -> list[Any]:
        return getattr(self._env, "processes", [])

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join(1.0)

    def _fault(self) -> str:
        """What a row has returned that no environment may; empty if nothing, or if rows are other processes."""
        for row in getattr(self._env, "envs", ()):
            if row.last is not None and (fault := fault_of_step(row.last, row.simulator.observation_space)):
                return f"{row.name}: {fault}"
        return ""

    def _guard(self, call: Callable[[], Any]) -> Any:
        """The call's result; any failure becomes an EnvError, after which no process is left."""
        kind: type[Exception] = EnvError
        try:
            with _quiet():
                return call()
        except multiprocessing.TimeoutError:
            silent = [i for i, pipe in enumerate(self._env.parent_pipes) if pipe is not None and not pipe.poll(0)]
            message = (
                f"{self.id}: rows {silent} did not answer for {self._watchdog_s:g} s; raise env.watchdog_s if the "
                "environment is merely slow"
            )
        except (EOFError, BrokenPipeError, ConnectionResetError):
            dead = [i for i, process in enumerate(self._processes) if process.exitcode is not None or _gone(process)]
            ends = sorted({_how_it_ended(self._processes[i].exitcode) for i in dead})
            whose = f"the process of rows {dead} died: {'; '.join(ends)}" if dead else "a process died as it was made"
            told = filter(None, (words.read() for words in self._last_words))
            message = "\n".join([f"{self.id}: {whose}", *islice(told, 1)])
        except gym.error.DependencyNotInstalled as error:
            kind, message = ValueError, f"{self.id}: {error}"
        except (EnvError, gym.error.Error) as error:
            message = str(error) if self.id in str(error) else f"{self.id}: {error}"
        except Exception as error:
            # Where an environment is at fault, what NumPy and Gymnasium met then only hides it.
            message = self._fault() or f"{self.id}: {type(error).__name__}: {error}\n{traceback.format_exc()}"
        self._kill()
        self.close()
        raise kind(message)


def _gives_masks(build: Callable[[], gym.Env]) -> bool | ValueError:
    """``gives_masks``, or what is wrong with them."""
    env = build()
    try:
        return gives_masks(env)
    except ValueError as error:
        return error
    finally:
        env.close()


def _observations(space: gym.Space, name: str, masked: bool) -> tuple[gym.spaces.Box, Callable[[Any], Array]]:
    """``observation_adapter`` for what rows return; ``masked`` ones, with their masks."""
    if not masked:
        return observation_adapter(space, name)
    assert isinstance(space, gym.spaces.Dict)
    plain, convert = observation_adapter(space["obs"], name)
    return with_mask(plain, math.prod(space["mask"].shape or ())), lambda obs: join_mask(
        convert(obs["obs"]), obs["mask"]
    )


def _gone(process: Any) -> bool:
    process.join(0.1)
    return process.exitcode is not None


def _how_it_ended(code: int) -> str:
    """``code``: what it ended with, -n if signal n has ended it."""
    if code >= 0:
        return f"it ended with {code}, or could not start"
    name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
    return f"killed by {name}" + " (out of memory?)" * (-code == signal.SIGKILL)


@contextlib.contextmanager
def _quiet() -> Any:
    """Gymnasium prints a failed row's traceback as a warning, once per row; ours is in the error itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="gymnasium")
        yield
