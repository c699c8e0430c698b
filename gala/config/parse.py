"""Words on the command line and in YAML files -> ``Config``.

Precedence: default < ``base`` of the preset < preset < command line. A preset is flattened to the same ``a.b=c``
settings as the command line and put before them, so a typo in a file gets the same one-line error as a typed one.
Scalars are read as raw text (YAML 1.1 would turn ``7e-4`` into a string and ``on`` into a boolean) and parsed by the
field's declared type.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
import yaml

from gala.config.preset_files import meant, nearest, nearest_setting, preset_names, preset_path
from gala.config.schema import PLACE, Config
from gala.config.supervised import SupervisedConfig
from gala.config.tuned import tuned_path
from gala.config.video import VideoConfig
from gala.files.plain_yaml import control_character, read_yaml, shortened
from gala.plugins import loading, naming

HELP = "Settings are key=value or --key value, and override those of preset=NAME."

T = TypeVar("T")
_remembered: Any = functools.lru_cache(maxsize=256)  # Any: mypy takes no class for hashable

LARGEST = 2**63 - 1

ALIASES = {"topology": "gossip.topology"}
"""Short names that the command line accepts for a nested setting."""

SCHEMAS: dict[str, type] = {"digits": SupervisedConfig, "tiny": SupervisedConfig, "video": VideoConfig}
"""Families of presets whose settings are not those of ``gala train``."""
COMMANDS = {Config: "gala train", SupervisedConfig: "gala supervised", VideoConfig: "gala video train"}


class Setting(NamedTuple):
    """One ``key=text`` and the file that it comes from (empty: the command line)."""

    key: str
    text: str
    source: str = ""

    def error(self, problem: str) -> ValueError:
        return ValueError(shortened(problem, 400) + (f" (in {self.source})" if self.source else ""))


def parse_config(argv: Sequence[str]) -> Config:
    """``preset=atari/pong optim.lr=1e-3 --seed 3`` -> Config. Checks types, not values; ValueError in one line.

    Whoever says algo=a2c and no number of learners means one, whatever the preset has.
    """
    said = dict(split_settings(argv))
    alone = ["learners=1"] if said.get("algo") == "a2c" and "learners" not in said else []
    return parse_options(Config, [*argv, *alone])


def load_config(path: Path) -> Config:
    """The Config that ``dump_config`` wrote to ``path``, exactly. Raises ValueError in one line."""
    return load_options(path, Config)


def load_options(path: Path, cls: type[T]) -> T:
    """The same for the settings ``cls`` of any command."""
    settings = _read_yaml(path)
    keys = {s.key for s in settings}
    if cls in COMMANDS and not keys <= _fields(cls).keys():
        for kind in (kind for kind in COMMANDS if keys <= _fields(kind).keys()):
            raise ValueError(f"{path} is of `{COMMANDS[kind]}`; this command takes what `{COMMANDS[cls]}` makes")
    return _build(settings, cls)


def override(config: T, argv: Sequence[str], allowed: Sequence[str] = ()) -> T:
    """``config`` with the settings of ``argv``, each in ``allowed`` if that is given. Raises ValueError in one line."""
    changes = _split(argv, type(config))
    changed = _build([*_flatten(yaml.load(dump_config(config), yaml.BaseLoader), "", ""), *changes], type(config))
    for s in changes:
        if allowed and s.key not in allowed:
            raise ValueError(f"{s.key} cannot change in a resumed run; only {', '.join(allowed)} can")
    return changed


def parse_options(cls: type[T], argv: Sequence[str]) -> T:
    """The options of any command, in the same two spellings, into the dataclass ``cls``; with presets if it has a
    field for their name."""
    settings, presets = _split(argv, cls), list[str]()
    if "preset" in _fields(cls):
        settings = _with_tuned(settings)
        presets = [s.text for s in settings if s.key == "preset"]
    preset = presets[-1] if presets and presets[-1] != "none" else ""
    if preset and not preset.endswith(".yaml") and preset_path(preset) and schema(preset) is not cls:
        raise ValueError(f"preset {preset!r} holds settings of `{COMMANDS[schema(preset)]}`")
    return _build([*(_read_preset(preset) if preset else []), *settings], cls)


def split_settings(argv: Sequence[str]) -> list[tuple[str, str]]:
    """(key, text) of each setting, in either spelling, whatever command it is for. Raises ValueError in one line."""
    return [(s.key, s.text) for s in _split(argv)]


def schema(preset: str) -> type:
    """The settings that a preset sets: those of ``gala train`` unless its family says otherwise."""
    return SCHEMAS.get(preset.split("/", maxsplit=1)[0], Config)


def dump_config(config: Any) -> str:
    """YAML text of every field of a Config (``load_config`` gives an equal one) or of another command's dataclass."""
    plain = {
        key: {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()} if isinstance(value, dict) else value
        for key, value in dataclasses.asdict(config).items()
    }
    return yaml.safe_dump(plain, sort_keys=False)


def dump_tree(tree: dict[str, Any]) -> str:
    """YAML text of some settings, nested as in a preset."""
    return yaml.safe_dump(tree, sort_keys=False)


def print_help(prog: str, cls: type = Config) -> None:
    """Every setting with its type, default and meaning, on stdout."""
    held = io.TextIOWrapper(io.BytesIO(), encoding=getattr(sys.stdout, "encoding", None) or "utf-8", errors="replace")
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(held):
        tyro.cli(cls, prog=prog, args=["--help"], description=HELP, config=_TYRO)
    held.seek(0)
    rest = held.read().partition("\n\n")[2]  # tyro's usage lists all settings, on one line
    print(f"usage: {prog} [key=value ...]\n\n{rest}", end="")


def preset_environments() -> dict[str, str]:
    """Preset of ``gala train`` -> the id of its environment."""
    return {name: preset_settings(name)["env.id"] for name in preset_names() if schema(name) is Config}


def preset_settings(name: str) -> dict[str, str]:
    """Dotted name -> text of what a preset sets, that of its bases included."""
    return {setting.key: setting.text for setting in _read_preset(name)}


@_remembered
def _fields(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> declared type, for every leaf."""
    out: dict[str, Any] = {}
    for name, hint in get_type_hints(cls).items():
        out |= _fields(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {prefix + name: hint}
    return out


_TYRO = (tyro.conf.FlagConversionOff, tyro.conf.UsePythonSyntaxForLiteralCollections)
_TYRO_LOCK = threading.Lock()
"""tyro works with state of the process's own: in two threads at once, one would get the other's answer."""


def _split(argv: Sequence[str], cls: type = Config) -> list[Setting]:
    settings, words, names = [], iter(argv), _fields(cls)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not word.startswith("--"):
                raise ValueError(f"{word!r} is not a setting; write {meant(word, names)}")
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise ValueError(f"{word} needs a value{', for it is no flag of this command' * (key not in names)}")
            text = following
        key = key.replace("-", "_")
        settings.append(Setting(key if key in names else ALIASES.get(key, key), text))
    return settings


def _with_tuned(settings: list[Setting]) -> list[Setting]:
    """``learners=auto`` stands for what `gala tune` has found here, before all else that the command line says."""
    if not (asked := [s for s in settings if s.key == "learners" and s.text == "auto"]):
        return settings
    preset = next((s.text for s in reversed(settings) if s.key == "preset"), "")
    if not (path := tuned_path(preset)).is_file():
        command = f"gala tune preset={preset}" if preset else "gala tune"
        raise ValueError(f"learners=auto: this machine is not tuned for it; run `{command}` first, or give a number")
    return [*_read_yaml(path), *(s for s in settings if s not in asked)]


def _read_preset(name: str, seen: tuple[str, ...] = ()) -> list[Setting]:
    if name in seen:
        raise ValueError(f"preset {name!r} is its own base: {' -> '.join((*seen, name))}")
    path = preset_path(name)
    settings, inherited = _read_yaml(path), list[Setting]()
    for base in (s.text for s in settings if s.key == "base"):
        beside = path.parent / base
        try:
            inherited += _read_preset(str(beside) if beside.is_file() else base, (*seen, name))
        except ValueError as error:
            raise ValueError(str(error) if path.name in str(error) else f"{path}: base: {error}") from None
    return inherited + [s for s in settings if s.key not in ("base", *PLACE)]  # that of a run is the place of that run


def _read_yaml(path: Path) -> list[Setting]:
    tree = read_yaml(path, raw=True)
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold `key: value` lines")
    return _flatten(tree, "", str(path))


def _flatten(tree: dict[str, Any], prefix: str, source: str) -> list[Setting]:
    out: list[Setting] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            out += _flatten(value, f"{prefix}{key}.", source)
        else:
            out.append(Setting(prefix + key, ",".join(map(str, value)) if isinstance(value, list) else value, source))
    return out


def _build(settings: list[Setting], cls: type[T]) -> T:
    hints = _fields(cls)
    settings = [s._replace(text=naming.expand(s.key, s.text)) for s in settings]
    for s in settings:
        if control_character(s.text):
            raise s.error(f"{s.key}={s.text[:80]!r} holds a control character")
        if s.key not in hints:
            if group := [name for name in hints if name.startswith(f"{s.key}.")]:
                hint = f"; did you mean {group[0]}={s.text}?" if group[0].endswith(".id") else ""
                raise s.error(f"{s.key} is a group of settings: {', '.join(group[:3])}, ...{hint}")
            raise s.error(f"unknown setting {s.key!r}{nearest_setting(s.key, hints)}")
        if _too_large(s.text, hints[s.key]):
            raise s.error(f"{s.key}={shortened(s.text, 24)} must be at most {LARGEST:.3g} in size")
        if (names := _own_or(hints[s.key])) and s.text not in names and not loading.is_path(s.text):
            wanted = f"one of {', '.join(names)}, or module:attribute"
            raise s.error(f"{s.key}={s.text}: wants {wanted}{nearest(s.text, names)}")
    args = [f"--{s.key}={_normal(s.text, hints[s.key])}" for s in settings]
    built: T | None = _tyro(cls, *args)
    if built is not None:
        return built
    bad = next((s for s, arg in zip(settings, args, strict=True) if _tyro(cls, arg) is None), settings[0])
    hint = hints[bad.key]
    suggestion = nearest(bad.text, get_args(hint)) if get_origin(hint) is Literal else ""
    raise bad.error(f"{bad.key}={bad.text}: wants {_describe(hint)}{suggestion}")


def _own_or(hint: Any) -> tuple[str, ...]:
    """The names of ``Literal[...] | str``: those that there are, where an object of the user's own can be named too."""
    return next((get_args(part) for part in get_args(hint) if get_origin(part) is Literal), ())


@_remembered
def _tyro(cls: Any, *args: str) -> Any:
    """tyro's answer (in 60 ms; settings are frozen), or None where it would have printed an error box and left."""
    try:
        with _TYRO_LOCK, contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(cls, args=args, config=_TYRO, console_outputs=False)
    except SystemExit:
        return None


def _normal(text: str, hint: Any) -> str:
    """``text`` as Python would write it: 2e6 or 2M for an int, true for a bool, 64,64 for a tuple."""
    if _is_whole(hint):
        text = re.sub(r"(?<=\d)[kKmM]$", lambda found: "e3" if found[0] in "kK" else "e6", text)
        with contextlib.suppress(ValueError, OverflowError):
            if "e" in text.lower() and float(text).is_integer():
                return str(int(float(text)))
    if hint is bool and text.lower() in ("true", "false"):
        return text.capitalize()
    if get_origin(hint) is tuple:
        items = [item.strip() for item in text.strip("()[] ").split(",") if item.strip()]
        items = [repr(item) for item in items] if get_args(hint)[0] is str else items
        return f"({''.join(item + ',' for item in items)})"
    return text


def _is_whole(hint: Any) -> bool:
    """Whether a field takes integers: ``int``, ``int | None``."""
    return hint is int or (get_origin(hint) in (Union, UnionType) and int in get_args(hint))


def _too_large(text: str, hint: Any) -> bool:
    """Whether an integer in ``text`` is beyond those of 64 bits, which counters, seeds and files have."""
    if not _is_whole(hint) and not (get_origin(hint) is tuple and int in get_args(hint)):
        return False
    return any(int(digits) > LARGEST for digits in re.findall(r"\d{19,4000}", _normal(text.replace("_", ""), hint)))


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return {int: "whole numbers", str: "words"}.get(get_args(hint)[0], "numbers") + " with commas between them"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_describe(part) for part in get_args(hint) if part is not type(None))
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, f"a {hint}")
