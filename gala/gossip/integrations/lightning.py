"""Gossip in Lightning's ``Trainer``."""

from __future__ import annotations

from typing import Any

from gala.gossip.averager import GossipAverager

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError(f"gala.gossip.integrations.lightning needs Lightning: pip install lightning ({error})") from error


class GossipCallback(Callback):
    """``Trainer(devices=1, callbacks=[GossipCallback(averager)])``.

    One exchange after each batch that ends with an optimiser step: batches that only accumulate gradients cause none.
    (``on_before_zero_grad`` would be too late: Lightning has done the next forward pass by then.) At the end the
    averager is closed. Checkpoints have the averager's state, and what waits is absorbed before they are written.
    Processes need a ``default_root_dir`` each.
    """

    def __init__(self, averager: GossipAverager) -> None:
        self.averager = averager
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step != self._steps:
            self._steps = trainer.global_step
            self.averager.step()

    def state_dict(self) -> dict[str, Any]:
        """Lightning asks while it makes a checkpoint, whose tensors are the model's own, not copies."""
        self.averager.drain()
        return self.averager.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.averager.load_state_dict(state_dict)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.averager.close()
