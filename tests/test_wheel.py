"""What a user installs: the wheel holds every module and preset of the checkout, and imports without it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parent.parent
IMPORT_ALL = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.stdin.read().split():
    module = importlib.import_module(name)
    assert module.__file__.startswith(sys.argv[1]), module.__file__
"""


def module_names(root: Path) -> set[str]:
    paths = (p.relative_to(root).with_suffix("").parts for p in root.rglob("*.py") if p.name != "__main__.py")
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in paths}


def test_the_wheel_holds_all_modules_and_presets_and_imports_on_its_own(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    expected = {f"gala.{n}" if n else "gala" for n in module_names(ROOT / "gala")}
    expected |= {f"gala_envs.{n}" if n else "gala_envs" for n in module_names(ROOT / "envs" / "gala_envs")}
    names = {n for n in module_names(installed) if n.split(".")[0] in ("gala", "gala_envs")}
    assert names == expected
    presets = {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")}
    assert {p.relative_to(installed / "gala/presets") for p in installed.rglob("presets/**/*.yaml")} == presets
    names -= {n for n in names if n.startswith("gala.gossip.integrations.")}  # they need their library
    words = [sys.executable, "-I", "-c", IMPORT_ALL, str(installed)]
    done = subprocess.run(
        words, check=False, input=" ".join(sorted(names)), text=True, capture_output=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
