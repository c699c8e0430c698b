"""``gala.train`` where a script is not guarded, came from standard input, or runs in a process that may not train."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from training import PATIENCE_S, ROOT, TINY, Gala, parts

import gala
from gala import cli
from gala.plugins import naming
from gala.runs.run_dir import RunDir

PATH = os.pathsep.join(map(str, (ROOT, ROOT / "envs", ROOT / "tests")))
OWN = """
import sys
import gymnasium, numpy, torch
import gala
from gala.gossip import Topology, uniform

class Net(torch.nn.Module):
    def __init__(self, space, hidden, activation):
        super().__init__()
        self.num_features = 5
        self.layer = torch.nn.Linear(3, 5)
    def forward(self, obs):
        return self.layer(obs)

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 1, (3,), numpy.float32)
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return numpy.ones(3, numpy.float32), {}
    def step(self, action):
        return numpy.ones(3, numpy.float32), 1.0, True, False, {}

GRAPH = Topology("all to the next", uniform(lambda rank, t, n: [(rank + 1) % n]))

def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)

gala.register(encoder={"net": Net}, env={"one": Env}, topology={"graph": GRAPH}, optimizer={"sgd": sgd})
"""


def settings(**more):
    words = dict(word.split("=", 1) for word in TINY)
    return {**words, "learners": 2, **more}


def test_a_script_without_a_guard_trains_once_with_parts_of_its_own_which_are_found_again(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(naming, "_registered", {setting: {} for setting in naming.SETTINGS.values()})
    run_path, script = tmp_path / "run", tmp_path / "script.py"
    own = {"env.id": "one", "model.encoder": "net", "gossip.topology": "graph", "optim.name": "sgd"}
    arguments = settings(run=str(run_path), steps=200, **own)
    script.write_text(f"{OWN}\nrun = gala.train(**{arguments})\nprint('trained', run.summary['status'])\n")
    env = os.environ | {"PYTHONPATH": PATH}
    argv = [sys.executable, script.name]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained finished") == 1
    run = gala.Run(run_path)
    assert run.config.env.id == f"{script}:Env" and run.config.gossip.topology == f"{script}:GRAPH"
    saved = [tensors for tensors, _ in parts(RunDir.open(run_path))]
    assert all(tensors["policy"]["encoder.layer.weight"].shape == (5, 3) for tensors in saved)
    stepped = [set(tensors["optimizer"]) for tensors in saved if "optimizer" in tensors]
    of_parameters = [{name.partition("/")[2] for name in names if not name.startswith("group")} for names in stepped]
    of_parameters = [names for names in of_parameters if names]  # a learner may have come too late to take a step
    assert of_parameters and all(names == {"momentum_buffer"} for names in of_parameters)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()
    assert cli.main(["eval", str(run_path), "episodes=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["return_mean"] == 1.0
    agent = run.load()
    agent.save("weights")
    assert gala.load("weights").act([1, 1, 1]) == agent.act([1, 1, 1])
    assert cli.main(["resume", str(run_path), "steps=400", "schedule=hold"]) == 0
    assert run.summary["status"] == "finished" and run.summary["env_steps"] >= 400


@pytest.mark.long
def test_a_script_from_standard_input_trains_and_ctrl_c_ends_it_with_a_checkpoint(tmp_path):
    arguments = settings(run=str(tmp_path / "run"))
    script = (
        f"import gala, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\ngala.train(**{arguments})\n"
    )
    (tmp_path / "lines").write_text(f"{script}\nprint('not reached')\n")
    child = Gala(tmp_path / "run", program=f"{sys.executable} - < {tmp_path}/lines")
    child.wait_for_checkpoint()
    child.ctrl_c()
    status, out, err = child.end()
    assert status == -signal.SIGINT and err.rstrip().endswith("KeyboardInterrupt") and "not reached" not in out
    assert "Ctrl-C: saving a checkpoint" in out
    run = gala.Run(tmp_path / "run")
    assert run.summary["status"] == "interrupted"
    assert RunDir.open(run.path).checkpoint_meta("latest")["env_steps"] == run.summary["env_steps"]


def python(*argv, **kwargs):
    env = os.environ | {"PYTHONPATH": PATH}
    return subprocess.run(
        [sys.executable, *argv], env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **kwargs
    )


def test_names_of_what_a_main_module_defines(tmp_path):
    (tmp_path / "package").mkdir()
    source = "from gala.plugins import naming\nclass Net: ...\nprint(naming.path_of(Net))\n"
    (tmp_path / "package" / "script.py").write_text(source)
    assert python("-m", "package.script", cwd=tmp_path).stdout == "package.script:Net\n"
    expected = f"{tmp_path.resolve()}/package/script.py:Net\n"
    assert python("package/script.py", cwd=tmp_path).stdout == expected
    for done in (python("-c", source), python("-", input=source)):
        assert "defined in a notebook, by python -c or on stdin" in done.stderr.splitlines()[-1]


def test_a_process_that_may_not_start_others_is_told_so(monkeypatch):
    ours, theirs = multiprocessing.Pipe()

    def try_it():
        try:
            gala.train("classic/cartpole", run="never")
        except ValueError as error:
            theirs.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=try_it, daemon=True)
    process.start()
    assert ours.poll(PATIENCE_S) and "which a daemonic process may not" in ours.recv()
    process.join()
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(ValueError, match=re.escape("put what must run once under: if __name__ == '__main__':")):
        gala.train("classic/cartpole", run="never")
    assert not Path("never").exists()
