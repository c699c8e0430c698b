"""A recorded asynchronous run once more, all learners in one process, to the last bit.

Each learner has a thread, and one at a time has the turn: it keeps it until it must absorb what another has not sent
yet. So what a learner computes depends on the record alone. Random streams that belong to a process go with the turn.
"""

from __future__ import annotations

import dataclasses
import hashlib
import queue
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gala_envs.registry import resolve_backend
from torch import Tensor

from gala.build.envs import probe_spaces
from gala.build.gossip import max_concurrent_learners
from gala.build.learning import num_moments
from gala.build.policy import count_parameters
from gala.config import derived
from gala.config.schema import Config, DiagnoseConfig
from gala.gossip.message import Message
from gala.gossip.record import Entry, read_record, record_path
from gala.gossip.transport.in_process import InProcessMailboxes
from gala.runs.run_dir import RunDir
from gala.training.board import Board
from gala.training.learner import LearnerProcess
from gala.training.pooling import row_size
from gala.training.protocol import LearnerChannels, LearnerSpec

_THREADED = {"atari": "ALE's", "envpool": "EnvPool's"}


def check_replayable(run_dir: RunDir) -> None:
    """Raises ValueError, in one line, for a run that was not recorded whole, or cannot be repeated."""
    config = run_dir.config
    if not config.gossip.record:
        raise ValueError(f"{run_dir.path} was not recorded; train with gossip.record=true to replay a run")
    if run_dir.read_summary()["status"] != "finished":
        raise ValueError(f"{run_dir.path} has not finished, so its record has no end")
    if run_dir.read_summary()["failures"] or run_dir.checkpoint_meta("latest")["ranks"] != [*range(config.learners)]:
        raise ValueError(f"{run_dir.path}: learners died, joined or left, and such a run cannot be replayed")
    backend = resolve_backend(config.env.id, config.env.backend)
    if backend in _THREADED or config.env.vectorization == "async":
        whose = _THREADED.get(backend, "env.vectorization=async's")
        raise ValueError(f"{run_dir.path}: {whose} simulators run beside each other, and are not replayed")
    if config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available()):
        raise ValueError(f"{run_dir.path}: a GPU's sums have no fixed order; only runs on the CPU are replayed")


def replay(run_dir: RunDir) -> list[tuple[str, str]]:
    """(hash of the run's parameters, hash of the replayed ones) of each learner. Raises ValueError: see above."""
    config = run_dir.config
    entries = [read_record(record_path(run_dir.path, rank)) for rank in range(config.learners)]
    stage = _Stage(config, run_dir)
    try:
        found = stage.play(entries)
    finally:
        stage.board.close()
    saved = [run_dir.load_part("latest", f"learner{rank}")[0]["policy"] for rank in range(config.learners)]
    return [(_hash(was), _hash(now)) for was, now in zip(saved, found, strict=True)]


class _Stage:
    """Whose turn it is, and what is on its way: each edge's puts, one by one, until the receiver takes them."""

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.config, self.run_dir = config, run_dir
        spaces = probe_spaces(config)
        places, numel = max_concurrent_learners(config), count_parameters(config, spaces)
        self.board = Board.create(places, numel, row_size(config, num_moments(config, spaces)))
        self.mailboxes = InProcessMailboxes(places, numel)
        self.puts: dict[tuple[int, int], deque[tuple[Tensor, float]]] = defaultdict(deque)
        self.published: dict[int, list[Any]] = defaultdict(list)
        self._change = threading.Condition()
        self._turn, self._live, self._idle = 0, [*range(config.learners)], 0
        self._failure: BaseException | None = None

    def open(self, rank: int) -> Any:
        """As a mailbox's handle."""
        return self.mailboxes.endpoint(rank)

    def play(self, entries: list[list[Entry]]) -> list[dict[str, Tensor]]:
        found: dict[int, dict[str, Tensor]] = {}

        def live(rank: int) -> None:
            try:
                self._await_turn(rank)
                found[rank] = _Player(self, rank, entries[rank]).run()
            except BaseException as error:
                self._failure = self._failure or error
            finally:
                self._leave(rank)

        threads = [threading.Thread(target=live, args=(rank,), daemon=True) for rank in range(self.config.learners)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return [found[rank] for rank in range(self.config.learners)]

    def publication(self, peer: int, number: int, rank: int) -> Any:
        """What ``peer`` has published as its ``number``-th statistics."""
        self._wait(lambda: len(self.published[peer]) >= number, rank, peer)
        return self.published[peer][number - 1]

    def take(self, src: int, dst: int, count: int) -> Message:
        """The sum of the next ``count`` puts, added up in their order, as the box did."""
        self._wait(lambda: len(self.puts[src, dst]) >= count, dst, src)
        z, weight = self.puts[src, dst].popleft()
        numerator = torch.mul(z, weight)
        for _ in range(count - 1):
            z, more = self.puts[src, dst].popleft()
            numerator.add_(z, alpha=more)
            weight = weight + more
        return Message(numerator, weight, 0, count)

    def _wait(self, there: Callable[[], bool], rank: int, peer: int) -> None:
        """Let the others have their turns until what ``rank`` needs of ``peer`` is there."""
        while not there():
            self._idle += 1
            if self._idle > 2 * len(self._live):
                raise ValueError(f"{self.run_dir.path}: the record is incomplete: learner {rank} waits for {peer}")
            self._pass_turn(rank)
        self._idle = 0

    def _pass_turn(self, rank: int) -> None:
        streams = torch.get_rng_state(), random.getstate(), np.random.get_state()
        with self._change:
            self._turn = self._live[(self._live.index(rank) + 1) % len(self._live)]
            self._change.notify_all()
        self._await_turn(rank)
        torch.set_rng_state(streams[0])
        random.setstate(streams[1])
        np.random.set_state(streams[2])

    def _await_turn(self, rank: int) -> None:
        with self._change:
            self._change.wait_for(lambda: self._turn == rank or self._failure is not None)
        if self._failure is not None:
            raise RuntimeError("another learner failed")

    def _leave(self, rank: int) -> None:
        with self._change:
            if self._turn == rank and len(self._live) > 1:
                self._turn = self._live[(self._live.index(rank) + 1) % len(self._live)]
            self._live.remove(rank)
            self._idle = 0
            self._change.notify_all()


class _Player:
    """One learner, in the averager's place: it sends and absorbs what the record says."""

    def __init__(self, stage: _Stage, rank: int, entries: list[Entry]) -> None:
        self.stage, self.rank, self.entries = stage, rank, deque(entries)
        spec = LearnerSpec(stage.config, rank, str(stage.run_dir.path), None)
        spec = dataclasses.replace(spec, config=_unrecorded(stage.config))
        channels = LearnerChannels(stage.board, stage.run_dir, [stage], lambda event: None, queue.SimpleQueue())
        self.process = LearnerProcess(spec, channels)
        assert self.process.averager is not None
        self.averager: Any = self.process.averager
        self.process.learner.learning_step.averager = self

    def run(self) -> dict[str, Tensor]:
        process = self.process
        try:
            process.in_progress.begin(*derived.seeds(self.stage.config, self.rank, 0))
            while self.entries:
                kind, _, progress, publications = self.entries.popleft()
                if kind == "u":
                    process.learner.update(process.learning_rate(progress), process.entropy_coef(progress))
                elif kind == "m":
                    self._pool(publications)
                else:
                    assert kind == "d", kind
                    self.step()
            return {name: tensor.clone() for name, tensor in process.state.tensors()["policy"].items()}
        finally:
            process.env.close()

    def _pool(self, publications: tuple[int, ...]) -> None:
        """Normalise by what the ranks had published when this learner looked."""
        normalizers = self.process.state.normalizers
        self.stage.published[self.rank].append(normalizers.pack())
        rows = np.zeros((len(publications), normalizers.size))
        for peer, number in enumerate(publications):
            if number:
                rows[peer] = self.stage.publication(peer, number, self.rank)
        normalizers.pool(rows)

    def step(self) -> None:
        """All entries up to the next update or drain."""
        averager = self.averager
        averager.values.read()
        while self.entries and self.entries[0][0] in ("p", "t"):
            kind, peer, number, _ = self.entries.popleft()
            if kind == "p":
                self.stage.puts[self.rank, peer].append((averager.flat.detach().clone(), number))
                averager.weight -= number
            else:
                averager._mass.absorb(self.stage.take(peer, self.rank, int(number)))
        averager.values.write()


def _unrecorded(config: Config) -> Config:
    gossip = dataclasses.replace(config.gossip, record=False, certify=False)
    return dataclasses.replace(config, gossip=gossip, diagnose=DiagnoseConfig())


def _hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
