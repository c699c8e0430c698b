"""``import gala`` and ``gala --help`` load nothing heavy; every name is there when it is asked for."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from training import ROOT

import gala
import gala.gossip

HEAVY = ("torch", "numpy", "gymnasium", "tyro", "yaml", "rich", "gala.api", "gala.config", "gala.plugins")


@pytest.mark.parametrize(
    "line",
    [
        "import gala; gala.__version__, gala.__all__, dir(gala)",
        "import gala.gossip; gala.gossip.__all__, dir(gala.gossip)",
        "import gala; gala.gossip",
        "from gala.cli import main; main(['--help'])",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(line):
    check = f"{line}\nimport sys\nloaded = [name for name in {HEAVY} if name in sys.modules]\nassert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", [gala, gala.gossip], ids=lambda package: package.__name__)
def test_every_public_name_is_fetched_from_the_place_that_type_checkers_read(package):
    """What stands under TYPE_CHECKING, what ``__getattr__`` fetches and ``__all__`` are the same names and places."""
    (guarded,) = (
        node
        for node in ast.parse(Path(package.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {alias.name: node.module for node in guarded.body for alias in node.names if node.module != "typing"}
    lazy = dict(package._HOMES)
    if package is gala:
        assert typed.pop("gossip") == "gala" and gala.gossip is importlib.import_module("gala.gossip")
    assert typed == lazy
    assert set(package.__all__) - {"gossip", "__version__"} == set(lazy)
    for name, home in lazy.items():
        value = getattr(package, name)
        assert value is getattr(importlib.import_module(home), name)
        assert name.isupper() or value.__doc__, f"{name} says nothing of itself"
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
