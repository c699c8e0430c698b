"""The body of one learner process: build, resume, loop, report, and save when the parent says so."""

from __future__ import annotations

import queue
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from gala_envs.snapshots import Unrestorable

from gala.build.envs import Spaces, add_episodes_by_context, episodes_by_context, make_training_env
from gala.build.gossip import make_averager, make_event_log, make_gradient_reducer, make_recorder
from gala.build.learning import (
    entropy_coefficient,
    learning_rate,
    make_ekfac,
    make_normalizer,
    make_optimizer,
    make_reward_shaper,
    make_rollout_fisher,
    make_slowmo,
)
from gala.build.policy import make_lean, make_training_policy, pick_device, prepare_process
from gala.config import derived
from gala.config.schema import Config
from gala.gossip.flat import flatten_gradients
from gala.optim.update import LearningStep, NotFinite
from gala.processes.child import Exit, Send, run_child
from gala.rl.actor_learner import ActorLearner
from gala.rl.normalise import Normalizers
from gala.rl.rollout import Collector
from gala.runs.checkpoints import pack, unpack
from gala.runs.run_dir import RunDir
from gala.training.board import UPDATES, Board
from gala.training.in_progress import InProgress
from gala.training.interval import IntervalStats, LogGrid
from gala.training.learner_state import LearnerState
from gala.training.pooling import MomentPool
from gala.training.protocol import Command, LearnerChannels, LearnerSpec, State
from gala.training.watchdog import beats_of


def main(spec: LearnerSpec, pipe: Connection) -> None:
    """Entry point of the process."""

    def body(send: Send, commands: queue.SimpleQueue[Any]) -> None:
        assert spec.board is not None
        board = Board.open(spec.board)
        run_dir = RunDir(Path(spec.run_path), spec.config)
        channels = LearnerChannels(board, run_dir, spec.mailboxes or (), send, commands)
        learner = LearnerProcess(spec, channels)
        try:
            learner.run()
        except NotFinite:
            learner.env.close()  # or simulators in processes of their own would end with a traceback each
            raise

    run_child(pipe, body)


def make_diagnosis(config: Config, state: LearnerState, alive: Callable[[], None]) -> Any:
    """The ``gala.diagnostics.during_training.DuringTraining`` of this learner; None if nothing is to be measured."""
    if not (config.diagnose.curvature or config.diagnose.noise or config.diagnose.dead_units):
        return None
    from gala.diagnostics.during_training import DuringTraining

    return DuringTraining(config, lambda: state.tensors()["optimizer"], alive)


class LearnerProcess:
    """Owns the parts of one learner, and does what the parent tells."""

    def __init__(self, spec: LearnerSpec, channels: LearnerChannels) -> None:
        self.spec, self.config, self.rank = spec, spec.config, spec.rank
        self.board, self.checkpoint_parts = channels.board, channels.checkpoint_parts
        self.send, self.commands = channels.send, channels.commands
        config = spec.config
        prepare_process(config)
        self.env = make_training_env(config, self.rank)
        spaces = Spaces(self.env.obs_space, self.env.action_space, self.env.frames_per_step)
        device = pick_device(config, self.rank)
        self.policy = make_training_policy(config, spaces, self.rank)
        self.flat, self.averager = make_averager(config, self.policy, self.rank, channels.mailboxes, spec.store)
        flatten_gradients(self.flat, self.policy)
        lean = make_lean(config, self.policy, spaces.action, device)
        optimizer = make_optimizer(config, self.flat, self.policy)
        slowmo = make_slowmo(config, optimizer)
        ekfac = make_ekfac(config, self.policy)
        self.event_log = make_event_log(config, self.averager, spec.run_path)
        self.recorder = make_recorder(config, self.averager, spec.run_path, bool(spec.resume_from or spec.donated))
        normalizer = make_normalizer(config, spaces)
        shape_reward, return_scaler = make_reward_shaper(config)
        self.state = LearnerState(self.policy, optimizer, slowmo, Normalizers(normalizer, return_scaler), ekfac)
        self.moments = MomentPool(config, self.board, self.rank, self.state.normalizers)
        generator = torch.Generator(device)
        self.collector = Collector(
            self.env,
            config.a2c.num_steps,
            device=device,
            generator=generator,
            normalizer=normalizer,
            shape_reward=shape_reward,
            keep_graph=lean is not None or derived.is_one_pass(config),
            keep_values=lean is None,
        )
        self.in_progress = InProgress(self.env, self.collector, self.policy, generator, return_scaler)
        step = LearningStep(
            optimizer,
            reduce_gradients=make_gradient_reducer(config, self.rank, spec.store),
            precondition=ekfac,
            max_grad_norm=config.a2c.max_grad_norm,
            averager=self.averager,
            slowmo=slowmo,
        )
        observe = make_rollout_fisher(config, ekfac, generator)
        self.learner = ActorLearner(self.collector, self.policy, self.flat, step, config.a2c, observe, lean)
        self.collector.on_step, self.learner.on_rollout = beats_of(self.board, self.rank)
        self.learner.inspect = self.diagnosis = make_diagnosis(config, self.state, self.collector.on_step)
        self.learning_rate, self.entropy_coef = learning_rate(config), entropy_coefficient(config)
        self.env_steps = self.updates = 0
        self.stopped = self.leaving = False
        self.lock_step = derived.is_lock_step(config)
        self.interval = IntervalStats()

    def run(self) -> None:
        """Train until the run's total is reached or the parent says stop; then stay to save, and end by ``Exit``."""
        in_progress: dict[str, torch.Tensor] = {}
        if self.spec.resume_from:
            tensors, meta = self.checkpoint_parts.load_part(self.spec.resume_from, f"learner{self.rank}")
            self._load(tensors, meta)
            in_progress = tensors.get("in_progress", {})
        elif self.spec.donated:
            self._join(unpack(self.spec.donated))
        if self.spec.resume_from or self.spec.donated:
            self.moments.pool(self.updates)
        if in_progress:
            self.in_progress.restore(in_progress)
        else:
            self.in_progress.begin(*derived.seeds(self.config, self.rank, self.env_steps))
        self.log_grid = LogGrid(self.config.log.interval_s, self.lock_step, self.updates)
        self._publish()
        self.send(("ready", None))
        while self.spec.waits and not self.stopped and (command := self.commands.get()) != "begin":
            self._obey(command)
        while not self._finished():
            progress = self._progress()
            lr = self.learning_rate(progress)
            if self.recorder is not None:
                self.recorder.update(progress)
            result = self.learner.update(lr, self.entropy_coef(progress))
            self.updates += 1
            self.env_steps += result.valid_steps
            pooled = self.moments.pool(self.updates)
            if self.recorder is not None and pooled:
                self.recorder.pool(pooled)
            self.board.progress[self.rank] = (self.env_steps, self.updates)
            self.interval.add(result)
            if self.log_grid.reached(self.updates):
                self._report(lr)
        if self.interval.results:  # an empty record would take the place of the last one, in the closing figures
            self._report(self.learning_rate(self._progress()))
        self._rendezvous("finished")

    def _progress(self) -> float:
        """Where schedules stand, in [0, 1]; in lock-step runs the same in every learner, to the last bit."""
        if self.lock_step:
            done = self.updates / derived.total_updates(self.config)
        else:
            done = min(1.0, self.board.total_env_steps() / self.config.steps)
        return derived.scheduled(self.config, done)

    def _finished(self) -> bool:
        """Obeys the commands that have arrived; True when this learner has nothing left to do."""
        if self.lock_step:
            checkpoint_at, stop_at = (int(x) for x in self.board.control)
            if checkpoint_at and self.updates == checkpoint_at:
                self._rendezvous("paused")
            elif checkpoint_at and self.updates > checkpoint_at:
                self.send(("missed", checkpoint_at))
            return bool(stop_at and self.updates >= stop_at) or self.updates >= derived.total_updates(self.config)
        while not self.commands.empty():
            self._obey(self.commands.get())
        if self.leaving:
            self._leave()
        return self.stopped or self.board.total_env_steps() >= self.config.steps

    def _leave(self) -> None:
        """End this learner as soon as a peer has taken its mass; all may be at rest for a checkpoint at the moment."""
        assert self.averager is not None
        if self.averager.leave():
            self.send(("left", None))
            self.env.close()
            raise Exit

    def _obey(self, command: Command) -> None:
        if command == "pause":
            self._rendezvous("paused")
        elif command == "stop":
            self.stopped = True
        elif command == "donate":
            self.send(("state", pack(self.state.tensors())))
        elif command == "leave":
            self._report(self.learning_rate(self._progress()))  # now: the mailbox is closed afterwards
            self.leaving = True
        elif command == "exit":
            self.env.close()
            raise Exit

    def _rendezvous(self, state: State) -> None:
        """Stand still, so that no parameter mass is in flight while all save; returns when told to resume."""
        self._rest(True)
        if self.interval.results:  # so that the parent saves the episodes of all updates that are saved
            self._report(self.learning_rate(self._progress()))
        self.send((state, self.updates))
        while True:
            command = self.commands.get()
            if command == "save":
                self.send(("saved", self._save()))
            elif command == "resume" and state == "paused":
                self._rest(False)
                return
            elif command != "pause":  # which may have crossed with "finished"
                self._obey(command)

    def _rest(self, resting: bool) -> None:
        """Peers must not wait, at their staleness bound, for a learner that stands still."""
        if self.averager is not None and not self.lock_step:
            self.averager.rest(resting)

    def _publish(self) -> None:
        stamp = self.log_grid.stamp(self.updates)
        number = self.board.publish_params(self.rank, self.flat.detach().cpu().numpy(), stamp)
        if self.event_log is not None:
            self.event_log.mark(number)

    def _report(self, lr: float) -> None:
        self._publish()
        record = self.interval.close(self.learner)
        record |= {"env_steps": self.env_steps, "updates": self.updates, "charts/learning_rate": lr}
        if self.averager is not None:
            record |= {f"gossip/{key}": value for key, value in self.averager.stats().items()}
            record["message_ages"] = self.averager.age_histogram.counts()
        if self.state.ekfac is not None:
            clipped = self.learner.learning_step.clip_factor
            record["losses/predicted_kl"] = clipped**2 * float(self.state.ekfac.predicted_kl)
        if self.diagnosis is not None:
            record |= self.diagnosis.tags(record["interval_s"])
        if self.event_log is not None:
            record["events"] = self.event_log.take()
        if self.recorder is not None:
            self.recorder.write()
        self.send(("metrics", record))

    def _save(self) -> str:
        """Write this learner's part; says in words why it could not, or nothing."""
        if self.recorder is not None:
            self.recorder.drain()
        if self.averager is not None:
            self.averager.drain()
            self.learner.learning_step.notice_first_mass()
        for log in (self.recorder, self.event_log):
            if log is not None and (trouble := log.write()):
                return trouble  # a checkpoint without what led to it could not be replayed
        meta: dict[str, Any] = {"env_steps": self.env_steps, "updates": self.updates}
        if self.averager is not None:
            meta |= {"gossip": self.averager.state_dict(), "slice_weights": self.averager.slice_weights()}
        meta["contexts"] = episodes_by_context(self.env)
        tensors = self.state.tensors()
        if self.diagnosis is not None:
            tensors["diagnose"] = self.diagnosis.tensors()
        try:
            tensors["in_progress"] = self.in_progress.tensors()
        except Unrestorable as error:
            meta["new_episodes"] = str(error)
        try:
            self.checkpoint_parts.write_part("staging", f"learner{self.rank}", tensors, meta)
        except OSError as error:  # a full disk, say: the training goes on, and the next checkpoint may succeed
            return f"{error.filename or 'a checkpoint'} cannot be written: {error.strerror}"
        return ""

    def _load(self, tensors: dict[str, dict[str, torch.Tensor]], meta: dict[str, Any]) -> None:
        self.state.load(tensors)
        if self.diagnosis is not None and "diagnose" in tensors:
            self.diagnosis.load_tensors(tensors["diagnose"])
        if self.averager is not None:
            self.averager.load_state_dict(meta["gossip"])
        self.env_steps, self.updates = int(meta["env_steps"]), int(meta["updates"])
        add_episodes_by_context(self.env, meta.get("contexts", {}))

    def _join(self, donated: dict[str, dict[str, torch.Tensor]]) -> None:
        """Start from a peer's network, and from what this rank itself has counted, if it was here before."""
        self.state.load_network(donated)
        self.env_steps, self.updates = (int(x) for x in self.board.progress[self.rank])
        if self.state.normalizers:
            self.state.normalizers.restore(self.board.read_moments()[self.rank])
        if self.averager is not None:
            self.averager.join(int(self.board.progress[:, UPDATES].max()))
