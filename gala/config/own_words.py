"""The words of a command that has options of its own beside the settings of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gala.config.parse import split_settings


def divided(words: Sequence[str], options: type) -> tuple[list[str], list[str]]:
    """(what ``options``, a dataclass, has a field for; all else), each as KEY=VALUE, whichever way it was written.
    Raises ValueError in one line."""
    names = {field.name for field in dataclasses.fields(options)}
    given = split_settings(words)
    return (
        [f"{key}={text}" for key, text in given if key in names],
        [f"{key}={text}" for key, text in given if key not in names],
    )
