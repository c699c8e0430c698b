"""The house rules: who may import whom, and how large a thing may get. Edit a rule on purpose, never to pass."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("gala/**/*.py"), *ROOT.glob("envs/**/*.py")])
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 300, 60, 8
# A user's own loop builds it in three lines: keywords with defaults read better there than a settings object.
ARGUMENTS_ALLOWED = {"gala.gossip.averager.__init__": 11}

MAY_NOT_IMPORT = {
    "gala_envs": ("torch", "gala"),
    "gala.config.schema": ("torch", "numpy", "gymnasium", "gala", "gala_envs", "tyro", "yaml", "rich"),
    "gala.config.supervised": (
        "torch",
        "numpy",
        "gala.gossip",
        "gala.rl",
        "gala.build.learning",
        "gala.config.parse",
        "yaml",
        "rich",
    ),
    "gala.supervised": (
        "gala.rl",
        "gala.models",
        "gala.build.learning",
        "gala.runs.run_dir",
        "gala.config.parse",
        "gala.cli",
        "gala_envs",
    ),
    "gala.gossip": (
        "gala.optim",
        "gala.models",
        "gala.rl",
        "gala.config.schema",
        "gala.build.learning",
        "gala.runs.run_dir",
        "gala.supervised",
        "gala_envs",
        "gymnasium",
    ),
    "gala.optim": (
        "gala.gossip",
        "gala.models",
        "gala.rl",
        "gala.config.schema",
        "gala.build.learning",
        "gala.runs.run_dir",
        "gala_envs",
    ),
    "gala.models": (
        "gala.gossip",
        "gala.optim",
        "gala.rl",
        "gala.config.schema",
        "gala.build.learning",
        "gala.runs.run_dir",
    ),
    "gala.rl": (
        "gala.diagnostics",
        "gala.overfit",
        "gala.gossip",
        "gala.optim",
        "gala.models",
        "gala.config.schema",
        "gala.build.learning",
        "gala.runs.run_dir",
        "gala.training.supervisor",
    ),
    "gala.build.learning": (
        "gala.diagnostics",
        "gala.overfit",
        "gala.training.supervisor",
        "gala.cli",
        "gala.commands",
    ),
    "gala.runs.run_dir": ("gala.build.learning", "gala.training.supervisor", "gala.cli", "gala.commands", "gala.rl"),
    "gala.diagnostics": (
        "gala.config.schema",
        "gala.build.learning",
        "gala.runs.run_dir",
        "gala.overfit",
        "gala.reports",
        "gala.gossip",
    ),
    "gala.overfit": ("gala.cli", "gala.commands"),
    "gala.training.supervisor": ("gala.diagnostics", "gala.overfit", "gala.cli", "gala.commands"),
    "gala.runs.checkpoints": ("gala",),
    "gala.training.panel": ("torch", "gala.build.learning", "gala.training.supervisor", "gala.runs.run_dir", "gala.rl"),
}
"""Package or module -> import prefixes that it and everything below it must not use. The commands may import all."""

ONLY_IN = {
    "ale_py": "gala_envs.atari",
    "minatar": "gala_envs.minatar_env",
    "ray": "gala.cluster",
    "gala.commands": "gala.cli",
    "gala.cli": "gala.__main__",
}
"""Imports that are confined to one module: ale-py and MinAtar are GPL; nothing depends on the command line; Ray is
heavy, and for some runs only."""

BASES_OUTSIDE = {
    "Exception",
    "BaseException",
    "RuntimeError",
    "ValueError",
    "NamedTuple",
    "Protocol",
    "Generic",
    "Module",
}
BASES_OUTSIDE |= {"Optimizer", "Function", "Enum", "StrEnum"}
"""A class may derive from these, or from nothing: behaviour is composed."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "envs" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def breaches(name: str, source: str) -> list[str]:
    """What module ``name`` with this ``source`` does against the rules."""
    tree, found = ast.parse(source), []
    for imported in imports(tree):
        for package, forbidden in MAY_NOT_IMPORT.items():
            foreign = any(below(imported, prefix) for prefix in forbidden) and not below(imported, package)
            if below(name, package) and foreign:
                found.append(f"{name} imports {imported}")
        for prefix, only in ONLY_IN.items():
            if below(imported, prefix) and not below(name, only) and not below(name, prefix):
                found.append(f"{name} imports {imported}, which only {only} may")
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        found.append(f"{name} has {lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += function_breaches(name, node)
        elif isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
            found += [f"{name}.{node.name} derives from {base}" for base in bases if base not in BASES_OUTSIDE]
    return found


def function_breaches(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    lines = (node.end_lineno or 0) - node.lineno + 1
    if lines > MAX_FUNCTION_LINES:
        yield f"{name}.{node.name} has {lines} lines"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    count = len([a for a in arguments if a.arg not in ("self", "cls")])
    if count > ARGUMENTS_ALLOWED.get(f"{name}.{node.name}", MAX_ARGUMENTS):
        yield f"{name}.{node.name} has {count} arguments"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_the_house_rules(path):
    assert breaches(module_name(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gala_envs.atari", "import torch"),
        ("gala_envs.atari", "from gala import config"),
        ("gala_envs.minatar", "def f():\n    import ale_py"),
        ("gala_envs.atari", "from minatar import Environment"),
        ("gala.training.supervisor", "import ray"),
        ("gala.config.schema", "import yaml"),
        ("gala.gossip.averager", "from gala.config.schema import Config"),
        ("gala.models.encoders", "from gala.rl import rollout"),
        ("gala.rl.a2c", "import gala.gossip.graphs.topology"),
        ("gala.training.supervisor", "import gala.cli"),
        ("gala.training.supervisor", "from gala.commands import train"),
        ("gala.x", "\n" * 301),
        ("gala.x", "def f():\n" + "    pass\n" * 60),
        ("gala.x", "def f(a, b, c, d, *, e, f, g, h, i): ..."),
        ("gala.x", "class A(B): ..."),
        ("gala.x", "class Ring(topology.Topology): ..."),
    ],
)
def test_the_rules_notice(name, source):
    assert breaches(name, source)


def test_the_rules_allow():
    source = "import torch\nfrom gala.gossip.flat import x\nclass A(torch.nn.Module): ...\nclass B(NamedTuple): ...\n"
    assert breaches("gala.gossip.averager", source + "def f(self, a, b, c, d, *, e, f, g, h): ...") == []
