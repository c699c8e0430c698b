"""Second derivatives in float64 against the dense Hessian that autograd makes row by row, and against closed forms."""

import math

import gymnasium as gym
import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn import functional as F

from gala.config.schema import A2CConfig, ModelConfig
from gala.diagnostics import curvature, landscape
from gala.diagnostics.curvature import flat
from gala.models.actor_critic import build_actor_critic
from gala.optim.nudged_sgd import NudgedSGD
from gala.rl.a2c import rollout_loss
from gala.rl.rollout import Rollout

SIZE = 127


def classifier():
    """(loss, parameters, dense Hessian, model, inputs, labels)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 11), nn.Tanh(), nn.Linear(11, 4)).double()  # 125 and the two below
    model.register_parameter("unused", nn.Parameter(torch.zeros(2).double()))
    x, y = torch.randn(40, 6).double(), torch.arange(40) % 4
    params = dict(model.named_parameters())

    def dense(vector):
        parts = vector.split([p.numel() for p in params.values()])
        named = {name: part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}
        return F.cross_entropy(functional_call(model, named, (x,)), y)

    at = flat([p.detach() for p in params.values()])
    return lambda: F.cross_entropy(model(x), y), list(params.values()), hessian(dense, at), model, x, y


def columns(product, size):
    return torch.stack([product(e) for e in torch.eye(size).double()], 1)


def test_products_are_those_of_the_dense_hessian_and_of_differences_of_gradients():
    loss, params, dense, *_ = classifier()
    product = curvature.hessian_product(loss, params)
    assert len(dense) == SIZE
    torch.testing.assert_close(columns(product, SIZE), dense, rtol=1e-9, atol=1e-12)
    v, here = torch.randn(SIZE).double(), flat([p.detach() for p in params])
    pushed = product(v)
    around = []
    for sign in (1, -1):
        with landscape.parameters_at(params, here + sign * 1e-5 * v):
            around.append(curvature.gradient(loss, params))
    torch.testing.assert_close(pushed, (around[0] - around[1]) / 2e-5, rtol=1e-6, atol=1e-8)
    assert torch.equal(flat([p.detach() for p in params]), here) and all(p.grad is None for p in params)


def test_the_top_eigenpairs_are_those_of_the_dense_hessian():
    loss, params, dense, *_ = classifier()
    product = curvature.hessian_product(loss, params)
    values, vectors = torch.linalg.eigh(dense)
    found = curvature.top_eigenpairs(product, flat(params).detach(), 5, tolerance=1e-10)
    torch.testing.assert_close(found.values, values.flip(0)[:5], rtol=1e-6, atol=0)
    overlap = torch.linalg.svdvals(vectors[:, -5:].T @ found.vectors)
    assert torch.acos(overlap.clamp(max=1)).max() < 1e-4
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(5).double())


def test_a_start_saves_products():
    bend, calls = torch.linspace(0, 1, 300).double(), []
    product = lambda v: calls.append(1) or bend * v  # noqa: E731
    first = curvature.top_eigenpairs(product, bend, 1)
    cold = len(calls)
    again = curvature.top_eigenpairs(product, bend, 1, start=first.vectors.sum(1))
    assert 2 * (len(calls) - cold) < cold
    torch.testing.assert_close(again.values, bend[-1:], rtol=1e-3, atol=0)


@pytest.mark.parametrize("size", [4, 60])  # dense, and ARPACK
def test_the_largest_are_meant_and_not_those_of_largest_magnitude(size):
    bend = torch.zeros(size).double()
    bend[:4] = torch.tensor([-20.0, 10.0, 9.0, 1.0])
    found = curvature.top_eigenpairs(lambda v: bend * v, bend, 3)
    torch.testing.assert_close(found.values, torch.tensor([10.0, 9.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(bend[:, None] * found.vectors, found.values * found.vectors, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match=f"1 to {size} eigenvalues"):
        curvature.top_eigenpairs(lambda v: v, bend, size + 1)


def test_linear_regression_has_the_hessian_of_its_inputs():
    torch.manual_seed(0)
    x, y, model = torch.randn(30, 5).double(), torch.randn(30, 1).double(), nn.Linear(5, 1, bias=False).double()
    dense = 2 * x.T @ x / 30
    out = model(x)
    for product in (
        curvature.hessian_product(lambda: F.mse_loss(model(x), y), [model.weight]),
        curvature.gauss_newton_product(out, curvature.bend_of_loss(lambda o: F.mse_loss(o, y), out), [model.weight]),
    ):
        torch.testing.assert_close(columns(product, 5), dense)


def test_gauss_newton_and_fisher_are_one_for_a_softmax():
    """For cross-entropy both are J^T (diag(p) - p p^T) J / N, built here from the Jacobian."""
    _, params, dense, model, x, y = classifier()
    out = model(x)
    jacobian = torch.stack([curvature.gradient(lambda i=i: model(x).flatten()[i], params) for i in range(160)])
    p = torch.softmax(out.detach(), -1)
    bent = torch.block_diag(*(row.diag() - torch.outer(row, row) for row in p)) / 40
    root = (torch.eye(4) - p.unsqueeze(-1)) * p.sqrt().unsqueeze(-2)
    for bend in (
        curvature.bend_of_loss(lambda o: F.cross_entropy(o, y), out),
        curvature.bend_of_fisher(root, torch.full((40,), 1 / 40).double()),
    ):
        product = curvature.gauss_newton_product(out, bend, params)
        torch.testing.assert_close(columns(product, SIZE), jacobian.T @ bent @ jacobian)
    assert (dense - jacobian.T @ bent @ jacobian).norm() > 0.05 * dense.norm()


def test_the_preconditioned_matrix_has_the_optimisers_scale_on_both_sides():
    loss, params, dense, *_ = classifier()
    scale = torch.rand(SIZE).double() + 0.1
    product = curvature.preconditioned(curvature.hessian_product(loss, params), scale)
    torch.testing.assert_close(columns(product, SIZE), dense / (scale[:, None] * scale).sqrt())


def test_a_linear_loss_does_not_bend():
    p = nn.Parameter(torch.ones(3))
    assert torch.equal(curvature.hessian_product(lambda: 2 * p.sum(), [p])(torch.ones(3)), torch.zeros(3))


def test_the_trace_is_hit_within_its_standard_error():
    loss, params, dense, *_ = classifier()
    product, draw = curvature.hessian_product(loss, params), torch.Generator().manual_seed(0)
    mean, error = curvature.trace(product, flat(params).detach(), 400, draw)
    exact = math.sqrt(2 * (dense - dense.diag().diag()).square().sum().item() / 400)  # of random signs
    assert abs(mean - dense.trace().item()) < 4 * exact and error == pytest.approx(exact, rel=0.2)
    bend = torch.randn(50).double()
    assert curvature.trace(lambda v: bend * v, bend, 2, draw)[0] == pytest.approx(bend.sum().item())


def test_the_density_has_the_spectrums_ends_and_moments():
    """For a diagonal matrix every draw of signs has the moments of the spectrum exactly, up to order 2 steps - 1."""
    bend = torch.linspace(-3, 5, 40).double() ** 3
    draw = torch.Generator().manual_seed(0)
    found = curvature.spectral_density(lambda v: bend * v, bend, 12, 2, draw)
    assert found.weights.sum().item() == pytest.approx(1.0)
    for power in range(1, 8):
        moment = (found.weights * found.values**power).sum()
        torch.testing.assert_close(moment, (bend**power).mean(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found.values.max(), bend.max(), rtol=1e-2, atol=0)
    few = curvature.spectral_density(lambda v: 2 * v, bend, 12, 1, draw)  # one step finds the only eigenvalue
    torch.testing.assert_close(few.values, torch.tensor([2.0], dtype=torch.float64))


def test_along_the_sharpest_direction_of_a_quadratic_the_loss_falls_to_the_inverse_and_returns_at_twice():
    bend, lr = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64), 0.04
    p = nn.Parameter(torch.tensor([0.7, -0.4, 2.0], dtype=torch.float64))
    loss = lambda: 0.5 * (bend * p**2).sum()  # noqa: E731
    g, e = curvature.gradient(loss, [p]), torch.tensor([1.0, 0, 0], dtype=torch.float64)
    a = (g @ e).item()
    lengths = [0.25, 0.5, 1.0, 1 / (lr * 10), 2 / (lr * 10), 6.0]
    found = landscape.loss_along(loss, [p], -lr * a * e, lengths)
    closed = [-s * lr * a**2 + 0.5 * s**2 * lr**2 * 10 * a**2 for s in lengths]
    torch.testing.assert_close(found, torch.tensor(closed, dtype=torch.float64), rtol=0, atol=1e-8)
    assert found.argmin() == 3 and abs(found[4]) < 1e-12 < found[5]


def quadratic(gamma, directions=1):
    bend = torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    p = nn.Parameter(torch.ones(3).double())
    sgd = torch.optim.SGD([p], lr=0.25)
    sharpest = lambda: torch.eye(3).double()[:, :directions]  # noqa: E731
    optimizer = NudgedSGD(sgd, sharpest, gamma=gamma, every=50) if gamma is not None else sgd
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * (bend * p**2).sum()).backward()
        optimizer.step()
    return p.detach()


def test_gradients_of_sgd_on_a_quadratic_are_aligned_with_its_sharpest_direction():
    """One direction of curvature 20 among 399 of 1, noise of covariance H / S: at the end E[g_i^2] = h_i^2 eta / (S
    (2 - eta h_i)), which gives that one direction half of the gradient and more; a random one, sqrt(2 / (pi d))."""
    torch.manual_seed(0)
    d, lr, batch, copies = 400, 0.05, 8, 300
    h = torch.ones(d, dtype=torch.float64)
    h[0] = 20.0
    z = torch.randn(copies, d, dtype=torch.float64) / 10
    for _ in range(300):
        z -= lr * (h * z + (h / batch).sqrt() * torch.randn_like(z))
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q  # the directions are not the axes
    params = [torch.zeros(d, dtype=torch.float64, requires_grad=True)]
    product = curvature.hessian_product(lambda: (h * (params[0] @ turn).square()).sum() / 2, params)
    top = curvature.top_eigenpairs(product, flat(params).detach(), 1)
    assert top.values[0].item() == pytest.approx(20.0, rel=1e-6)
    gradients = torch.stack([product(x) for x in z @ turn.T])

    def shares(direction):
        return torch.tensor([landscape.share_in(direction, g) for g in gradients], dtype=torch.float64)

    squares, expected = gradients.square().sum(1), h.square() / (2 - lr * h)
    share = float((shares(top.vectors) * squares).sum() / squares.sum())
    assert share == pytest.approx(float(expected[0] / expected.sum()), rel=0.1)
    random = math.sqrt(2 / (math.pi * d))
    other = torch.nn.functional.normalize(torch.randn(d, 1, dtype=torch.float64), dim=0)
    assert float(shares(other).sqrt().mean()) < 3 * random
    assert float(shares(top.vectors).sqrt().mean()) > 10 * random


def test_a_nudged_step_converges_where_the_whole_step_diverges():
    """lr lambda = 2.5: the first number grows by 1.5 a step; nudged with 0.1 it shrinks by 0.25."""
    assert torch.equal(quadratic(1.0), quadratic(None)) and quadratic(1.0)[0].abs() > 1e34
    torch.testing.assert_close(
        quadratic(0.1), torch.tensor([0.75, 0.75, 0.975], dtype=torch.float64) ** 200, rtol=1e-6, atol=0
    )
    assert quadratic(0.0, directions=2)[:2].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="gamma >= 0"):
        NudgedSGD(torch.optim.SGD([nn.Parameter(torch.ones(1))]), lambda: torch.ones(1, 1), gamma=-1, every=1)


def test_the_directions_are_renewed_every_so_many_steps_before_the_step():
    p, seen = nn.Parameter(torch.ones(2)), []
    optimizer = NudgedSGD(
        torch.optim.SGD([p], lr=0.5), lambda: seen.append(p.tolist()) or torch.eye(2), gamma=2.0, every=2
    )
    for _ in range(3):
        p.grad = torch.tensor([0.0, 1.0])
        optimizer.step()
    assert seen == [[1.0, 1.0], [1.0, -1.0]]


def test_sharpness_changes_with_the_parametrisation_and_barriers_do_not():
    """Two ReLU layers scaled by c and 1/c: the same function, another largest eigenvalue."""
    torch.manual_seed(0)
    x, y = torch.randn(30, 5).double(), torch.randn(30, 1).double()
    found = {}
    for c in (1.0, 10.0):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False)).double()
        with torch.no_grad():
            model[0].weight.mul_(c)
            model[2].weight.div_(c)
        loss, params = (lambda model=model: F.mse_loss(model(x), y)), list(model.parameters())
        top = curvature.top_eigenpairs(curvature.hessian_product(loss, params), flat(params).detach(), 1)
        here, scale = flat(params).detach(), torch.cat([torch.full((40,), c), torch.full((8,), 1 / c)])
        away = here + 0.8 * scale * torch.randn(48, generator=torch.Generator().manual_seed(2))
        found[c] = model(x).detach(), top.values[0].item(), landscape.barrier(loss, params, here, away)
    assert (found[1.0][0] - found[10.0][0]).abs().max() < 1e-10
    assert found[10.0][1] > 5 * found[1.0][1] and found[10.0][2] == pytest.approx(found[1.0][2], rel=1e-9)


def test_a_barrier_is_the_height_over_the_line_between_its_ends():
    p = nn.Parameter(torch.zeros(1).double())
    double_well = lambda: torch.sum((p**2 - 1) ** 2 + 0.3 * p)  # noqa: E731
    ends = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    assert landscape.barrier(double_well, [p], *ends) == pytest.approx(1.0)
    assert landscape.barrier(lambda: torch.sum(p**2), [p], *ends) == 0.0 == p.item()


def test_the_share_of_a_direction_in_a_space():
    basis = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    inside, outside = basis[:, 0], torch.ones(9).double() - basis @ (basis.T @ torch.ones(9).double())
    assert landscape.share_in(basis, inside) == pytest.approx(1.0)
    assert landscape.share_in(basis, outside) == pytest.approx(0.0, abs=1e-12)
    assert landscape.share_in(basis, inside + outside / outside.norm()) == pytest.approx(0.5)


def actor_critic():
    torch.manual_seed(3)
    policy = build_actor_critic(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(3), ModelConfig(hidden=(4,)))
    nn.init.normal_(policy.policy_head.weight)
    make = torch.Generator().manual_seed(0)
    valid = torch.ones(5, 4, dtype=torch.bool)
    valid[2, 1] = False
    rollout = Rollout(
        obs=torch.randn(5, 4, 3, generator=make),
        first=torch.zeros(5, 4, dtype=torch.bool),
        action=torch.randint(0, 3, (5, 4), generator=make),
        reward=torch.randn(5, 4, generator=make),
        terminated=torch.rand(5, 4, generator=make) < 0.1,
        truncated=torch.zeros(5, 4, dtype=torch.bool),
        valid=valid,
        v_final=torch.zeros(5, 4),
        state=torch.zeros(4, 0),
        last_value=torch.randn(4, generator=make),
    )
    return policy, rollout


SETTINGS = A2CConfig(gamma=0.9, gae_lambda=0.8, value_coef=0.7, normalize_advantages=True)


def test_the_losses_of_a_frozen_rollout_keep_their_advantages_when_the_policy_moves():
    policy, rollout = actor_critic()
    losses = landscape.frozen_losses(policy, rollout, SETTINGS, 0.01)
    loss = rollout_loss(policy, rollout, SETTINGS, 0.01)
    for name, part in losses.items():
        torch.testing.assert_close(part(), getattr(loss.loss, name))
    target = loss.target
    with torch.no_grad():
        for p in policy.critic_encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))
    moved = policy.unroll(rollout.obs, rollout.state, rollout.first)
    torch.testing.assert_close(losses["policy"](), loss.loss.policy)  # only the critic has moved
    torch.testing.assert_close(losses["value"](), (target - moved.value)[rollout.valid].square().mean())
    assert not torch.allclose(losses["value"](), loss.loss.value)


def test_the_fisher_of_a_policy_is_the_hessian_of_the_kl_divergence_from_it():
    policy, rollout = actor_critic()
    params = [p for name, p in policy.named_parameters() if not name.startswith(("critic", "value"))]
    log_p = torch.log_softmax(policy.unroll(rollout.obs, rollout.state, rollout.first).params, -1).detach()

    def kl():
        q = torch.log_softmax(policy.unroll(rollout.obs, rollout.state, rollout.first).params, -1)
        return (log_p.exp() * (log_p - q)).sum(-1)[rollout.valid].mean()

    size = sum(p.numel() for p in params)
    fisher, dense = (
        torch.stack([product(e) for e in torch.eye(size)], 1)
        for product in (landscape.policy_fisher(policy, rollout, params), curvature.hessian_product(kl, params))
    )
    torch.testing.assert_close(fisher, dense, rtol=1e-3, atol=1e-5)
    assert torch.linalg.eigvalsh(fisher).min() > -1e-5
