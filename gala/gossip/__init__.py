"""Parameter exchange by PushSum: usable with any ``torch.nn.Module``, and with nothing else of gala.

    averager = GossipAverager(model, rank=rank, world_size=n, mailbox=open_endpoint(handle, rank))
    ...
        optimizer.step()
        averager.step()
    averager.close()

The parent makes the mailboxes (``SharedMemoryMailboxes.create_for(model, n)``) and gives each process their handle.
Each name below is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gala.gossip.averager import GossipAverager as GossipAverager
    from gala.gossip.evidence.epsilon_ball import EpsilonBall as EpsilonBall
    from gala.gossip.evidence.events import consensus_distance as consensus_distance
    from gala.gossip.flat import flatten_parameters as flatten_parameters
    from gala.gossip.from_env import init_from_env as init_from_env
    from gala.gossip.graphs.by_name import choose_topology as choose_topology
    from gala.gossip.graphs.from_file import load_topology as load_topology
    from gala.gossip.graphs.topology import TOPOLOGIES as TOPOLOGIES
    from gala.gossip.graphs.topology import Topology as Topology
    from gala.gossip.graphs.topology import get_topology as get_topology
    from gala.gossip.graphs.topology import uniform as uniform
    from gala.gossip.message import Mailbox as Mailbox
    from gala.gossip.message import Message as Message
    from gala.gossip.transport.endpoint import open_endpoint as open_endpoint
    from gala.gossip.transport.in_process import InProcessMailboxes as InProcessMailboxes
    from gala.gossip.transport.shared_memory import SharedMemoryMailboxes as SharedMemoryMailboxes
    from gala.gossip.values import averaged_numel as averaged_numel
    from gala.gossip.values import averaged_tensors as averaged_tensors

__all__ = [
    "TOPOLOGIES",
    "EpsilonBall",
    "GossipAverager",
    "InProcessMailboxes",
    "Mailbox",
    "Message",
    "SharedMemoryMailboxes",
    "Topology",
    "averaged_numel",
    "averaged_tensors",
    "choose_topology",
    "consensus_distance",
    "flatten_parameters",
    "get_topology",
    "init_from_env",
    "load_topology",
    "open_endpoint",
    "uniform",
]

_HOMES = {
    "TOPOLOGIES": "gala.gossip.graphs.topology",
    "EpsilonBall": "gala.gossip.evidence.epsilon_ball",
    "GossipAverager": "gala.gossip.averager",
    "InProcessMailboxes": "gala.gossip.transport.in_process",
    "Mailbox": "gala.gossip.message",
    "Message": "gala.gossip.message",
    "SharedMemoryMailboxes": "gala.gossip.transport.shared_memory",
    "Topology": "gala.gossip.graphs.topology",
    "averaged_numel": "gala.gossip.values",
    "averaged_tensors": "gala.gossip.values",
    "choose_topology": "gala.gossip.graphs.by_name",
    "consensus_distance": "gala.gossip.evidence.events",
    "flatten_parameters": "gala.gossip.flat",
    "get_topology": "gala.gossip.graphs.topology",
    "init_from_env": "gala.gossip.from_env",
    "load_topology": "gala.gossip.graphs.from_file",
    "open_endpoint": "gala.gossip.transport.endpoint",
    "uniform": "gala.gossip.graphs.topology",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gala.gossip' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
