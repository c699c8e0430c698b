"""Every help text fits a terminal of 80 columns."""

import pytest

from gala import cli
from gala.commands.overfit.dispatch import SUBCOMMANDS

ALL = [[], *([name] for name in cli.COMMANDS), *(["overfit", name] for name in SUBCOMMANDS)]


@pytest.mark.parametrize("words", [words for words in ALL if words not in (["envs"], ["presets"])], ids=" ".join)
def test_help_fits_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        status = cli.main([*words, "--help"])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert (status, err) == (0, "") and out
    assert [line for line in out.splitlines() if len(line.rstrip()) > 80] == []
