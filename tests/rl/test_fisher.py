"""The Fisher matrix of an actor-critic's rollout, and A2C with it: what is drawn, what is saved, how long steps are."""

import math

import gymnasium as gym
import pytest
import torch
from test_update import ENTROPY_COEF, Replayed
from training import TINY, Gala, parts

from gala import cli
from gala.build.learning import learning_rate, make_ekfac, make_optimizer, make_rollout_fisher
from gala.config.parse import parse_config
from gala.config.validate import validate
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.models.actor_critic import build_actor_critic
from gala.optim.update import LearningStep
from gala.rl.actor_learner import ActorLearner
from gala.rl.fisher import fisher_losses
from gala.rl.normalise import Normalizers
from gala.runs.checkpoints import pack, unpack
from gala.runs.run_dir import RunDir
from gala.training.learner_state import LearnerState


def learner(*words):
    config = parse_config(["preset=classic/cartpole", "model.hidden=8", "optim.name=ekfac", "optim.lr=0.1", *words])
    torch.manual_seed(1)
    policy = build_actor_critic(gym.spaces.Box(-1, 1, (5,)), gym.spaces.Discrete(3), config.model)
    torch.nn.init.normal_(policy.policy_head.weight)
    flat = flatten_parameters(list(policy.parameters()))
    flatten_gradients(flat, policy)
    optimizer, ekfac = make_optimizer(config, flat, policy), make_ekfac(config, policy)
    observe = make_rollout_fisher(config, ekfac, torch.Generator().manual_seed(2))
    step = LearningStep(optimizer, precondition=ekfac, max_grad_norm=config.a2c.max_grad_norm)
    one = ActorLearner(Replayed(), policy, flat, step, config.a2c, observe)
    return one, LearnerState(policy, optimizer, None, Normalizers(None, None), ekfac), config


@pytest.mark.parametrize("fisher", ["sampled", "empirical", "exact"])
def test_the_heads_have_the_fisher_of_the_actions_and_of_a_gaussian_return(fisher):
    """Outputs have a Fisher: 3 logits diag(p) - p p^T, within a hundredth after 1e5 draws; a value 1/sigma^2."""
    torch.manual_seed(0)
    one, _, _ = learner()
    out = one.policy.unroll(torch.randn(1, 1, 5), torch.zeros(1, 0), torch.zeros(1, 1, dtype=torch.bool))
    params = out.params.detach().expand(100_000, 1, 3).clone().requires_grad_()
    value = torch.zeros(100_000, 1, requires_grad=True)
    draw = torch.Generator().manual_seed(0)
    action = one.policy.distribution.sample(params.detach(), draw)
    losses = fisher_losses(one.policy, out._replace(params=params, value=value), action, fisher, 0.5, draw)
    found = torch.zeros(4, 4, dtype=torch.float64)  # 1e5 terms: float32 sums are off by 2e-4 on some processors
    for loss in losses:
        grads = torch.autograd.grad(loss.sum(), [params, value], allow_unused=True, materialize_grads=True)
        rows = torch.cat([grads[0][:, 0], grads[1]], 1).double()
        found += rows.T @ rows / 100_000
    p = torch.softmax(params[0, 0].double(), -1).detach()
    truth = torch.block_diag(p.diag() - torch.outer(p, p), torch.tensor([[4.0]], dtype=torch.float64))
    assert abs(found[3, 3].item() - 4.0) < 0.04
    assert (found[:3, :3] - truth[:3, :3]).norm() < (1e-5 if fisher == "exact" else 0.01)
    assert (found - truth).norm() < 0.03 * truth.norm()


def test_the_rollouts_own_actions_are_used_if_that_is_asked_for():
    one, _, _ = learner()
    r = one.collector.rollout
    out = one.policy.unroll(r.obs, r.state, r.first)
    losses = [
        fisher_losses(one.policy, out, action, fisher, 1.0, torch.Generator().manual_seed(0))[0]
        for fisher, action in (("empirical", r.action), ("empirical", (r.action + 1) % 3), ("sampled", r.action))
    ]
    log_p = torch.log_softmax(out.params, -1)
    moved = (log_p.gather(-1, r.action[..., None]) - log_p.gather(-1, (r.action + 1)[..., None] % 3)).squeeze(-1)
    torch.testing.assert_close(losses[1] - losses[0], moved)
    assert not torch.equal(losses[2], losses[0])


def test_an_update_solves_for_the_gradient_of_the_valid_rows():
    """Of the policy head, EKFAC's second moments are those of all valid rows and actions, one by one."""
    one, state, _ = learner("ekfac.kind=diagonal", "ekfac.kl_limit=0", "a2c.max_grad_norm=0", "ekfac.critic_sigma=2")
    r, policy = one.collector.rollout, one.policy
    squares, value_squares = torch.zeros(3, 8), torch.zeros(1, 8)
    for t, b in r.valid.nonzero().tolist():
        features = policy.encoder(r.obs[t, b][None])[0].detach()
        p = torch.softmax(policy.policy_head(features), -1).detach()
        for action in range(3):
            squares += p[action] * torch.outer(torch.eye(3)[action] - p, features) ** 2
        value_squares += (policy.critic_encoder(r.obs[t, b][None]).detach() / 2) ** 2
    before = one.flat.detach().clone()
    one.update(lr=0.1, entropy_coef=ENTROPY_COEF)
    blocks, count = state.ekfac.blocks, int(r.valid.sum())
    torch.testing.assert_close(blocks["policy_head"].moments[:, :-1], squares / count)
    torch.testing.assert_close(blocks["value_head"].moments[:, :-1], value_squares / count)
    assert not state.ekfac.fallbacks
    torch.testing.assert_close(one.flat.detach(), before - 0.1 * one.flat.grad)


def test_a_saved_learner_goes_on_to_the_bit():
    one, state, _ = learner("ekfac.basis_every=2", "ekfac.momentum=0.5")
    for _ in range(3):
        one.update(lr=0.1, entropy_coef=ENTROPY_COEF)
    saved = pack(state.tensors())
    other, taken, _ = learner("ekfac.basis_every=2", "ekfac.momentum=0.5")
    taken.load(unpack(saved))
    for each in (one, other):
        for _ in range(3):
            each.update(lr=0.1, entropy_coef=ENTROPY_COEF)
    assert torch.equal(one.flat, other.flat)


@pytest.mark.parametrize("limit", [0.0, 1e-7])
def test_the_end_of_a_linear_schedule_takes_steps_of_under_a_hundredth(limit):
    """Also where the trust region cuts all of them."""
    one, state, config = learner(f"ekfac.kl_limit={limit}", "ekfac.momentum=0", "optim.schedule=linear")
    lengths = []
    for progress in (0.0, 0.995):
        before = one.flat.detach().clone()
        saved = unpack(pack(state.tensors()))
        one.update(learning_rate(config)(progress), ENTROPY_COEF)
        lengths.append((one.flat.detach() - before).norm().item())
        if progress == 0.0:
            assert not limit or state.ekfac.predicted_kl.item() == pytest.approx(limit)
            state.load(saved)
    assert 0 < lengths[1] < 0.01 * lengths[0]


def test_a_step_is_shortened_to_the_trust_region():
    one, state, _ = learner("ekfac.kl_limit=1e-4", "ekfac.momentum=0", "a2c.max_grad_norm=0", "optim.lr=3")
    r = one.collector.rollout
    before = torch.log_softmax(one.policy.unroll(r.obs, r.state, r.first).params, -1).detach()
    one.update(lr=3.0, entropy_coef=ENTROPY_COEF)
    after = torch.log_softmax(one.policy.unroll(r.obs, r.state, r.first).params, -1).detach()
    kl = (before.exp() * (before - after)).sum(-1)[r.valid].mean().item()
    assert 0 < kl < 3e-4  # layers are taken for independent, and the critic's share counts
    assert state.ekfac.predicted_kl.item() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algo=allreduce", "learners=2"], "use algo=gala"),
        (["model.dynamics_coef=1"], "set model.dynamics_coef=0"),
        (["model.compile=default"], "set model.compile=none"),
        (["ekfac.damping=0"], "ekfac.damping=0.0 must be greater than 0"),
    ],
)
def test_what_cannot_work_with_ekfac_is_one_line(words, message):
    with pytest.raises(ValueError, match=message) as error:
        validate(parse_config(["optim.name=ekfac", *words]))
    assert "\n" not in str(error.value)


def test_the_pass_for_the_fisher_leaves_running_statistics_as_they_are():
    words = ("model.encoder=test_during_training:Normed", "model.separate_critic=false")
    one, _, _ = learner(*words)
    before = [buffer.clone() for buffer in one.policy.buffers()]
    one.observe(one.policy, one.collector.rollout)
    assert len(before) == 3 and all(torch.equal(*each) for each in zip(before, one.policy.buffers(), strict=True))
    one.update(lr=0.1, entropy_coef=ENTROPY_COEF)
    assert not torch.equal(before[0], next(one.policy.buffers())), "a pass that learns moves them"


def test_layers_without_an_eigenbasis_are_listed_before_the_start(capsys):
    words = ["preset=classic/cartpole", "optim.name=ekfac", "model.gru_size=8", "ekfac.max_dim=32", "--dry-run"]
    assert cli.main(["train", *words]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ekfac: ")]
    assert "ekfac: gru has a diagonal only: GRUCell is neither Linear nor Conv2d" in lines
    assert "ekfac: encoder.layers.1 has a diagonal only: a factor is 64 wide, more than 32" in lines
    assert len(lines) == 3 and not any("head" in line for line in lines)  # and the second layer


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["optim.name=ekfac"], "optim.lr=0.25 a2c.max_grad_norm=0"),
        (["optim.name=ekfac", "optim.lr=0.25"], "a2c.max_grad_norm=0"),
        (["optim.name=ekfac", "a2c.max_grad_norm=0"], "optim.lr=0.25"),
        (["optim.name=ekfac", "optim.lr=0.25", "a2c.max_grad_norm=0"], None),
        (["optim.name=ekfac", "optim.lr=0.25", "ekfac.kl_limit=0"], None),
        (["optim.name=adam"], None),
    ],
)
def test_the_settings_that_natural_gradients_need_are_named(words, advice, capsys):
    assert cli.main(["train", "preset=classic/acrobot", *words, "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    assert lines == ([f"warning: ekfac needs other settings; add {advice}"] if advice else [])
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_the_learning_step_knows_by_how_much_it_was_clipped(max_norm):
    lengths = []
    for limit in (0.0, max_norm):
        one, _, _ = learner("ekfac.kl_limit=0", "ekfac.momentum=0", f"a2c.max_grad_norm={limit}")
        before = one.flat.detach().clone()
        one.update(lr=0.1, entropy_coef=ENTROPY_COEF)
        lengths.append((one.flat.detach() - before).norm().item())
    assert one.learning_step.clip_factor == pytest.approx(lengths[1] / lengths[0], rel=1e-3)
    assert (one.learning_step.clip_factor < 1) == (max_norm > 0)


@pytest.mark.long
def test_gossiping_learners_train_with_it_and_keep_their_curvature(tmp_path):
    words = ("optim.name=ekfac", "optim.lr=0.1", "algo=gala", "learners=2", "steps=2_000", "a2c.max_grad_norm=1e-6")
    assert Gala(tmp_path / "run", *TINY, *words).end()[0] == 0
    kl = [r["losses/predicted_kl"] for r in RunDir.open(tmp_path / "run").read_metrics() if "losses/predicted_kl" in r]
    assert kl and max(kl) < 1e-10  # steps of 1e-7, not those before they are clipped
    saved = [tensors["ekfac"] for tensors, _ in parts(RunDir.open(tmp_path / "run"))]
    for one in saved:
        assert int(one["layer policy_head/count"]) > 0
        basis = one["layer policy_head/basis_a"]
        torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-4, rtol=0)
        assert all(math.isfinite(x.sum().item()) for x in one.values())
    # each learner at its own speed, both together as often as there were updates of two simulators by four steps
    assert sum(int(one["layer policy_head/count"]) for one in saved) >= 250
    assert not torch.equal(saved[0]["layer policy_head/moments"], saved[1]["layer policy_head/moments"])
