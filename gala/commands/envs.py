"""``gala envs [BACKEND]``: the environment ids that can be trained on here."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Prints ids, grouped by backend. Returns 0."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: gala envs [BACKEND]\n\nList the environment ids of each backend; use one with env.id=ID.")
        return 0
    from gala_envs.registry import list_env_ids

    ids = list_env_ids()
    if argv and argv[0] not in ids:
        raise ValueError(f"unknown backend {argv[0]!r}; there are {', '.join(ids)}")
    for backend in [argv[0]] if argv else ids:
        print(f"{backend} ({len(ids[backend])})")
        for env_id in ids[backend]:
            print(f"  {env_id}")
    return 0
