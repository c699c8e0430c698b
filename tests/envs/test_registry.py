"""Ids to backends, options to backends, and what a user reads when something does not fit."""

import dataclasses
import importlib.util
import inspect
import subprocess
import sys

import gala_envs
import pytest
from gala_envs.contract import check_batched_env
from gala_envs.registry import BACKENDS, DEFAULTS, list_env_ids, make, resolve_backend

from gala.config.schema import EnvConfig

IDS = {
    "atari": "ALE/Breakout-v5",
    "mujoco": "Hopper-v5",
    "minatar": "MinAtar/Breakout-v1",
    "classic": "CartPole-v1",
    "gymnasium": "FrozenLake-v1",
    "contexts": "maze",
    "envpool": "Breakout-v5",
}
SMALL = {"atari": {"image_size": 21}, "envpool": {"image_size": 21}}


def needs(backend):
    if importlib.util.find_spec(BACKENDS[backend].package) is None:
        pytest.skip(f"{backend} is not installed")


def test_every_backend_has_an_example_here():
    assert IDS.keys() == BACKENDS.keys()


@pytest.mark.parametrize(("backend", "mode"), [(name, mode) for name, b in BACKENDS.items() for mode in b.autoresets])
def test_every_backend_and_mode_keeps_the_contract(backend, mode):
    needs(backend)
    env = make(IDS[backend], 2, backend=backend, autoreset=mode, threads=2, **SMALL.get(backend, {}))
    assert env.autoreset == mode and env.num_envs == 2
    check_batched_env(env, num_steps=150)
    env.close()
    env.close()


def test_options_are_those_of_the_configuration():
    config = {f.name: f.default for f in dataclasses.fields(EnvConfig) if f.name not in ("id", "backend")}
    assert config == DEFAULTS


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backends_own_defaults_are_the_registrys(backend):
    module = importlib.import_module(BACKENDS[backend].module)
    functions = [getattr(module, BACKENDS[backend].cls).__init__, getattr(module, "_preprocessing", None)]
    own = {n: p for f in functions if f for n, p in inspect.signature(f).parameters.items()}
    for name in BACKENDS[backend].options & own.keys() - {"autoreset"}:
        assert own[name].default == DEFAULTS[name], name
    if not any(p.kind is p.VAR_KEYWORD for p in own.values()):
        assert BACKENDS[backend].options <= own.keys()


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "envpool"])
def test_auto_finds_the_backend(backend):
    assert resolve_backend(IDS[backend]) == backend


def test_all_defaults_may_be_given_to_any_backend():
    for backend in BACKENDS:
        if importlib.util.find_spec(BACKENDS[backend].package):
            make(IDS[backend], 1, backend=backend, **DEFAULTS).close()


@pytest.mark.parametrize(
    ("id", "options", "message"),
    [
        (
            "CartPole-v1",
            {"frame_skip": 2},
            r"frame_skip=2 does not apply to the gymnasium .*only to atari, envp",
        ),
        ("CartPole-v1", {"sticky_actions": 0.1}, "sticky_actions=0.1 does not apply"),
        (
            "Hopper-v5",
            {"vectorization": "async"},
            "vectorization=async does not apply to the mujoco",
        ),
        ("Hopper-v5", {"autoreset": "next-step"}, "next-step does not exist in the mujoco backend; use same-step"),
        ("CartPole-v1", {"frameskip": 2}, "unknown option 'frameskip'; did you mean frame_skip"),
        ("CartPole-v1", {"backend": "gym"}, "unknown backend 'gym'; choose auto or one of atari"),
        ("CartPoel-v1", {}, "unknown environment 'CartPoel-v1'.*CartPole-v1"),
        ("CartPole", {}, "did you mean CartPole-v1"),
        ("ALE/Pnog-v5", {}, "unknown environment 'ALE/Pnog-v5' of the atari backend; did you mean ALE/Pong-v5"),
        ("MinAtar/Brekout-v1", {}, "did you mean MinAtar/Breakout-v1"),
        ("Hoper-v5", {}, "gymnasium backend; did you mean Hopper-v5"),
        ("Hoper-v5", {"backend": "mujoco"}, "of the mujoco backend; did you mean Hopper-v5"),
        ("no_such_module:Env-v0", {}, "needs the module no_such_module, which is not installed"),
    ],
)
def test_bad_input_gets_one_clear_line(id, options, message):
    if options.get("backend") != "gym":
        needs(resolve_backend(id, options.get("backend", "auto")))
    with pytest.raises(ValueError, match=message) as info:
        make(id, 2, **options)
    assert "\n" not in str(info.value)


def test_no_simulators_is_refused():
    with pytest.raises(ValueError, match="num_envs=0 must be at least 1"):
        make("CartPole-v1", 0)


@pytest.mark.parametrize("backend", ["atari", "mujoco", "minatar", "envpool"])
def test_a_missing_extra_names_the_command(backend, monkeypatch):
    monkeypatch.setitem(BACKENDS, backend, BACKENDS[backend]._replace(package="not_installed_here"))
    with pytest.raises(ValueError, match=rf"needs the {backend} backend; run: pip install not-installed-here"):
        make(IDS[backend], 1, backend=backend)
    assert list_env_ids()[backend] == []


def test_a_missing_dependency_of_an_environment(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ValueError, match=r"LunarLander-v3: .*pip install"):
        make("LunarLander-v3", 1)


def test_ids_are_listed():
    found = list_env_ids()
    assert found.keys() == BACKENDS.keys()
    sizes = {"minatar": 5, "mujoco": 10, "classic": 5}
    for backend, id in IDS.items():
        if importlib.util.find_spec(BACKENDS[backend].package):
            assert id in found[backend]
            assert len(found[backend]) == sizes.get(backend, len(found[backend]))
    assert list_env_ids("minatar") == {"minatar": found["minatar"]}


def test_everything_imports_without_the_simulators():
    modules = [b.module for b in BACKENDS.values()] + ["gala_envs"]
    code = "import sys\nfor m in ('ale_py', 'mujoco', 'minatar', 'envpool', 'torch'): sys.modules[m] = None\n"
    code += "".join(f"import {m}\n" for m in modules)
    code += "assert gala_envs.list_env_ids('mujoco') == {'mujoco': []}; gala_envs.make('CartPole-v1', 1).reset(0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=250)
    assert gala_envs.make is make
