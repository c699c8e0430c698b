"""The words of a command that has options of its own beside the settings of a training."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from gala.config.parse import split_settings


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether ``--help`` or ``-h`` is among the words."""
    return "--help" in words or "-h" in words


def divided(words: Sequence[str], options: type) -> tuple[list[str], list[str]]:
    """(what ``options``, a dataclass, has a field for; all else), each as KEY=VALUE, whichever way it was written.
    Raises ValueError in one line."""
    names = {field.name for field in dataclasses.fields(options)}
    given = split_settings(words)
    return (
        [f"{key}={text}" for key, text in given if key in names],
        [f"{key}={text}" for key, text in given if key not in names],
    )


def take_paths(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that are not settings, and those that are, ``--key value`` among them. A path may hold an = itself:
    no setting's name has a slash."""
    plain: list[str] = []
    settings: list[str] = []
    rest = iter(words)
    for word in rest:
        key, equals, _ = word.partition("=")
        if word.startswith("--") and not equals:
            settings += [word, *itertools.islice(rest, 1)]
        elif word.startswith("-"):
            settings.append(word)
        else:
            (plain if not equals or "/" in key or Path(word).exists() else settings).append(word)
    return plain, settings
