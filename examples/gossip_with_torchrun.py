r"""Gossip between processes that torchrun starts: one call, then ``step`` after each optimiser step.

    torchrun --nproc-per-node 3 examples/gossip_with_torchrun.py

On two hosts, the same on each, with its own node rank; messages then go over TCP (docs/gossip.md):

    torchrun --nnodes 2 --node-rank 0 --master-addr FIRST_HOST --master-port 29500 --nproc-per-node 3 \
        examples/gossip_with_torchrun.py

Each process sees data in which only some of the inputs ever move, and starts from its own random weights; by gossip
all learn all weights.
"""

import os
import time

import torch

from gala.gossip import init_from_env

INPUTS, UPDATES = 6, 600
TRUE_WEIGHTS = torch.linspace(-1.0, 1.0, INPUTS)

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
torch.manual_seed(rank)
torch.set_num_threads(1)
model = torch.nn.Linear(INPUTS, 1, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
averager = init_from_env(model, topology="ring")  # from here on all have rank 0's weights

box = averager.mailbox
while min(box.progress(peer) for peer in range(size)) < UPDATES:  # the fast go on until the slow are done
    inputs = torch.zeros(16, INPUTS)
    inputs[:, rank::size] = torch.randn(16, len(range(rank, INPUTS, size)))
    loss = (model(inputs).squeeze(1) - inputs @ TRUE_WEIGHTS).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    averager.step()
    time.sleep(0.001)  # a real model takes longer than this toy, which would be done before its peers are heard
averager.close()
error = (model.weight.detach().squeeze(0) - TRUE_WEIGHTS).abs().max()
print(f"learner {rank}: largest error of a weight {error:.4f}\n", end="")  # one write: ranks share the terminal
