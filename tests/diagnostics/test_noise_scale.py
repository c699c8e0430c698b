"""The noise of gradients against draws whose noise is known, and gossip's temperatures against simulated learners."""

import math

import pytest
import torch
from test_curvature import actor_critic

from gala.config.schema import A2CConfig
from gala.diagnostics import noise_scale
from gala.diagnostics.curvature import gradient
from gala.rl.a2c import rollout_loss

SETTINGS = A2CConfig(gamma=0.9, gae_lambda=0.8, value_coef=0.7)


def draws(n, signal, d=50, sigma=0.3, seed=0):
    """``[n, d]`` gradients with a mean of norm ``signal`` and isotropic noise."""
    make = torch.Generator().manual_seed(seed)
    mean = torch.zeros(d).double()
    mean[0] = signal
    return mean + sigma * torch.randn(n, d, generator=make, dtype=torch.float64)


def test_the_noise_scale_of_gaussian_gradients_is_hit_within_three_percent():
    """d sigma^2 / |G|^2 = 4.5 / 1.2^2, from 400 pairs of means over 64 and over 4096."""
    meter, make = noise_scale.NoiseScale(decay=1.0), torch.Generator().manual_seed(0)
    mean = torch.zeros(50).double()
    mean[3] = 1.2
    for _ in range(400):
        small, big = (mean + 0.3 * torch.randn(50, generator=make).double() / n**0.5 for n in (64, 4096))
        meter.add(noise_scale.moments_of_batches(float(small @ small), 64, float(big @ big), 4096))
    assert meter.value == pytest.approx(4.5 / 1.44, rel=0.03) and meter.batches == 400


def test_the_ratio_of_averages_is_right_and_the_average_of_ratios_is_not():
    meter, ratios = noise_scale.NoiseScale(decay=1.0), []
    for seed in range(2000):
        found = noise_scale.moments(draws(6, signal=1.0, seed=seed))
        meter.add(found)
        ratios.append(found.noise / found.signal)
    truth = 50 * 0.09
    assert meter.value == pytest.approx(truth, rel=0.03)
    assert abs(sum(ratios) / 2000 - truth) > 0.08 * truth


def test_the_estimates_are_unbiased_even_where_there_is_no_signal():
    found = [noise_scale.moments(draws(4, signal=0.0, seed=seed)) for seed in range(4000)]
    signal = torch.tensor([m.signal for m in found], dtype=torch.float64)
    assert abs(signal.mean()) < 4 * signal.std() / 4000**0.5 and signal.min() < 0
    assert sum(m.noise for m in found) / 4000 == pytest.approx(4.5, rel=0.02)
    meter = noise_scale.NoiseScale()
    assert meter.value == math.inf
    meter.add(noise_scale.Moments(signal=-0.5, noise=4.0))
    assert meter.value == math.inf  # and not a negative number of environments
    with pytest.raises(ValueError, match="two environments"):
        noise_scale.moments(draws(1, 1.0))


def test_the_meter_forgets_at_its_decay():
    meter = noise_scale.NoiseScale(decay=0.75)
    for signal in (1.0, 3.0, 2.0, 6.0, 10.0):
        meter.add(noise_scale.Moments(signal, 2 * signal + 1))
    mean = 0.75 * (0.75 * 2.0 + 0.25 * 6.0) + 0.25 * 10.0  # 4 batches: plain mean of 3, then the decay
    assert meter.signal == pytest.approx(mean) and meter.noise == pytest.approx(2 * mean + 1)
    assert meter.value == pytest.approx((2 * mean + 1) / mean)


def test_environments_have_gradients_whose_mean_is_the_rollouts():
    policy, rollout = actor_critic()
    params = list(policy.parameters())
    found = noise_scale.per_environment_gradients(policy, rollout, SETTINGS, 0.01, params)
    whole = gradient(lambda: rollout_loss(policy, rollout, SETTINGS, 0.01).loss.total, params)
    torch.testing.assert_close(found.mean(0), whole)
    rollout.reward[:, 2] += 1.0  # one environment's luck is one row's
    other = noise_scale.per_environment_gradients(policy, rollout, SETTINGS, 0.01, params)
    assert [torch.equal(a, b) for a, b in zip(found, other, strict=True)] == [True, True, False, True]
    with pytest.raises(ValueError, match="normalize_advantages"):
        noise_scale.per_environment_gradients(policy, rollout, A2CConfig(normalize_advantages=True), 0.01, params)


def test_each_layer_has_its_own_signal_to_noise():
    gradients = torch.cat([draws(2000, 3.0, d=20), draws(2000, 0.5, d=30, seed=1)], 1)
    found = noise_scale.signal_to_noise(gradients, {"loud": 20, "quiet": 30})
    assert found["loud"] == pytest.approx(2000 * 9 / (20 * 0.09), rel=0.05)
    assert found["quiet"] == pytest.approx(2000 * 0.25 / (30 * 0.09), rel=0.1)


def test_diversity_is_one_for_orthogonal_gradients_and_one_over_their_number_for_equal_ones():
    assert noise_scale.gradient_diversity(3 * torch.eye(5)) == pytest.approx(1.0)
    assert noise_scale.gradient_diversity(torch.ones(5, 7)) == pytest.approx(0.2)


def matrix(graph, learners):
    eye = torch.eye(learners).double()
    if graph == "complete":
        return torch.full((learners, learners), 1 / learners).double()
    shifts = [1, -1] if graph == "ring" else [2**i for i in range(int(math.log2(learners)))]
    return (sum(eye.roll(s, 0) for s in shifts) + (2 if graph == "ring" else 1) * eye) / (
        len(shifts) + (2 if graph == "ring" else 1)
    )


@pytest.mark.parametrize("learners", [2, 4, 8])
@pytest.mark.parametrize("graph", ["ring", "complete", "exponential"])
def test_the_two_temperatures_are_those_of_simulated_learners(graph, learners):
    """The covariance of x <- W (x - lr (h x + noise)) iterated to its fixed point, and then 2e5 coordinates drawn."""
    w, lr, h, noise = matrix(graph, learners), 0.1, 1.0, 1.0
    found = noise_scale.gossip_temperatures(w, lr, noise, h)
    covariance = torch.zeros_like(w)
    for _ in range(400):
        covariance = w @ ((1 - lr * h) ** 2 * covariance + lr**2 * noise * torch.eye(learners).double()) @ w.T
    ones = torch.ones(learners).double() / learners
    mean = float(ones @ covariance @ ones)
    assert found.consensus == pytest.approx(mean, rel=1e-9)
    assert found.deviation == pytest.approx(float(covariance.trace()) / learners - mean, rel=1e-9, abs=1e-15)
    alone = noise_scale.gossip_temperatures(torch.ones(1, 1), lr, noise / learners, h)  # the batch of all
    assert found.consensus == pytest.approx(alone.consensus) and alone.deviation == 0.0
    x, make = torch.zeros(learners, 20_000), torch.Generator().manual_seed(0)
    for _ in range(120):
        x = w.float() @ (x - lr * (h * x + torch.randn(x.shape, generator=make)))
    assert float(x.mean(0).square().mean()) == pytest.approx(found.consensus, rel=0.03)
    assert float((x - x.mean(0)).square().mean()) == pytest.approx(found.deviation, rel=0.03, abs=1e-12)


def test_the_ring_of_four_has_the_known_temperatures_and_a_lopsided_graph_has_no_closed_form():
    found = noise_scale.gossip_temperatures(matrix("ring", 4), 0.1, 1.0, 1.0)
    assert found.consensus == pytest.approx(0.013158, abs=1e-6) and found.deviation == pytest.approx(0.001567, abs=1e-6)
    with pytest.raises(ValueError, match="doubly stochastic"):
        noise_scale.gossip_temperatures(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), 0.1, 1.0, 1.0)
    with pytest.raises(ValueError, match="diverge"):
        noise_scale.gossip_temperatures(torch.ones(1, 1), 2.5, 1.0, 1.0)


def test_the_loss_of_sgd_on_a_quadratic_is_its_temperature():
    """H = diag(4, 1, 1/4), noise of covariance H / S: E[L] = sum_h h (lr / S) / (2 - lr h) / 2, which tends to
    (lr / 4S) tr H, the continuous theory's, as lr does to 0."""
    bend = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    gaps = []
    for lr in (0.05, 0.005):
        variances = [noise_scale.gossip_temperatures(torch.ones(1, 1), lr, h / 8, h).consensus for h in bend.tolist()]
        loss = float((0.5 * bend * torch.tensor(variances, dtype=torch.float64)).sum())
        closed = sum(0.5 * h * (lr / 8) / (2 - lr * h) for h in bend.tolist())
        assert loss == pytest.approx(closed, rel=1e-9)
        gaps.append(loss / (lr / 32 * float(bend.sum())) - 1)
    assert 0 < gaps[1] < 0.15 * gaps[0]
    x, make = torch.zeros(20_000, 3).double(), torch.Generator().manual_seed(0)
    for _ in range(700):
        x = x - 0.05 * (bend * x + (bend / 8).sqrt() * torch.randn(x.shape, generator=make).double())
    assert float((0.5 * bend * x**2).sum(1).mean()) == pytest.approx(0.008940, rel=0.02)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("graph", "learners"), [("ring", 4), ("directed", 5)])
def test_the_deviation_of_learners_with_momentum_is_that_of_simulated_ones(graph, learners, momentum, every):
    """The covariance of (x, m) for all learners, iterated to its fixed point, dense; looked at after an exchange."""
    eye = torch.eye(learners).double()
    w = (eye + eye.roll(1, 0)) / 2 if graph == "directed" else matrix(graph, learners)
    off_mean, zero, lr, noise = eye - 1.0 / learners, torch.zeros_like(eye), 0.1, 2.0
    step = torch.cat([torch.cat([eye, -lr * momentum * eye], 1), torch.cat([zero, momentum * eye], 1)])
    drawn = (1 - momentum) * torch.cat([-lr * eye, eye])
    mix = torch.block_diag(w, eye)
    see = torch.block_diag(off_mean, eye)  # the mean wanders without curvature
    covariance = torch.zeros(2 * learners, 2 * learners).double()
    for _ in range(600):
        for _ in range(every):
            covariance = step @ covariance @ step.T + noise * drawn @ drawn.T
        covariance = see @ mix @ covariance @ mix.T @ see.T
    expected = float((off_mean @ covariance[:learners, :learners] @ off_mean).trace()) / learners
    found = noise_scale.deviation_temperature(w, lr, noise, momentum, every)
    assert found == pytest.approx(expected, rel=1e-6)


def test_without_momentum_and_curvature_the_deviation_is_the_known_one():
    w = matrix("ring", 4)
    known = noise_scale.gossip_temperatures(w, 0.1, 1.0, 1e-9).deviation
    assert noise_scale.deviation_temperature(w, 0.1, 1.0) == pytest.approx(known, rel=1e-6)


def test_of_two_wells_the_wide_one_holds_learners_as_long_as_their_consensus_temperature_says():
    """Gibbs' law at T = lr noise / (2 L) in two wells of one depth, of curvature 0.8 and 3.2; by Laplace's method the
    ratio of times in them is sqrt(h_b / h_a), whatever T (1711.04623, section 3). A learner alone is twice as hot.
    """
    learners, temperature, lr = 2, 0.1, 0.02
    noise = 2 * learners * temperature / lr
    flat = noise_scale.gossip_temperatures(matrix("complete", learners), lr, noise, 1e-3)
    assert flat.consensus * 1e-3 == pytest.approx(temperature, rel=1e-3)

    def well(x):
        return (x * x - 1) ** 2 / 4 * (1 + 0.6 * torch.tanh(2 * x))

    grid = torch.linspace(-3, 3, 60_001).double()
    force = torch.gradient(well(grid), spacing=(grid,))[0]
    mass = torch.exp(-well(grid) / temperature)
    expected = float(mass[grid < 0].sum() / mass[grid > 0].sum())
    assert expected == pytest.approx(math.sqrt((1 + 0.6 * math.tanh(2)) / (1 - 0.6 * math.tanh(2))), rel=0.2)
    x, make = torch.tensor([-1.0, 1.0]).repeat(1, 2000).repeat(learners, 1), torch.Generator().manual_seed(0)
    slope, left, height, visits = force.float(), 0.0, 0.0, 0
    for step in range(10_000):
        at = ((x + 3) * 10_000).long().clamp_(0, 60_000)
        x = (
            (x - lr * (slope[at] + math.sqrt(noise) * torch.randn(x.shape, generator=make)))
            .mean(0)
            .expand(learners, -1)
        )
        if step > 3_000 and step % 50 == 0:
            left, height, visits = (
                left + float((x[0] < 0).float().mean()),
                height + float(well(x[0]).mean()),
                visits + 1,
            )
    share = left / visits
    assert share / (1 - share) == pytest.approx(expected, rel=0.05)
    assert share / (1 - share) > 1.5, "the wide one"
    assert height / visits == pytest.approx(float((well(grid) * mass).sum() / mass.sum()), rel=0.05), "T, too"
