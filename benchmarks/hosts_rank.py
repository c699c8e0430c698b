"""One rank of ``hosts.py``: reads a cell, one line of JSON, from standard input, trains, prints what it found.

Cells, each with ``algorithm``, ``iterations``, ``compute_s`` and ``seed``: see ``ALGORITHMS``. All ranks are given the
same cells in the same order.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gala.gossip import init_from_env
from gala.gossip.averager import GossipAverager
from gala.optim.slowmo import SlowMo
from gala.optim.update import LearningStep

RANK, WORLD_SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
LR, BATCH, WIDTH, PERIOD, SKIPPED = 0.05, 32, 512, 12, 5
SGP: dict[str, Any] = {"transport": "tcp", "topology": "one-peer-exponential"}
ALGORITHMS = ("allreduce", "local-sgd", "slowmo", "sgp", "sgp-overlap", "sgp-async")


def mean_(tensors: list[Tensor]) -> None:
    """Over all ranks, in place, in one all-reduce."""
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= WORLD_SIZE
    with torch.no_grad():
        for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(part.view_as(t))


def make_step(algorithm: str, model: nn.Module) -> tuple[LearningStep, GossipAverager | None]:
    """sgp: synchronous; overlap: a message may be one iteration late; async: nobody waits. local-sgd and slowmo average
    every ``PERIOD`` iterations."""
    bounds: dict[str, dict[str, Any]] = {
        "sgp": {"tau": 0},
        "sgp-overlap": {"tau": 1, "at_bound": "wait"},
        "sgp-async": {},
    }
    averager = init_from_env(model, **SGP, **bounds[algorithm]) if algorithm in bounds else None
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LR, momentum=0.9, nesterov=True)
    slowmo = None
    if algorithm in ("local-sgd", "slowmo"):
        momentum = 0.5 if algorithm == "slowmo" else 0.0
        slowmo = SlowMo(optimizer, every=PERIOD, momentum=momentum, average=mean_)
    reduce = mean_ if algorithm == "allreduce" else None
    return LearningStep(optimizer, reduce_gradients=reduce, averager=averager, slowmo=slowmo), averager


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """This rank's share of the training images, its labels; the test images, their labels."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    train = slice(RANK, 1440, WORLD_SIZE)
    return x[train], y[train], x[1440:], y[1440:]


def sent_bytes() -> int:
    return int(Path("/sys/class/net/tun0/statistics/tx_bytes").read_text())


def run(cell: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(cell["seed"])
    model = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    step, averager = make_step(cell["algorithm"], model)
    x, y, test_x, test_y = digits()
    drawn = torch.Generator().manual_seed(1000 * cell["seed"] + RANK)

    step_ms = list[float]()

    def iterate(keep_going: Callable[[int], bool]) -> int:
        done = 0
        while keep_going(done):
            batch = torch.randint(len(x), (BATCH,), generator=drawn)
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            step.optimizer.zero_grad()
            loss.backward()
            time.sleep(cell["compute_s"])  # what a larger network's pass would take on a machine of its own
            stepped = time.perf_counter()
            step()
            step_ms.append(1e3 * (time.perf_counter() - stepped))
            done += 1
        return done

    dist.barrier()
    iterate(lambda done: done < SKIPPED)
    bytes_before, began = sent_bytes(), time.perf_counter()
    until = began + cell.get("for_s", 1e9)
    done = iterate(lambda done: done < cell["iterations"] and time.perf_counter() < until)
    took_s, sent = time.perf_counter() - began, sent_bytes() - bytes_before
    found: dict[str, Any] = {"iterations": done, "ms": 1e3 * took_s / done, "sent_mb": sent / done / 1e6}
    found["step_ms"] = step_ms[-done:]
    dist.barrier()
    if averager is not None:
        found["weight"] = settled_weight(averager)
        averager.close()
    with torch.no_grad():
        found["accuracy"] = float((model(test_x).argmax(1) == test_y).double().mean())
    return found


def settled_weight(averager: GossipAverager) -> float:
    """This rank's PushSum weight when nothing is under way any more: all have stopped sending and read what comes."""
    if not averager.bound.lockstep:
        averager.rest(True)  # waits for envelopes that are under way
        dist.barrier()
        averager.drain()
    return averager.weight


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
