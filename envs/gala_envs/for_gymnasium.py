"""A context set for trainers that were written elsewhere: a ``gymnasium.Env``, or a ``gymnasium.vector.VectorEnv``.

    env = as_gymnasium(ContextSet.read("sets/train.json"), log="played.jsonl")

Every episode is on an MDP drawn uniformly from the set. With ``log`` each one's context is appended to a file, by which
``gala overfit eval policy=... played=played.jsonl`` tells whether a test MDP was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from gala_envs.contexts import Context, ContextSet
from gala_envs.contextual_env import ContextualEnv
from gala_envs.contract import Array
from gala_envs.families import make_family


def as_gymnasium(contexts: ContextSet, *, log: str | Path = "", **options: Any) -> ContextSetEnv:
    """One environment. ``reset(options={"context": uid})`` chooses the MDP; ``info["context"]`` names it.

    Args:
        log: a file of JSON lines, appended to: one for each episode that begins.
        options: of ``ContextualEnv``: sticky_actions, obs_noise, expose, max_episode_steps.

    Raises:
        ValueError: the family cannot do what is asked.
    """
    return ContextSetEnv(contexts, log, options)


def as_gymnasium_vector(
    contexts: ContextSet, num_envs: int, *, log: str | Path = "", **options: Any
) -> ContextSetVectorEnv:
    """``num_envs`` rows with autoreset in the same step; ``infos["context"]`` names each row's MDP. See
    ``as_gymnasium``."""
    return ContextSetVectorEnv(contexts, num_envs, log, options)


def read_log(path: str | Path) -> list[Context]:
    """The contexts of all episodes in a log, each once. Raises ValueError if it is no such log."""
    try:
        trees = {line: json.loads(line) for line in Path(path).read_text().splitlines()}
        return [Context.from_json(tree) for tree in trees.values()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no log of contexts, as as_gymnasium(log=...) writes it ({type(error).__name__})"
        ) from None


class _Log:
    def __init__(self, path: str | Path) -> None:
        self._path = Path(path) if path else None

    def add(self, contexts: Iterable[Context]) -> None:
        """One write for all lines, so that several processes may share a file."""
        if self._path is not None:
            text = "".join(json.dumps(c.to_json(), sort_keys=True) + "\n" for c in contexts)
            with self._path.open("a") as file:
                file.write(text)


class ContextSetEnv(gym.Env):
    """See ``as_gymnasium``."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, contexts: ContextSet, log: str | Path, options: dict[str, Any]) -> None:
        self.contexts, self._log = contexts, _Log(log)
        self._rows = ContextualEnv(make_family(contexts.family), contexts, 1, **options)
        self.observation_space, self.action_space = self._rows.obs_space, self._rows.action_space
        self._index = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Raises ValueError if ``options`` name a context that is not in the set."""
        super().reset(seed=seed)
        self._index = int(self.np_random.integers(len(self.contexts)))
        noise = int(self.np_random.integers(2**62))
        if options and "context" in options:
            if options["context"] not in self.contexts.uids:
                raise ValueError(f"context {options['context']} is not in this set")
            self._index = self.contexts.uids.index(options["context"])
        obs = self._rows.play([[(self._index, noise)]])
        self._log.add([self.contexts.contexts[self._index]])
        return obs[0], {"context": self.contexts.uids[self._index]}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        t = self._rows.step(np.asarray(action)[None])
        obs = t.obs if t.final_obs is None else t.final_obs
        info = {"context": self.contexts.uids[self._index]}
        return obs[0], float(t.reward[0]), bool(t.terminated[0]), bool(t.truncated[0]), info

    def close(self) -> None:
        self._rows.close()


class ContextSetVectorEnv(gym.vector.VectorEnv):
    """See ``as_gymnasium_vector``."""

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, contexts: ContextSet, num_envs: int, log: str | Path, options: dict[str, Any]) -> None:
        self.contexts, self.num_envs, self._log = contexts, num_envs, _Log(log)
        self._rows = ContextualEnv(make_family(contexts.family), contexts, num_envs, **options)
        self.single_observation_space, self.single_action_space = self._rows.obs_space, self._rows.action_space
        self.observation_space, self.action_space = (
            gym.vector.utils.batch_space(space, num_envs) for space in (self._rows.obs_space, self._rows.action_space)
        )

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Only one seed for all rows. Raises ValueError for a list of them."""
        if isinstance(seed, list | tuple):
            raise ValueError("give one seed; each row derives its own from it")
        super().reset(seed=seed)
        obs = self._rows.reset(seed if seed is not None else int(self.np_random.integers(2**31)))
        self._log.add(self._now())
        return obs, {"context": np.array([c.uid for c in self._now()])}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        t = self._rows.step(np.asarray(actions))
        assert t.context is not None, "a context set's environment names its contexts"
        infos: dict[str, Any] = {"context": np.array([self.contexts.uids[i] for i in t.context])}
        if t.final_obs is not None:
            infos |= {"final_obs": np.array([*t.final_obs, None], object)[:-1], "_final_obs": t.episode_over}
            self._log.add([self._now()[row] for row in np.flatnonzero(t.episode_over)])
        return t.obs, t.reward.astype(np.float64), t.terminated, t.truncated, infos

    def _now(self) -> list[Context]:
        return [self.contexts.contexts[i] for i in self._rows.playing]

    def close_extras(self, **kwargs: Any) -> None:
        self._rows.close()
