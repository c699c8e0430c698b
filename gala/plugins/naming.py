"""From an object of the user's own to ``module:attribute``, the name by which other processes find it.

Only names travel: to the learner processes, into config.yaml, into saved weights.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

from gala.plugins.loading import absolute, attribute_of, file_of, is_path

SETTINGS = {"encoder": "model.encoder", "env": "env.id", "topology": "gossip.topology", "optimizer": "optim.name"}
"""What can be a user's own -> the setting that names it."""

_registered: dict[str, dict[str, str]] = {setting: {} for setting in SETTINGS.values()}


def register(setting: str, name: str, thing: Any) -> None:
    """Let ``setting=name`` stand for ``thing``, an object that other processes can import, or its ``module:attribute``.

    Raises:
        ValueError: the name cannot be one, or nobody else could import the object.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r} cannot be the name of a {setting}; use letters, digits, _, . and -")
    if isinstance(thing, str) and not is_path(thing):
        raise ValueError(f"{setting} {name!r}: {thing!r} is not module:attribute")
    _registered[setting][name] = absolute(thing) if isinstance(thing, str) else path_of(thing)


def expand(setting: str, text: str) -> str:
    """The ``module:attribute`` that a registered name stands for; any other text as it is, files by their full path."""
    registered = _registered.get(setting)
    return text if registered is None else registered.get(text) or absolute(text)


def path_of(thing: Any) -> str:
    """The ``module:attribute`` under which other processes find ``thing``; ``file.py:attribute`` in a script.

    Raises:
        ValueError: it is local to a function, or was defined in a notebook, on the command line or on stdin.
    """
    place = _place(thing)
    if place is None:
        way = "" if callable(thing) else "give its class, or "
        raise ValueError(
            f"{thing!r} cannot be imported by other processes; {way}define it at the top level of a module, under a "
            "name"
        )
    name, attribute = place
    if name in ("__main__", "__mp_main__"):
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None and spec.name != "__main__":  # python -m package.module
            return f"{spec.name}:{attribute}"
        if file is None or not Path(file).is_file():
            raise ValueError(
                f"{attribute} was defined in a notebook, by python -c or on stdin, where other processes cannot import "
                "it; write it to a file, my_module.py say, and import it from there"
            )
        return f"{Path(file).resolve()}:{attribute}"
    return f"{file_of(name) or name}:{attribute}"


def _place(thing: Any) -> tuple[str, str] | None:
    """(module, attribute) that lead to this very object; None if nothing does."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        if attribute_of(sys.modules[module], name) is thing:  # type: ignore[index, arg-type]
            return module, name  # type: ignore[return-value]
    places = [
        (name, attribute)
        for name, module in list(sys.modules.items())
        for attribute, value in list(getattr(module, "__dict__", {}).items())
        if value is thing and is_path(f"{name}:{attribute}")
    ]
    return min(places, key=lambda place: place[0] == "__main__", default=None)
