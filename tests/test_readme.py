"""What the README tells a newcomer to type is understood."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gala import cli
from gala.bench import throughput
from gala.commands import bench, evaluate, resume, topologies
from gala.commands.compare.words import cells, sort_words
from gala.config import supervised
from gala.config.parse import override, parse_config, parse_options
from gala.config.schema import Config
from gala.config.supervised import SupervisedConfig
from gala.config.validate import validate

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
GALA = [line for line in LINES if line.startswith("gala ")]
MAKE = [line for line in LINES if line.startswith("make ")]


def test_the_readme_has_its_commands():
    assert MAKE[:2] == ["make train", "make test"]
    assert {line.split()[1] for line in GALA} >= set(cli.COMMANDS) - {"envs"}
    assert set(re.findall(r"^\| `gala ([\w-]+)` \|", TEXT, re.MULTILINE)) == set(cli.COMMANDS)


@pytest.mark.parametrize("line", GALA)
def test_every_gala_line_parses(line):
    command, *words = shlex.split(line)[1:]
    if command == "train":
        validate(parse_config([word for word in words if word != "--dry-run"]))
    elif command == "eval":
        assert words[0].startswith("runs/")
        parse_options(evaluate.Options, [word for word in words[1:] if word != "--json"])
    elif command == "resume":
        override(Config(), resume.split(words[1:])[1], resume.MAY_CHANGE)
    elif command == "supervised":
        supervised.validate(parse_options(SupervisedConfig, words))
    elif command == "bench":
        options, config = bench.parse(words[1:])
        assert throughput.variants(config, options.envs, options.algos.split(","), [1, 2, 4])
    elif command == "compare":
        given = sort_words([word for word in words if word != "--dry-run"])
        assert given.runs or given.rows or cells(given)
    elif command == "tune":
        validate(parse_config(words))
    elif command == "topologies":
        parse_options(topologies.Options, words[1:])
    assert cli.main([command, "--help"]) == 0


@pytest.mark.parametrize("line", MAKE)
def test_every_make_line_has_a_target_and_passes_its_settings(line):
    done = subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = dict(word.split("=", 1) for word in shlex.split(line) if "=" in word)
    if "train" in line:
        train, play = (next(x for x in done.stdout.splitlines() if f"gala {verb} " in x) for verb in ("train", "eval"))
        assert f"preset={words.get('PRESET', 'minatar/breakout')}" in train and words.get("ARGS", "") in train
        run = re.search(r"run=(\S+)", train)
        assert run is not None and play.endswith(f"gala eval {run[1]}")


def test_make_train_evaluates_the_run_that_the_user_named():
    done = subprocess.run(
        ["make", "-n", "train", "ARGS=seed=2 run=runs/mine"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "gala train preset=minatar/breakout run=runs/mine seed=2 run=runs/mine" in done.stdout
    assert "gala eval runs/mine\n" in done.stdout


def test_every_file_that_the_readme_links_to_is_there():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_table_of_where_things_are_names_what_is_there():
    """Each path exists, and holds the registry that is named beside it."""
    table = TEXT.split("| what | where |")[1].split("\n\n")[0]
    paths = re.findall(r"`([\w/]+/[\w/.]*)`", table)
    assert len(paths) >= 16 and not [path for path in paths if not (ROOT / path).exists()]
    registries = re.findall(r"`([A-Z]+)` in `([^`]+)`", table)
    assert len(registries) == 7
    for name, path in registries:
        assert re.search(rf"^{name}\b.* = {{", (ROOT / path).read_text(), re.MULTILINE), (name, path)
    wanted = {"the loss", "the exchange", "a topology", "an environment", "an encoder", "an optimiser", "a command"}
    assert wanted | {"a diagnostic"} <= set(re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE))


def test_the_python_of_the_readme_names_what_there_is(tmp_path):
    import inspect

    import gala

    block = TEXT.split("## From Python")[1].split("```python\n")[1].split("```")[0]
    tree = compile(block, "README.md", "exec")
    assert tree.co_names
    assert set(re.findall(r"\bgala\.(\w+)\(", block)) <= set(gala.__all__)
    for method in re.findall(r"\brun\.(\w+)\(", block):
        assert inspect.isfunction(getattr(gala.Run, method))
    for method in re.findall(r"\bagent\.(\w+)\(", block):
        assert inspect.isfunction(getattr(gala.Agent, method))
