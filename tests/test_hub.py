"""What is pushed to the Hub is what is pulled from it. The client is the real one; the Hub is ``hub_server``."""

import importlib.util
import json
import socket
import sys

import numpy as np
import pytest
from hub_server import TOKEN, Repo, serving
from test_evaluate import make_run
from training import TINY, spawn_program

import gala
from gala import cli
from gala.evaluation.card import hub_header

LOADS = """
import sys, numpy, gala
agent = gala.load(sys.argv[1])
obs = numpy.random.default_rng(0).normal(0, 3, (64, *agent.obs_space.shape))
numpy.save(sys.argv[2], agent.act(obs, greedy=False))
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, which this process's client and those of its children take for the Hub."""
    constants = pytest.importorskip("huggingface_hub.constants")  # read once, where it was imported
    with serving() as server:
        cache = tmp_path / "cache"
        for name, value in [
            ("HF_ENDPOINT", server.url),
            ("HF_HUB_CACHE", str(cache)),
            ("HF_HUB_DISABLE_XET", "1"),  # its protocol is a Rust extension's, and another server's
            ("HF_TOKEN", TOKEN),
            ("HF_HOME", str(tmp_path / "home")),
        ]:
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        yield server


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", "env.id=CartPole-v1", "normalize.obs=true", "algo=gala", weights=(0.5, 1.5))[0]


def refused(capsys, *words):
    assert cli.main(["export", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("gala: error: ") and err.count("\n") == 1, err
    return err


def in_one_line(call):
    with pytest.raises(ValueError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_pushed_policy_is_pulled_to_the_bit_with_a_card_that_the_hub_reads(hub, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["eval", str(run.path), "episodes=3", "mode=both"]) == 0
    assert cli.main(["eval", str(run.path), "episodes=2", "mode=greedy", "env.max_episode_steps=4"]) == 0
    assert cli.main(["eval", str(run.path), "episodes=2", "mode=greedy", "learner=1"]) == 0
    told = [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]
    capsys.readouterr()
    assert cli.main(["export", str(run.path), "push=me/cart", "private=true"]) == 0
    repo = hub.repos["me/cart"]
    head, files = repo.commits[-1]
    assert capsys.readouterr().out == f"{hub.url}/me/cart/commit/{head}\n"
    assert repo.private and set(files) == {".gitattributes", "model.safetensors", "README.md"}
    assert not list(tmp_path.glob("*.safetensors"))

    from huggingface_hub import ModelCard

    card = ModelCard(files["README.md"].decode()).data  # the client's own reader
    named = card.to_dict()
    assert named["library_name"] == "gala" and named["pipeline_tag"] == "reinforcement-learning"
    assert named.get("license") is None
    assert {"reinforcement-learning", "CartPole-v1"} <= set(card.tags) and len(card.eval_results) == 2
    for result, evaluation in zip(card.eval_results, told, strict=False):
        mean, std = map(float, result.metric_value.split(" +/- "))
        assert mean == pytest.approx(evaluation["return_mean"], abs=0.005)
        assert std == pytest.approx(evaluation["return_std"], abs=0.005)
        assert result.dataset_type == "CartPole-v1" and evaluation["mode"] in result.metric_name
    assert 'gala.load("hf://me/cart")' in files["README.md"].decode()
    assert str(tmp_path).encode() not in files["README.md"] + files["model.safetensors"]

    own, agent = gala.Run(run.path).load(), gala.load("hf://me/cart")
    obs = np.random.default_rng(0).normal(0, 3, (64, 4))
    np.testing.assert_array_equal(agent.act(obs, greedy=False), own.act(obs, greedy=False))
    assert agent.about["model_card.md"] == files["README.md"].decode()


def test_a_second_push_commits_on_top_when_told_and_the_older_is_a_revision(hub, run, capsys, monkeypatch):
    assert cli.main(["export", str(run.path), "push=me/cart", "learner=0"]) == 0
    first = hub.repos["me/cart"].commits[-1]
    err = refused(capsys, str(run.path), "push=me/cart", "learner=1")
    assert "has README.md and model.safetensors already" in err and "overwrite=true" in err
    err = refused(capsys, str(run.path), "push=me/cart", "private=true", "overwrite=true")
    assert "me/cart is there and public" in err
    assert hub.repos["me/cart"].commits[-1] == first
    assert cli.main(["export", str(run.path), "push=me/cart", "learner=1", "overwrite=true"]) == 0
    assert [commit for commit, _ in hub.repos["me/cart"].commits].index(first[0]) == 1
    obs = np.random.default_rng(0).normal(0, 3, (64, 4))
    for learner, revision in ((1, None), (0, first[0]), (1, "main")):
        agent, own = gala.load("hf://me/cart", revision=revision), gala.Run(run.path).load(learner=learner)
        np.testing.assert_array_equal(agent.act(obs, greedy=False), own.act(obs, greedy=False))
    assert "no such revision" in in_one_line(lambda: gala.load("hf://me/cart", revision="v9"))


def test_what_others_commit_meanwhile_is_not_covered(hub, run, capsys, monkeypatch):
    from gala.evaluation import hub as ours

    assert cli.main(["export", str(run.path), "push=me/cart"]) == 0
    checked = ours.check_push

    def then_somebody_commits(*args):
        parent = checked(*args)
        hub.repos["me/cart"].commit({"README.md": b"mine"})
        return parent

    monkeypatch.setattr(ours, "check_push", then_somebody_commits)
    err = refused(capsys, str(run.path), "push=me/cart", "learner=1", "overwrite=true")
    assert "somebody else has committed meanwhile" in err
    assert hub.repos["me/cart"].commits[-1][1]["README.md"] == b"mine"


def test_files_of_others_stay_in_a_repository(hub, run, tmp_path, capsys):
    hub.repos["me/notes"] = Repo(private=False)
    hub.repos["me/notes"].commit({"notes.txt": b"x"})
    assert cli.main(["export", str(run.path), "push=me/notes", f"out={tmp_path / 'mine.safetensors'}"]) == 0
    files = hub.repos["me/notes"].commits[-1][1]
    assert files["notes.txt"] == b"x" and files["model.safetensors"] == (tmp_path / "mine.safetensors").read_bytes()


def test_what_goes_wrong_is_one_line(hub, run, tmp_path, capsys, monkeypatch):
    constants = sys.modules["huggingface_hub.constants"]
    push = [str(run.path), "push=me/cart"]
    for words, message in [
        ([str(run.path), "push=cart"], "push=cart must be USER/NAME"),
        ([str(run.path), "private=true"], "private=true is for push=USER/NAME"),
        ([*push, "format=onnx"], "push=me/cart is for format=safetensors"),
        ([str(run.path), "push=notmine/cart"], "refuses your token (403)"),
    ]:
        assert message in refused(capsys, *words)
    assert "no such repository, or a private one" in in_one_line(lambda: gala.load("hf://me/none"))
    assert "hf://me must be USER/NAME" in in_one_line(lambda: gala.load("hf://me"))
    assert "revision=x is for hf://USER/NAME" in in_one_line(lambda: gala.load("a.safetensors", revision="x"))
    hub.repos["me/empty"] = Repo(private=False)
    assert "it has no model.safetensors" in in_one_line(lambda: gala.load("hf://me/empty"))
    hub.repos["me/empty"].commit({"model.safetensors": b"\x80\x04pickle"})
    assert "is damaged, or no safetensors file" in in_one_line(lambda: gala.load("hf://me/empty"))
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert "refuses your token (401)" in refused(capsys, *push)
    monkeypatch.delenv("HF_TOKEN")
    assert "push=me/cart needs a token of the Hub: `hf auth login`, or HF_TOKEN" in refused(capsys, *push)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert cli.main(["export", *push]) == 0 and gala.load("hf://me/cart")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert gala.load("hf://me/cart").about  # from the cache
    for err in (refused(capsys, *push), in_one_line(lambda: gala.load("hf://me/other"))):
        assert "HF_HUB_OFFLINE is set" in err
    assert len(hub.asked) == asked


def test_an_encoder_of_somebody_is_refused_in_the_words_that_were_typed(hub, run, tmp_path, monkeypatch):
    assert cli.main(["export", str(run.path), "push=me/cart"]) == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data, commit = hub.repos["me/cart"].commits[-1][1]["model.safetensors"], hub.repos["me/cart"].commit
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    told = json.loads(header["__metadata__"]["gala"])
    told["model"]["encoder"] = "theirs:Net"
    header["__metadata__"]["gala"] = json.dumps(told)
    changed = json.dumps(header).encode()
    commit({"model.safetensors": len(changed).to_bytes(8, "little") + changed + data[8 + size :]})
    said = in_one_line(lambda: gala.load("hf://me/cart", revision="main"))
    assert "encoder=theirs:Net would run code" in said
    assert said.endswith("gala.load('hf://me/cart', revision='main', trust=True)")
    assert "theirs" not in sys.modules


def test_no_network_is_one_line(hub, run, capsys, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries to fetch six times, and says so
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
        constants = sys.modules["huggingface_hub.constants"]
        monkeypatch.setattr(constants, "ENDPOINT", nowhere)
        monkeypatch.setenv("HF_ENDPOINT", nowhere)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", nowhere + "/{repo_id}/resolve/{revision}/{filename}"
        )
        assert f"{nowhere} cannot be reached" in refused(capsys, str(run.path), "push=me/cart")
        assert f"{nowhere} cannot be reached" in in_one_line(lambda: gala.load("hf://me/cart"))


def test_the_extra_is_named_where_it_is_missing(run, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "huggingface_hub" else found(name))
    remedy = "needs the package huggingface_hub: pip install "
    assert f"push=me/cart {remedy}" in refused(capsys, str(run.path), "push=me/cart")
    assert f"hf://me/cart {remedy}" in in_one_line(lambda: gala.load("hf://me/cart"))


def test_a_card_without_evaluations_has_no_model_index():
    assert hub_header("my:Env-v0", []) == (
        "---\nlibrary_name: gala\npipeline_tag: reinforcement-learning\n"
        "tags:\n- reinforcement-learning\n- gala\n- Env-v0\n---\n"
    )


@pytest.mark.long
def test_a_trained_policy_acts_the_same_in_another_process(hub, tmp_path):
    run = tmp_path / "run"
    words = ["-m", "gala", "train", f"run={run}", *TINY, "env.id=CartPole-v1", "steps=2000"]
    for argv in (words, ["-m", "gala", "export", str(run), "push=me/trained"]):
        process, _ = spawn_program([sys.executable, *argv])
        assert process.communicate(timeout=200)[1].count("Traceback") == 0 and process.returncode == 0
    process, _ = spawn_program([sys.executable, "-c", LOADS, "hf://me/trained", str(tmp_path / "acted.npy")])
    assert process.communicate(timeout=200) and process.returncode == 0
    agent = gala.Run(run).load()
    obs = np.random.default_rng(0).normal(0, 3, (64, *agent.obs_space.shape))
    np.testing.assert_array_equal(np.load(tmp_path / "acted.npy"), agent.act(obs, greedy=False))
