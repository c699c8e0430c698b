"""The words of a subcommand, sorted by whom they are for: its own options, a family's parameters, ``gala train``."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gala_envs.contexts import Family, Scalar
from gala_envs.families import FAMILIES, make_family

from gala.build.trust import remember_family
from gala.config.parse import parse_options, print_help, split_settings
from gala.config.preset_files import nearest_setting
from gala.config.schema import Config, flatten
from gala.plugins import loading

T = TypeVar("T")


def show_help(subcommand: str, options: type) -> int:
    """Every option of a subcommand with its meaning. Returns 0, the exit status."""
    print_help(f"gala overfit {subcommand}", options)
    return 0


def take_family(words: Sequence[str]) -> tuple[Family, Sequence[str]]:
    """The first word as a family, and the rest. Raises ValueError."""
    if not words or "=" in words[0] or words[0].startswith("-"):
        raise ValueError(f"name a family first: {', '.join(FAMILIES)}")
    loading.search_working_directory()
    family = make_family(words[0])
    remember_family(family.name)
    return family, words[1:]


def without_out(words: Sequence[str]) -> list[str]:
    """``words`` without the setting ``out``, however it is spelt."""
    kept, rest = [], iter(words)
    for word in rest:
        if word == "--out":
            next(rest, None)
        elif not word.startswith(("out=", "--out=")):
            kept.append(word)
    return kept


def sort_words(words: Sequence[str], cls: type[T], family: Family | None) -> tuple[T, dict[str, Scalar], list[str]]:
    """(options, parameters of the family, settings of ``gala train``); a name that several know is the first's.

    Options of judging may be written without their prefix, as in budget=5m, unless ``gala train`` has the name too.

    Raises:
        ValueError: a setting that nobody knows, or that has an impossible value.
    """
    own, parameters, training = [], {}, []
    names, train_names = set(flatten(cls())), {*flatten(Config()), "preset"}
    for key, text in split_settings(words):
        if not key:
            raise ValueError(f"={text} has no name before the =; write name={text}, or {text} alone for a file")
        if key not in train_names and f"judge.{key}" in names:
            own.append(f"judge.{key}={text}")
        elif key in names:
            own.append(f"{key}={text}")
        elif family is not None and key in family.parameters:
            parameters[key] = scalar(key, text, family.parameters[key].default)
        elif key in train_names:
            training.append(f"{key}={text}")
        else:
            known = [*names, *(family.parameters if family else ()), *train_names]
            raise ValueError(f"unknown setting {key!r}{nearest_setting(key, known)}")
    return parse_options(cls, own), parameters, training


def scalar(key: str, text: str, default: Scalar) -> Scalar:
    """``text`` as the type of ``default``. Raises ValueError."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{key}={text} wants true or false")
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{key}={text} wants a number") from None
    if isinstance(default, int) and not number.is_integer():
        raise ValueError(f"{key}={text} wants a whole number")
    return int(number) if isinstance(default, int) else number


def pairs(rows: Sequence[Any]) -> str:
    """How many pairs an audit has found, in words; empty for none."""
    return f"{len(rows)} pair{'s' * (len(rows) != 1)}" if rows else ""


def command_line(subcommand: str, words: Sequence[str]) -> str:
    """What makes a study again."""
    return shlex.join(["gala", "overfit", subcommand, *words])


def default_out(name: Any, given: str) -> str:
    """``given``, or a directory under runs/ with the time in its name that is not there yet."""
    import time

    stamped = f"runs/overfit-{str(name).replace(':', '-').replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    later = (f"{stamped}-{k}" for k in itertools.count(2))
    return given or next(out for out in itertools.chain([stamped], later) if not Path(out).exists())


@contextlib.contextmanager
def resumable(out: str | Path) -> Iterator[None]:
    """Ctrl-C inside leaves one line that says how to go on: with the directory ``out`` where it was the default."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted; the same command with out={out} goes on where it was")
        raise
