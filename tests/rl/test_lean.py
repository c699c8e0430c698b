"""The lean path against the module and autograd: the same actions, the same gradient, wherever it is taken."""

from __future__ import annotations

import dataclasses
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gala_envs.registry import make
from masked_envs import Doors, TwoLocks

from gala.build.learning import make_normalizer, make_reward_shaper
from gala.build.policy import Spaces, make_lean, make_policy
from gala.config import derived
from gala.config.parse import parse_config
from gala.config.schema import ModelConfig
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.models.actor_critic import build_actor_critic
from gala.models.distributions import policy_range
from gala.optim.update import LearningStep
from gala.rl import lean_layers
from gala.rl.a2c import rollout_loss
from gala.rl.actor_learner import ActorLearner
from gala.rl.lean import LeanPolicy
from gala.rl.lean_actions import Gaussian, family_of
from gala.rl.rollout import Collector, Rollout

CPU = torch.device("cpu")
T, B = 6, 5
SPACES = {
    "discrete": gym.spaces.Discrete(3),
    "several": gym.spaces.MultiDiscrete([2, 4, 3]),
    "box": gym.spaces.Box(-1, 1, (2,)),
    "far box": gym.spaces.Box(np.array([-50, 0], np.float32), np.array([-40, 7], np.float32)),
}
MODELS = {
    "separate": ModelConfig(encoder="mlp", hidden=(16, 8), separate_critic=True),
    "shared": ModelConfig(encoder="mlp", hidden=(16, 8), separate_critic=False),
    "relu": ModelConfig(encoder="mlp", hidden=(16,), activation="relu", separate_critic=True),
    "linear": ModelConfig(encoder="mlp", hidden=(), separate_critic=False),
}
IMAGES = {
    "bytes": ("minatar_cnn", gym.spaces.Box(0, 255, (3, 9, 7), np.uint8), 0.03),
    "bits": ("minatar_cnn", gym.spaces.Box(0, 1, (4, 10, 10), bool), 0.03),
    "floats": ("minatar_cnn", gym.spaces.Box(-9, 9, (1, 5, 8), np.float32), 0.03),
    "two layers": ("a3c_cnn", gym.spaces.Box(0, 255, (1, 44, 50), np.uint8), 0.01),
    "three layers": ("nature_cnn", gym.spaces.Box(0, 255, (4, 52, 60), np.uint8), 0.01),
}
"""Encoder, space, and how far parameters are moved."""
COEFFICIENTS = {
    "plain": {},
    "weighted": {"value_coef": 0.7, "gamma": 0.9, "gae_lambda": 0.6},
    "normalised": {"normalize_advantages": True},
}


class Noisy(gym.Env):
    """Observations of noise; episodes of 7 steps end in a time limit, those of 4 in a terminal state."""

    def __init__(self, action_space, shape=(3,)):
        self.observation_space, self.action_space = gym.spaces.Box(-9, 9, shape, np.float32), action_space

    def _obs(self):
        return self.np_random.normal(size=self.observation_space.shape).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.dies = (7, False) if self.np_random.random() < 0.5 else (4, True)
        return self._obs(), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        return self._obs(), self.np_random.normal(), over and self.dies, over and not self.dies, {}


def flattened(policy, by=0.3):
    flat = flatten_parameters(list(policy.parameters()))
    with torch.no_grad():  # a fresh policy head is almost 0, and so would be what flows through it
        flat.add_(torch.randn(len(flat), generator=torch.Generator().manual_seed(4)), alpha=by)
    flatten_gradients(flat, policy)
    return flat


def lean_of(policy, space):
    return LeanPolicy(policy, space, policy_range(space) if isinstance(space, gym.spaces.Box) else ())


def rollout_of(policy, lean, space, seen=None, **changed):
    """One rollout with ends, time limits and rows of an autoreset; ``acting`` as the lean path keeps it."""
    make_ = torch.Generator().manual_seed(0)
    flags = torch.zeros(3, T, B, dtype=torch.bool)
    terminated, truncated, invalid = flags[0], flags[1], flags[2]
    terminated[2, 0] = truncated[3, 1] = truncated[5, 3] = invalid[3, 0] = invalid[4, 1] = True
    obs = torch.randn(T, B, 3, generator=make_) if seen is None else seen
    state, first = torch.zeros(B, 0), torch.zeros(T, B, dtype=torch.bool)
    outputs = [lean(step, state, opens, with_value=False) for step, opens in zip(obs, first, strict=True)]
    groups = [[_rows(out, rows) for out in outputs] for rows in (slice(0, 2), slice(2, B))]
    return dataclasses.replace(
        Rollout(
            obs=obs,
            first=first,
            action=torch.stack([lean.act(out.params, greedy=False, generator=make_) for out in outputs]),
            reward=torch.randn(T, B, generator=make_),
            terminated=terminated,
            truncated=truncated,
            valid=~invalid,
            v_final=torch.randn(T, B, generator=make_) * truncated,
            state=state,
            last_value=torch.randn(B, generator=make_),
            acting=lean.stack(groups),
        ),
        **changed,
    )


def _rows(out, rows):
    hidden, seen = ([x[rows] for x in out.hidden], [[x[rows] for x in batch] for batch in out.seen])
    return out._replace(params=out.params[rows], state=out.state[rows], hidden=hidden, seen=seen)


def assert_gradients_agree(flat, policy, lean, rollout, settings, entropy_coef):
    """``set_gradient`` against backward, and the losses: 1e-6 of the gradient's norm."""
    flat.grad.fill_(7.0)  # what was there does not count
    found = lean.set_gradient(rollout, settings, entropy_coef)
    gradient = flat.grad.clone()
    flat.grad.zero_()
    wanted = rollout_loss(policy, dataclasses.replace(rollout, acting=None), settings, entropy_coef)
    wanted.loss.total.backward()
    assert flat.grad.norm() > 1e-2 and (gradient - flat.grad).norm() <= 1e-6 * flat.grad.norm()
    for a, b in zip((*found.loss, *found[1:]), (*wanted.loss, *wanted[1:]), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-5)
    assert not found.loss.total.requires_grad


@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_is_autograds(space, model, coefficients):
    settings = dataclasses.replace(parse_config([]).a2c, **COEFFICIENTS[coefficients])
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (3,)), SPACES[space], MODELS[model])
    flat = flattened(policy)
    lean = lean_of(policy, SPACES[space])
    rollout = rollout_of(policy, lean, SPACES[space])
    assert_gradients_agree(flat, policy, lean, rollout, settings, entropy_coef=0.03)


def images(space, *batch):
    """Observations of an image space, ``[*batch, C, H, W]``."""
    space.seed(0)
    return torch.from_numpy(np.stack([space.sample() for _ in range(math.prod(batch))])).unflatten(0, batch)


@pytest.mark.parametrize("small", [0, 2**20])
@pytest.mark.parametrize("coefficients", COEFFICIENTS)
@pytest.mark.parametrize("name", IMAGES)
def test_the_gradient_of_convolutions_is_autograds(name, coefficients, small, monkeypatch):
    """Batch by batch as they acted, or all in one."""
    monkeypatch.setattr(lean_layers, "_SMALL_IMAGES", small)
    encoder, space, by = IMAGES[name]
    settings = dataclasses.replace(parse_config([]).a2c, **COEFFICIENTS[coefficients])
    # a critic of its own, which such an encoder cannot have
    policy = build_actor_critic(space, SPACES["several"], ModelConfig(encoder=encoder, separate_critic=True))
    flat = flattened(policy, by)
    lean = lean_of(policy, SPACES["several"])
    seen = images(space, T, B)
    out, wanted = lean(seen[0], None, None), policy(seen[0], torch.zeros(B, 0), torch.zeros(B, dtype=torch.bool))
    torch.testing.assert_close(out.params, wanted.params, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.value, wanted.value, rtol=1e-4, atol=1e-5)
    rollout = rollout_of(policy, lean, SPACES["several"], seen)
    assert len(rollout.acting.seen) == (1 if small else 2 * T)
    assert_gradients_agree(flat, policy, lean, rollout, settings, entropy_coef=0.03)


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), (2, 1)), ((2, 4), (1, 3)), ((1, 1), (1, 1)), ((9, 7), (1, 1))])
def test_convolutions_of_any_kernel_and_stride_are_pytorchs(kernel, stride):
    layer = torch.nn.Conv2d(3, 5, kernel, stride).to(memory_format=torch.channels_last)
    for p in layer.parameters():
        p.grad = torch.full_like(p, 7.0)
    x = images(IMAGES["bytes"][1], 4).float().requires_grad_()
    found, maps = lean_layers.Conv(layer), x.detach().permute(0, 2, 3, 1).contiguous().numpy()
    wanted = layer(x)
    np.testing.assert_allclose(found(maps), wanted.detach().permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    along = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    gradient = along.permute(0, 2, 3, 1).contiguous().numpy()
    found.zero_gradients()
    assert found.add_gradients(maps, gradient / 4, wants_input=False) is None
    through = found.add_gradients(maps, 0.75 * gradient, wants_input=True)
    got = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    wanted.backward(along)
    np.testing.assert_allclose(through / 0.75, x.grad.permute(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
    for a, p in zip(got, layer.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4 * float(p.grad.norm()))


@pytest.mark.parametrize("space", SPACES)
def test_actions_are_the_modules_from_the_same_stream_and_follow_parameters_in_place(space):
    """Whoever moves the parameters: an optimiser, gossip, or a checkpoint that is loaded."""
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (2, 2)), SPACES[space], MODELS["separate"])
    flat = flattened(policy)
    lean = lean_of(policy, SPACES[space])
    obs, state, first = torch.randn(64, 2, 2), lean.initial_state(64), torch.zeros(64, dtype=torch.bool)
    other = build_actor_critic(gym.spaces.Box(-9, 9, (2, 2)), SPACES[space], MODELS["separate"])
    moves = [lambda: None, lambda: flat.mul_(1.3), lambda: policy.load_state_dict(other.state_dict())]
    for move in moves:
        with torch.no_grad():
            move()
            out, wanted = lean(obs, state, first), policy(obs, state, first)
        torch.testing.assert_close(out.params, wanted.params[:, : out.params.shape[1]], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(out.value, wanted.value, rtol=1e-5, atol=1e-6)
        streams = [torch.Generator().manual_seed(1) for _ in range(2)]
        a = lean.act(out.params, greedy=False, generator=streams[0])
        b = policy.act(wanted.params, greedy=False, generator=streams[1])
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
        assert torch.equal(streams[0].get_state(), streams[1].get_state())
        best = lean.act(out.params, greedy=True), policy.act(wanted.params, greedy=True)
        torch.testing.assert_close(*best, rtol=1e-5, atol=1e-4)


def learner(words, lean, space):
    """A learner on ``Noisy``, or on ``env.id`` of ``words``, with normalisers if these say so."""
    config = parse_config(["model.encoder=mlp", "model.hidden=16,8", "algo=a2c", *words, "envs_per_learner=4"])
    build = space if isinstance(space, type) else lambda: Noisy(space)
    env = make("Noisy", 4, make_env=build) if space else make(config.env.id, 4)
    spaces = Spaces(env.obs_space, env.action_space, 1)
    policy = make_policy(config, spaces)
    flat = flattened(policy, by=0.3 if config.model.encoder == "mlp" else 0.02)
    path = make_lean(config, policy, env.action_space, CPU) if lean else None
    collector = Collector(
        env,
        config.a2c.num_steps,
        device=CPU,
        generator=torch.Generator().manual_seed(3),
        normalizer=make_normalizer(config, spaces),
        shape_reward=make_reward_shaper(config)[0],
        keep_graph=lean,
        keep_values=False,
    )
    collector.reset(policy, 5)
    step = LearningStep(torch.optim.SGD([flat]), max_grad_norm=0.5)
    return ActorLearner(collector, policy, flat, step, config.a2c, lean=path)


RUNS = {
    "discrete": (("a2c.num_steps=32",), SPACES["discrete"]),
    "shared": (("a2c.num_steps=9", "model.separate_critic=false"), SPACES["several"]),
    "normalised": (("a2c.num_steps=11", "normalize.obs=true", "normalize.reward=scale"), SPACES["box"]),
    "decayed": (("a2c.num_steps=11", "a2c.l2=0.01", "a2c.normalize_advantages=true"), SPACES["far box"]),
    "masked": (("a2c.num_steps=11", "normalize.obs=true"), Doors),
    "masked, several": (("a2c.num_steps=11", "model.separate_critic=false"), TwoLocks),
    "CartPole": (("env.id=CartPole-v1", "a2c.num_steps=32"), None),
    "images": (("preset=minatar/breakout", "model.encoder=minatar_cnn", "a2c.num_steps=32"), None),
    "frames": (("preset=atari/pong", "model.encoder=nature_cnn"), None),
    "normalised images": (("preset=minatar/seaquest", "model.encoder=minatar_cnn", "normalize.obs=true"), None),
}

ROUNDING = dict.fromkeys(RUNS, 3e-6) | {"frames": 1e-4}
"""Of the gradient's norm. Frames are alike, so that little is left of much: both ways are 6e-5 from float64's."""


@pytest.mark.parametrize("run", RUNS)
def test_a_learner_walks_the_same_way(run):
    """Whole updates with episodes that end in them, at a learning rate of 0, so that rounding does not add up."""
    words, space = RUNS[run]
    plain, lean = (learner(words, lean, space) for lean in (False, True))
    assert lean.lean is not None and plain.lean is None
    for _ in range(3):
        a, b = (one.update(lr=0.0, entropy_coef=0.02) for one in (plain, lean))
        assert torch.equal(plain.collector._buffers.obs, lean.collector._buffers.obs)
        assert (plain.flat.grad - lean.flat.grad).norm() <= ROUNDING[run] * plain.flat.grad.norm()
        torch.testing.assert_close(a.grad_norm, b.grad_norm, rtol=max(1e-5, ROUNDING[run]), atol=1e-7)
        assert a.episodes == b.episodes and a.valid_steps == b.valid_steps
        for x, y in zip(a.loss, b.loss, strict=True):
            torch.testing.assert_close(x.detach(), y, rtol=1e-4, atol=1e-5)


def test_what_looks_at_rollouts_is_shown_the_module():
    """Diagnoses differentiate twice; they must find the policy that they know, and leave everything as it was."""
    one = learner(("a2c.num_steps=8",), True, SPACES["discrete"])
    seen = []
    one.inspect = lambda policy, rollout, entropy_coef: seen.append(policy)
    one.update(lr=1e-3, entropy_coef=0.0)
    assert seen == [one.policy]


@pytest.mark.parametrize(
    "word",
    [
        *(
            "model.encoder=impala",
            "model.encoder=bagnet",
            "model.encoder=parts",
            "model.gru_size=4",
            "model.dropout=0.1",
            "model.dynamics_coef=0.1",
        ),
        *("model.precision=bf16", "model.compile=default", "optim.name=ekfac", "a2c.passes=1", "a2c.passes=2"),
    ],
)
def test_whatever_it_cannot_do_is_left_to_the_module(word):
    assert derived.is_lean(parse_config(["model.encoder=mlp"]))
    assert not derived.is_lean(parse_config(["model.encoder=mlp", word]))
    if not word.startswith("model.encoder"):
        assert not derived.is_lean(parse_config(["model.encoder=minatar_cnn", word]))


@pytest.mark.parametrize("encoder", ["minatar_cnn", "a3c_cnn", "nature_cnn"])
def test_convolutions_are_taken_with_their_maps_as_they_are(encoder):
    assert derived.is_lean(parse_config([f"model.encoder={encoder}", "model.width=2"]))
    assert not derived.is_lean(parse_config([f"model.encoder={encoder}", "model.pooling=mean"]))


def test_other_devices_are_left_to_the_module():
    config = parse_config(["model.encoder=mlp"])
    policy = make_policy(config, Spaces(gym.spaces.Box(-1, 1, (2,)), SPACES["box"], 1))
    flattened(policy)
    assert make_lean(config, policy, SPACES["box"], torch.device("cuda")) is None
    assert isinstance(make_lean(config, policy, SPACES["box"], CPU), LeanPolicy)


def test_a_rollout_of_another_policy_is_refused():
    one = learner(("a2c.num_steps=4",), True, SPACES["discrete"])
    rollout, _ = one.collector.collect(one.lean)
    with pytest.raises(AssertionError, match="another policy"):
        one.lean.set_gradient(dataclasses.replace(rollout, acting=None), one.coefficients, 0.0)


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("given", [False, True])
def test_products_are_numpys_up_to_what_one_thread_is_taken_for_and_pytorchs_beyond(extra, given, monkeypatch):
    rng, taken = np.random.default_rng(0), []
    a, b = (
        rng.normal(size=(2, lean_layers._ONE_THREAD // 8)),
        rng.normal(size=(lean_layers._ONE_THREAD // 8, 4 + extra)),
    )
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *args, **words: taken.append(1) or real(*args, **words))
    out = np.full((2, 4 + extra), 7.0) if given else None
    found = lean_layers._product(a, b, out) if given else lean_layers._product(a, b)
    np.testing.assert_allclose(found, a @ b, rtol=1e-9, atol=1e-9)
    assert len(taken) == extra and (not given or np.shares_memory(found, out))
    if given:
        np.testing.assert_array_equal(out, found)


@pytest.mark.parametrize("shape", [(3, 4), (2, 100, 100)])
@pytest.mark.parametrize("layer", [torch.nn.Tanh, torch.nn.ReLU])
def test_activations_are_pytorchs_and_take_no_memory(layer, shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    inputs = torch.from_numpy(x.copy()).requires_grad_()
    wanted = layer()(inputs)
    wanted.backward(torch.full_like(wanted, 3.0))
    activation = lean_layers._ACTIVATIONS[layer]
    y = activation.forward_(x)
    assert np.shares_memory(y, x)
    np.testing.assert_allclose(y, wanted.detach(), rtol=1e-6)
    np.testing.assert_allclose(activation.backward(np.full_like(y, 3.0), y), inputs.grad, rtol=1e-5, atol=1e-6)


def test_what_it_does_not_compute_itself_is_the_modules():
    """A pass of a whole rollout, and what a network learns besides, from arguments in their order."""
    spaces = gym.spaces.Box(-9, 9, (3,)), gym.spaces.Discrete(3)
    policy = build_actor_critic(*spaces, dataclasses.replace(MODELS["separate"], dynamics_coef=0.3))
    flattened(policy)
    lean = lean_of(policy, spaces[1])
    make_ = torch.Generator().manual_seed(0)
    obs, reward = torch.randn(T, B, 3, generator=make_), torch.randn(T, B, generator=make_)
    action, known = torch.randint(0, 3, (T, B), generator=make_), torch.rand(T - 1, B, generator=make_) < 0.5
    found, wanted = (each.auxiliary_loss(obs, action, reward, known) for each in (lean, policy))
    assert torch.equal(found, wanted) and found > 0
    state, first = lean.initial_state(B), torch.zeros(T, B, dtype=torch.bool)
    for a, b in zip(lean.unroll(obs, state, first), policy.unroll(obs, state, first), strict=True):
        assert torch.equal(a, b)
    assert lean.distribution is policy.distribution


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("model", MODELS)
def test_without_a_value_the_rest_is_the_same_and_the_value_empty(model, width):
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (width,)), SPACES["discrete"], MODELS[model])
    flattened(policy)
    lean, obs = lean_of(policy, SPACES["discrete"]), torch.randn(4, width)
    given = (obs, lean.initial_state(4), torch.zeros(4, dtype=torch.bool))
    whole, without = lean(*given), lean(*given, with_value=False)
    assert whole.value.shape == (4,) and without.value.shape == (0,)
    assert torch.equal(whole.params, without.params) and without.state is given[1]
    for a, b in zip(whole.hidden, without.hidden, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("normalised", [False, True])
def test_of_one_valid_row_the_gradient_is_that_rows_and_of_none_it_is_0(normalised):
    settings = dataclasses.replace(parse_config([]).a2c, normalize_advantages=normalised)
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (3,)), SPACES["discrete"], MODELS["separate"])
    flat = flattened(policy)
    lean = lean_of(policy, SPACES["discrete"])
    valid = torch.zeros(T, B, dtype=torch.bool)
    none = rollout_of(policy, lean, SPACES["discrete"], valid=valid.clone())
    flat.grad.fill_(7.0)
    assert torch.equal(torch.stack(lean.set_gradient(none, settings, 0.03).loss), torch.zeros(4))
    assert not flat.grad.any()
    loss = rollout_loss(policy, dataclasses.replace(none, acting=None), settings, 0.03).loss
    assert torch.equal(torch.stack(loss), torch.zeros(4))
    valid[2, 1] = True
    one = rollout_of(policy, lean, SPACES["discrete"], valid=valid)
    assert_gradients_agree(flat, policy, lean, one, settings, entropy_coef=0.03)


def test_advantages_that_are_as_small_as_the_number_beside_their_deviation_are_normalised_as_the_modules():
    """Values of 0, and rewards of a hundred-millionth: half of the advantage is then that number's."""
    settings = dataclasses.replace(parse_config([]).a2c, normalize_advantages=True)
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (3,)), SPACES["discrete"], MODELS["separate"])
    flat = flattened(policy)
    with torch.no_grad():
        for p in policy.value_head.parameters():
            p.zero_()
    lean = lean_of(policy, SPACES["discrete"])
    rollout = rollout_of(policy, lean, SPACES["discrete"])
    small = {name: 1e-8 * getattr(rollout, name) for name in ("reward", "v_final", "last_value")}
    assert_gradients_agree(flat, policy, lean, dataclasses.replace(rollout, **small), settings, entropy_coef=0.0)


def test_the_outputs_of_one_step_are_stacked_as_those_of_several():
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (3,)), SPACES["discrete"], MODELS["separate"])
    flattened(policy)
    lean = lean_of(policy, SPACES["discrete"])
    out = lean(torch.randn(B, 3), torch.zeros(B, 0), torch.zeros(B, dtype=torch.bool), with_value=False)
    stacked = lean.stack([[_rows(out, slice(0, 2))], [_rows(out, slice(2, B))]])
    assert torch.equal(stacked.params, out.params) and stacked.value.shape == (0,)
    for a, b in zip(stacked.hidden, out.hidden, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("centre", "half"), [(0.0, 1.0), (0.0, 2.0), (1.0, 1.0), (0.0, 0.5)])
def test_the_most_probable_number_is_the_heads_within_its_range(centre, half):
    log_std = torch.zeros(2)
    log_std.grad = torch.zeros(2)
    head = np.array([[0.25, -0.75]], np.float32)
    family = Gaussian(log_std, np.full(2, centre, np.float32), np.full(2, half, np.float32))
    np.testing.assert_array_equal(family.mode(head), centre + half * head)


def test_outputs_of_hundreds_are_probabilities_still():
    """exp(300) is infinite in float32."""
    family = family_of(gym.spaces.Discrete(3), None, ())
    head = np.array([[300.0, 0.0, -300.0], [-300.0, 300.0, 300.0]], np.float32)
    drawn = np.stack([family.sample(head, torch.Generator().manual_seed(seed)) for seed in range(40)])
    assert (drawn[:, 0] == 0).all() and set(drawn[:, 1]) == {1, 2}
    terms = family.terms(head, np.array([0, 1]), np.ones(2, np.float32), np.zeros(2, np.float32))
    assert terms.log_prob == pytest.approx([0.0, -math.log(2)]) and terms.entropy == pytest.approx([0.0, math.log(2)])
    assert terms.gradient[1] == pytest.approx([0.0, 0.5, -0.5])


@pytest.mark.filterwarnings("error")
def test_a_diverged_policy_has_a_gradient_that_is_not_finite_and_no_warnings():
    policy = build_actor_critic(gym.spaces.Box(-9, 9, (3,)), SPACES["discrete"], MODELS["separate"])
    flat = flattened(policy)
    lean = lean_of(policy, SPACES["discrete"])
    rollout = rollout_of(policy, lean, SPACES["discrete"])
    rollout = dataclasses.replace(rollout, reward=torch.full_like(rollout.reward, 1e30))
    lean.set_gradient(rollout, dataclasses.replace(parse_config([]).a2c, normalize_advantages=False), 0.03)
    assert flat.grad.norm().isinf()
