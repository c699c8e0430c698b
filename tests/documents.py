"""The README and the pages of docs/: their blocks of code, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Block(NamedTuple):
    """One fenced block; ``page`` is its file's path in the repository."""

    page: str
    language: str
    text: str


def blocks(*languages: str, page: str = "") -> list[Block]:
    """The blocks of these languages on one page, or on all."""
    found = []
    for path in PAGES:
        name = path.relative_to(ROOT).as_posix()
        if page in ("", name):
            text = path.read_text()
            found += [Block(name, *match) for match in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)]
    return [block for block in found if block.language in languages]


def commands(*programs: str, page: str = "") -> list[str]:
    """The lines of sh blocks that start with one of ``programs``, without comments, each once."""
    lines = [line for block in blocks("sh", page=page) for line in block.text.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return list(dict.fromkeys(shlex.join(w) for w in words if w and w[0] in programs))


def files(page: str) -> dict[str, str]:
    """The files that a page tells one to write: blocks that begin with a comment that is their name."""
    named = (
        (re.match(r"# ([\w.]+\.(?:py|txt|yaml))\b", b.text), b.text)
        for b in blocks("python", "text", "yaml", page=page)
    )
    return {match[1]: text for match, text in named if match}


def write_files(page: str, folder: Path) -> list[str]:
    """Writes them into ``folder``; returns their names."""
    for name, text in files(page).items():
        (folder / name).write_text(text)
    return list(files(page))
