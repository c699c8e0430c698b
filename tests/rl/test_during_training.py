"""What a learner measures while it trains: right by the dense Hessian and by hand, and the training none the wiser."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_evaluate import make_run
from test_update import ENTROPY_COEF, Replayed, learner
from torch.autograd.functional import hessian
from torch.func import functional_call
from training import TINY, Gala, parts

from gala import cli
from gala.config.schema import Config, DiagnoseConfig, ModelConfig
from gala.config.validate import validate
from gala.diagnostics.curvature import flat
from gala.diagnostics.dead_units import dead_share
from gala.diagnostics.during_training import DuringTraining
from gala.diagnostics.landscape import frozen_losses
from gala.diagnostics.noise_scale import moments, per_environment_gradients
from gala.models.actor_critic import build_actor_critic
from gala.rl.buffers import buffers_kept
from gala.runs.run_dir import RunDir

BOTH = Config(diagnose=DiagnoseConfig(curvature=2, eigenvalues=3, noise=1))
MODEL = ModelConfig(hidden=(4,))


def probe(config=BOTH):
    beats = []
    return DuringTraining(config, dict, lambda: beats.append(1)), beats


def dense_hessian(policy, rollout, config):
    loss = frozen_losses(policy, rollout, config.a2c, ENTROPY_COEF)["total"]
    params = dict(policy.named_parameters())
    original = policy.unroll

    def at(vector):
        pieces = vector.split([p.numel() for p in params.values()])
        named = {name: x.view_as(p) for (name, p), x in zip(params.items(), pieces, strict=True)}

        def unroll(obs, state, first):
            out = functional_call(policy, named, (obs.flatten(0, 1), state, first.flatten()))
            return out._replace(params=out.params.view(*obs.shape[:2], -1), value=out.value.view(obs.shape[:2]))

        policy.unroll = unroll
        try:
            return loss()
        finally:
            policy.unroll = original

    return hessian(at, flat([p.detach() for p in params.values()]))


def test_the_eigenvalues_are_those_of_the_dense_hessian():
    one, (measure, beats) = learner(model=MODEL), probe()
    measure(one.policy, one.collector.rollout, ENTROPY_COEF)
    matrix = dense_hessian(one.policy, one.collector.rollout, BOTH)
    tags = measure.tags(1.0)
    top = torch.linalg.eigvalsh(matrix).flip(0)[:3].tolist()
    assert [tags[f"diagnose/eigenvalue{i}"] for i in (1, 2, 3)] == pytest.approx(top, rel=1e-2)
    generator = torch.Generator().manual_seed(1)
    signs = [torch.randint(0, 2, (len(matrix),), generator=generator) * 2.0 - 1 for _ in range(4)]
    expected = sum(float(z @ matrix @ z) for z in signs) / 4
    assert tags["diagnose/hessian_trace"] == pytest.approx(expected, rel=1e-3)
    assert len(beats) > 10 and tags["perf/diagnose_share"] > 0
    assert measure.tags(1.0)["perf/diagnose_share"] == 0.0


def test_it_looks_at_every_k_th_rollout_and_begins_where_it_ended():
    one, (measure, beats) = learner(model=MODEL), probe(replace(BOTH, diagnose=DiagnoseConfig(curvature=2)))
    counts = []
    for _ in range(5):
        beats.clear()
        measure(one.policy, one.collector.rollout, ENTROPY_COEF)
        counts.append(len(beats))
    assert counts[1] == counts[3] == 0 and counts[0] > counts[2] > 0 and counts[4] > 0


def test_the_noise_scale_is_a_ratio_of_averages_that_a_checkpoint_keeps():
    one, found = learner(model=MODEL), []
    measure, _ = probe(replace(BOTH, diagnose=DiagnoseConfig(noise=1)))
    for i in range(3):
        rollout = replace(one.collector.rollout, reward=one.collector.rollout.reward * (i + 1) + i)
        measure(one.policy, rollout, ENTROPY_COEF)
        params = list(one.policy.parameters())
        found.append(moments(per_environment_gradients(one.policy, rollout, BOTH.a2c, ENTROPY_COEF, params)))
        again, _ = probe(measure.config)  # as a learner that is resumed after each update
        again.load_tensors(measure.tensors())
        measure = again
    noise, signal = (sum(getattr(m, name) for m in found) / 3 for name in ("noise", "signal"))
    assert (measure.noise.noise, measure.noise.signal) == pytest.approx((noise, signal), rel=1e-6)
    assert measure.updates == 3 and measure.noise.value == pytest.approx(noise / signal, rel=1e-6)


class Normed(torch.nn.Module):
    """An encoder with running statistics, as a user may bring one."""

    def __init__(self, space, hidden, activation):
        super().__init__()
        self.num_features = hidden[0]
        self.layers = torch.nn.Sequential(
            torch.nn.BatchNorm1d(space.shape[0]), torch.nn.Linear(space.shape[0], hidden[0]), torch.nn.ReLU()
        )

    def forward(self, obs):
        return self.layers(obs)


NORMED = ModelConfig(hidden=(4,), encoder="test_during_training:Normed")


@pytest.mark.parametrize(
    "model", [MODEL, ModelConfig(hidden=(4,), dropout=0.3), NORMED], ids=["plain", "dropout", "batch norm"]
)
def test_learning_is_the_same_to_the_last_bit(model):
    ends = []
    for measures in (False, True):
        one = learner(model=model)
        if measures:
            one.inspect, _ = probe(replace(BOTH, diagnose=DiagnoseConfig(curvature=1, noise=1, dead_units=1)))
        torch.manual_seed(7)
        for _ in range(4):
            one.update(1e-3, ENTROPY_COEF)
        kept = [buffer.numpy().tobytes() for buffer in one.policy.buffers()]
        ends.append([one.flat.detach().numpy().tobytes(), *kept])
    assert ends[0] == ends[1] and len(ends[0]) == (4 if model is NORMED else 1)


def test_a_graph_that_was_kept_can_be_differentiated_after_passes_that_leave_the_buffers():
    gradients, x = [], torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    for looks in (False, True):
        torch.manual_seed(0)
        network = Normed(gym.spaces.Box(-1, 1, (5,)), (4,), "relu")
        loss = (network(x) ** 2).mean() + network(2 * x).mean()
        if looks:
            with buffers_kept(network):
                network(x + 100)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.equal(*gradients)


def test_a_loss_without_curvature_or_with_infinite_gradients_ends_no_training():
    one, (measure, _) = learner(model=MODEL), probe()
    bad = replace(Replayed().rollout, obs=Replayed().rollout.obs * float("nan"))
    measure(one.policy, bad, ENTROPY_COEF)
    assert set(measure.tags(1.0)) == {"perf/diagnose_share"}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (Config(envs_per_learner=1, diagnose=DiagnoseConfig(noise=5)), "envs_per_learner"),
        (Config(model=ModelConfig(compile="default"), diagnose=DiagnoseConfig(curvature=5)), "model.compile"),
        (Config(diagnose=DiagnoseConfig(eigenvalues=0)), "diagnose.eigenvalues=0"),
    ],
)
def test_what_cannot_be_measured_is_refused(config, word):
    with pytest.raises(ValueError, match=word) as caught:
        validate(config)
    assert "\n" not in str(caught.value)


WORDS = ("model.dropout=0.2", "steps=320", "learners=2", "algo=gala", "gossip.tau=0")


def _digest(path):
    digest = hashlib.sha256()
    for tensors, _ in parts(RunDir.open(path)):
        for name, tensor in sorted(tensors["policy"].items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.long
def test_the_records_of_a_run_have_it_and_plots_are_drawn(tmp_path, capsys):
    path = tmp_path / "on"
    assert Gala(path, *TINY, *WORDS, "diagnose.curvature=10", "diagnose.noise=5").end()[0] == 0
    record = RunDir.open(path).read_metrics()[-1]
    for scope in (record, record["learner0"], record["learner1"]):
        assert scope["diagnose/eigenvalue1"] > 0 and scope["diagnose/gradient_noise"] > 0
    if "diagnose/noise_scale" in record:
        ratio = record["diagnose/gradient_noise"] / record["diagnose/gradient_signal"]
        assert record["diagnose/noise_scale"] == pytest.approx(ratio)
    pytest.importorskip("matplotlib")
    assert cli.main(["plot", str(path), "sharpness"]) == 0 and (path / "sharpness.png").stat().st_size > 5000
    assert cli.main(["plot", str(path), "y=trace", f"out={tmp_path / 'trace.png'}"]) == 0
    capsys.readouterr()
    assert cli.main(["plot", str(path), "sharpness"]) == 2  # it is there


@pytest.mark.long
def test_a_run_ends_with_the_same_parameters_measured_or_not(tmp_path):
    assert Gala(tmp_path / "on", *TINY, *WORDS, "diagnose.curvature=7", "diagnose.noise=3").end()[0] == 0
    assert Gala(tmp_path / "off", *TINY, *WORDS).end()[0] == 0
    assert _digest(tmp_path / "on") == _digest(tmp_path / "off")


def test_dead_units_are_those_that_no_observation_wakes():
    one = learner(model=ModelConfig(hidden=(8,), activation="relu", separate_critic=False))
    layer = next(m for m in one.policy.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        layer.bias.fill_(100.0)  # all answer
    assert dead_share(one.policy, one.collector.rollout) == 0.0
    with torch.no_grad():
        layer.bias[:3] = -1e6  # three never do
    assert dead_share(one.policy, one.collector.rollout) == 3 / 8
    assert not any(m._forward_hooks for m in one.policy.modules())
    assert dead_share(learner(model=MODEL).policy, one.collector.rollout) is None  # tanh


def test_the_relus_of_residual_blocks_are_looked_at():
    """Three stages of two blocks with two ReLUs each, one behind them and one behind the dense layer. All but the first
    are dead."""
    space, model = gym.spaces.Box(0, 255, (3, 16, 16), np.uint8), ModelConfig(encoder="impala", blocks=2)
    policy = build_actor_critic(space, gym.spaces.Discrete(2), model)
    widths = []
    for module in policy.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(lambda _, args, output: widths.append(output.shape[1]))
    with torch.no_grad():
        for module in policy.encoder.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.zero_()
                module.bias.fill_(-1.0)
        policy.encoder.convs[0].bias.fill_(1.0)
    obs, state = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8), policy.initial_state(3)
    first = torch.zeros(2, 3, dtype=torch.bool)
    share = dead_share(policy, SimpleNamespace(obs=obs, state=state, first=first))
    assert widths == [16] * 4 + [32] * 9 + [256]
    assert share == pytest.approx(1 - 16 / sum(widths))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["preset=classic/cartpole"], "model.activation=relu"),
        (["env.id=CartPole-v1", "preset=none", "model.encoder=auto"], "model.activation=relu"),
        (["preset=minatar/breakout", "model.compile=default"], "model.compile=none"),
        (["preset=classic/cartpole", "model.encoder=test_during_training:Smooth"], "has none; set diagnose.dead_units"),
    ],
)
def test_dead_units_are_refused_where_none_can_be_seen(words, message, capsys):
    assert cli.main(["train", *words, "diagnose.dead_units=5", "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


class Smooth(torch.nn.Module):
    """An encoder without a ReLU."""

    def __init__(self, space, hidden, activation):
        super().__init__()
        self.num_features = space.shape[0]
        self.layer = torch.nn.Linear(self.num_features, self.num_features)

    def forward(self, obs):
        return torch.tanh(self.layer(obs))


def test_channels_of_maps_are_units():
    torch.manual_seed(0)

    class Maps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = torch.nn.ReLU()

        def unroll(self, obs, state, first):
            self.relu(obs.flatten(0, 1))

    obs = -torch.ones(2, 3, 4, 5, 5)  # T, B, channels, height, width
    obs[1, 2, 0, 4, 4] = 1.0  # one pixel of one observation
    assert dead_share(Maps(), SimpleNamespace(obs=obs, state=None, first=None)) == 0.75


def test_a_resumed_run_is_not_changed_by_a_measurement_that_its_network_cannot_give(tmp_path, capsys):
    """Else every learner would fail in its first update, now and whenever it is resumed."""
    run, _ = make_run(tmp_path / "run", "preset=classic/cartpole", "model.encoder=test_during_training:Smooth")
    run.close()
    before = (run.path / "config.yaml").read_bytes()
    assert cli.main(["resume", str(run.path), "steps=1e6", "trust=true", "diagnose.dead_units=5"]) == 2
    assert "has none; set diagnose.dead_units" in capsys.readouterr().err
    assert (run.path / "config.yaml").read_bytes() == before


def test_dead_units_are_measured_every_so_many_updates_and_alone():
    one = learner(model=ModelConfig(hidden=(8,), activation="relu"))
    measure, _ = probe(Config(diagnose=DiagnoseConfig(dead_units=2)))
    measure(one.policy, one.collector.rollout, ENTROPY_COEF)
    tags = measure.tags(1.0)
    assert tags["diagnose/dead_units"] == dead_share(one.policy, one.collector.rollout)
    assert tags.keys() == {"diagnose/dead_units", "perf/diagnose_share"}
