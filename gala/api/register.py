"""Short names for encoders, environments, topologies and optimisers of one's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from gala.plugins import naming


def register(
    *,
    encoder: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
    topology: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
) -> None:
    """Let names stand for objects of your own in the settings ``model.encoder``, ``env.id``, ``gossip.topology`` and
    ``optim.name``, in this process.

        gala.register(encoder={"tiny": TinyNet}, env={"corridor": Corridor})
        gala.train(env={"id": "corridor"}, model={"encoder": "tiny"})

    What reaches the learners, config.yaml and saved weights is ``module:attribute``, which needs no registration and
    is understood on the command line too: ``gala train env.id=my_envs:Corridor``. Evaluation and resumed runs import
    the object by it. An object that is defined in the script that you run is found by the path of the script, of which
    the learners run what comes before ``gala.train`` (or all of it, if that is under ``__name__ == "__main__"``).

    Args:
        encoder: called with (obs_space, hidden, activation), makes a ``torch.nn.Module`` with ``num_features`` that
            maps ``obs [N, ...]`` to float features ``[N, num_features]``; see ``gala.models.encoders.Encoder``.
        env: a class or function that makes one ``gymnasium.Env`` when it is called without arguments (with
            ``render_mode="rgb_array"`` to be filmed).
        topology: a ``gala.gossip.Topology``.
        optimizer: called with (parameters, lr=...), the network's parameters in their shapes, makes a
            ``torch.optim.Optimizer`` whose state is tensors, numbers, words, and lists and dicts of them. ``lr`` is set
            anew before every step, by the schedule.

    Each maps a name to an object, or to its ``module:attribute``.

    Raises:
        ValueError: the name is taken by gala itself, or other processes could not import the object (it is a lambda, is
            local to a function, or was defined in a notebook, by ``python -c`` or on stdin).
    """
    given = {"encoder": encoder, "env": env, "topology": topology, "optimizer": optimizer}
    for kind, things in given.items():
        if things is not None and not isinstance(things, Mapping):
            raise ValueError(f"{kind}={things!r} must map names to objects, as {kind}={{'mine': Mine}}")
        taken = _taken(kind) if things else ()
        for name, thing in (things or {}).items():
            if name in taken:
                raise ValueError(f"{name!r} is the name of one of gala's own ({kind}); choose another")
            if kind == "topology":
                _check_topology(name, thing)
            elif not (isinstance(thing, str) or callable(thing)):
                raise ValueError(f"{kind} {name!r}: {thing!r} cannot be called; give a class, a function or its path")
            naming.register(naming.SETTINGS[kind], name, thing)


def _check_topology(name: str, thing: Any) -> None:
    from gala.gossip.graphs.topology import Topology

    if not isinstance(thing, str | Topology):
        raise ValueError(f"topology {name!r}: {thing!r} is no gala.gossip.Topology; give one, or its path")


def _taken(kind: str) -> Collection[str]:
    if kind == "encoder":
        from gala.models.encoders import ENCODERS

        return ENCODERS
    if kind == "optimizer":
        from gala.build.learning import OPTIMIZERS

        return OPTIMIZERS
    if kind == "topology":
        from gala.gossip.graphs.topology import TOPOLOGIES

        return TOPOLOGIES
    import gymnasium as gym
    from gala_envs.families import FAMILIES

    return {*FAMILIES, *gym.registry}
