"""Gossip in a training loop of your own: the three lines marked 1, 2, 3.

    python examples/gossip_in_your_loop.py

Four processes fit one linear model of eight weights. Each sees data in which only two of the inputs ever move, so alone
it could learn two weights and no more; by gossip all of them learn all eight. Nobody waits for anybody.
"""

import time

import torch
import torch.multiprocessing as mp

from gala.gossip.averager import GossipAverager
from gala.gossip.transport.endpoint import open_endpoint
from gala.gossip.transport.shared_memory import SharedMemoryMailboxes

LEARNERS, INPUTS, UPDATES = 4, 8, 400
TRUE_WEIGHTS = torch.linspace(-1.0, 1.0, INPUTS)


def learn(rank, mailboxes, found):
    torch.set_num_threads(1)
    data = torch.Generator().manual_seed(rank)
    model = torch.nn.Linear(INPUTS, 1, bias=False)
    torch.nn.init.zeros_(model.weight)  # all learners start equal
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    box = open_endpoint(mailboxes, rank)
    averager = GossipAverager(model, rank=rank, world_size=LEARNERS, mailbox=box, topology="ring")  # 1
    while min(box.progress(peer) for peer in range(LEARNERS)) < UPDATES:  # the fast go on until the slow are done
        inputs = torch.zeros(16, INPUTS)
        inputs[:, 2 * rank : 2 * rank + 2] = torch.randn(16, 2, generator=data)
        loss = (model(inputs).squeeze(1) - inputs @ TRUE_WEIGHTS).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averager.step()  # 2
        time.sleep(0.001)  # a real model takes longer than this toy, which would be done before its peers are heard
    averager.close()  # 3
    found[rank] = model.weight.detach().squeeze(0)


if __name__ == "__main__":
    mailboxes = SharedMemoryMailboxes.create(LEARNERS, INPUTS)
    found = torch.zeros(LEARNERS, INPUTS).share_memory_()
    mp.spawn(learn, (mailboxes.handle, found), nprocs=LEARNERS)
    mailboxes.close()
    for rank, weights in enumerate(found):
        print(f"learner {rank}: largest error of a weight {(weights - TRUE_WEIGHTS).abs().max():.4f}")
