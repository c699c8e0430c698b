"""gala: gossip-based deep reinforcement learning on PyTorch.

    run = gala.train("classic/cartpole", learners=2, steps=200_000)
    print(run.evaluate(episodes=30))
    action = run.load().act(observation)

Importing this package imports nothing else: each name below is fetched when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False  # which type checkers take for true; importing `typing` for it would be most of the time taken
if TYPE_CHECKING:
    from typing import Any

    from gala import gossip as gossip
    from gala.api.agent import Agent as Agent
    from gala.api.agent import load as load
    from gala.api.register import register as register
    from gala.api.run import Evaluation as Evaluation
    from gala.api.run import Run as Run
    from gala.api.train import train as train
    from gala.config.schema import Config as Config
    from gala.gossip.averager import GossipAverager as GossipAverager
    from gala.training.supervisor import RunFailed as RunFailed

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Config",
    "Evaluation",
    "GossipAverager",
    "Run",
    "RunFailed",
    "__version__",
    "gossip",
    "load",
    "register",
    "train",
]

_HOMES = {
    "Agent": "gala.api.agent",
    "Config": "gala.config.schema",
    "Evaluation": "gala.api.run",
    "GossipAverager": "gala.gossip.averager",
    "Run": "gala.api.run",
    "RunFailed": "gala.training.supervisor",
    "load": "gala.api.agent",
    "register": "gala.api.register",
    "train": "gala.api.train",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "gossip":
        return importlib.import_module("gala.gossip")
    if name not in _HOMES:
        raise AttributeError(f"module 'gala' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
