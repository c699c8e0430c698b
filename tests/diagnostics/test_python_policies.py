"""Policies from anywhere: functions, batches, factories by run, and checkpoints of CleanRL and Stable-Baselines3."""

import io
import itertools
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.families import make_family
from gala_envs.splits import split
from safetensors.torch import save_file
from torch import nn

from gala.cli import main
from gala.diagnostics.overfitting.episodes import evaluate
from gala.diagnostics.overfitting.python_policies import PythonPolicy, python_policies

POLES = split(make_family("classic:CartPole-v1"), {"train": 3, "test": 5})
TWO = gym.spaces.Discrete(2)


def lean(obs, state, rng):
    return int(obs[2] + 0.5 * obs[3] > 0)


def lean_batch(obs, state, rng):
    assert len(state) == len(obs)
    return (obs[:, 2] + 0.5 * obs[:, 3] > 0).astype(int), [(s or 0) + 1 for s in state]


lean_batch.batched = True


def test_a_batched_policy_plays_as_the_one_that_sees_one_row():
    one, many = (evaluate(PythonPolicy(f, TWO), POLES["test"], episodes=2, seed=0) for f in (lean, lean_batch))
    assert one == many and max(row["return"] for row in one) > 100


MODULE = """
def make(bias, name="x"):
    def act(obs, state, rng):
        return int(obs[2] > bias)
    act.made_with = (bias, name)
    return act
def two(obs, state): return 0
def fails(obs, state, rng): return obs["image"]
def wrong(obs, state, rng): return [0.5, 1.0, float("nan")]
def noisy(obs, state, rng): return int(rng.integers(2))
NUMBER = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agents_here.py").write_text(MODULE)
    return tmp_path


def test_runs_are_counted_into_a_factory_or_listed(here):
    made = python_policies("agents_here:make?bias={run}&name=n{run}", 3, TWO)
    assert [p.function.made_with for p in made] == [(0, "n0"), (1, "n1"), (2, "n2")]
    assert [p.name for p in python_policies("agents_here:noisy,agents_here:make?bias=0.5", 9, TWO)] == [
        "agents_here:noisy",
        "agents_here:make?bias=0.5",
    ]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("agents_here:two", "must be a function act(obs, state, rng); it takes other arguments"),
        ("agents_here:fails", "failed on observations of shape (4,): IndexError"),
        ("agents_here:wrong", "returned actions of shape (3,) and type float64; this family wants Discrete(2)"),
        ("agents_here:make?colour=1", "cannot be made: TypeError"),
        ("agents_here:NUMBER", "is no function act(obs, state, rng)"),
        ("agents_here:nobody", "has no attribute 'nobody'"),
        ("cleanrl:nowhere.pt", "nowhere.pt: no such checkpoint"),
        ("agents_here:noisy,agents_here:noisy", "at least 3 training runs"),
    ],
)
def test_what_is_wrong_with_a_policy_is_one_line_before_anything_starts(policy, message, here, capsys):
    for name, contexts in POLES.items():
        contexts.write(here / "sets" / f"{name}.json")
    assert main(["overfit", "eval", f"policy={policy}", "out=study"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (here / "study").exists()


def test_several_policies_are_training_runs(here, capsys):
    sets = split(make_family("classic:CartPole-v1"), {"train": 4, "test": 60})
    for name, contexts in sets.items():
        contexts.write(here / "sets" / f"{name}.json")
    assert main(["overfit", "eval", "policy=agents_here:make?bias={run}", "repeats=3", "out=study"]) == 4
    out = capsys.readouterr().out
    assert "INCONCLUSIVE" in out and "of the task: what was not learned" in " ".join(out.split())
    assert "one policy" not in (here / "study" / "study.json").read_text()
    assert "Gymnasium's reward_threshold of CartPole-v1" in (here / "study" / "report.html").read_text().replace(
        "&#x27;", "'"
    )


def net(*sizes):
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Discrete(nn.Module):
    """As CleanRL's ppo.py."""

    def __init__(self):
        super().__init__()
        self.critic, self.actor = net(4, 8, 8, 1), net(4, 8, 8, 2)


class Continuous(nn.Module):
    """As CleanRL's ppo_continuous_action.py."""

    def __init__(self):
        super().__init__()
        self.critic, self.actor_mean = net(3, 8, 1), net(3, 8, 1)
        self.actor_logstd = nn.Parameter(torch.full((1, 1), -20.0))


class Extractor(nn.Module):
    """As Stable-Baselines3's MlpPolicy."""

    def __init__(self):
        super().__init__()
        self.mlp_extractor = nn.ModuleDict(
            {"policy_net": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())}
        )
        self.action_net = nn.Linear(8, 2)


def test_checkpoints_give_the_networks_own_outputs(tmp_path):
    torch.manual_seed(0)
    obs, noise = np.random.default_rng(0).normal(size=(6, 4)).astype("f4"), [np.random.default_rng(k) for k in range(6)]
    agent = Discrete()
    torch.save(agent.state_dict(), tmp_path / "ppo.cleanrl_model")
    policy = python_policies(f"cleanrl:{tmp_path / 'ppo.cleanrl_model'}", 1, TWO)[0]
    with torch.no_grad():
        wanted = agent.actor(torch.from_numpy(obs)).numpy()
    decision = policy.act(obs, None, np.ones(6, bool), noise)
    np.testing.assert_allclose(decision.params, wanted, atol=1e-6)
    assert set(decision.action.tolist()) <= {0, 1}

    other, buffer = Extractor(), io.BytesIO()
    torch.save(other.state_dict(), buffer)
    with zipfile.ZipFile(tmp_path / "a2c.zip", "w") as zipped:
        zipped.writestr("policy.pth", buffer.getvalue())
    with torch.no_grad():
        wanted = other.action_net(other.mlp_extractor["policy_net"](torch.from_numpy(obs))).numpy()
    policy = python_policies(f"sb3:{tmp_path / 'a2c.zip'}", 1, TWO)[0]
    np.testing.assert_allclose(policy.act(obs, None, np.ones(6, bool), noise).params, wanted, atol=1e-6)

    box, steered = gym.spaces.Box(-0.1, 0.1, (1,), np.float32), Continuous()
    torch.save(steered.state_dict(), tmp_path / "c.pt")
    policy = python_policies(f"cleanrl:{tmp_path / 'c.pt'}", 1, box)[0]
    with torch.no_grad():
        wanted = steered.actor_mean(torch.from_numpy(obs[:, :3])).numpy()
    np.testing.assert_allclose(
        policy.act(obs[:, :3], None, np.ones(6, bool), noise).action, wanted.clip(-0.1, 0.1), atol=1e-6
    )
    with pytest.raises(ValueError, match="its policy has 1 outputs"):
        python_policies(f"cleanrl:{tmp_path / 'c.pt'}", 1, TWO)


def test_a_pickle_is_not_loaded(tmp_path):
    torch.save({"agent": Discrete()}, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match="not a checkpoint of tensors"):
        python_policies(f"cleanrl:{tmp_path / 'whole.pt'}", 1, TWO)


class Wide(nn.Module):
    """Two outputs, as most actor-critics have; ``width`` is an argument of the command line."""

    def __init__(self, width=8, outputs=2):
        super().__init__()
        self.body, self.head = nn.Linear(4, width), nn.Linear(width, outputs)
        self.drop = nn.Dropout(0.5)  # acts in training only

    def forward(self, obs):
        hidden = self.drop(self.body(obs).relu())
        return self.head(hidden), hidden.sum(1)


def test_any_torch_network_is_a_policy_with_weights_from_a_file(tmp_path):
    name = f"torch:{__file__}:Wide?width=16&file={tmp_path}/policy{{run}}"
    rows, noise = np.random.default_rng(0).normal(size=(6, 4)), [np.random.default_rng(k) for k in range(6)]
    nets = [Wide(16).eval() for _ in range(2)]
    for k, net in enumerate(nets):
        torch.save(net.state_dict(), tmp_path / f"policy{k}.pt")
        save_file(net.state_dict(), tmp_path / f"policy{k}.safetensors")
    for ending in (".pt", ".safetensors"):
        for net, policy in zip(nets, python_policies(name + ending, 2, TWO), strict=True):
            decision = policy.act(rows, None, np.ones(6, bool), noise)
            with torch.no_grad():
                np.testing.assert_array_equal(decision.params, net(torch.from_numpy(rows).float())[0].numpy())
    always = torch.tensor([-100.0, 100.0])
    nets[0].head.weight.data.zero_()
    nets[0].head.bias.data.copy_(always)
    torch.save(nets[0].state_dict(), tmp_path / "policy0.pt")
    assert python_policies(f"{name}.pt", 1, TWO)[0].act(rows, None, np.ones(6, bool), noise).action.tolist() == [1] * 6
    steady = Wide(16, 4).eval()  # means 1 and 5, standard deviations exp(-20)
    steady.head.weight.data.zero_()
    steady.head.bias.data.copy_(torch.tensor([1.0, 5.0, -20.0, -20.0]))
    torch.save(steady.state_dict(), tmp_path / "box.pt")
    box = gym.spaces.Box(-2, 2, (2,), np.float32)
    policy = python_policies(f"torch:{__file__}:Wide?width=16&outputs=4&file={tmp_path}/box.pt", 1, box)[0]
    action = policy.act(rows, None, np.ones(6, bool), noise).action
    np.testing.assert_allclose(action, [[1.0, 2.0]] * 6, atol=1e-6)  # 5 is out of the box


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("width=16", "needs the file of its weights"),
        ("width=16&file=nowhere.pt", "nowhere.pt: no such checkpoint"),
        ("width=8&file={0}/policy.pt", "does not fit .* size mismatch"),
        ("width=x&file={0}/policy.pt", "cannot be made: TypeError"),
        ("width=16&file={0}/whole.pt", "not a checkpoint of tensors"),
        ("width=16&outputs=3&file={0}/three.pt", r"returned shape \[6, 3\]; .* it must be \[6, 2\]"),
    ],
)
def test_a_torch_policy_that_cannot_be_one_gets_a_clear_line(tmp_path, words, message):
    torch.save(Wide(16).state_dict(), tmp_path / "policy.pt")
    torch.save(Wide(16, 3).state_dict(), tmp_path / "three.pt")
    torch.save({"net": Wide(16)}, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=message) as refused:
        python_policies(f"torch:{__file__}:Wide?{words.format(tmp_path)}", 1, TWO)[0].act(
            np.zeros((6, 4)), None, np.ones(6, bool), [np.random.default_rng(k) for k in range(6)]
        )
    assert "\n" not in str(refused.value)
