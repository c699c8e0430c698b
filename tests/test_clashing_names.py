"""A working directory whose modules have the names of Python's own, or of what learners need."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os
from gala.processes.start import start_method, without_main

context = start_method("gala.processes.child")
process = context.Process(target=os.getpid)
with without_main():
    process.start()
process.join()
print(process.exitcode, os.environ.get("PYTHONSAFEPATH"))
"""

PROGRAM = """
import subprocess
from gala.processes.start import interpreter

subprocess.run([*interpreter(), "-c", "import tempfile; print('started')"], check=True)
"""


def run_beside_clashing_names(tmp_path: Path, script: str) -> tuple[str, str]:
    """What a script prints that lies elsewhere."""
    (tmp_path / "work").mkdir()
    for name in ("random", "tempfile", "yaml", "torch"):
        (tmp_path / "work" / f"{name}.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "start.py").write_text(script)
    root = Path(__file__).parents[1]
    paths = {"PYTHONPATH": os.pathsep.join((str(root), str(root / "envs")))}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "start.py")],
        cwd=tmp_path / "work",
        env=os.environ | paths,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout, done.stderr


def test_children_start_beside_modules_of_the_same_names(tmp_path):
    assert run_beside_clashing_names(tmp_path, SCRIPT) == ("0 None\n", "")


def test_programs_start_beside_modules_of_the_same_names(tmp_path):
    assert run_beside_clashing_names(tmp_path, PROGRAM) == ("started\n", "")
