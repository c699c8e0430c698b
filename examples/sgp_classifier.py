"""Stochastic gradient push (SGP, arXiv 1811.10792) on a classifier, in one page.

    python examples/sgp_classifier.py

Four processes train a network on three interleaved spirals, each with a quarter of the data. After each step of its
optimiser a learner sends half of its PushSum mass to one peer, the peers 1 and 2 ahead in turn, and absorbs what
another one has sent. tau=0 is the paper's synchronous algorithm, tau=None the overlapped one in which nobody waits.
"""

import math

import torch
import torch.multiprocessing as mp
from torch import nn

from gala.gossip.averager import GossipAverager
from gala.gossip.evidence.events import consensus_distance
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

LEARNERS, ITERATIONS, BATCH, TOPOLOGY = 4, 300, 32, "one-peer-exponential"


def spirals(num, seed):
    """[num, 2] points on three noisy arms, and [num] the arm of each."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (num,), generator=g)
    radius = torch.rand(num, generator=g)
    angle = 5 * radius + labels * 2 * math.pi / 3 + 0.15 * torch.randn(num, generator=g)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), labels


def make_model():
    torch.manual_seed(0)  # all learners start equal
    return nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def learn(rank, mailboxes, done, final):
    torch.set_num_threads(1)
    model = make_model()
    averager = GossipAverager(
        model.parameters(),
        rank=rank,
        world_size=LEARNERS,
        mailbox=open_endpoint(mailboxes, rank),
        topology=TOPOLOGY,
        tau=0,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    points, labels = (x[rank::LEARNERS] for x in spirals(2000, seed=1))
    order = torch.Generator().manual_seed(rank)
    for i in range(ITERATIONS):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - i / ITERATIONS)
        batch = torch.randint(len(points), (BATCH,), generator=order)
        loss = nn.functional.cross_entropy(model(points[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averager.step()
    done.wait()  # nobody leaves a synchronous run before the others have had their last round
    averager.close()
    final[rank] = averager.flat


if __name__ == "__main__":
    model = make_model()
    numel = sum(p.numel() for p in model.parameters())
    mailboxes = SharedMemoryMailboxes.create(LEARNERS, numel)
    final = torch.zeros(LEARNERS, numel).share_memory_()
    done = mp.get_context("spawn").Barrier(LEARNERS)
    mp.spawn(learn, (mailboxes.handle, done, final), nprocs=LEARNERS)
    mailboxes.close()
    points, labels = spirals(1000, seed=2)
    for rank, params in enumerate(final):
        nn.utils.vector_to_parameters(params, model.parameters())
        accuracy = (model(points).argmax(dim=1) == labels).float().mean()
        print(f"learner {rank}: {accuracy:.1%} of new points right")
    print(f"consensus distance {consensus_distance(final):.4f}")
