"""What to type for an extra that is missing."""

from __future__ import annotations

from importlib import metadata


def install(extra: str) -> str:
    """Such as ``pip install 'matplotlib>=3.10' 'networkx>=3.4'``: the packages themselves, which the index has, while
    this distribution may have come from a clone or a wheel."""
    try:
        every = metadata.requires("gala-rl") or []
    except metadata.PackageNotFoundError:  # on the path, not installed
        every = []
    lines = [line.replace('"', "'").partition(";") for line in every]
    wanted = [named.strip() for named, _, when in lines if f"'{extra}'" in when]
    quoted = " ".join(f"'{package}'" for package in wanted)
    return f"pip install {quoted}" if quoted else f"pip install '.[{extra}]' in the clone of gala"
