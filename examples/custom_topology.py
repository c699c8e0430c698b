"""Gossip over a graph of your own.

    python examples/custom_topology.py

A topology says, for (rank, round, n), whom ``rank`` sends to in that round and which share of its mass each gets. It
must lead from every learner to every other over its period; whom it leaves alone in a round keeps everything.
"""

import sys

import gala
from gala.gossip import Topology


def there_and_back(rank, round, n):
    """To the next rank in even rounds, to the one before in odd rounds: a third of the mass each time."""
    peer = (rank + (1 if round % 2 == 0 else -1)) % n
    return [(peer, 1 / 3)] if peer != rank else []


PENDULUM = Topology("to the next and back again", there_and_back, period=lambda n: 2)


def main(steps=40_000):
    run = gala.train("classic/cartpole", learners=3, steps=steps, gossip={"topology": PENDULUM})
    metrics = run.metrics()
    print(f"{metrics['gossip/received'][-1]:.0f} messages")
    print(f"distance between the learners {metrics['gossip/consensus_distance'][-1]:.4f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
