"""``gala envs [BACKEND|WORD ...]``: the environment ids that can be trained on here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

USAGE = """usage: gala envs [BACKEND] [WORD]

List the environment ids of each backend, or of BACKEND, whose name contains
WORD, in any case; use one with env.id=ID."""


def main(argv: Sequence[str]) -> int:
    """Prints ids, grouped by backend. Returns 0. Raises ValueError if there are none."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    from gala_envs.registry import list_env_ids

    for backend, found in search(list_env_ids(), argv).items():
        print(f"{backend} ({len(found)})")
        for env_id in found:
            print(f"  {env_id}")
    return 0


def search(ids: Mapping[str, Sequence[str]], words: Sequence[str]) -> dict[str, list[str]]:
    """The ids that hold all ``words``, whatever their case; a first word that is a backend's name asks for its own.

    Raises:
        ValueError: there are none; with the nearest name.
    """
    from gala.config.preset_files import nearest

    backends, wanted = list(ids), list(words)
    if wanted and wanted[0] in ids:
        backends = [wanted.pop(0)]
    found = {
        backend: [name for name in ids[backend] if all(word.lower() in name.lower() for word in wanted)]
        for backend in backends
    }
    found = {backend: names for backend, names in found.items() if names or not wanted}
    if not found:
        names = {name.lower(): name for name in (*ids, *(name for backend in backends for name in ids[backend]))}
        close = [names[name] for name in difflib.get_close_matches(wanted[0].lower(), names, 1, 0.5)]
        raise ValueError(f"no backend and no environment is named {' '.join(words)!r}{nearest('', (), close)}")
    return found
