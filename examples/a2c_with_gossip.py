"""A2C with gossip in one file, from top to bottom.

    python examples/a2c_with_gossip.py

Each process plays CartPole and learns by itself; after each step it sends a share of its parameters to its neighbour on
a ring and absorbs what has come (PushSum). Nobody waits.
"""

import sys

import gymnasium as gym
import torch
import torch.multiprocessing as mp
from torch import nn

from gala.gossip import GossipAverager, SharedMemoryMailboxes, open_endpoint

LEARNERS, ENVS, T, GAMMA = 2, 8, 16, 0.99


def make_net():
    torch.manual_seed(0)  # all learners start equal
    return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))


def learn(rank, mailboxes, updates, final):
    torch.set_num_threads(1)
    net = make_net()
    averager = GossipAverager(net.parameters(), rank=rank, world_size=LEARNERS, mailbox=open_endpoint(mailboxes, rank))
    optimizer = torch.optim.RMSprop(net.parameters(), lr=2e-3)
    torch.manual_seed(1 + rank)  # but see different episodes
    mode = gym.vector.AutoresetMode.SAME_STEP
    envs = gym.make_vec("CartPole-v1", ENVS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    obs, lengths, finished = torch.from_numpy(envs.reset(seed=1 + rank)[0]), torch.zeros(ENVS), [20.0]
    for _ in range(updates):
        log_probs, values, entropies, rewards, continues = [], [], [], [], []
        for _ in range(T):  # collect: two logits and a value from one network
            out = net(obs)
            policy = torch.distributions.Categorical(logits=out[:, :2])
            action = policy.sample()
            next_obs, reward, terminated, truncated, _ = envs.step(action.numpy())
            done = torch.from_numpy(terminated | truncated)  # the time limit counts as an end here, for brevity
            log_probs.append(policy.log_prob(action))
            values.append(out[:, 2])
            entropies.append(policy.entropy())
            rewards.append(torch.from_numpy(reward).float())
            continues.append((~done).float())
            obs, lengths = torch.from_numpy(next_obs), lengths + 1
            finished = (finished + lengths[done].tolist())[-50:]
            lengths[done] = 0
        returns, target = [], net(obs)[:, 2].detach()
        for reward, go_on in zip(reversed(rewards), reversed(continues), strict=True):
            target = reward + GAMMA * go_on * target
            returns.insert(0, target)
        advantage = torch.stack(returns) - torch.stack(values)
        policy_loss = -(advantage.detach() * torch.stack(log_probs)).mean()
        loss = policy_loss + 0.5 * advantage.square().mean() - 0.01 * torch.stack(entropies).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        averager.step()  # the gossip
    averager.close()
    print(f"learner {rank}: an episode lasts {sum(finished) / len(finished):.0f} steps", flush=True)
    final[rank] = averager.flat


if __name__ == "__main__":
    updates = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    numel = sum(p.numel() for p in make_net().parameters())
    mailboxes = SharedMemoryMailboxes.create(LEARNERS, numel)
    final = torch.zeros(LEARNERS, numel).share_memory_()
    mp.spawn(learn, (mailboxes.handle, updates, final), nprocs=LEARNERS)
    mailboxes.close()
    print(f"the learners are {(final[0] - final[1]).norm() / final[0].norm():.1%} apart")
