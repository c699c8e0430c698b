"""Gossip in Hugging Face's ``Trainer``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from gala.gossip.averager import GossipAverager

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        f"gala.gossip.integrations.transformers needs Hugging Face's Trainer: pip install transformers accelerate "
        f"({error})"
    ) from error


class GossipCallback(TrainerCallback):
    """``Trainer(model, arguments, callbacks=[GossipCallback(averager)])``.

    One exchange per optimiser step, however many batches a step accumulates; at the end the averager is closed. Each
    checkpoint has the averager's state in ``gossip.json`` (and, of a model in bfloat16, what its parameters are the
    rounding of in ``gossip.safetensors``), and what waits is absorbed before it is made;
    ``train(resume_from_checkpoint=True)`` takes it up. Processes need an ``output_dir`` each.
    """

    def __init__(self, averager: GossipAverager) -> None:
        self.averager = averager

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Resumed: the trainer has loaded the model, and counts on from the checkpoint's step."""
        if state.global_step:
            path = _path(args, state)
            saved = json.loads(path.read_text())
            if (tensors := path.with_suffix(".safetensors")).exists():
                parts = load_file(tensors)
                saved["unrounded"] = [parts[str(i)] for i in range(len(parts))]
            self.averager.load_state_dict(saved)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.averager.step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save or control.should_evaluate:
            self.averager.drain()

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path, saved = _path(args, state), self.averager.state_dict()
        draft = path.with_suffix(".tmp")
        try:
            if parts := saved.pop("unrounded", ()):
                save_file({str(i): part.cpu() for i, part in enumerate(parts)}, draft)
                os.replace(draft, path.with_suffix(".safetensors"))
            draft.write_text(json.dumps(saved))
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        tensors = self.averager.values.tensors
        best = [tensor.detach().clone() for tensor in tensors] if args.load_best_model_at_end else []
        self.averager.close()
        with torch.no_grad():  # the trainer has loaded the best model: what arrived since is no part of it
            for tensor, value in zip(tensors, best, strict=False):
                tensor.copy_(value)


def _path(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "gossip.json"
