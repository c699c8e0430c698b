"""From the learners' interval records to the run's, in CleanRL's tags; the x-axis is env_steps over all learners."""

from __future__ import annotations

import math
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gala.gossip.evidence.certificate import Certificate
from gala.gossip.evidence.events import consensus_distance
from gala.runs.health import THRESHOLDS
from gala.runs.run_dir import RunDir, curves_command
from gala.training.board import ENV_STEPS, UPDATES
from gala.training.protocol import BoardForRun
from gala.training.returns import EPISODE_WINDOW, EpisodeWindows

QUIET_ROUNDS = THRESHOLDS["quiet_rounds"]
"""Rounds in a row without any message, after which a person should know."""
CLIPPED_RECORDS = 30
"""Records in a row with most actions clipped, after which a person should know: a minute, or 4 s of a run's first."""
_MARKS_KEPT = 200
STAGES = ("simulate", "act", "learn", "gossip")


class Telemetry:
    """Keeps the last episodes of each learner, and the rates; makes one record per logging interval."""

    def __init__(self, num_learners: int, frames_per_step: int, start_steps: int = 0, lock_step: bool = False) -> None:
        self.frames_per_step = frames_per_step
        self.episodes = EpisodeWindows(num_learners)
        self._lock_step, self._apart = lock_step, dict[str, Any]()
        self.latest: list[dict[str, Any]] = [{} for _ in range(num_learners)]
        self.started = self._last_time = time.monotonic()
        self._last_steps, self.start_steps, self._sps = start_steps, start_steps, 0.0
        self.certificate: Certificate | None = None
        self._ages: list[dict[str, int]] = [{} for _ in range(num_learners)]
        self._steady: list[tuple[float, int]] = []  # seconds of the run, and env_steps by then
        self._held_up_by = [-1] * num_learners
        self._quiet: set[int] = set()  # who is known to exchange nothing
        self._clipped_records = 0
        self._spent_s = dict.fromkeys(("all", *STAGES), 0.0)  # of all learners together
        self._silent: set[int] = set()  # who is known to make no updates
        self._gone = dict.fromkeys(_COUNTED, 0.0)  # counted by learners that are gone

    def add(self, rank: int, record: dict[str, Any]) -> dict[str, Any]:
        """Takes in one learner's record and returns it as tags of that learner."""
        returns, lengths = record.pop("returns"), record.pop("lengths")
        self.episodes.add(rank, returns, lengths)
        interval_s = max(record.pop("interval_s"), 1e-9)
        self._ages[rank] = record.pop("message_ages", {})
        if "events" in record:
            self.certificate = self.certificate or Certificate(len(self.latest))
            self.certificate.log(rank, record.pop("events"))
        tags = {key: value for key, value in record.items() if "/" in key}
        shares = {stage: record[f"{stage}_s"] / interval_s for stage in STAGES}
        shares["other"] = max(0.0, 1.0 - sum(shares.values()))
        tags |= {f"perf/{stage}_share": share for stage, share in shares.items()}
        for stage, spent_s in {"all": interval_s, **{stage: record[f"{stage}_s"] for stage in STAGES}}.items():
            self._spent_s[stage] += spent_s
        self._held_up_by[rank] = int(tags.pop("gossip/held_up_by", -1))
        tags["charts/SPS"] = record["interval_steps"] / interval_s
        if "gossip/bytes_sent" in tags:
            before = self.latest[rank].get("gossip/bytes_sent", tags["gossip/bytes_sent"])
            tags["gossip/bytes_per_s"] = (tags["gossip/bytes_sent"] - before) / interval_s
        if (mean := self.episodes.return_of(rank)) is not None:
            tags["charts/episodic_return"] = mean
        tags |= {"env_steps": record["env_steps"], "updates": record["updates"]}
        self.latest[rank] = tags
        return tags

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on from, as JSON: the last episodes, seconds of the run, env_steps done by when."""
        wall_s, step = time.monotonic() - self.started, 1 + len(self._steady) // _MARKS_KEPT
        state = {"episodes": self.episodes.state(), "wall_s": wall_s, "spent_s": dict(self._spent_s)}
        return state | {"steady": self._steady[::step], "gone": self._gone}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.episodes.load_state(state["episodes"])
        self.started = time.monotonic() - state["wall_s"]
        self._spent_s.update(state.get("spent_s", {}))
        self._gone.update(state.get("gone", {}))
        self._steady = [(float(wall_s), int(steps)) for wall_s, steps in state.get("steady", [])]

    def forget(self, rank: int) -> None:
        """This learner is gone: its last tags are no news any more, but what it has counted stays counted."""
        for tag in _COUNTED:
            self._gone[tag] += self.latest[rank].get(tag, 0.0)
        self.latest[rank], self._ages[rank] = {}, {}
        self._silent.discard(rank)
        if self.certificate is not None:
            self.certificate.give_up(f"learner {rank} is gone")

    def warnings(self, silent: Sequence[int] = ()) -> list[str]:
        """A line for each learner that has fallen ``silent`` (makes no updates), or has begun to exchange nothing, and
        for each that is back, since the last call."""
        lines = [
            f"warning: learner {rank} makes no updates; it is left out until it does"
            for rank in silent
            if rank not in self._silent
        ]
        lines += [f"learner {rank} makes updates again" for rank in sorted(self._silent.difference(silent))]
        self._silent = set(silent)
        for rank, tags in enumerate(self.latest):
            quiet = tags.get("gossip/quiet_rounds", 0.0)
            if quiet >= QUIET_ROUNDS and rank not in self._quiet:
                self._quiet.add(rank)
                peer = self._held_up_by[rank]
                reason = f"learner {peer} does not read its messages" if peer >= 0 else "nobody takes part but it"
                lines.append(f"warning: learner {rank} has exchanged nothing for {quiet:.0f} rounds: {reason}")
            elif quiet < QUIET_ROUNDS and rank in self._quiet:
                self._quiet.remove(rank)
                lines.append(f"learner {rank} exchanges again")
        return lines + self._clipping()

    def _clipping(self) -> list[str]:
        shares = [tags["charts/clipped_actions"] for tags in self.latest if "charts/clipped_actions" in tags]
        self._clipped_records = (
            self._clipped_records + 1 if shares and np.mean(shares) > THRESHOLDS["clipped_share"] else 0
        )
        if self._clipped_records != CLIPPED_RECORDS:
            return []
        share = f"{100 * np.mean(shares):.0f} % of the actions lie outside the bounds of the action space"
        why = "much of what the policy tries is one and the same action"
        return [f"warning: {share} and are clipped: {why}; try a2c.entropy_coef=0 and model.log_std_init=-0.7"]

    def record(self, board: BoardForRun, ranks: Sequence[int], over: bool = False) -> dict[str, Any]:
        """The aggregate over all learners as it stands now; ``ranks`` are those that are there. ``over``: it is the
        last; its rate is that of the one before, where only a checkpoint was written since."""
        now, steps, scale = time.monotonic(), board.total_env_steps(), self.frames_per_step
        if not (over and steps == self._last_steps):
            self._sps = (steps - self._last_steps) / max(now - self._last_time, 1e-9)
        self._last_time, self._last_steps = now, steps
        self._steady.append((now - self.started, steps))
        record: dict[str, Any] = {"global_step": steps, "frames": steps * scale, "charts/SPS": self._sps}
        record["charts/frames_per_s"] = self._sps * scale
        if (means := self._means()) is not None:
            record["charts/episodic_return"], record["charts/episodic_length"] = means
        known = [tags for tags in self.latest if tags]
        for tag in sorted({tag for tags in known for tag in tags if "/" in tag} - set(record)):
            record[tag] = _REDUCE.get(tag, np.mean)([tags[tag] for tags in known if tag in tags])
        record |= {tag: record[tag] + gone for tag, gone in self._gone.items() if tag in record}
        record.pop("diagnose/noise_scale", None)
        if record.get("diagnose/gradient_signal", 0.0) > 0:  # a ratio of means, as in each learner
            record["diagnose/noise_scale"] = record["diagnose/gradient_noise"] / record["diagnose/gradient_signal"]
        weights = [tags["gossip/weight"] for tags in known if "gossip/weight" in tags]
        if weights:
            record |= {"gossip/weight_min": min(weights), "gossip/weight_max": max(weights)}
        record = {key: float(value) if "/" in key else value for key, value in record.items()}
        if len(ranks) > 1:
            record |= self._distance(board, ranks)
        if any(self._ages):
            record["message_ages"] = add_counts(self._ages)
        record |= {"perf/updates": int(board.progress[:, UPDATES].sum()), "perf/wall_s": now - self.started}
        record |= {f"learner{rank}": dict(tags) for rank, tags in enumerate(self.latest) if tags}
        return record

    def _distance(self, board: BoardForRun, ranks: Sequence[int]) -> dict[str, Any]:
        """How far the learners are apart, also as a share of the norm of their mean; with a certificate, that and its
        bound for the same parameters, which ``epsilon_marks`` names in the event logs of the learners. In lock-step
        after the same update, or as it was told last."""
        params, stamps = board.read_params(ranks)
        same = not (self._lock_step and np.ptp(stamps))
        told = {"gossip/consensus_distance": rms_consensus_distance(params)} if same else self._apart
        if self.certificate is not None:
            places = len(board.progress)
            for rank in range(places):
                published, number = board.read_publication(rank)
                self.certificate.publish(rank, number, torch.from_numpy(published))
            if measured := self.certificate.measure():
                scale = 1 / math.sqrt(places)
                told = {
                    "gossip/consensus_distance": scale * measured.distance,
                    "gossip/epsilon_bound": scale * measured.bound,
                    "epsilon_marks": measured.marks,
                }
        if told and (size := float(np.linalg.norm(params.mean(0)))) > 0:
            told["gossip/relative_spread"] = told["gossip/consensus_distance"] / size
        self._apart = told
        return told

    def _means(self) -> tuple[float, float] | None:
        """(return, length) of the learners that are there; at the end of a run that has lost all, of those it had."""
        there = [rank for rank, tags in enumerate(self.latest) if tags]
        return self.episodes.means(there or range(len(self.latest)))

    def steady_rate(self) -> float:
        """env_steps per second over the run without its first tenth (start-up, warm-up)."""
        marks = self._steady
        if len(marks) < 2:
            return 0.0
        begin_s = marks[-1][0] / 10
        first = next(mark for mark in marks[:-1] if mark[0] >= begin_s or mark is marks[-2])
        return (marks[-1][1] - first[1]) / max(marks[-1][0] - first[0], 1e-9)

    def time_shares(self) -> dict[str, float]:
        """What the learners' time went into since the run began, by stage; they add up to 1. Empty before anything was
        reported."""
        if not self._spent_s["all"]:
            return {}
        shares = {stage: self._spent_s[stage] / self._spent_s["all"] for stage in STAGES}
        return shares | {"other": max(0.0, 1.0 - sum(shares.values()))}

    def summary(self, board: BoardForRun) -> dict[str, Any]:
        """The closing figures of the run, in all and per learner."""
        steps = board.total_env_steps()
        learners = []
        for rank in range(len(self.latest)):
            if not board.progress[rank].any():  # a place that nobody took
                continue
            learners.append(
                {
                    "rank": rank,
                    "env_steps": int(board.progress[rank, ENV_STEPS]),
                    "updates": int(board.progress[rank, UPDATES]),
                    "return_mean": self.episodes.return_of(rank),
                }
            )
        return {
            "env_steps": steps,
            "frames": steps * self.frames_per_step,
            "updates": int(board.progress[:, UPDATES].sum()),
            "wall_s": time.monotonic() - self.started,
            "env_steps_per_s": self.steady_rate(),
            "time_shares": self.time_shares(),
            "episodes": self.episodes.count,
            "return_mean": means[0] if (means := self._means()) is not None else None,
            "learners": learners,
        }


_COUNTED = tuple(
    f"gossip/{name}"
    for name in ("sent", "received", "bytes_sent", "kept_rounds", "full_peers", "refused_puts", "taken_back")
)
"""Counters of a learner's process, which only grow."""
_REDUCE: dict[str, Any] = {"gossip/message_age_max": np.max, "gossip/quiet_rounds": np.max} | dict.fromkeys(
    (*_COUNTED, "gossip/bytes_per_s", "gossip/lost_weight"), np.sum
)
"""How the record of all learners is made from theirs; by their mean where nothing is said."""


def add_counts(each: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Histograms with labelled bins such as 0, 1, 2-3, added up, in the order of their bins."""
    total = Counter[str]()
    for counts in each:
        total.update(counts)
    return {label: total[label] for label in sorted(total, key=lambda label: int(label.split("-")[0]))}


def rms_consensus_distance(params: np.ndarray) -> float:
    """Root mean square of the learners' distances to their mean: ``||X - mean X||_F / sqrt(n)``, ``params [n, d]``."""
    return consensus_distance(torch.from_numpy(params)) / math.sqrt(len(params))


def closing_lines(summary: dict[str, Any], run: str, saved_steps: int | None, tensorboard: bool = True) -> list[str]:
    """What a person wants to know at the end of a run, and the next commands; lines of at most 80 columns.
    ``saved_steps``: env_steps of the last checkpoint; None without one. ``tensorboard``: whether it has files of it."""
    mean, steady = summary["return_mean"], summary["env_steps_per_s"]
    learned = "no episode ended" if mean is None else f"return {mean:.2f} over {_episodes(summary)}"
    named = shlex.quote(run)
    return [
        f"{summary['status']}: {learned}",
        f"{summary['env_steps']:,} env_steps, {summary['updates']:,} updates in {summary['wall_s']:.1f} s",
        f"{steady:,.0f} env_steps/s (from the second tenth of the run on)"
        if steady
        else f"{summary['env_steps'] / max(summary['wall_s'], 1e-9):,.0f} env_steps/s, its start included",
        *([_unsaved(summary["env_steps"], saved_steps)] if summary["env_steps"] > (saved_steps or 0) else []),
        f"run       {run}",
        *([f"go on     gala resume {named}"] if summary["status"] in ("interrupted", "stopped") else []),
        *([f"evaluate  gala eval {named}"] if saved_steps is not None else []),
        *([f"curves    {curves_command(run, tensorboard)}"] if tensorboard or mean is not None else []),
    ]


def _episodes(summary: dict[str, Any]) -> str:
    count = summary.get("episodes", EPISODE_WINDOW)
    if count < EPISODE_WINDOW:
        return f"all {count} episodes" if count > 1 else "its one episode"
    return f"the last {EPISODE_WINDOW} episodes"


def _unsaved(env_steps: int, saved_steps: int | None) -> str:
    if saved_steps is None:
        return "not saved: nothing of it, there is no checkpoint"
    return f"not saved: the last {env_steps - saved_steps:,} env_steps; there is a checkpoint at {saved_steps:,}"


def saved_steps(run_dir: RunDir) -> int | None:
    """env_steps of the last checkpoint; None without one."""
    try:
        return int(run_dir.checkpoint_meta("latest")["env_steps"])
    except ValueError:
        return None
