"""A guard against slowdowns that counts work instead of seconds, so that it says the same on every machine.

    python benchmarks/guard.py              compare with the newest committed row of each workload; exit 1 if it rose
    python benchmarks/guard.py --record     and append today's rows to benchmarks/results/guard.jsonl

Twenty updates of one learner after a warm-up, seeded: CartPole (a small dense network) and Pong (four games, the
866,439-parameter network), and as many exchanges of four learners in one process. Counted are PyTorch operators,
forward and backward, bytes that they allocate, floating-point operations of matrix products and convolutions, and calls
of Python and C functions from Python. What they cannot see: simulators, locks, caches, waiting. Hardware instruction
counters would see some of it, and are closed to most containers.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from gala.bench.machine import machine_facts
from gala.build.envs import Spaces, make_env
from gala.build.learning import make_optimizer, make_reward_shaper
from gala.build.policy import make_policy
from gala.config import derived
from gala.config.parse import parse_config
from gala.gossip.averager import GossipAverager
from gala.gossip.flat import flatten_gradients, flatten_parameters
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.optim.update import LearningStep
from gala.rl.actor_learner import ActorLearner
from gala.rl.rollout import Collector

RESULTS = Path(__file__).parent / "results" / "guard.jsonl"
UPDATES, WARM_UP, TOLERANCE = 20, 3, 0.02
COUNTERS = ("operators", "allocated_bytes", "flops", "calls")
Counts = dict[str, float]


class _Operators(TorchDispatchMode):
    """Counts dispatched operators, and the bytes of outputs that share no memory with an input."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.allocated_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        if not func.is_view and not func._schema.is_mutable:
            parts = out if isinstance(out, (tuple, list)) else [out]
            self.allocated_bytes += sum(x.numel() * x.element_size() for x in parts if isinstance(x, torch.Tensor))
        return out


def count(work: Callable[[], Any]) -> Counts:
    """Counts of one call of ``work``. The two passes see the same work only if it is the same each time."""
    calls = 0

    def on_event(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.collect()
    gc.disable()  # what other objects call when they die is not this work's
    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    with FlopCounterMode(display=False) as flops, _Operators() as operators:
        work()
    counted = {"operators": operators.operators, "allocated_bytes": operators.allocated_bytes}
    return counted | {"flops": flops.get_total_flops(), "calls": calls}


def learner(*words: str) -> Callable[[], None]:
    """A function that makes ``UPDATES`` updates."""
    config = parse_config([*words, "algo=a2c"])
    env = make_env(config, config.envs_per_learner)
    policy = make_policy(config, Spaces(env.obs_space, env.action_space, env.frames_per_step))
    flat = flatten_parameters(policy.parameters())
    flatten_gradients(flat, policy)
    collector = Collector(
        env,
        config.a2c.num_steps,
        device=torch.device("cpu"),
        generator=torch.Generator(),
        normalizer=None,
        shape_reward=make_reward_shaper(config)[0],
        keep_graph=derived.is_one_pass(config),
    )
    step = LearningStep(make_optimizer(config, flat, policy), max_grad_norm=config.a2c.max_grad_norm)
    one = ActorLearner(collector, policy, flat, step, config.a2c)

    def work() -> None:
        with torch.no_grad():  # a rate of 0 keeps the parameters: every call plays the same games
            collector.generator.manual_seed(1)
            collector.reset(policy, 1)
        for _ in range(UPDATES):
            one.update(lr=0.0, entropy_coef=0.01)

    return work


def exchange() -> Callable[[], None]:
    """Four learners in one process, one-peer exponential graph, the Atari network's number of parameters."""
    n, numel = 4, 866_439
    boxes = InProcessMailboxes(n, numel)
    averagers = [
        GossipAverager(
            [torch.zeros(numel)], rank=r, world_size=n, mailbox=boxes.endpoint(r), topology="one-peer-exponential"
        )
        for r in range(n)
    ]

    def work() -> None:
        for _ in range(UPDATES):
            for averager in averagers:
                averager.step()

    return work


WORKLOADS: dict[str, Callable[[], Callable[[], None]]] = {
    "cartpole": lambda: learner("preset=classic/cartpole"),
    "pong": lambda: learner("preset=atari/pong", "learners=1", "envs_per_learner=4"),
    "gossip": exchange,
}


def measure(name: str) -> Counts:
    work = WORKLOADS[name]()
    for _ in range(WARM_UP):
        work()
    return count(work)


def last_row(name: str, versions: dict[str, Any]) -> Counts | None:
    """The newest committed row of the workload with the same Python, PyTorch and NumPy; None if there is none."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    same = ("python", "torch", "numpy")
    alike = [r for r in rows if r["workload"] == name and all(r["versions"][k] == versions[k] for k in same)]
    return alike[-1]["counts"] if alike else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions, rose = machine_facts()["versions"], False
    for name in WORKLOADS:
        counts, before = measure(name), last_row(name, versions)
        for counter in COUNTERS:
            change = counts[counter] / before[counter] - 1 if before and before[counter] else 0.0
            rose |= change > TOLERANCE
            print(f"{name:<9} {counter:<16} {counts[counter]:>16,}  {change:+.2%}" + " ROSE" * (change > TOLERANCE))
        if options.record:
            with RESULTS.open("a") as file:
                file.write(
                    json.dumps({"workload": name, "updates": UPDATES, "counts": counts, "versions": versions}) + "\n"
                )
    return int(rose)


if __name__ == "__main__":
    sys.exit(main())
