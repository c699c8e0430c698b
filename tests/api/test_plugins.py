import functools
import os
import subprocess
import sys
from pathlib import Path

import own_parts
import pytest
import torch
from gala_envs.pictures import make_drawn

import gala
from gala import cli
from gala.build.envs import make_env, own_env, probe_spaces
from gala.build.learning import make_optimizer
from gala.build.policy import make_policy
from gala.config.parse import dump_config, load_config, parse_config
from gala.config.schema import Config, EnvConfig, ModelConfig, OptimConfig
from gala.gossip import choose_topology
from gala.plugins import loading, naming
from gala.training.new_run import check, default_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch, tmp_path):
    """Registered names, imported files and the path are as before after each test, and the directory is empty."""
    monkeypatch.setattr(naming, "_registered", {setting: {} for setting in naming.SETTINGS.values()})
    monkeypatch.setattr(loading, "_files", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("a:b", True), ("pkg.mod:Cls.attr", True), ("nets.py:Net", True), ("/tmp/a b/nets.py:Net", True)),
        *(("mlp", False), ("my_envs:Corridor-v0", False), ("dir:x/graph.txt", False), ("a:", False), (":b", False)),
        *(("a:1b", False), ("pkg/mod:b", False)),
    ],
)
def test_what_has_the_form_of_a_name(text, expected):
    assert loading.is_path(text) is expected


@pytest.mark.parametrize(
    "thing", [own_parts.TinyNet, own_parts.nesterov, own_parts.BACKWARDS, torch.optim.AdamW, own_parts.Ten.step]
)
def test_the_name_of_a_thing_leads_back_to_it(thing):
    path = naming.path_of(thing)
    assert loading.load(path, "x") is thing


def test_what_other_processes_cannot_import_has_no_name():
    class Local:
        pass

    for thing in (Local, lambda: 0, functools.partial(own_parts.nesterov), Local()):
        way = "" if callable(thing) else "give its class, or "
        with pytest.raises(ValueError, match=f"processes; {way}define it at the top level of a module"):
            naming.path_of(thing)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such:Net", "there is no module no_such, neither installed nor in "),
        ("own_parts:TinyNett", "own_parts has no attribute 'TinyNett'; did you mean 'TinyNet'?"),
        ("own_parts:TinyNet.nothing", "own_parts has no attribute 'TinyNet.nothing'"),
        ("broken:Net", "broken cannot be imported: ZeroDivisionError: division by zero"),
        ("needs:Net", "needs cannot be imported: ModuleNotFoundError: No module named 'not_there'"),
        ("trains:Net", "it trains when it is imported; put that under: if __name__ == '__main__':"),
        ("nowhere.py:Net", "there is no file "),
    ],
)
def test_why_a_name_leads_nowhere_is_one_line(tmp_path, path, message):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "needs.py").write_text("import not_there\n")
    (tmp_path / "trains.py").write_text("import gala\ngala.train('classic/cartpole')\nNet = 1\n")
    with pytest.raises(ValueError) as caught:
        loading.load(path, "model.encoder")
    assert str(caught.value).startswith(f"model.encoder={path}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_script_is_run_once_and_up_to_its_training(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from dataclasses import dataclass\nimport gala\nopen('ran', 'a').write('x')\n"
        "@dataclass\nclass Net:\n    a: int\n"
        "gala.train('classic/cartpole')\nopen('after', 'w')\n"
    )
    net = loading.load("script.py:Net", "model.encoder")
    assert net(a=3).a == 3 and loading.load(f"{script}:Net", "model.encoder") is net
    assert (tmp_path / "ran").read_text() == "x" and not (tmp_path / "after").exists()
    assert naming.path_of(net) == f"{script}:Net"  # and not the name under which it was run here


def test_a_registered_name_stands_for_an_importable_one_in_every_spelling(tmp_path):
    gala.register(
        encoder={"tiny": own_parts.TinyNet},
        env={"ten": "own_parts:Ten"},
        topology={"back": own_parts.BACKWARDS},
        optimizer={"sgd": own_parts.nesterov},
    )
    words = ["model.encoder=tiny", "env.id=ten", "topology=back", "optim.name=sgd", "learners=3"]
    config = parse_config(words)
    names = (config.model.encoder, config.env.id, config.gossip.topology, config.optim.name)
    assert names == ("own_parts:TinyNet", "own_parts:Ten", "own_parts:BACKWARDS", "own_parts:nesterov")
    check(config)
    (tmp_path / "mine.yaml").write_text("model:\n  encoder: tiny\n")
    assert parse_config(["preset=mine.yaml"]).model.encoder == "own_parts:TinyNet"
    (tmp_path / "config.yaml").write_text(dump_config(config))
    naming._registered["model.encoder"].clear()  # as in another process
    assert load_config(tmp_path / "config.yaml") == config
    assert default_run(config, "now") == "runs/ten-gala-s1-now"


def test_names_of_galas_own_and_names_that_are_none_are_refused():
    for kind, name in (("encoder", "mlp"), ("env", "CartPole-v1"), ("topology", "ring"), ("optimizer", "adam")):
        with pytest.raises(ValueError, match=f"'{name}' is the name of one of gala's own"):
            gala.register(**{kind: {name: own_parts.TinyNet}})
    with pytest.raises(ValueError, match="'a:b' cannot be the name of a"):
        gala.register(encoder={"a:b": own_parts.TinyNet})
    with pytest.raises(ValueError, match="'TinyNet' is not module:attribute"):
        gala.register(encoder={"tiny": "TinyNet"})


def test_the_parts_are_the_users_own():
    config = Config(
        env=EnvConfig(id="own_parts:Ten"),
        model=ModelConfig(encoder="own_parts:TinyNet"),
        optim=OptimConfig(name="own_parts:nesterov", lr=0.125),
    )
    spaces = probe_spaces(config)
    policy = make_policy(config, spaces)
    assert isinstance(policy.encoder, own_parts.TinyNet) and policy.policy_head.in_features == 5
    again = make_policy(config, spaces).parameters()
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again, strict=True))
    optimizer = make_optimizer(config, torch.zeros(0), policy)
    group = optimizer.param_groups[0]
    assert all(p is q for p, q in zip(group["params"], policy.parameters(), strict=True))
    assert isinstance(optimizer, torch.optim.SGD) and group["lr"] == 0.125 and group["nesterov"]
    env = make_env(config, 2)
    env.reset(0)
    for _ in range(10):
        step = env.step(torch.tensor([2, 1]).numpy())
    assert step.episode_return.tolist() == [20.0, 10.0]
    env.close()
    assert choose_topology("own_parts:BACKWARDS", 4).out_shares(0, 0, 4) == [(3, 0.5)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model.encoder=nature_ccn"],
            "wants one of auto, mlp, nature_cnn, a3c_cnn, minatar_cnn, impala, bagnet, parts, or module:attribute; did",
        ),
        (
            ["optim.name=adamw"],
            "optim.name=adamw: wants one of rmsprop_tf, rmsprop, adam, ekfac, or module:attribute; did you",
        ),
        (["model.encoder=own_parts:WrongWidth"], "makes (2, 5) of (2, 4); with num_features=7 it must be (2, 7)"),
        (["model.encoder=own_parts:nesterov"], "is called with (obs_space, hidden, activation)"),
        (["model.encoder=own_parts:no_env"], "is called with (obs_space, hidden, activation)"),
        (["model.encoder=builtins:dict"], "is called with (obs_space, hidden, activation)"),
        (["optim.name=own_parts:no_env"], "is called with (parameters, lr=...)"),
        (["optim.name=torch.optim:LBFGS"], "step() must need nothing else"),
        (["optim.name=torch.optim:SparseAdam"], "its first step() raised RuntimeError: SparseAdam does not support"),
        (["optim.name=torch.optim:Muon"], "is called with (parameters, lr=...): Muon only supports 2D parameters"),
        (["optim.name=own_parts:no_optimizer"], "must make a torch.optim.Optimizer, not dict"),
        (["env.id=own_parts:no_env"], "env.id=own_parts:no_env must make a gymnasium.Env, not str"),
        (["env.id=own_parts:BACKWARDS"], "must be a class or a function, not Topology"),
        (["topology=own_parts:no_env"], "must be a gala.gossip.Topology, not function"),
        (["topology=own_parts:GREEDY"], "in round 0 learner 0 gives away 1 of its mass"),
        (["topology=own_parts:TWO_PARTS"], "the graph is not strongly connected"),
        (["topology=own_parts:BACKWARDS", "gossip.peers=2"], "says itself who sends to whom"),
    ],
)
def test_what_cannot_be_a_part_is_refused_on_the_command_line_in_one_line(tmp_path, capsys, words, message):
    assert cli.main(["train", "preset=classic/cartpole", "learners=3", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err and len(err.splitlines()) == 1, err
    assert list(tmp_path.iterdir()) == []


def test_the_command_finds_modules_in_the_working_directory_and_graphs_are_shown(tmp_path):
    (tmp_path / "mine.py").write_text((Path(own_parts.__file__)).read_text())
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "envs"))), "PYTHONSAFEPATH": "1"}
    start = "import sys; from gala.cli import main; sys.exit(main())"

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-c", start, *words], capture_output=True, text=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    words = ("env.id=mine:Ten", "model.encoder=mine.py:TinyNet", "optim.name=mine:nesterov", "topology=mine:BACKWARDS")
    out = command("train", "--dry-run", "learners=3", *words)
    assert f"encoder: {tmp_path.resolve()}/mine.py:TinyNet" in out and "name: mine:nesterov" in out
    assert "to the one before" in command("topologies", "mine:BACKWARDS", "n=3")


def test_gymnasiums_own_module_ids_still_work(tmp_path):
    (tmp_path / "registers.py").write_text(
        "import gymnasium as gym\nfrom own_parts import Ten\n"
        "gym.register('Listed-v3', Ten)\ngym.register('Plain', Ten)\n"
    )
    for env_id in ("registers:Listed-v3", "registers:Plain"):
        env = make_env(Config(env=EnvConfig(id=env_id)), 1)
        assert env.action_space.n == 3
        env.close()
    with pytest.raises(ValueError, match="registers has no attribute 'Listed'"):
        make_env(Config(env=EnvConfig(id="registers:Listed")), 1)


def test_an_environment_of_ones_own_is_drawn_if_it_can_be():
    config = Config(env=EnvConfig(id="helper_envs:Catch"))
    env, picture = make_drawn("helper_envs:Catch", make_env=own_env(config), max_episode_steps=0)
    obs = env.reset(1)
    assert picture(obs[0]).shape == (160, 160, 3) and picture(obs[0]).max() == 255
    env.close()
    with pytest.raises(ValueError, match="own_parts:Ten cannot be drawn: it must take render_mode='rgb_array'"):
        make_drawn("own_parts:Ten", make_env=own_env(Config(env=EnvConfig(id="own_parts:Ten"))), max_episode_steps=0)


def test_what_cannot_be_a_part_is_refused_where_it_is_registered():
    with pytest.raises(ValueError, match="encoder=3 must map names to objects"):
        gala.register(encoder=3)
    with pytest.raises(ValueError, match="env 'e': 3 cannot be called"):
        gala.register(env={"e": 3})
    with pytest.raises(ValueError, match=r"3 cannot be the name of a model\.encoder"):
        gala.register(encoder={3: dict})
    with pytest.raises(ValueError, match=r"topology 't': 3 is no gala\.gossip\.Topology"):
        gala.register(topology={"t": 3})


def test_a_module_that_exits_while_it_is_imported_is_an_error(tmp_path, monkeypatch, capsys):
    """Before, the command ended with status 0 and had trained nothing."""
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "env.id=CartPole-v1", "model.encoder=exits:Net", "--dry-run"]) == 2
    assert "exits cannot be imported: SystemExit" in capsys.readouterr().err
