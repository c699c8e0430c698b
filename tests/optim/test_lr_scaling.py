"""Learning rates for other numbers of simulators, against the closed forms that the rules come from."""

import math

import pytest
import torch

from gala.diagnostics.lr_evidence import noise_range
from gala.diagnostics.noise_scale import Moments
from gala.optim.lr_scaling import rule_of, stable_product, suggest
from gala.optim.update import LearningStep
from gala.supervised.comparison import digits
from gala.supervised.loop import SupervisedLearner, endless_batches


def best_step(batch, noise_scale, exponent=1.0):
    """Up to a factor, of a quadratic whose gradient has that noise scale."""
    return 1 / (1 + noise_scale / batch) ** exponent


def best_step_of_a_quadratic(batch, noise, curvature):
    """By search: the step that lowers E[L(x - lr g)] most, L = curvature x^2 / 2 at 1, g of variance noise / batch."""
    steps = [i / 10_000 for i in range(1, 40_000)]
    return min(steps, key=lambda lr: (1 - lr * curvature) ** 2 + lr**2 * noise / batch)


def test_the_noise_cap_is_the_best_step_of_a_noisy_quadratic():
    """|G|^2 = curvature^2 there, so that the noise scale is noise / curvature^2."""
    curvature, noise = 2.0, 40.0
    for batch, new in ((1, 4), (4, 64), (16, 256)):
        before, after = (best_step_of_a_quadratic(b, noise, curvature) for b in (batch, new))
        found = suggest(before, batch, new, "linear", noise / curvature**2)
        assert found.noise_cap == pytest.approx(after, rel=5e-3)


@pytest.mark.parametrize(("rule", "exponent"), [("linear", 1.0), ("sqrt", 0.5)])
def test_the_rule_alone_and_its_caps(rule, exponent):
    assert suggest(0.01, 16, 64, rule) == (0.01 * 4**exponent, math.inf, math.inf, 0.01 * 4**exponent, "rule")
    assert suggest(0.01, 64, 16, rule).lr == pytest.approx(0.01 / 4**exponent)
    far, near = suggest(0.01, 16, 64, rule, 1e9), suggest(0.01, 16, 64, rule, 1e-6)
    assert far.lr == pytest.approx(far.by_rule, rel=1e-6) and near.lr == pytest.approx(0.01, rel=1e-6)
    noisy = suggest(0.01, 16, 64, rule, 30.0)
    assert noisy.lr == pytest.approx(0.01 * best_step(64, 30, exponent) / best_step(16, 30, exponent))
    assert 0.01 < noisy.lr < noisy.by_rule and noisy.decided_by == "noise"
    assert suggest(0.01, 64, 16, rule, 30.0).decided_by == "rule", "fewer simulators: nothing to cap"
    bent = suggest(0.01, 16, 1600, rule, math.inf, sharpness=150.0)
    if rule == "linear":
        assert (bent.lr, bent.decided_by) == (2 / 150, "curvature")
    assert suggest(0.01, 16, 1600, rule, math.inf, sharpness=250.0).decided_by == "rule", "0.01 itself is beyond it"
    assert suggest(0.01, 16, 1600, rule, math.inf, sharpness=-5.0).curvature_cap == math.inf


def end_of_descent(make, lr, curvature, steps=300):
    """Distance to the minimum of curvature x^2 / 2, begun at 1."""
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = make([x], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (curvature * x.square() / 2).sum().backward()
        optimizer.step()
    return abs(x.item())


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_descent_along_a_mean_of_gradients_converges_below_the_stable_product_only(beta):
    curvature = 4.0
    limit = stable_product(beta) / curvature

    def mean_of_gradients(params, lr):
        return torch.optim.SGD(params, lr, momentum=beta, dampening=beta)

    assert end_of_descent(mean_of_gradients, 0.95 * limit, curvature) < 1e-3
    assert not end_of_descent(mean_of_gradients, 1.05 * limit, curvature) < 1e3


def test_the_limit_of_adams_usual_beta_is_38():
    """Of curvature 1, 37 converges and 39 does not."""
    assert stable_product(0.9) == pytest.approx(38)
    for lr, converges in ((37.0, True), (39.0, False)):
        x, mean = 1.0, 0.0
        for _ in range(2_000):
            mean = 0.9 * mean + 0.1 * x
            x -= lr * mean
        assert (abs(x) < 1e-3) == converges
    bent = suggest(0.01, 16, 160_000, "sqrt", math.inf, 150.0, stable_product(0.9))
    assert (bent.lr, bent.decided_by) == (pytest.approx(38 / 150), "curvature")
    assert suggest(0.01, 16, 64, "sqrt", math.inf, 250.0, stable_product(0.9)).decided_by == "rule"


def test_curvature_that_is_not_known_caps_nothing():
    assert suggest(0.01, 16, 64, "sqrt", math.inf, math.nan).curvature_cap == math.inf


def losses_by_epoch(data, lr, batch, epochs=6):
    """Cross-entropy of all images after each epoch of SGD."""
    images, labels = data.train_images.flatten(1), data.train_labels
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    step, cross_entropy = LearningStep(torch.optim.SGD(model.parameters(), lr)), torch.nn.functional.cross_entropy
    batches = endless_batches(images, labels, batch, torch.Generator().manual_seed(0))
    learner, losses = SupervisedLearner(model, batches, cross_entropy, step), []
    for _ in range(epochs):
        for _ in range(len(images) // batch):
            learner.update()
        with torch.no_grad():
            losses.append(cross_entropy(model(images), labels))
    return torch.stack(losses)


def test_sgd_learns_the_same_by_the_epoch_if_rate_and_batch_grow_together_up_to_a_limit():
    """Jastrzebski et al. 2017 (arXiv 1711.04623): what counts is lr / batch, as in the linear rule, while steps are
    short against the curvature."""
    pytest.importorskip("sklearn")
    data = digits.load(0.2, 0)
    known = losses_by_epoch(data, 0.02, 8)

    def apart(batch, lr):
        return float(((losses_by_epoch(data, lr, batch) - known) / known).abs().max())

    by_rule = apart(32, suggest(0.02, 8, 32, "linear").lr)
    assert by_rule < 0.1
    assert apart(32, suggest(0.02, 8, 32, "sqrt").lr) > 5 * by_rule and apart(8, 0.08) > 5 * by_rule
    assert apart(512, suggest(0.02, 8, 512, "linear").lr) > 0.5, "a rate at which steps overshoot"


def test_nonsense_is_refused_and_optimisers_have_their_rule():
    for bad in ((0.0, 1, 1), (0.1, 0, 1), (0.1, 1, -1)):
        with pytest.raises(ValueError, match="above 0"):
            suggest(*bad, "linear")
    names = ("rmsprop_tf", "adam", "ekfac", "torch.optim:SGD", "torch.optim:AdamW", "mine:NudgedSGD")
    assert [rule_of(name) for name in names] == ["sqrt", "sqrt", "linear", "linear", "sqrt", "linear"]


def test_the_range_of_the_noise_scale_is_two_standard_errors_of_the_signal():
    each = [Moments(signal, noise) for signal, noise in ((2.0, 10.0), (4.0, 30.0), (3.0, 20.0), (3.0, 20.0))]
    error = 2 * (2 / 3) ** 0.5 / 2
    assert noise_range(each) == pytest.approx((20 / 3, 20 / (3 + error), 20 / (3 - error)))
    hidden = noise_range([Moments(1.0, 5.0), Moments(-1.5, 5.0)])
    assert hidden[0] == hidden[2] == math.inf
