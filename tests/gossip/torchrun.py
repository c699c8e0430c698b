"""Commands of torchrun, as tests run them."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 280
_PATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENV = os.environ | {"PYTHONPATH": _PATH, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run(*commands: str, cwd: Path = ROOT) -> str:
    """What all of ``commands``, which start with torchrun or python and run side by side, print; none may fail."""
    programs = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "python": [sys.executable]}
    words = [shlex.split(command) for command in commands]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    running = [subprocess.Popen([*programs[w[0]], *w[1:]], **pipes, env=ENV, cwd=cwd) for w in words]  # type: ignore
    try:
        said = [each.communicate(timeout=TIMEOUT_S)[0] for each in running]
    finally:
        for each in running:
            each.kill()
    assert [each.returncode for each in running] == [0] * len(commands), "\n".join(said)
    return "".join(said)
