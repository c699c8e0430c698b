"""One of several learners of a video model: the body of its process."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from gala.config.video import VideoConfig
from gala.gossip.averager import GossipAverager
from gala.gossip.transport.endpoint import open_endpoint
from gala.processes.child import Exit, Send, run_child
from gala.runs.checkpoints import Checkpoints
from gala.supervised import video
from gala.supervised.video_checkpoint import FOLDER, restore, stage

WAIT_TIMEOUT_S = 2e6
"""Waiting for a peer never ends a learner: the parent notices who has died, and ends all."""


class Unsaved(Exception):
    """A learner's part of a checkpoint could not be written."""

    says_all = True


@dataclass(frozen=True)
class VideoSpec:
    """Everything that a learner is told when it starts."""

    config: VideoConfig
    rank: int
    handle: Any
    """``SharedMemoryMailboxes.handle``."""
    out: str
    resumed: bool
    threads: int


def main(spec: VideoSpec, pipe: Connection) -> None:
    """Entry point of the process.

    Says: ``ready`` with the iterations that it has done; ``row``, a record; ``paused`` with the iterations that it has
    done, when it has come to its limit; ``saved``. Is told ``("until", n)``: its limit, which it does not pass;
    ``("save",)`` while all are paused; None: the end.
    """
    run_child(pipe, lambda send, commands: _Body(spec, send, commands).run())


class _Body:
    def __init__(self, spec: VideoSpec, send: Send, commands: queue.SimpleQueue[Any]) -> None:
        self.spec, self.send, self.commands = spec, send, commands
        self.limit = 0

    def run(self) -> None:
        spec, config = self.spec, self.spec.config
        torch.set_num_threads(spec.threads)
        model = video.make_model(config)
        self.averager = GossipAverager(
            list(model.parameters()),
            rank=spec.rank,
            world_size=config.learners,
            mailbox=open_endpoint(spec.handle, spec.rank),
            topology=config.topology,
            tau=None if config.tau < 0 else config.tau,
            at_bound="wait" if config.tau > 0 else "proceed",
            wait_timeout_s=WAIT_TIMEOUT_S,
        )
        self.checkpoints, self.done = Checkpoints(Path(spec.out) / FOLDER), 0
        self.learner = video.make_learner(config, model, 0, spec.rank, self.averager)
        if spec.resumed:
            meta = restore(self.checkpoints, spec.rank, self.learner)
            self.averager.load_state_dict(meta["gossip"])
            self.done = int(meta["iteration"])
            self.learner.batches = video.batches(config, self.done, spec.rank)
        self.send(("ready", self.done))
        self._obey(self.commands.get())
        record = lambda row: self.send(("row", row))  # noqa: E731
        for done in video.train(config, self.learner, self.done, record, self._goes_on, spec.rank):
            self.done = done
        self.limit = config.iterations
        while True:
            self._pause()

    def _goes_on(self) -> bool:
        """Before each iteration: wait at the limit, as often as need be."""
        while not self.commands.empty():
            self._obey(self.commands.get())
        while self.done >= self.limit:
            self._pause()
        return True

    def _pause(self) -> None:
        self.send(("paused", self.done))
        while not self._obey(self.commands.get()):
            pass

    def _obey(self, command: Any) -> bool:
        """Do as told; True for a new limit. Raises Exit."""
        if command is None:
            raise Exit
        if command[0] == "until":
            self.limit = command[1]
            return True
        self.averager.drain()
        gossip = {k: v for k, v in self.averager.state_dict().items() if k != "unrounded"}
        try:
            stage(self.checkpoints, self.spec.rank, self.learner, {"iteration": self.done, "gossip": gossip})
        except OSError as error:
            where = error.filename or self.checkpoints.root
            raise Unsaved(f"{where} cannot be written: {error.strerror}; make room first") from error
        self.send(("saved", self.done))
        return False
