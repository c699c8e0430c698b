"""Every `gala` line of the README and the docs is one that the real command line takes."""

import re
import shlex
import sys

import pytest
from documents import PAGES, ROOT, blocks, commands, write_files

from gala import cli
from gala.bench import throughput
from gala.commands import bench, needle, sweep, topologies, tune
from gala.commands.compare.words import cells, sort_words
from gala.commands.overfit.dispatch import SUBCOMMANDS
from gala.commands.overfit.words import sort_words as sort_overfit
from gala.commands.overfit.words import take_family
from gala.commands.video import EvalOptions
from gala.config import supervised
from gala.config.parse import parse_config, parse_options
from gala.config.supervised import SupervisedConfig
from gala.config.validate import validate
from gala.config.video import VideoConfig
from gala.overfit.options import SplitOptions, SweepOptions, TrainOptions

LINES = commands("gala")
MISSING = r"is not a run directory|holds no train\.json|cannot be read|is no study|there is no"
"""What a command says, once it has understood its words, where the folder that they name is not there."""


def test_all_commands_are_shown():
    shown = {tuple(shlex.split(line)[1:3]) for line in LINES}
    assert {words[0] for words in shown} >= set(cli.COMMANDS) - {"envs"}
    assert {words[1] for words in shown if words[0] == "overfit"} >= set(SUBCOMMANDS)
    table = (ROOT / "docs" / "howto" / "commands.md").read_text()
    assert set(re.findall(r"^\| `gala ([\w-]+)` \|", table, re.M)) == set(cli.COMMANDS)


def parse_bench(words):
    options, config = bench.parse(words[1:])
    assert throughput.variants(config, options.envs, options.algos.split(","), [1, 2, 4])


def parse_compare(words):
    given = sort_words(without(words, "--dry-run"))
    assert given.runs or given.rows or cells(given)


def parse_tune(words):
    mine = [word for word in words if word.startswith(("minutes=", "envs="))]
    parse_options(tune.Options, mine)
    validate(parse_config([word for word in words if word not in mine]))


def parse_sweep(words):
    _, settings, ranges = sweep.sort_words(words)
    if ranges:
        sweep.check_ends(settings, ranges)
    else:
        assert any(word.startswith("replay=") for word in words)


def parse_video(words):
    settings = {"train": VideoConfig, "resume": VideoConfig, "eval": EvalOptions}[words[0]]
    parse_options(settings, without(words[1:] if words[0] == "train" else words[2:], "data=", "out="))


ONLY_PARSED = {
    "train": lambda words: validate(parse_config(without(words, "--dry-run"))),
    "supervised": lambda words: supervised.validate(parse_options(SupervisedConfig, words)),
    "bench": parse_bench,
    "compare": parse_compare,
    "tune": parse_tune,
    "sweep": parse_sweep,
    "topologies": lambda words: parse_options(topologies.Options, words[1:]),
    "needle": lambda words: needle.sort_words(without(words[1:], "--dry-run")),
    "video": parse_video,
    "audit-objects": lambda words: validate(parse_config([*words[1:], f"env.id={words[0]}"])),
    "suggest-lr": lambda words: validate(parse_config(without(words, "envs="))),
}
"""Commands that would begin to work; the others are called as they are."""


def without(words, *beginnings):
    return [word for word in words if not word.startswith(beginnings)]


def only_parse_overfit(subcommand, words):
    if subcommand in ("sweep", "flip", "split"):
        family, rest = (None, words[1:]) if "my_" in words[0] or "rooms:" in words[0] else take_family(words)
        _, _, training = sort_overfit(rest, SplitOptions if subcommand == "split" else SweepOptions, family)
        validate(parse_config(training))
    elif subcommand == "train":
        validate(parse_config(sort_overfit(words, TrainOptions, None)[2]))
    elif subcommand == "selftest":
        assert not words
    else:
        return False
    return True


@pytest.mark.parametrize("line", LINES)
def test_a_gala_line_is_understood(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in PAGES:
        write_files(path.relative_to(ROOT).as_posix(), tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another test's, of this name
    command, *words = shlex.split(line)[1:]
    assert command in cli.COMMANDS
    if command in ONLY_PARSED:
        ONLY_PARSED[command](words)
    elif command != "overfit" or not only_parse_overfit(words[0], words[1:]):
        status = cli.main([command, *words])
        assert status == 0 or (status == 2 and re.search(MISSING, capsys.readouterr().err)), line


def test_a_line_that_is_not_understood_would_be_noticed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", "runs/x", "episode=3"]) == 2
    assert not re.search(MISSING, capsys.readouterr().err)
    with pytest.raises(ValueError, match="unknown setting"):
        ONLY_PARSED["train"](["preset=classic/cartpole", "lernrate=1"])


def test_commands_stand_in_blocks_of_sh():
    """A block of another kind would not be checked."""
    for block in blocks("", "text", "bash", "console", "shell"):
        assert block.text.startswith("$ ") or not re.search(r"^(gala|make) ", block.text, re.M), block
