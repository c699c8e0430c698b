"""What docs/troubleshooting.md quotes is what the program says."""

import re

import pytest
from documents import ROOT

from gala import cli

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
SOURCES = "\n".join(p.read_text() for folder in ("gala", "envs") for p in sorted((ROOT / folder).rglob("*.py")))
SAID = re.sub(r'"\s*\n\s*f?"', "", SOURCES)
"""The sources with their texts of several lines made one."""
QUOTED = [
    quoted
    for row in re.findall(r"^\| (.+?) \| ", TEXT, re.M)
    for quoted in re.findall(r"`([^`]+ [^`]+)`", row)
    if not quoted.startswith("gala ")
]


def test_there_are_quotations():
    assert len(QUOTED) >= 18


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_in_the_sources(quoted):
    """Its longest part, that is, without names and numbers, which differ."""
    parts = re.split(r"\.\.\.|'[^']*'|\d+%?|\S+[/=:]\S*|\(|\)", quoted)
    longest = max(parts, key=len).strip(" ;,")
    assert len(longest) >= 10 and longest in SAID, longest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr=1"], "unknown setting 'lr'; did you mean 'optim.lr'?"),
        (["algo=a2c", "learners=4"], "algo=a2c has one learner, not 4"),
        (["env.id=my_envs_that_are_not:Corridor"], "there is no module"),
        (["preset=classic/cartpole", "learners=auto", "seed=7"], "this machine is not tuned for it"),
        (["steps=10"], "is less than one update of every learner"),
    ],
)
def test_bad_input_is_one_line_and_status_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert cli.main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
