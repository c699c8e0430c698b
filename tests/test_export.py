"""An exported file does what the run's own policy does, in gala and without it."""

import json
import re
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from safetensors import safe_open
from test_evaluate import make_run

import gala
from gala import cli
from gala.commands.export import Options
from gala.evaluation.export import GRAPHS, Graph, trained

LONG = pytest.mark.long
KINDS = {
    "normalised": ["env.id=CartPole-v1", "normalize.obs=true"],
    "gaussian": ["env.id=InvertedPendulum-v5"],
    "image": ["env.id=helper_envs:Catch-v0", "model.encoder=minatar_cnn"],
    "recurrent": ["env.id=CartPole-v1", "model.gru_size=6", "model.separate_critic=false"],
}


def make(tmp_path, kind, **more):
    return make_run(tmp_path / "run", *KINDS[kind], "algo=gala", weights=(0.5, 1.5), **more)[0]


def inputs_of(made, rows, rng):
    policy, _, content = made
    space = content.obs_space
    if space.dtype == np.uint8:
        obs = rng.integers(0, 2, (rows, *space.shape), np.uint8)
    else:
        obs = rng.normal(0, 3, (rows, *space.shape)).astype(np.float32)
    if not policy.gru_size:
        return {"obs": obs}
    return {"obs": obs, "state": rng.normal(size=(rows, 6)).astype(np.float32), "first": rng.random(rows) < 0.5}


@torch.no_grad()
def expected(made, inputs):
    """action, params, value (and state) as gala's own policy and normaliser have them."""
    policy, normalizer, content = made
    obs = inputs["obs"] if normalizer is None else normalizer(inputs["obs"])
    state = torch.from_numpy(inputs.get("state", np.zeros((len(obs), 0), np.float32)))
    first = torch.from_numpy(inputs.get("first", np.zeros(len(obs), bool)))
    out = policy(torch.from_numpy(obs), state, first)
    action = policy.act(out.params, greedy=True).numpy()
    if content.action_space.dtype.kind == "f":
        action = action.clip(content.action_space.low, content.action_space.high)
    return [action, out.params.numpy(), out.value.numpy(), *([out.state.numpy()] if policy.gru_size else [])]


def test_the_file_is_the_agent_with_a_card(tmp_path, monkeypatch, capsys):
    run = make(tmp_path, "normalised")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", str(run.path), "episodes=3", "mode=greedy"]) == 0
    assert cli.main(["export", str(run.path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run.safetensors"
    agent, own = gala.load("run.safetensors"), gala.Run(run.path).load()
    obs = np.random.default_rng(0).normal(0, 3, (64, 4))
    np.testing.assert_array_equal(agent.act(obs), own.act(obs))
    card = agent.about["model_card.md"]
    (told,) = json.loads(agent.about["evaluations.json"])
    assert f"return {told['return_mean']:.4g} (95 % interval" in card and "over 3 greedy episodes" in card
    assert 'gala.load("run.safetensors")' in card and "- `normalize.obs=True` (default False)" in card
    assert "| environment | CartPole-v1 |" in card and "gala, 2 learners" in card
    assert str(tmp_path) not in "".join(agent.about.values())
    with safe_open("run.safetensors", "pt") as file:
        assert file.metadata().keys() == {"gala", *agent.about}
    agent.save(tmp_path / "again.safetensors")
    assert gala.load(tmp_path / "again.safetensors").about == agent.about


def test_the_snippet_of_the_card_runs(tmp_path, monkeypatch):
    run = make(tmp_path, "normalised")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(run.path), "out=mine.safetensors"]) == 0
    (snippet,) = re.findall(r"```python\n(.*?)```", gala.load("mine.safetensors").about["model_card.md"], re.DOTALL)
    told = {"observation": np.zeros(4, np.float32)}
    exec(snippet, told)
    assert told["action"] in (0, 1)


def test_what_was_found_of_another_checkpoint_is_not_on_the_card(tmp_path, monkeypatch):
    run = make(tmp_path, "normalised")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", str(run.path), "episodes=3"]) == 0
    part, meta = run.load_part("latest", "learner0")
    run.write_part("staging", "learner0", part, meta | {"x": 1})
    run.commit_checkpoint("staging", ["latest"], {"env_steps": 2, "ranks": [0], "moments": []})
    assert cli.main(["export", str(run.path), "learner=0"]) == 0
    about = gala.load("run.safetensors").about
    assert json.loads(about["evaluations.json"]) == [] and "Not evaluated" in about["model_card.md"]


def test_nothing_is_overwritten_and_bad_words_are_one_line(tmp_path, monkeypatch, capsys):
    run = make(tmp_path, "normalised")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.safetensors").write_text("mine")
    for words, message in [
        ([], "run.safetensors already exists; choose another name, or say overwrite=true"),
        (["out=x.zip"], "must end as its format does: .safetensors for safetensors, .onnx for onnx, .pt2 for"),
        (["format=safetensors", "out=x.onnx"], "out=x.onnx must end as its format does"),
        (["format=onnx", "out=x.pt2"], "(here format=onnx)"),
        (["format=torchscript"], "use format=torch-export"),
        (["format=onxx"], "did you mean 'onnx'?"),
        (["learner=7"], "learner=7: wants consensus or one of 0, 1"),
        (["checkpoint=best"], "has no checkpoint 'best'"),
        (["out=nowhere/x.safetensors"], "must be a file in a directory that exists"),
    ]:
        assert cli.main(["export", str(run.path), *words]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1, err
    assert (tmp_path / "run.safetensors").read_text() == "mine"
    assert cli.main(["export", str(run.path), "overwrite=true"]) == 0
    gala.load("run.safetensors")


def test_onnx_needs_its_extra(tmp_path, monkeypatch, capsys):
    run = make(tmp_path, "normalised")
    monkeypatch.setattr("gala.evaluation.export.importlib.util.find_spec", lambda name: None)
    assert cli.main(["export", str(run.path), "format=onnx", f"out={tmp_path / 'x.onnx'}"]) == 2
    assert "needs onnx and onnxscript: pip install 'onnx>=" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_is_the_policy(tmp_path, kind):
    pytest.importorskip("mujoco")
    made = trained(make(tmp_path, kind), "latest", "consensus")
    inputs = inputs_of(made, 7, np.random.default_rng(0))
    with torch.no_grad():
        found = Graph(*made[:2], made[2].action_space)(*(torch.from_numpy(x) for x in inputs.values()))
    for mine, theirs in zip(found, expected(made, inputs), strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["normalised", "image", *(pytest.param(kind, marks=LONG) for kind in ("gaussian", "recurrent"))]
)
def test_onnxruntime_gives_the_same_logits(tmp_path, kind, capfd):
    for package in ("onnx", "onnxscript", "mujoco"):
        pytest.importorskip(package)
    runtime = pytest.importorskip("onnxruntime")
    run, path = make(tmp_path, kind), tmp_path / "x.onnx"
    assert cli.main(["export", str(run.path), "format=onnx", f"out={path}"]) == 0
    assert capfd.readouterr() == (f"{path}\n", "")
    session, made = runtime.InferenceSession(str(path)), trained(run, "latest", "consensus")
    assert "gala.load" in session.get_modelmeta().custom_metadata_map["model_card.md"]
    for rows in (1, 2, 33):
        inputs = inputs_of(made, rows, np.random.default_rng(rows))
        names = ["action", "params", "value", *(["next_state"] if "state" in inputs else [])]
        found = session.run(names, inputs)
        for mine, theirs in zip(found, expected(made, inputs), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["normalised", pytest.param("recurrent", marks=pytest.mark.long)])
def test_a_program_of_torch_export_gives_the_same(tmp_path, kind, capfd):
    run, path = make(tmp_path, kind), tmp_path / "x.pt2"
    assert cli.main(["export", str(run.path), f"out={path}"]) == 0  # the ending says torch-export
    assert capfd.readouterr() == (f"{path}\n", "")
    told = {"model_card.md": ""}
    module, made = torch.export.load(path, extra_files=told).module(), trained(run, "latest", "consensus")
    assert "gala.load" in told["model_card.md"]
    for rows in (1, 33):
        inputs = inputs_of(made, rows, np.random.default_rng(rows))
        with torch.no_grad():
            found = module(*(torch.from_numpy(x) for x in inputs.values()))
        for mine, theirs in zip(found, expected(made, inputs), strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_formats_are_those_of_the_command():
    assert get_args(get_type_hints(Options)["format"]) == ("auto", "safetensors", *GRAPHS)
