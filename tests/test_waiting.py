"""The line that a terminal shows while a command is silent."""

import contextlib
import os
import pty
import subprocess
import sys

CODE = """
import time
from gala.commands.waiting import waiting
with waiting("drawing") as say:
    time.sleep(2.5)
    say("x" * 200)
    time.sleep(1.5)
print("end")
"""


def test_a_terminal_sees_the_text_the_time_and_then_nothing_of_it():
    ours, theirs = pty.openpty()
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=theirs, env=env)
    out, _ = child.communicate(timeout=120)
    os.close(theirs)
    seen = b""
    with contextlib.suppress(OSError):  # EIO: all has been read; one read may give a part only
        while part := os.read(ours, 10_000):
            seen += part
    os.close(ours)
    lines = seen.decode().split("\r\x1b[K")
    assert out == b"end\n" and "drawing (0:01)" in lines and lines[-1] == ""
    assert "x" * 79 in lines and max(map(len, lines)) == 79  # more would wrap, and stay


def test_a_log_sees_nothing():
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", CODE], check=False, capture_output=True, env=env, timeout=120)
    assert (done.stdout, done.stderr) == (b"end\n", b"")
