"""What a directory from somebody else names is not imported, nor connected to, without being asked."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from gala_envs.contexts import Context, ContextSet
from test_evaluate import make_run

import gala
from gala import cli
from gala.build import trust
from gala.config.parse import parse_config
from gala.experiments.jobs import TrainingJob

MINE = """
import os, pathlib
import gymnasium as gym
import torch

pathlib.Path("imported").write_text("yes")


class Pole(gym.Wrapper):
    def __init__(self, **kwargs):
        super().__init__(gym.make("CartPole-v1", **kwargs))
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """The working directory with a module and a run that names it, as if both had been downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"theirs_{os.getpid()}_{abs(hash(tmp_path)) % 10**8}"
    Path(f"{name}.py").write_text(MINE)
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    run, _ = make_run(tmp_path / "run", "env.id=CartPole-v1")
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("CartPole-v1", f"{name}:Pole"))
    return run.path, name


def refused(capsys, *words):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not Path("imported").exists()
    return err


def test_no_command_imports_what_a_strange_run_names(theirs, capsys):
    path, name = theirs
    for command in ("eval", "diagnose", "resume"):
        said = refused(capsys, command, str(path), "checkpoint=latest")
        assert f"env.id={name}:Pole would run code ({Path(name).resolve()}.py)" in said
        assert said.endswith(f"gala {command} {path} checkpoint=latest trust=true\n")
    other = shutil.copytree(path, path.parent / "run2")
    said = refused(capsys, "compare", str(path), str(other), "episodes=1")
    assert said.endswith(f"gala compare {path} {other} episodes=1 trust=true\n")
    for call in (gala.Run(path).load, gala.Run(path).evaluate):
        with pytest.raises(ValueError, match=r"if you trust it: gala\.Run\('.*', trust=True\)"):
            call()
    assert not Path("imported").exists() and gala.Run(path).metrics() == {}


def test_trust_and_a_training_of_ones_own_let_it_in(theirs, capsys, tmp_path):
    path, name = theirs
    words = ["eval", str(path), "episodes=1", "--json"]
    assert cli.main([*words, "trust=true"]) == 0 and Path("imported").exists()
    assert cli.main(words) == 2  # asked again: nothing was trained with it
    capsys.readouterr()
    mine = str(tmp_path / "mine")
    assert cli.main(["train", f"env.id={name}:Pole", f"run={mine}", "preset=none", "steps=80", "log.panel=off"]) == 0
    capsys.readouterr()
    assert cli.main(["eval", mine, "episodes=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 1
    assert cli.main(words) == 0


def test_the_same_name_in_another_place_is_other_code(theirs, monkeypatch, tmp_path, capsys):
    path, name = theirs
    trust.remember(parse_config([f"env.id={name}:Pole"]))
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    sys.path[:] = [p for p in sys.path if p != str(tmp_path)]
    (other / f"{name}.py").write_text(MINE)
    assert str(other) in refused(capsys, "eval", str(path))


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("env.id=CartPole-v1", {}),
        ("env.id=ale_py:ALE/Pong-v5", {}),
        ("optim.name=torch.optim:AdamW", {}),
        ("env.id=maze", {}),
        ("env.id=seeds:CartPole-v1", {}),
        ("env.id=seeds:evil:X-v0", {"env.id": "evil:X-v0"}),
        ("env.id=confounded:seeds:evil:X-v0", {"env.id": "evil:X-v0"}),
        ("env.id=evil:X-v0", {"env.id": "evil:X-v0"}),
        ("env.id=gymnasium:make", {"env.id": "gymnasium:make"}),
        ("optim.name=torch.hub:load", {"optim.name": "torch.hub:load"}),
        ("model.encoder=evil:Net", {"model.encoder": "evil:Net"}),
        ("topology=evil:graph", {"gossip.topology": "evil:graph"}),
        ("topology=ring", {}),
    ],
)
def test_what_counts_as_code_of_somebody(word, named):
    assert trust.named_code(parse_config([word])) == named


def test_weights_name_their_encoder(theirs, tmp_path):
    file = tmp_path / "agent.safetensors"
    run, _ = make_run(tmp_path / "plain", "env.id=CartPole-v1")
    gala.Run(run.path).load().save(file)
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        about = json.loads(opened.metadata()["gala"])
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    about["model"]["encoder"] = f"{theirs[1]}:Net"
    save_file(tensors, file, {"gala": json.dumps(about)})
    with pytest.raises(ValueError, match=r"that you have not trained with .* trust=True"):
        gala.load(file)
    with pytest.raises(ValueError, match="has no attribute 'Net'"):
        gala.load(file, trust=True)


def test_the_address_of_a_cluster_comes_from_the_command_line(theirs, tmp_path, capsys):
    run, _ = make_run(tmp_path / "far", "env.id=CartPole-v1")
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("address: ''", "address: 10.9.8.7:6379"))
    assert "say where it goes on: cluster.address=10.9.8.7:6379, or cluster.address= for" in refused(
        capsys, "resume", str(run.path)
    )


def test_sets_of_a_family_that_somebody_else_names_are_refused(tmp_path, monkeypatch, capsys):
    """Whoever names the family on the command line means it; a file that does is asked about first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    family = "seeds:strange_levels:Levels-v0"
    Path("strange_levels.py").write_text(
        "import pathlib\nimport gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "pathlib.Path('imported').write_text('yes')\ngym.register('Levels-v0', CartPoleEnv)\n"
    )
    for split, seeds in (("train", (1, 2)), ("test", (3, 4))):
        ContextSet(tuple(Context.of(family, seed) for seed in seeds), split).write(f"sets/{split}.json")
    for words in (["audit", "sets"], ["train", "sets=sets"], ["eval", "a", "b", "c", "sets=sets"]):
        assert cli.main(["overfit", *words]) == 2
        assert "would run code" in capsys.readouterr().err and not Path("imported").exists()
    assert cli.main(["overfit", "split", family, "train=2", "test=2", "out=mine"]) == 0
    assert Path("imported").exists() and cli.main(["overfit", "audit", "sets"]) == 0


def test_a_job_goes_on_with_own_code_where_it_was_moved_to(theirs, capsys):
    """A grid's job: its settings were typed, and compared with those of the run."""
    path, name = theirs
    job = TrainingJob(path, (f"env.id={name}:Pole",))
    words = job.argv()[2:]
    assert words[:2] == ["resume", str(path)]
    assert cli.main(words) == 2 and "would run code" not in capsys.readouterr().err
