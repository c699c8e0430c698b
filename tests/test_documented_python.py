"""Every Python block of the README and the docs is run: files with their page's commands, the others as they stand."""

import inspect
import json
import re
import shlex

import numpy as np
import pytest
from documents import ROOT, blocks, commands, write_files
from gymnasium.utils.env_checker import check_env
from test_video_rollouts import write

import gala
from gala import cli

OWN_PARTS = [f"docs/howto/{name}.md" for name in ("environment", "encoder", "topology", "family")]
RUN_ELSEWHERE = {"docs/gossip.md": "gossip/test_gossip_page.py", "docs/tutorial.md": "test_tutorial.py"}
RUN_HERE = {
    "docs/howto/python.md": 1,
    "docs/howto/overfitting.md": 1,
    "docs/howto/outside-agent.md": 1,
    "docs/howto/video.md": 1,
}


def text_of(page):
    (block,) = blocks("python", page=page)
    return block.text


def test_no_block_is_left_out():
    by_page = {block.page: len(blocks("python", page=block.page)) for block in blocks("python")}
    assert {page: by_page[page] for page in RUN_HERE} == RUN_HERE
    assert set(by_page) - set(RUN_HERE) - set(RUN_ELSEWHERE) == set(OWN_PARTS)
    assert all((ROOT / "tests" / test).is_file() for test in RUN_ELSEWHERE.values())


@pytest.mark.parametrize("page", OWN_PARTS)
def test_own_parts_are_found_by_their_page_s_commands(page, tmp_path, monkeypatch, capsys):
    """With --dry-run, which makes the parts and calls them once."""
    monkeypatch.chdir(tmp_path)
    names = {name.rpartition(".")[0] for name in write_files(page, tmp_path)}
    used = set()
    for line in commands("gala", page=page):
        command, *words = shlex.split(line)[1:]
        if command == "train":
            assert cli.main(["train", *words, "--dry-run"]) == 0, line
        elif command == "topologies" or words[0] in ("split", "audit"):
            assert cli.main([command, *words]) == 0, line
        used |= {name for name in names if name in line}
    assert used == names and capsys.readouterr().err == ""


@pytest.mark.long
@pytest.mark.parametrize("page", OWN_PARTS)
def test_own_parts_are_trained_with(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_files(page, tmp_path)
    for line in commands("gala", page=page):
        words = [re.sub(r"^steps=\d+", "steps=2000", word) for word in shlex.split(line)[1:]]
        assert cli.main(words) == 0, line
    assert "error" not in capsys.readouterr().err


def test_the_corridor_of_the_page_is_a_gymnasium_environment(tmp_path):
    names = {}
    exec(next(b.text for b in blocks("python", page=OWN_PARTS[0])), names)
    check_env(names["Corridor"](), skip_render_check=True)


def test_the_python_page_names_what_there_is():
    block = text_of("docs/howto/python.md")
    assert set(re.findall(r"\bgala\.(\w+)\(", block)) <= set(gala.__all__)
    for cls, name in ((gala.Run, "run"), (gala.Agent, "agent")):
        for method in re.findall(rf"\b{name}\.(\w+)\(", block):
            assert inspect.isfunction(getattr(cls, method))


@pytest.mark.long
def test_the_python_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = text_of("docs/howto/python.md").replace("steps=200_000", "steps=4_000, log={'interval_s': 0.2}")
    names = {}
    exec(block, names)
    assert names["action"] in (0, 1)
    assert gala.load(tmp_path / "agent.safetensors").act(names["observation"]) in (0, 1)
    assert "return_mean" in capsys.readouterr().out


def test_a_set_of_mdps_is_an_environment_of_any_trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["overfit", "split", "maze", "size=5", "train=2", "test=2", "out=sets"]) == 0
    names = {}
    exec(text_of("docs/howto/overfitting.md"), names)
    env = names["env"]
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and (tmp_path / "played.jsonl").exists()
    env.close()


def test_a_policy_of_one_s_own_acts_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("weights3.npy", np.eye(5, 4))
    names = {}
    exec(text_of("docs/howto/outside-agent.md"), names)
    act, rng = names["make"](3), np.random.default_rng(0)
    action, state = act(np.array([0.0, 0.0, 9.0, 0.0]), None, rng)
    assert (action, state) == (2, 1)
    assert act(np.array([9.0, 0.0, 0.0, 0.0]), state, rng) == (0, 2)
    assert names["key"]({"name": "a", "size": "5", "layout": "x"}) == ("5", "x")


def test_the_video_page_reads_a_model_back_and_goes_on_with_a_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rollouts", [9] * 6, lambda episode, t, action: 80 * action)
    words = ("data=rollouts", "frames=5", "context=2", "scales=1", "levels=1", "width=4", "iterations=2")
    assert cli.main(["video", "train", *words, "batch_size=2", "out=runs/video"]) == 0
    names = {}
    exec(text_of("docs/howto/video.md"), names)
    assert names["surprise"].shape == (8,) and names["imagined"].shape == (3, 8, 1, 2, 2)
    last = json.loads((tmp_path / "runs/video/metrics.jsonl").read_text().splitlines()[-1])
    assert 0.5 < names["surprise"].mean().item() / 3 / last["nats"] < 2  # other videos of the same kind
