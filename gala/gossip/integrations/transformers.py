"""Gossip in Hugging Face's ``Trainer``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
    checkpoint has the averager's state in ``gossip.json``, and what waits is absorbed before it is made;
    ``train(resume_from_checkpoint=True)`` takes it up. Processes need an ``output_dir`` each.
    """

    def __init__(self, averager: GossipAverager) -> None:
        self.averager = averager

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Resumed: the trainer has loaded the model, and counts on from the checkpoint's step."""
        if state.global_step:
            self.averager.load_state_dict(json.loads(_path(args, state).read_text()))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.averager.step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save or control.should_evaluate:
            self.averager.drain()

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        path = _path(args, state)
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.averager.state_dict()))
        os.replace(draft, path)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        model = self.averager.flat.clone()
        self.averager.close()
        if args.load_best_model_at_end:  # which it has done: what arrived since is no part of the best model
            self.averager.flat.copy_(model)


def _path(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "gossip.json"
