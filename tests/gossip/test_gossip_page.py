"""Every script and command of docs/gossip.md, run as the page says."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torchrun import ROOT, free_port, run

PAGE = (ROOT / "docs" / "gossip.md").read_text()
SCRIPTS = {
    command.split()[-1]: (command, text) for text, command in re.findall(r"```python\n(# (.+?)\n.*?)```", PAGE, re.S)
}
COMMANDS = re.findall(r"^torchrun .+$", re.search(r"```sh\n(.*?)```", PAGE, re.S)[1], re.M)
optional = {"with_trainer.py": ("transformers", "accelerate"), "with_lightning.py": ("lightning",)}


def write(name: str, folder: Path) -> str:
    """The script's command, once it lies in ``folder``."""
    command, text = SCRIPTS[name]
    (folder / name).write_text(text)
    return command


def needs(name: str) -> None:
    for library in optional[name]:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")


def test_the_page_has_these_scripts_and_no_others():
    assert set(SCRIPTS) == {"from_python.py", "learn.py", "with_checkpoints.py", *optional}
    assert PAGE.count("```") == 2 * (len(SCRIPTS) + 2) and len(COMMANDS) == 2


def test_the_three_lines():
    from gala.gossip import GossipAverager, SharedMemoryMailboxes, averaged_numel, open_endpoint

    model, n = torch.nn.Linear(4, 1), 2
    mailboxes = SharedMemoryMailboxes.create(n, averaged_numel(model))
    names = {
        "GossipAverager": GossipAverager,
        "open_endpoint": open_endpoint,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "batches": torch.randn(5, 16, 4),
        "loss": lambda model, batch: model(batch).square().mean(),
        "rank": 0,
        "n": n,
        "handle": mailboxes.handle,
    }
    (block,) = re.findall(r"```python\n(averager = .+?)```", PAGE, re.S)
    exec(block, names)
    assert names["averager"].updates == 5
    mailboxes.close()


def test_from_python(tmp_path):
    assert run(write("from_python.py", tmp_path), cwd=tmp_path) == ""


@pytest.mark.long
def test_torchrun_on_one_machine(tmp_path):
    said = run(write("learn.py", tmp_path), cwd=tmp_path)
    assert sorted(re.findall(r"^learner (\d): \d+ messages read$", said, re.M)) == ["0", "1"]


@pytest.mark.long
def test_torchrun_on_several_hosts(tmp_path):
    write("learn.py", tmp_path)
    port = str(free_port())
    said = run(*(command.replace("29500", port) for command in COMMANDS), cwd=tmp_path)
    assert sorted(re.findall(r"^learner (\d): \d+ messages read$", said, re.M)) == ["0", "1", "2", "3"]


@pytest.mark.long
def test_checkpoints_hold_all_mass_and_are_resumed(tmp_path):
    command = write("with_checkpoints.py", tmp_path)
    for start, end in ((0, 100), (100, 200)):
        said = run(command, cwd=tmp_path)
        assert re.findall(r"^learner \d: updates (\d+) to (\d+),", said, re.M) == [(str(start), str(end))] * 2
        for saved in (end - 50, end):
            parts = [json.loads((tmp_path / f"checkpoint-{saved}/averager{r}.json").read_text()) for r in range(2)]
            assert [part["updates"] for part in parts] == [saved] * 2
            assert sum(part["weight"] for part in parts) == pytest.approx(2.0, abs=1e-12)
        assert (tmp_path / "latest").resolve().name == f"checkpoint-{end}"


def test_trainer(tmp_path):
    needs("with_trainer.py")
    command = write("with_trainer.py", tmp_path)
    said = run(command, cwd=tmp_path)
    assert sorted(re.findall(r"^learner (\d): 20 updates$", said, re.M)) == ["0", "1"]
    for rank in range(2):
        for step in (10, 20):
            part = json.loads((tmp_path / f"out/learner{rank}/checkpoint-{step}/gossip.json").read_text())
            assert part["updates"] == step and part["weight"] > 0
        shutil.rmtree(tmp_path / f"out/learner{rank}/checkpoint-20")  # as if it had been killed before
    assert len(re.findall(r"^learner \d: 20 updates$", run(command, cwd=tmp_path), re.M)) == 2


def test_lightning(tmp_path):
    needs("with_lightning.py")
    said = run(write("with_lightning.py", tmp_path), cwd=tmp_path)
    assert sorted(re.findall(r"^learner (\d): 8 updates$", said, re.M)) == ["0", "1"]
