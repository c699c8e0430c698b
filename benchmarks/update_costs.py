"""What each part costs per update, and how that grows with the width of the network.

    python benchmarks/update_costs.py       some five minutes on one core; measure on an idle machine

One learner in one process: CartPole, 16 simulators x 8 steps, separate actor and critic of two layers of 32 to 512
units. Variants take turns, ten updates each, ``ROUNDS`` times; a row has the median over rounds of a variant's time as
a ratio to Adam's in the same round (whose own network is the module, as the others'; the lean path is a variant), with
the interval of the median. ``curvature`` and ``noise`` measure at every update: their ratio less 1 is what one
measurement costs in updates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from kept_rows import KeptRows

from gala.build.envs import Spaces, make_env
from gala.build.learning import make_ekfac, make_normalizer, make_optimizer, make_reward_shaper, make_rollout_fisher
from gala.build.policy import make_lean, make_policy
from gala.config import derived
from gala.config.parse import parse_config
from gala.diagnostics.during_training import DuringTraining
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.optim.update import LearningStep
from gala.rl.actor_learner import ActorLearner
from gala.rl.rollout import Collector

RESULTS = Path(__file__).parent / "results" / "update_costs.jsonl"
WIDTHS = (32, 64, 128, 256, 512)
UPDATES, WARM_UP, ROUNDS = 10, 2, 15
SHAPE = ("env.id=CartPole-v1", "algo=a2c", "envs_per_learner=16", "a2c.num_steps=8", "model.separate_critic=true")
NATURAL = ("optim.name=ekfac", "a2c.max_grad_norm=0")
VARIANTS: dict[str, Sequence[str]] = {
    "adam": ("optim.name=adam",),
    "adam, lean": ("optim.name=adam",),
    "rmsprop": ("optim.name=rmsprop",),
    "ekfac": NATURAL,
    "kfac": (*NATURAL, "ekfac.kind=kfac"),
    "diagonal": (*NATURAL, "ekfac.kind=diagonal"),
    "curvature": ("optim.name=adam", "diagnose.curvature=1"),
    "noise": ("optim.name=adam", "diagnose.noise=1"),
}


def learner(words: Sequence[str], lean_wanted: bool) -> Callable[[], None]:
    """A function that makes ``UPDATES`` updates."""
    config = parse_config([*SHAPE, *words])
    env = make_env(config, config.envs_per_learner)
    spaces = Spaces(env.obs_space, env.action_space, env.frames_per_step)
    policy = make_policy(config, spaces)
    flat = flatten_parameters(policy.parameters())
    flatten_gradients(flat, policy)
    lean = make_lean(config, policy, spaces.action, torch.device("cpu")) if lean_wanted else None
    optimizer, ekfac, generator = make_optimizer(config, flat, policy), make_ekfac(config, policy), torch.Generator()
    collector = Collector(
        env,
        config.a2c.num_steps,
        device=torch.device("cpu"),
        generator=generator,
        normalizer=make_normalizer(config, spaces),
        shape_reward=make_reward_shaper(config)[0],
        keep_graph=lean is not None or derived.is_one_pass(config),
        keep_values=lean is None,
    )
    step = LearningStep(optimizer, precondition=ekfac, max_grad_norm=config.a2c.max_grad_norm)
    observe = make_rollout_fisher(config, ekfac, generator)
    one = ActorLearner(collector, policy, flat, step, config.a2c, observe, lean)
    if config.diagnose.curvature or config.diagnose.noise:
        one.inspect = DuringTraining(config, dict, lambda: None)
    collector.reset(policy, 1)

    def work() -> None:
        for _ in range(UPDATES):
            one.update(lr=1e-4, entropy_coef=0.01)

    return work


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) / UPDATES


def measure(width: int) -> dict[str, list[float]]:
    """Variant -> seconds per update in each round."""
    size = f"model.hidden={width},{width}"
    works = {name: learner([*words, size], lean_wanted="lean" in name) for name, words in VARIANTS.items()}
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(ROUNDS)]
    return {name: [r[name] for r in rounds] for name in works}


def main() -> None:
    torch.set_num_threads(1)
    kept = KeptRows(RESULTS, ("width", "variant"))
    for width in WIDTHS:
        if not kept.lacks(width, "adam"):
            continue
        found = measure(width)
        for name, taken in found.items():
            ratios = np.sort(np.array(taken) / np.array(found["adam"]))
            low, high = ratios[[3, -4]]  # order statistics 4 and 12 of 15 hold the median with 96 %
            row = {"width": width, "variant": name, "ms": 1e3 * float(np.median(taken))}
            kept.add(row | {"ratio_to_adam": float(np.median(ratios)), "interval": [float(low), float(high)]})
    kept.conclude([])


if __name__ == "__main__":
    main()
