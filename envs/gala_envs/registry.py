"""Environment id -> simulators. A backend and its extra are imported only when one of its environments is made."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym

from gala_envs.classic_env import CLASSIC, is_stock
from gala_envs.contract import BatchedEnv
from gala_envs.families import FAMILIES, is_family
from gala_envs.minatar_env import GAMES
from gala_envs.mujoco_tasks import TASKS

DEFAULTS: dict[str, Any] = {
    "threads": 0,
    "autoreset": "auto",
    "vectorization": "sync",
    "max_episode_steps": 0,
    "watchdog_s": 60.0,
    "sticky_actions": 0.0,
    "full_action_space": False,
    "frame_skip": 4,
    "frame_stack": 4,
    "image_size": 84,
    "noop_max": 30,
    "life_loss_ends_episode": True,
    "contexts": "",
    "order": "uniform",
    "expose": False,
    "obs_noise": 0.0,
    "action_masks": "auto",
}
"""Every option of ``make`` and its default. A test compares them with the settings and the backends."""

_CEILINGS = {"threads", "watchdog_s"}
"""Limits on what a backend may use: one that starts no thread, or cannot hang, keeps them by itself."""


class Backend(NamedTuple):
    """Where a backend lives and what it understands.

    ``package`` must be there for it to work; the extra of gala-rl that brings it has the backend's name. The first of
    ``autoresets`` is the backend's own choice.
    """

    module: str
    cls: str
    package: str
    options: frozenset[str]
    autoresets: tuple[str, ...]


_CONTEXTUAL = frozenset({"contexts", "order", "expose", "obs_noise"})
_EMULATOR = frozenset(DEFAULTS) - _CONTEXTUAL - {"autoreset", "vectorization", "action_masks"}
BACKENDS: dict[str, Backend] = {
    "atari": Backend("gala_envs.atari", "AtariEnv", "ale_py", _EMULATOR | {"autoreset"}, ("same-step", "next-step")),
    "mujoco": Backend(
        "gala_envs.mujoco_batch", "MujocoEnv", "mujoco", frozenset({"threads", "max_episode_steps"}), ("same-step",)
    ),
    "minatar": Backend(
        "gala_envs.minatar_env",
        "MinAtarEnv",
        "minatar",
        frozenset({"max_episode_steps", "sticky_actions", "full_action_space"}),
        ("same-step",),
    ),
    "classic": Backend(
        "gala_envs.classic_env", "ClassicEnv", "gymnasium", frozenset({"max_episode_steps"}), ("same-step",)
    ),
    "gymnasium": Backend(
        "gala_envs.gymnasium_backend",
        "GymnasiumEnv",
        "gymnasium",
        frozenset({"autoreset", "vectorization", "max_episode_steps", "watchdog_s", "action_masks"}),
        ("same-step", "next-step"),
    ),
    "contexts": Backend(
        "gala_envs.contextual_env",
        "make_contextual",
        "gymnasium",
        _CONTEXTUAL | {"threads", "max_episode_steps", "sticky_actions"},
        ("same-step",),
    ),
    "envpool": Backend("gala_envs.envpool_backend", "EnvPoolEnv", "envpool", _EMULATOR, ("next-step",)),
}


def resolve_backend(id: str, backend: str = "auto", options: Mapping[str, Any] | None = None) -> str:
    """``ALE/*`` -> atari, the ten MuJoCo v5 tasks -> mujoco, ``MinAtar/*`` -> minatar, a family of contextual
    MDPs (maze, seeds:CartPole-v1, ...) -> contexts, the classic control tasks of Gymnasium as it registers them ->
    classic, unless ``options`` of ``make`` ask for what that lacks; anything else -> gymnasium.

    Raises:
        ValueError: ``backend`` is neither auto nor a key of ``BACKENDS``.
    """
    if backend != "auto":
        if backend not in BACKENDS:
            raise ValueError(f"unknown backend '{backend}'; choose auto or one of {', '.join(BACKENDS)}")
        return backend
    if id.startswith("ALE/"):
        return "atari"
    if id.startswith("MinAtar/"):
        return "minatar"
    if is_family(id):
        return "contexts"
    if id in TASKS:
        return "mujoco"
    return "classic" if is_stock(id) and not _unknown_to("classic", options or {}) else "gymnasium"


def make(
    id: str, num_envs: int, *, backend: str = "auto", make_env: Callable[[], gym.Env] | None = None, **options: Any
) -> BatchedEnv:
    """``num_envs`` simulators of ``id``.

    Args:
        make_env: makes one simulator, which then needs no registration; ``id`` is its name in messages.
        options: any of ``DEFAULTS``. ``autoreset`` "auto" is the backend's own choice.

    Raises:
        ValueError: one line that says what to change: an unknown id, backend or option, an option that does not apply
            to the backend, a missing extra, spaces that are not supported.
        EnvError: the environment itself fails to build.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs} must be at least 1")
    name = resolve_backend(id, backend, options if make_env is None else {**options, "make_env": make_env})
    chosen = _applicable(options, name)
    entry = BACKENDS[name]
    if make_env is None:
        _check_id(id, name)
    elif name == "gymnasium":
        chosen["make_env"] = make_env
    else:
        raise ValueError(f"'{id}': the {name} backend makes its simulators itself; use backend=gymnasium")
    env: BatchedEnv = getattr(importlib.import_module(entry.module), entry.cls)(id, num_envs, **chosen)
    return env


def list_env_ids(backend: str = "") -> dict[str, list[str]]:
    """Backend -> sorted ids, of every backend or of one. A backend that is not installed has none."""
    wanted = [resolve_backend("", backend)] if backend else list(BACKENDS)
    return {name: sorted(_ids(name)) if _installed(name) else [] for name in wanted}


def _unknown_to(name: str, options: Mapping[str, Any]) -> set[str]:
    """Options that differ from their default and mean nothing to the backend, or ask for an autoreset that it lacks."""
    entry = BACKENDS[name]
    chosen = {key for key, value in options.items() if key not in DEFAULTS or value != DEFAULTS[key]}
    if options.get("autoreset") in entry.autoresets:
        chosen -= {"autoreset"}
    return chosen - entry.options - _CEILINGS


def _applicable(options: dict[str, Any], name: str) -> dict[str, Any]:
    """The options that differ from their default, all of which must apply to the backend."""
    entry = BACKENDS[name]
    for key in options:
        if key not in DEFAULTS:
            raise ValueError(f"unknown option '{key}'{_nearest(key, DEFAULTS)}")
    chosen = {key: value for key, value in options.items() if value != DEFAULTS[key]}
    if (autoreset := chosen.pop("autoreset", entry.autoresets[0])) not in entry.autoresets:
        raise ValueError(f"autoreset={autoreset} does not exist in the {name} backend; use {entry.autoresets[0]}")
    if "autoreset" in entry.options:
        chosen["autoreset"] = autoreset
    for key in sorted(set(chosen) - entry.options - _CEILINGS):
        able = [other for other, b in BACKENDS.items() if key in b.options]
        raise ValueError(f"{key}={chosen[key]} does not apply to the {name} backend (only to {', '.join(able)})")
    return {key: value for key, value in chosen.items() if key in entry.options}


def _check_id(id: str, name: str) -> None:
    if not _installed(name):
        package = BACKENDS[name].package.replace("_", "-")
        raise ValueError(f"'{id}' needs the {name} backend; run: pip install {package}")
    if name == "gymnasium" and ":" in id:  # module:Name-v0 has Gymnasium import the module, which registers the name
        module = id.split(":", maxsplit=1)[0]
        if importlib.util.find_spec(module.split(".")[0]) is None:
            raise ValueError(f"'{id}' needs the module {module}, which is not installed")
    elif id.partition(":")[0] not in _ids(name) if name == "contexts" else id not in _ids(name):
        near = _nearest(id, _ids(name)) or _nearest(id, [i for ids in list_env_ids().values() for i in ids])
        raise ValueError(f"unknown environment '{id}' of the {name} backend{near}")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(BACKENDS[name].package) is not None


def _ids(name: str) -> list[str]:
    if name == "mujoco":
        return list(TASKS)
    if name == "minatar":
        return list(GAMES)
    if name == "classic":
        return list(CLASSIC)
    if name == "contexts":
        return list(FAMILIES)
    if name == "gymnasium":
        return [i for i in gym.registry if not i.startswith("ALE/")]
    return list(importlib.import_module(BACKENDS[name].module).list_ids())


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
