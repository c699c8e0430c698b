"""Settings -> simulators, and what a policy must know of them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from numpy.typing import NDArray

from gala.config.derived import seeds, threads_per_learner
from gala.config.schema import Config
from gala.plugins import loading
from gala.processes.output import forgiving_output

_LONG_S = 10.0
"""A person who has seen nothing for so long wants to know what is waited for."""


@dataclass(frozen=True)
class Spaces:
    """One simulator's spaces and its action repeat: what a policy is built from."""

    obs: gym.Space
    action: gym.Space
    frames_per_step: int


def make_env(config: Config, num_envs: int, **overrides: Any) -> Any:
    """``num_envs`` simulators of ``config.env``; ``overrides`` replace fields of EnvConfig."""
    from gala_envs.registry import make

    options = dataclasses.asdict(dataclasses.replace(config.env, **overrides))
    env_id, backend = options.pop("id"), options.pop("backend")
    options["threads"] = options["threads"] or threads_per_learner(config)
    return make(env_id, num_envs, backend=backend, make_env=own_env(config), **options)


def backend_of(config: Config) -> str:
    """The key of ``gala_envs.registry.BACKENDS`` that simulates ``config.env``."""
    from gala_envs.registry import resolve_backend

    options = dataclasses.asdict(config.env)
    return resolve_backend(options.pop("id"), options.pop("backend"), options)


def own_env(config: Config) -> Callable[..., gym.Env] | None:
    """What makes one simulator if ``env.id`` names a class or function of the user's own, ``module:attribute``.

    None for ids that the registries know, Gymnasium's ``module:Id-v0`` among them. The result raises ValueError if
    what it makes is no gymnasium.Env.
    """
    env_id = config.env.id
    if ":" not in env_id:
        return None
    loading.search_working_directory()  # families have modules too, as in seeds:my_envs:Rooms-v0
    if backend_of(config) != "gymnasium":
        return None
    if not loading.is_path(env_id):
        return None
    try:
        make = loading.load(env_id, "env.id")
    except ValueError:
        if env_id.rpartition(":")[2] in gym.registry:  # by the module, which has been imported
            return None
        raise
    if not callable(make):
        raise ValueError(f"env.id={env_id} must be a class or a function, not {type(make).__name__}")

    def make_one(**kwargs: Any) -> gym.Env:
        env = make(**kwargs)
        if not isinstance(env, gym.Env):
            raise ValueError(f"env.id={env_id} must make a gymnasium.Env, not {type(env).__name__}")
        return env

    return make_one


def make_training_env(config: Config, rank: int) -> Any:
    """The simulators of one learner, in their groups, as slow as ``config.delay`` wants them."""
    groups = [make_env(config, config.envs_per_learner // config.env_groups) for _ in range(config.env_groups)]
    for env in groups[1:]:
        if hasattr(env, "episodes"):
            env.episodes = groups[0].episodes  # counted together
    if config.delay.mean_s:
        from gala_envs.delays import DelayedEnv

        d, seed = config.delay, seeds(config, rank, 0)[0]
        slow = d.slow_learner if rank == config.learners - 1 else 1.0
        groups = [DelayedEnv(env, d.mean_s, d.sigma, seed + i, slow) for i, env in enumerate(groups)]
    if config.env_groups == 1:
        return groups[0]
    from gala_envs.groups import GroupedEnv

    return GroupedEnv(groups)


def episodes_by_context(env: Any) -> dict[str, int]:
    """Id of each training MDP that was played -> episodes begun on it; empty for what has no contexts."""
    if not hasattr(env, "episodes"):
        return {}
    return {uid: int(n) for uid, n in zip(env.contexts.uids, env.episodes, strict=True) if n}


def check_trained_on(env: Any, counts: dict[str, int]) -> None:
    """Raises ValueError if ``counts`` of the run (``episodes_by_context``) are of other MDPs than these: the name of a
    file, kept in a run's settings, may mean another file from where they are read."""
    if foreign := set(counts) - set(env.contexts.uids if counts else ()):
        raise ValueError(
            f"this run was trained on MDPs that the file of env.contexts does not hold: {min(foreign)}, ...; a "
            "relative name counts from the current directory: go to where it was trained"
        )


def add_episodes_by_context(env: Any, counts: dict[str, int]) -> None:
    """Counts of an earlier part of the run. Raises ValueError as ``check_trained_on``."""
    check_trained_on(env, counts)
    for uid, n in counts.items():
        env.episodes[env.contexts.uids.index(uid)] += n


def make_evaluation_env(config: Config, num_envs: int) -> Any:
    """As in training, but played to the end of the game: a lost life ends nothing."""
    from gala_envs.registry import BACKENDS

    backend = BACKENDS[backend_of(config)]
    whole_games = {"life_loss_ends_episode": False} if "life_loss_ends_episode" in backend.options else {}
    return make_env(config, num_envs, **whole_games)


def random_actions(env: Any, obs: NDArray) -> NDArray:
    """Actions ``[B, ...]`` drawn uniformly from those that are allowed after ``obs [B, ...]``."""
    from gala_envs import masks

    return masks.random_actions(env, obs)


def _try_own(config: Config) -> None:
    from gala_envs.trial import try_environment

    env_id = config.env.id
    if ":" in env_id and backend_of(config) == "gymnasium":
        make = own_env(config) or (lambda: gym.make(env_id, disable_env_checker=True))
        told = (
            f"env.id={env_id}: its first calls (making it, reset, step) have taken {_LONG_S:g} s; Ctrl-C ends the wait"
        )
        slow = threading.Timer(_LONG_S, lambda: print(told, file=sys.stderr, flush=True))
        slow.daemon = True
        slow.start()
        try:
            with forgiving_output():  # it may print, and nobody may be reading any more
                try_environment(make, f"env.id={env_id}", use_masks=config.env.action_masks != "off")
        finally:
            slow.cancel()


_remembered: ContextVar[dict[str, Spaces] | None] = ContextVar("_remembered", default=None)


@contextlib.contextmanager
def remembering_spaces() -> Iterator[None]:
    """Within it, ``probe_spaces`` builds each environment once. A training asks four times: that is a second of Atari's
    ROMs, and many of a slow simulator."""
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def probe_spaces(config: Config) -> Spaces:
    """Builds one simulator and closes it again, so that an impossible environment is refused before anything starts.
    One of the user's own makes a few steps too.

    Raises:
        ValueError: it cannot be built, or does what no environment may.
    """
    known, key = _remembered.get(), repr(config.env)
    if known is None:
        return _probe(config)
    if key not in known:
        known[key] = _probe(config)
    return known[key]


def _probe(config: Config) -> Spaces:
    _try_own(config)
    env = make_env(config, 1, vectorization="sync")
    try:
        return Spaces(env.obs_space, env.action_space, env.frames_per_step)
    finally:
        env.close()
