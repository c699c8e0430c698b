"""``gala presets [WORD]``: the presets whose name contains WORD, each with the first line of its comment."""

from __future__ import annotations

from collections.abc import Sequence

from gala.config.parse import COMMANDS, nearest, parse_config, preset_names, schema
from gala.config.schema import Config


def main(argv: Sequence[str]) -> int:
    """Prints one line per preset. Returns 0."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: gala presets [WORD]\n\nList the presets whose name contains WORD; use one with preset=NAME.")
        return 0
    names = [name for name in preset_names() if not argv or argv[0] in name]
    if not names:
        raise ValueError(f"no preset has {argv[0]!r} in its name{nearest(argv[0], preset_names())}")
    for name in names:
        if schema(name) is not Config:
            print(f"{name:<30} for `{COMMANDS[schema(name)]}`")
            continue
        config = parse_config([f"preset={name}"])
        print(f"{name:<30} {config.env.id:<28} {config.model.encoder:<11} {config.steps:>7.2g}")
    return 0
