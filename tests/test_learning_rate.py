"""The learning rate of several learners."""

import pytest
import torch

from gala.build.learning import learning_rate, make_optimizer
from gala.cli import main
from gala.config.parse import parse_config


@pytest.mark.parametrize(
    ("words", "factor"),
    [
        (["algo=gala", "learners=4"], 2.0),
        (["algo=gala", "learners=9"], 3.0),
        (["algo=gala", "learners=4", "gossip.lr_scaling=none"], 1.0),
        (["algo=gala", "learners=1"], 1.0),
        (["algo=allreduce", "learners=4"], 1.0),
        (["algo=independent", "learners=4"], 1.0),
        (["algo=gala", "learners=4", "gossip.mixing=none"], 1.0),
        (["algo=gala", "learners=4", "gossip.mixing=allreduce"], 2.0),
    ],
)
def test_learners_that_gossip_take_longer_steps(words, factor):
    config = parse_config(["optim.lr=1e-3", "optim.schedule=linear", "gossip.lr_scaling=sqrt", *words])
    rate = learning_rate(config)
    assert rate(0.0) == pytest.approx(factor * 1e-3) and rate(0.5) == pytest.approx(factor * 5e-4) and rate(1.0) == 0.0


@pytest.mark.parametrize(
    ("words", "steps_for"),
    [
        (["algo=gala", "learners=4"], 4),
        (["algo=gala", "slowmo.every=48", "learners=3"], 3),
        (["algo=gala", "learners=1"], None),
        (["algo=allreduce", "learners=4"], None),
        (["algo=independent", "learners=4"], None),
        (["algo=gala", "learners=4", "gossip.mixing=none"], None),
    ],
)
def test_with_noise_the_optimiser_knows_how_many_average_and_the_rate_does_not(words, steps_for):
    config = parse_config(["optim.name=adam", "optim.lr=1e-3", "gossip.lr_scaling=noise", *words])
    optimizer = make_optimizer(config, torch.zeros(3, requires_grad=True), torch.nn.Identity())
    assert learning_rate(config)(0.0) == 1e-3
    assert optimizer.param_groups[0].get("learners") == steps_for


@pytest.mark.parametrize("name", ["rmsprop", "rmsprop_tf", "ekfac"])
def test_an_optimiser_without_moments_to_read_takes_the_root(name):
    config = parse_config([f"optim.name={name}", "optim.lr=1e-3", "gossip.lr_scaling=noise", "learners=4"])
    assert learning_rate(config)(0.0) == pytest.approx(2e-3)
    assert make_optimizer(config, torch.zeros(3, requires_grad=True), torch.nn.Identity()).param_groups[0]["lr"] == 1e-3


def test_so_the_mean_of_learners_goes_as_far_and_is_as_noisy_as_one_with_the_whole_batch():
    """Adam on a slope of 0.05 under noise of 1, by itself and as four learners that average after every step."""
    learners, lr, steps, size = 4, 1e-3, 400, 20_000

    def walk(n: int, rate: float) -> tuple[float, float]:
        """Mean and deviation of the coordinates at the end."""
        draws = torch.Generator().manual_seed(n)
        walkers = [torch.zeros(size, requires_grad=True) for _ in range(n)]
        optimizers = [torch.optim.Adam([w], rate) for w in walkers]
        for _ in range(steps):
            for walker, optimizer in zip(walkers, optimizers, strict=True):
                walker.grad = 0.05 + n**0.5 * torch.randn(size, generator=draws)
                optimizer.step()
            with torch.no_grad():
                mean = torch.stack(walkers).mean(0)
                for walker in walkers:
                    walker.copy_(mean)
        return mean.mean().item(), mean.std().item()

    alone, same_rate, longer = walk(1, lr), walk(learners, lr), walk(learners, lr * learners**0.5)
    assert same_rate == pytest.approx((alone[0] / 2, alone[1] / 2), rel=0.03)
    assert longer == pytest.approx(alone, rel=0.03)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.name=rmsprop"], "0.016 at the start, 0 at the end; with a factor of 2 for learners that gossip"),
        (
            ["optim.name=adam"],
            "0.008 at the start, 0 at the end; steps up to 2 times as long where gradients are noise",
        ),
        (["algo=a2c", "learners=1"], "0.008 at the start, 0 at the end"),
    ],
)
def test_a_dry_run_says_what_became_of_the_rate(capsys, words, said):
    assert main(["train", "preset=minatar/breakout", *words, "--dry-run"]) == 0
    plan = " ".join(capsys.readouterr().out.split())
    assert f"learning rate {said} parameters" in plan
