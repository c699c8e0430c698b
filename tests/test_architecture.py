"""The house rules: who may import whom, and how large a thing may get. Edit a rule on purpose, never to pass."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("gala/**/*.py"), *ROOT.glob("envs/**/*.py")])
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_ARGUMENTS = 300, 60, 8
# A user's own loop builds it in three lines: keywords with defaults read better there than a settings object.
ARGUMENTS_ALLOWED = {"gala.gossip.averager.__init__": 13}

ENVS = "gala_envs"
_FOUNDATIONS = ("files", "plugins", "gossip", "models", "optim", "rl", "processes", "config", ENVS)
_SETTINGS = (*_FOUNDATIONS, "build", "runs")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "files": (),
    "plugins": (),
    "gossip": ("files", "plugins"),
    "models": ("plugins", ENVS),
    "optim": (),
    "processes": (),
    "rl": ("optim",),
    "config": ("files", "plugins", "processes"),
    "runs": ("files", "config"),
    "build": _FOUNDATIONS,
    "supervised": ("files", "config", "runs", "gossip", "models", "optim", "processes"),
    "training": _SETTINGS,
    "cluster": (*_SETTINGS, "training"),
    "evaluation": _SETTINGS,
    "experiments": ("files", "config", "processes", "runs", "build", "evaluation"),
    "diagnostics": (
        *("config", "gossip", "build"),
        "experiments",
        "evaluation",
        "models",
        "optim",
        "plugins",
        "rl",
        ENVS,
    ),
    "bench": (*_SETTINGS, "training"),
    "reports": ("files", "config", "diagnostics", "experiments", "gossip", "runs"),
    "overfit": (*_SETTINGS, "diagnostics", "evaluation", "experiments"),
    "commands": (
        *(*_SETTINGS, "training", "evaluation", "experiments", "diagnostics"),
        *("overfit", "reports", "bench", "supervised"),
    ),
    "api": (*_SETTINGS, "training", "evaluation"),
    "cli": ("processes",),
    "__main__": ("cli",),
}
"""Package of ``gala`` -> the packages that it may import: from the ground up, so each stands above what it imports.
``docs/architecture.md`` says what lives where."""

DOORS = {("gala.training.supervisor", "cluster"), ("gala.training.learner", "diagnostics")}
DOORS |= {("gala.training.filming", "evaluation")}
"""Imports upward, each inside a function, for runs that ask for it: learners on a cluster, measurements while learning,
and films."""

WITHOUT = {
    "gala": ("torch", "numpy", "gymnasium", "tyro", "yaml", "rich"),
    "gala_envs": ("torch", "gala"),
    "gala.plugins": ("torch", "numpy", "gymnasium", "gala_envs"),
    "gala.config.schema": ("torch", "numpy", "gymnasium", "gala_envs", "tyro", "yaml", "rich"),
    "gala.config": ("torch", "gala_envs"),
    "gala.processes": ("torch", "numpy", "gymnasium", "gala_envs"),
    "gala.gossip": ("gymnasium", "gala_envs"),
    "gala.training.panel": ("torch",),
}
"""Package or module -> import prefixes that it and everything below it must not use; ``gala`` is its own file only."""

GOSSIP_MAY_IMPORT = {
    "graphs": ("message",),
    "transport": ("message", "flat", "push_sum", "values"),
    "evidence": (),
    "integrations": ("averager",),
}
"""The same inside ``gala.gossip``; its other files may import all of these."""

ONLY_IN = {
    "ale_py": "gala_envs.atari",
    "minatar": "gala_envs.minatar_env",
    "ray": "gala.cluster",
    "transformers": "gala.gossip.integrations.transformers",
    "lightning": "gala.gossip.integrations.lightning",
    "optuna": "gala.experiments.search",
    "huggingface_hub": "gala.evaluation.hub",
    "gala.commands": "gala.cli",
    "gala.cli": "gala.__main__",
}
"""Imports that are confined to one module: ale-py and MinAtar are GPL; nothing depends on the command line; Ray is
heavy, and for some runs only; Trainer and Lightning are their users' own."""

BASES_OUTSIDE = {
    "Exception",
    "BaseException",
    "RuntimeError",
    "ValueError",
    "FloatingPointError",
    "NamedTuple",
    "Protocol",
    "Generic",
    "Module",
}
BASES_OUTSIDE |= {"Optimizer", "Function", "Enum", "StrEnum", "TrainerCallback", "Callback", "Env", "VectorEnv", "Box"}
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


def room(name: str) -> str:
    """The package of a module: gala.rl.a2c -> rl, gala_envs.atari -> gala_envs."""
    package, _, rest = name.partition(".")
    return rest.partition(".")[0] or package if package == "gala" else package


def import_breaches(name: str, imported: str) -> Iterator[str]:
    mine, other = room(name), room(imported)
    stands_above = mine in MAY_IMPORT and other in (ENVS, *MAY_IMPORT) and other not in (mine, *MAY_IMPORT[mine])
    if stands_above and (name, other) not in DOORS:
        yield f"{name} imports {imported}"
    for package, forbidden in WITHOUT.items():
        applies = name == package if package == "gala" else below(name, package)
        if applies and any(below(imported, prefix) for prefix in forbidden):
            yield f"{name} imports {imported}"
    if below(name, "gala.gossip") and below(imported, "gala.gossip"):
        inner, wanted = name.split(".")[2:3], imported.split(".")[2]
        allowed = GOSSIP_MAY_IMPORT.get(inner[0]) if inner else None
        if allowed is not None and wanted not in (inner[0], *allowed):
            yield f"{name} imports {imported}"
    for prefix, only in ONLY_IN.items():
        if below(imported, prefix) and not below(name, only) and not below(name, prefix):
            yield f"{name} imports {imported}, which only {only} may"


def breaches(name: str, source: str) -> list[str]:
    """What module ``name`` with this ``source`` does against the rules."""
    tree = ast.parse(source)
    found = [breach for imported in imports(tree) for breach in import_breaches(name, imported)]
    if (lines := len(source.splitlines())) > MAX_FILE_LINES:
        found.append(f"{name} has {lines} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("Of "):
            found.append(f"{name}:{node.lineno} says {node.value[:30]!r}: say what it is")
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


def test_the_rooms_are_a_stair_without_circles():
    standing: list[str] = [ENVS]
    for package, allowed in MAY_IMPORT.items():
        assert set(allowed) <= set(standing), f"{package} imports what stands above it: {set(allowed) - set(standing)}"
        standing.append(package)
    rooms = {p.stem if p.suffix else p.name for p in (ROOT / "gala").iterdir() if p.name not in ("py.typed", "presets")}
    assert rooms - {"__init__", "__pycache__"} == set(MAY_IMPORT)
    assert len(list((ROOT / "gala").glob("*.py"))) <= 4


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_the_house_rules(path):
    assert breaches(module_name(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("gala_envs.atari", "import torch"),
        ("gala_envs.atari", "from gala.config import schema"),
        ("gala_envs.minatar", "def f():\n    import ale_py"),
        ("gala_envs.atari", "from minatar import Environment"),
        ("gala.training.supervisor", "import ray"),
        ("gala.gossip.averager", "def f():\n    from transformers import Trainer"),
        ("gala.gossip.integrations.lightning", "from gala.gossip.transport.box import Box"),
        ("gala.training.learner", "from gala.cluster.job import open_job"),
        ("gala.config.schema", "import yaml"),
        ("gala.config.derived", "from gala.build import envs"),
        ("gala.processes.fleet", "from gala.training.learner import main"),
        ("gala.gossip.averager", "from gala.config.schema import Config"),
        ("gala.gossip.graphs.topology", "from gala.gossip.transport.box import Box"),
        ("gala.models.encoders", "from gala.rl import rollout"),
        ("gala.rl.a2c", "import gala.gossip.averager"),
        ("gala.training.supervisor", "import gala.cli"),
        ("gala.training.supervisor", "from gala.commands import train"),
        ("gala", "import torch"),
        ("gala.plugins.naming", "import torch"),
        ("gala.training.supervisor", "from gala.api.run import Run"),
        ("gala.api.run", "from gala.commands import evaluate"),
        ("gala.rl.x", 'def f():\n    """Of a thing."""'),
        ("gala.rl.x", "\n" * 301),
        ("gala.rl.x", "def f():\n" + "    pass\n" * 60),
        ("gala.rl.x", "def f(a, b, c, d, *, e, f, g, h, i): ..."),
        ("gala.rl.x", "class A(B): ..."),
        ("gala.rl.x", "class Ring(topology.Topology): ..."),
    ],
)
def test_the_rules_notice(name, source):
    assert breaches(name, source)


def test_the_rules_allow():
    source = "import torch\nfrom gala.gossip.flat import x\nclass A(torch.nn.Module): ...\nclass B(NamedTuple): ...\n"
    assert breaches("gala.gossip.averager", source + "def f(self, a, b, c, d, *, e, f, g, h): ...") == []
