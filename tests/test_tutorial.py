"""docs/tutorial.md, from its environment to its verdicts, as it is written but for smaller budgets."""

import re
import shlex

import pytest
from documents import ROOT, blocks, commands, files, write_files
from gymnasium.utils.env_checker import check_env

from gala import cli

PAGE = "docs/tutorial.md"
TEXT = (ROOT / PAGE).read_text()
LINES = commands("gala", page=PAGE)
SMALL = {"steps": "steps=4000", "episodes": "episodes=3", "test": "test=20", "train": "train=20"}


def small(line):
    """The words of a line with budgets of seconds; ten rooms stay ten."""
    words = [SMALL.get(word.partition("=")[0], word) if "=" in word else word for word in shlex.split(line)[1:]]
    return [word.replace("train=20", "train=10") if "out=ten" in words else word for word in words]


def test_the_environment_of_the_tutorial_is_one(tmp_path):
    text = files(PAGE)["rooms.py"]
    names = {}
    exec(text, names)
    env = names["Rooms"](render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    obs, _ = env.reset(seed=3)
    assert obs.sum() == 2 and env.render().shape == (224, 224, 3)
    env.far = 2
    env.at = env.goal + 1 if env.goal[0] < 6 and env.goal[1] < 6 else env.goal - 1
    down_or_up, right_or_left = (0, 2) if env.at[0] > env.goal[0] else (1, 3)
    assert env.step(down_or_up)[1:3] == (0.1, False)
    obs, reward, found, late, _ = env.step(right_or_left)
    assert (round(reward, 6), found, late) == (1.1, True, False)


def test_its_commands_are_these():
    said = [" ".join(shlex.split(line)[1:3]) for line in LINES]
    assert [words.split(" ")[0] for words in said] == ["train", "train", "eval", "plot", *["overfit"] * 7]
    assert said[4:8] == ["overfit split", "overfit audit", "overfit train", "overfit eval"]


def test_its_sets_and_dry_run(tmp_path, monkeypatch, capsys):
    """What takes no training, in a folder of its own, as a stranger has it."""
    monkeypatch.chdir(tmp_path)
    write_files(PAGE, tmp_path)
    for line in LINES:
        if "--dry-run" in line or "split" in line or "audit" in line:
            assert cli.main(small(line)) == 0, line
    out, err = capsys.readouterr()
    assert "10 contexts" in out and "Found nothing." in out and err == ""


@pytest.mark.long
def test_the_whole_tutorial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_files(PAGE, tmp_path)
    for line in LINES:
        words = small(line)
        status = cli.main(words)
        assert status == 0 or (words[:2] == ["overfit", "eval"] and status in (3, 4)), (line, capsys.readouterr().err)
    for made in ("first.mp4", "runs/first/returns.png", "verdicts/ten/report.html", "verdicts/thousand/report.html"):
        assert (tmp_path / made).stat().st_size > 1000


def test_the_dry_run_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    """Word for word, but for the last three lines, which are this machine's."""
    monkeypatch.chdir(tmp_path)
    write_files(PAGE, tmp_path)
    assert cli.main(shlex.split(next(line for line in LINES if "--dry-run" in line))[1:]) == 0
    printed = capsys.readouterr().out.strip().rpartition("\n\n")[2].splitlines()
    shown = next(block.text for block in blocks("text", page=PAGE) if "updates " in block.text).strip().splitlines()
    assert shown[:-3] == printed[:-3]
    assert [line[:26] for line in shown[-3:]] == [line[:26] for line in printed[-3:]]


def test_the_verdicts_are_those_that_the_text_draws():
    assert re.findall(r"^([A-Z-]+): [\d,]+ training MDPs$", TEXT, re.M) == ["OVERFIT", "NO-GAP"]
