"""A working directory whose modules have the names of Python's own, or of what learners need."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os
from gala.processes import start
from gala.processes.start import start_method, without_main

start._BY_OPTIMISERS = "json"  # takes less time
context = start_method("gala.processes.child")
process = context.Process(target=os.getpid)
with without_main():
    process.start()
process.join()
print(process.exitcode, os.environ.get("PYTHONSAFEPATH"))
"""


def test_children_start_beside_modules_of_the_same_names(tmp_path):
    (tmp_path / "work").mkdir()
    for name in ("random", "tempfile", "yaml", "torch"):
        (tmp_path / "work" / f"{name}.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "start.py").write_text(SCRIPT)
    root = Path(__file__).parents[1]
    paths = {"PYTHONPATH": os.pathsep.join((str(root), str(root / "envs")))}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "start.py")],
        cwd=tmp_path / "work",
        env=os.environ | paths,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("0 None\n", "")
