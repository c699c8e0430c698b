"""The callbacks for Hugging Face's Trainer and for Lightning, against the same training by hand."""

import builtins
import importlib
import itertools
import json
import os
import sys
import types

import pytest
import torch
from safetensors.torch import load_file

from gala.gossip.averager import GossipAverager
from gala.gossip.integrations import hide_torchrun
from gala.gossip.transport.in_process import InProcessMailboxes

STEPS, ACCUMULATED, LEARNING_RATE = 6, 3, 0.1
INPUTS, TARGET = torch.tensor([1.0, -2.0, 0.5]), 1.0


class Pair:
    """A learner that a library trains, and its peer on a ring of two, at another place, which takes turns with it."""

    def __init__(self, module: torch.nn.Module) -> None:
        torch.nn.init.constant_(module.weight, 0.25)
        self.boxes = InProcessMailboxes(2, 3)
        self.averager, self.peer = (
            GossipAverager(parameters, rank=rank, world_size=2, mailbox=self.boxes.endpoint(rank))
            for rank, parameters in enumerate((module.parameters(), [torch.full_like(module.weight.detach(), 4.0)]))
        )

    def loss(self, module: torch.nn.Module) -> torch.Tensor:
        return (module(INPUTS).squeeze() - TARGET).square()


def by_hand() -> tuple[torch.Tensor, float]:
    """The learner's parameters and weight after the training and its close."""
    module = torch.nn.Linear(3, 1, bias=False)
    pair = Pair(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    for t in range(STEPS):
        optimizer.zero_grad()
        for _ in range(ACCUMULATED):
            (pair.loss(module) / ACCUMULATED).backward()
        optimizer.step()
        pair.averager.step()
        pair.peer.step()
        if (t + 1) % (STEPS // 2) == 0:  # a checkpoint
            pair.averager.drain()
    pair.averager.close()
    return module.weight.detach().flatten(), pair.averager.weight


def check_as_by_hand(pair: Pair) -> None:
    weights, weight = by_hand()
    assert pair.averager.updates == STEPS, "one exchange per optimiser step, whatever is accumulated"
    torch.testing.assert_close(pair.averager.flat, weights, rtol=0.0, atol=1e-6)
    assert pair.averager.weight == weight and pair.averager.mailbox.finished(0), "closed, and drained before"
    assert pair.averager.weight + pair.peer.weight + pair.boxes.in_flight()[1] == pytest.approx(2.0, abs=1e-12)


def check_saved(state: dict, saved: torch.Tensor, drained: list[torch.Tensor]) -> None:
    assert state["updates"] == STEPS // 2 and 0.0 < state["weight"] < 2.0
    assert torch.equal(saved.flatten(), drained[0]), "what waited was absorbed before the model was saved"


def train_with_transformers(folder, drained=None, **settings):  # type: ignore[no-untyped-def]
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from gala.gossip.integrations.transformers import GossipCallback

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1, bias=False)

        def forward(self, index, labels=None):  # type: ignore[no-untyped-def]
            return {"loss": pair.loss(self.layer)}

    class Peer(TrainerCallback):
        def on_optimizer_step(self, *args, **_) -> None:  # type: ignore[no-untyped-def]
            pair.peer.step()

        def on_save(self, *args, **_) -> None:  # type: ignore[no-untyped-def]
            if drained is not None:
                assert not pair.boxes.boxes.get((1, 0))
                drained.append(pair.averager.flat.clone())

    model = Model()
    pair = Pair(model.layer)
    arguments = TrainingArguments(
        str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=ACCUMULATED,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        save_steps=STEPS // 2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    data = [{"index": i, "labels": 0} for i in range(100)]
    callbacks = [GossipCallback(pair.averager), Peer()]
    Trainer(model, arguments, train_dataset=data, callbacks=callbacks, optimizers=(optimizer, None)).train(**settings)
    return pair


def test_trainer_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    drained: list[torch.Tensor] = []
    pair = train_with_transformers(tmp_path, drained=drained)
    check_as_by_hand(pair)
    checkpoint = tmp_path / f"checkpoint-{STEPS // 2}"
    state = json.loads((checkpoint / "gossip.json").read_text())
    check_saved(state, load_file(checkpoint / "model.safetensors")["layer.weight"], drained)
    resumed = train_with_transformers(tmp_path, resume_from_checkpoint=str(checkpoint))
    assert resumed.averager.updates == STEPS
    # its peer is a new one, with all of its weight
    expected = state["weight"] + 1.0
    assert resumed.averager.weight + resumed.peer.weight + resumed.boxes.in_flight()[1] == pytest.approx(expected)


def test_the_best_model_is_not_mixed_with_what_has_come_since():
    pytest.importorskip("transformers")
    from gala.gossip.integrations.transformers import GossipCallback

    for loads_best, dtype in itertools.product((True, False), (torch.float32, torch.bfloat16)):
        pair = Pair(module := torch.nn.Linear(3, 1, bias=False, dtype=dtype))
        pair.peer.step()
        arguments = types.SimpleNamespace(load_best_model_at_end=loads_best)
        GossipCallback(pair.averager).on_train_end(arguments, None, None)
        assert torch.equal(module.weight, torch.full((1, 3), 0.25, dtype=dtype)) == loads_best
        assert pair.averager.weight == 1.5


def test_a_checkpoint_has_what_parameters_in_bfloat16_are_the_rounding_of(tmp_path):
    pytest.importorskip("transformers")
    from gala.gossip.integrations.transformers import GossipCallback

    arguments, state = types.SimpleNamespace(output_dir=tmp_path), types.SimpleNamespace(global_step=3)
    (tmp_path / "checkpoint-3").mkdir()
    pairs = [Pair(torch.nn.Linear(3, 1, bias=False, dtype=torch.bfloat16)) for _ in range(2)]
    pairs[0].peer.flat.add_(1e-3)  # less than bfloat16 can tell apart
    for averager in (pairs[0].peer, pairs[0].averager):
        averager.step()
    saved, resumed = (GossipCallback(pair.averager) for pair in pairs)
    saved.on_save(arguments, state, None)
    resumed.on_train_begin(arguments, state, None)
    assert torch.equal(saved.averager.flat, resumed.averager.flat) and resumed.averager.weight == saved.averager.weight


def train_with_lightning(folder, drained=None, checkpoint=None):  # type: ignore[no-untyped-def]
    import lightning.pytorch as pl

    from gala.gossip.integrations.lightning import GossipCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1, bias=False)

        def training_step(self, batch, batch_idx):  # type: ignore[no-untyped-def]
            return pair.loss(self.layer)

        def configure_optimizers(self):  # type: ignore[no-untyped-def]
            return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)

    class Peer(pl.Callback):
        steps = 0

        def on_train_start(self, trainer, *_) -> None:  # type: ignore[no-untyped-def]
            self.steps = trainer.global_step

        def on_train_batch_end(self, trainer, *_) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step > self.steps:
                self.steps = trainer.global_step
                pair.peer.step()

        def on_save_checkpoint(self, *_) -> None:  # type: ignore[no-untyped-def]
            if drained is not None:
                assert not pair.boxes.boxes.get((1, 0))
                drained.append(pair.averager.flat.clone())

    module = Module()
    pair = Pair(module.layer)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        accumulate_grad_batches=ACCUMULATED,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            GossipCallback(pair.averager),
            Peer(),
            pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=STEPS // 2, save_top_k=-1),
        ],
    )
    trainer.fit(module, torch.utils.data.DataLoader(torch.arange(100)), ckpt_path=checkpoint)
    return pair


def test_trainer_of_lightning(tmp_path):
    pytest.importorskip("lightning")
    drained: list[torch.Tensor] = []
    check_as_by_hand(train_with_lightning(tmp_path, drained))
    path = tmp_path / f"step={STEPS // 2}.ckpt"
    saved = torch.load(path, weights_only=True)
    (state,) = (state for name, state in saved["callbacks"].items() if name.startswith("GossipCallback"))
    check_saved(state, saved["state_dict"]["layer.weight"], drained)
    resumed = train_with_lightning(tmp_path / "resumed", checkpoint=path)
    assert resumed.averager.updates == STEPS
    expected = state["weight"] + 1.0
    assert resumed.averager.weight + resumed.peer.weight + resumed.boxes.in_flight()[1] == pytest.approx(expected)


@pytest.mark.parametrize("library", ["transformers", "lightning"])
def test_without_the_library_one_error_says_what_to_install(monkeypatch, library):
    module = f"gala.gossip.integrations.{library}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    real_import = builtins.__import__

    def fails(name, *args, **options):  # type: ignore[no-untyped-def]
        if name.split(".")[0] == library:
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ImportError, match=f"pip install {library}"):
        importlib.import_module(module)


def test_torchrun_is_hidden(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    assert torch.distributed.is_torchelastic_launched()
    hide_torchrun()
    hide_torchrun()
    assert not torch.distributed.is_torchelastic_launched() and "LOCAL_RANK" not in os.environ
