"""Every help text fits a terminal of 80 columns."""

import pytest

from gala import cli
from gala.commands.envs import search
from gala.commands.overfit.dispatch import SUBCOMMANDS
from gala.commands.train import start_lines
from gala.config.parse import parse_config

ALL = [[], *([name] for name in cli.COMMANDS), *(["overfit", name] for name in SUBCOMMANDS)]
ALL += [["video", name] for name in ("train", "resume", "eval")]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_fits_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        status = cli.main([*words, "--help"])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert (status, err) == (0, "") and out
    assert [line for line in out.splitlines() if len(line.rstrip()) > 80] == []


@pytest.mark.parametrize(
    "words", [["envs"], ["envs", "pong"], ["presets"], ["presets", "pong"], ["topologies"]], ids=" ".join
)
def test_lists_fit_80_columns(words, capsys):
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert out and [line for line in out.splitlines() if len(line) > 80] == []


def test_lists_take_a_search_word(capsys):
    assert cli.main(["presets", "PONG"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["atari/pong", "atari/pong_small"]
    assert cli.main(["presets", "halfcheetah-v5"]) == 0  # an environment
    assert "mujoco/halfcheetah " in capsys.readouterr().out
    assert cli.main(["presets", "nothing-like-it"]) == 2
    assert "no preset has 'nothing-like-it'" in capsys.readouterr().err


def test_environments_are_searched_in_all_backends_or_in_one(capsys):
    ids = {"atari": ["ALE/Pong-v5", "ALE/Breakout-v5"], "minatar": ["MinAtar/Breakout-v1"], "envpool": []}
    assert search(ids, []) == ids
    assert search(ids, ["pong"]) == {"atari": ["ALE/Pong-v5"]}
    assert search(ids, ["BREAK"]) == {"atari": ["ALE/Breakout-v5"], "minatar": ["MinAtar/Breakout-v1"]}
    assert search(ids, ["minatar", "break"]) == {"minatar": ["MinAtar/Breakout-v1"]}
    assert search(ids, ["envpool"]) == {"envpool": []}
    with pytest.raises(
        ValueError, match="no backend and no environment is named 'ale/pogn-v5'; did you mean 'ALE/Pong-v5'"
    ):
        search(ids, ["ale/pogn-v5"])
    assert cli.main(["envs", "minatar"]) == 0
    assert capsys.readouterr().out.startswith("minatar (")


def test_what_a_training_says_before_it_starts_fits_80_columns():
    pytest.importorskip("minatar")
    text = "\n".join(start_lines(parse_config(["preset=minatar/breakout"]), []))
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "stride 1 px, pooling flatten," in " ".join(text.split())


LISTS = ("presets", "envs", "doctor", "bug-report")
"""Commands without settings; what follows them is looked for, or refused."""


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in LISTS])
def test_help_is_given_wherever_it_is_asked_for(command, capsys):
    words = [command, "split"] if command == "overfit" else [command]
    shown = []
    for more in (["--help"], ["out=x", "-h"]):
        assert cli.main([*words, *more]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and shown[0].startswith("usage: gala")
