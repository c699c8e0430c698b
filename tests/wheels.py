"""Does what a user installs work, on each Python? ``make wheels``, or ``python tests/wheels.py [INTERPRETER ...]``.

Builds the wheel and the sdist, and holds the wheel that comes of the sdist against the other. Then, for each
interpreter: a bare environment, torch and the wheel with its extras at the versions of constraints.txt, and the
commands below, outside of the clone. Takes minutes and a network, so pytest does not collect it. pip's own
configuration says which build of torch is taken, as for make.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEFAULT_INTERPRETERS = ("python3.11", "python3.12", "python3.13")
EXTRAS = "atari,mujoco,minatar,supervised,plot,diagnose,video"
CONSTRAINTS = ROOT / "constraints.txt"
SETTINGS = ("preset=classic/cartpole", "learners=2", "steps=20_000", "run=cartpole", "seed=1")
STEP = """
import sys, numpy as np
from gala_envs.registry import make
env = make(sys.argv[1], 2)
assert env.reset(seed=0).shape[0] == 2
step = env.step(np.stack([env.action_space.sample() for _ in range(2)]))
assert np.isfinite(step.reward).all() and step.obs.shape[0] == 2
env.close()
"""
VERSIONS = "import torch, numpy, platform; print(platform.python_version(), torch.__version__, numpy.__version__)"


class Failed(Exception):
    """A command ended badly; the message is what it printed last."""


def run(words: list[str], folder: Path) -> str:
    """What it printed; it sees nothing of the clone."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME"))}
    done = subprocess.run(words, cwd=folder, env=env, text=True, capture_output=True, timeout=3600, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(words[:4])[:200]} ...: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def build(out: Path) -> Path:
    """The path of the wheel. Raises Failed where the sdist makes another one."""
    hatchling = [sys.executable, "-m", "hatchling", "build"]
    run([*hatchling, "-t", "wheel", "-t", "sdist", "-d", str(out)], ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "unpacked", filter="data")
    (source,) = (out / "unpacked").iterdir()
    run([*hatchling, "-t", "wheel", "-d", str(out / "again")], source)
    (again,) = (out / "again").glob("*.whl")
    if members(wheel) != members(again):
        raise Failed("the wheel that the sdist makes has other files")
    print(f"{wheel.name} {wheel.stat().st_size / 1e6:.1f} MB, the same from {sdist.name}", flush=True)
    return wheel


def install(interpreter: str, wheel: Path, folder: Path) -> Path:
    """A bare environment in ``folder``; returns its ``bin``."""
    run([interpreter, "-m", "venv", str(folder / "venv")], folder)
    bin = folder / "venv" / "bin"
    pip = [str(bin / "python"), "-m", "pip", "install", "--quiet", "-c", str(CONSTRAINTS)]
    torch = re.search(r"^torch==\S+$", CONSTRAINTS.read_text(), re.MULTILINE)
    assert torch is not None, "constraints.txt names no torch"
    run([*pip, torch[0]], folder)
    run([*pip, f"gala-rl[{EXTRAS}] @ {wheel.as_uri()}"], folder)
    return bin


def smoke(bin: Path, folder: Path) -> str:
    """Runs the commands; returns the versions of Python, torch and numpy."""
    gala, python = str(bin / "gala"), str(bin / "python")
    place = run([python, "-c", "import gala, gala_envs; print(gala.__file__, gala_envs.__file__)"], folder).split()
    if not all(Path(path).is_relative_to(bin.parent) for path in place):
        raise Failed(f"not what was installed: {place}")
    commands = [
        [gala, "--help"],
        [gala, "doctor"],
        [gala, "train", *SETTINGS],
        [gala, "eval", "cartpole", "episodes=5"],
        *([python, "-c", STEP, env_id] for env_id in ("ALE/Pong-v5", "MinAtar/Breakout-v1", "HalfCheetah-v5")),
    ]
    for words in commands:
        run(words, folder)
    return run([python, "-c", VERSIONS], folder).strip()


def main(interpreters: list[str]) -> int:
    """One line for each interpreter. Returns 1 if one failed or none was there."""
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="gala-wheels-") as out:
        wheel = build(Path(out) / "dist")
        for number, interpreter in enumerate(interpreters):
            if (
                shutil.which(interpreter) is None
                or subprocess.run([interpreter, "--version"], capture_output=True, check=False).returncode
            ):
                print(f"{interpreter}: not run, it is not here", flush=True)
                continue
            folder = Path(out) / str(number)
            folder.mkdir()
            try:
                python, torch, numpy = smoke(install(interpreter, wheel, folder), folder).split()
                print(f"Python {python}, torch {torch}, numpy {numpy}: passed", flush=True)
                verdicts.append(True)
            except Failed as error:
                print(f"{interpreter}: FAILED, {error}", flush=True)
                verdicts.append(False)
            shutil.rmtree(folder)
    return 0 if verdicts and all(verdicts) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or list(DEFAULT_INTERPRETERS)))
