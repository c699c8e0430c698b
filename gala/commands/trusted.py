"""``trust=true``: the commands that import what a run names ask for it where the code is not known to be the user's."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from gala.build.trust import check_trusted, named_code
from gala.runs.run_dir import RunDir


def check_run(run_dir: RunDir, trust: bool, command: str, argv: Sequence[str]) -> None:
    """Raises ValueError, with the command to type if the code is trusted: see ``gala.build.trust``."""
    remedy = shlex.join(["gala", command, *argv, "trust=true"])
    check_trusted(named_code(run_dir.config), run_dir.path, trust=trust, remedy=remedy)


def is_yes(text: str) -> bool:
    """Raises ValueError unless ``text`` is true or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"trust={text}: wants true or false")
    return text.lower() == "true"
