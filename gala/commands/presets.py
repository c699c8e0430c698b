"""``gala presets [WORD ...]``: the presets whose name or environment contains each WORD, one a line."""

from __future__ import annotations

from collections.abc import Sequence

from gala.config.parse import COMMANDS, preset_settings, schema
from gala.config.preset_files import nearest, preset_names
from gala.config.schema import Config, flatten

USAGE = """usage: gala presets [WORD ...]

List the presets whose name or environment contains each WORD, in any case, with
environment, encoder and env_steps; use one with preset=NAME."""
WIDTH = 80


def main(argv: Sequence[str]) -> int:
    """Prints one line per preset. Returns 0."""
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    words = [word.lower() for word in argv]
    lines = [(name, *_columns(name)) for name in preset_names()]
    found = [line for line in lines if all(word in f"{line[0]} {line[1]}".lower() for word in words)]
    if not found:
        raise ValueError(f"no preset has {' '.join(argv)!r} in its name{nearest(argv[0], preset_names())}")
    for name, env, rest in found:
        line = f"{name:<31} {env:<25} {rest}".rstrip()
        print(line if len(line) <= WIDTH else " ".join(line.split()))
    return 0


def _columns(name: str) -> tuple[str, str]:
    """(environment, the rest)."""
    if schema(name) is not Config:
        return "", f"for `{COMMANDS[schema(name)]}`"
    told = flatten(Config()) | preset_settings(name)
    return told["env.id"], f"{told['model.encoder']:<11} {float(told['steps']):>7.2g}"
