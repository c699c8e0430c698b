"""Makes the virtual environments of the peers, one each: their requirements exclude each other.

    python benchmarks/peers/venvs.py [NAME ...] --venvs ~/.cache/gala-peers

A venv is made anew only when its requirements have changed since (a stamp holds their hash). torch is installed first
and by itself, so that its build is the one that pip is set up to prefer, as in the Makefile.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
DEFAULT = Path("~/.cache/gala-peers").expanduser()
PREFIX = "requirements-"
NAMES = sorted(path.stem.removeprefix(PREFIX) for path in HERE.glob(f"{PREFIX}*.txt"))


class InstallFailed(RuntimeError):
    """A venv cannot be made; the text is one line."""


def requirements(name: str) -> list[str]:
    """The pinned packages of peer ``name``."""
    lines = (HERE / f"{PREFIX}{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def ensure(name: str, root: Path) -> Path:
    """The Python of the venv of ``name`` below ``root``, made if need be. Raises InstallFailed."""
    venv, wanted = root / name, requirements(name)
    python, stamp = venv / "bin" / "python", venv / "requirements.sha256"
    digest = hashlib.sha256("\n".join([sys.version, *wanted]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return python
    print(f"installing {name} into {venv}", file=sys.stderr)
    shutil.rmtree(venv, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    torch = [line for line in wanted if line.startswith("torch==")]
    for command in ([sys.executable, "-m", "venv", str(venv)], [*pip, *torch], [*pip, *wanted]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr[-200:]]
            raise InstallFailed(f"{name} cannot be installed: {errors[-1].strip()}")
    stamp.write_text(digest)
    return python


def installed(name: str, python: Path) -> dict[str, str]:
    """Versions of the direct requirements of ``name``, and of numpy, as they are in its venv."""
    packages = sorted({*(line.split("==")[0] for line in requirements(name)), "numpy"})
    code = "import json, sys; from importlib.metadata import version; "
    code += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    done = subprocess.run([str(python), "-c", code, *packages], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)}; all by default")
    parser.add_argument("--venvs", type=Path, default=DEFAULT)
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))} is unknown; use some of {', '.join(NAMES)}")
    failed = False
    for name in options.names or NAMES:
        try:
            python = ensure(name, options.venvs)
            print(name, json.dumps(installed(name, python)))
        except InstallFailed as error:
            failed = True
            print(error, file=sys.stderr)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
