"""Gossip between processes that torchrun starts."""

import re

import pytest
import torch
import torch.distributed as dist
from torchrun import free_port, run

from gala.gossip.from_env import init_from_env


def check_errors(text, learners):
    errors = [float(x) for x in re.findall(r"largest error of a weight (\S+)", text)]
    assert len(errors) == learners and max(errors) < 0.3  # alone, a learner keeps most of its random weights


@pytest.mark.long
def test_every_process_learns_what_only_the_others_saw():
    check_errors(run("torchrun --standalone --nproc-per-node 3 examples/gossip_with_torchrun.py"), 3)


@pytest.mark.long
def test_on_two_nodes_every_process_learns_what_only_the_others_saw():
    """Two agents on this machine, each of which knows of two local ranks only."""
    node = f"torchrun --nnodes 2 --nproc-per-node 2 --master-addr 127.0.0.1 --master-port {free_port()} --node-rank"
    check_errors(run(*(f"{node} {rank} examples/gossip_with_torchrun.py" for rank in range(2))), 4)


def test_it_shares_the_store_of_a_process_group_where_no_agent_serves_one(tmp_path):
    """As under `srun python`; and a second model uses it too."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch, torch.distributed as dist\nfrom gala.gossip.from_env import init_from_env\n"
        f"os.environ.update(RANK=sys.argv[1], WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', "
        f"MASTER_PORT='{free_port()}')\n"
        "dist.init_process_group('gloo')\ntorch.manual_seed(int(sys.argv[1]))\n"
        "for transport in ('tcp', 'shared-memory'):\n"
        "    model = torch.nn.Linear(2, 2)\n"
        "    averager = init_from_env(model, transport=transport)\n"
        "    total = model.weight.detach().clone()\n"
        "    dist.all_reduce(total)\n"
        "    print('equal' if torch.allclose(total, 2 * model.weight) else 'unequal')\n"
        "    dist.barrier()\n    averager.close()\n"
        "dist.destroy_process_group()\n"  # or a thread of gloo may outlive its process's end: "terminate called"
    )
    said = run(f"python {script} 0", f"python {script} 1")
    assert re.findall(r"\w*equal", said) == ["equal"] * 4


def test_the_first_rank_serves_the_store_until_the_last_one_is_through(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import gc, os, sys, time, torch, torch.distributed as dist\n"
        "from gala.gossip.from_env import init_from_env\n"
        f"os.environ.update(RANK=sys.argv[1], WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', "
        f"MASTER_PORT='{free_port()}')\n"
        "wait = dist.PrefixStore.wait\n"
        "def late(self, keys, *rest):\n"
        "    time.sleep(2.0 * (keys == ['equal/1']))\n"
        "    wait(self, keys, *rest)\n"
        "if sys.argv[1] == '1':\n    dist.PrefixStore.wait = late\n"
        "averager = init_from_env(torch.nn.Linear(2, 2))\n"
        "gc.collect()\ntime.sleep(3.0)\naverager.close()\nprint('through')\n"
    )
    said = run(f"python {script} 0", f"python {script} 1")
    assert said.count("through") == 2


@pytest.mark.long
@pytest.mark.parametrize("transport", ["shared-memory", "tcp"])
def test_models_that_differ_are_refused(tmp_path, transport):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch\nfrom gala.gossip.from_env import init_from_env\n"
        "init_from_env(torch.nn.Linear(*((2, 3) if os.environ['RANK'] == '0' else (3, 2)), bias=False), timeout_s=20, "
        f"transport={transport!r})\n"
    )
    with pytest.raises(AssertionError, match="build the same model in both"):
        run(f"torchrun --standalone --nproc-per-node 2 {script}")


NODE = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("env", "transport", "error"),
    [
        ({}, "auto", "RANK is not set: start this script with `torchrun"),
        (NODE, "shared-memory", "4 processes, of which 2 are on this machine"),
        (NODE, "rdma", "transport 'rdma' is unknown; use auto, shared-memory or tcp"),
    ],
)
def test_what_the_environment_lacks_is_said(monkeypatch, env, transport, error):
    for name in NODE:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=re.escape(error)):
        init_from_env(torch.nn.Linear(2, 2), transport=transport)


def test_one_process_alone_needs_no_peers(monkeypatch):
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    alone |= {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    for transport in ("shared-memory", "tcp"):
        averager = init_from_env(model, transport=transport)
        averager.step()
        averager.close()
    assert torch.equal(model.weight, before) and averager.weight == 1.0
