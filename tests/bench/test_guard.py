"""The guard against slowdowns counts the same work twice alike, and notices one operator more."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import guard


def test_equal_work_counts_equal_and_more_work_counts_more(monkeypatch):
    monkeypatch.setattr(guard, "UPDATES", 2)
    work = guard.learner("preset=classic/cartpole", "a2c.num_steps=4", "torch_threads=1")
    for _ in range(guard.WARM_UP):
        work()
    first, second = guard.count(work), guard.count(work)
    calls = first.pop("calls"), second.pop("calls")
    assert first == second and min(first.values()) > 0
    assert max(calls) - min(calls) <= 0.005 * max(calls)  # PyTorch has calls of its own that come and go

    def slower():
        work()
        for _ in range(100):
            torch.zeros(1000).clone()

    more = guard.count(slower)
    assert more["operators"] == first["operators"] + 200
    assert more["allocated_bytes"] == first["allocated_bytes"] + 200 * 4000
    assert more["calls"] > max(calls) and more["flops"] == first["flops"]


def test_matrix_products_count_two_operations_for_each_multiplication():
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert guard.count(lambda: a @ b)["flops"] == 2 * 3 * 5 * 7
