"""Learners that take long to save: what becomes of the checkpoint, of them, and of the word that the run is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gala.config.schema import Config, GossipConfig, LogConfig
from gala.processes.fleet import Event
from gala.runs.run_dir import RunDir
from gala.training.board import CHECKPOINT_AT, UPDATES, Board
from gala.training.common_checkpoint import STAGING, CommonCheckpoint
from gala.training.protocol import LearnerStates


class Team:
    """A parent and its learners, second by second; ``told`` has the commands that each learner has not read yet."""

    def __init__(self, path, config, updates=0):
        self.run = RunDir(path, config)
        self.states, self.told = LearnerStates(), [[] for _ in range(config.learners)]
        self.board = Board.create(config.learners, 1, 1)
        self.board.progress[:] = updates
        fleet = SimpleNamespace(tell=lambda rank, command: self.told[rank].append(command))
        mailboxes = SimpleNamespace(weights=lambda ranks: [[1.0] * len(ranks)])
        self.now = 1000.0
        self.checkpoint = CommonCheckpoint(config, self.run, self.board, fleet, mailboxes, self.states, 0)
        for rank in range(config.learners):
            self.states.move(rank, "running")

    def pass_s(self, seconds, silent=()):
        over = False
        for _ in range(seconds):
            self.now += 1.0
            over = over or self.checkpoint.advance(self.now, silent)
        return over

    def say(self, rank, kind, body=None):
        self.checkpoint.hear(Event(rank, kind, body))

    def rest(self, *ranks, kind="paused"):
        for rank in ranks:
            self.told[rank].clear()
            self.say(rank, kind, int(self.board.control[CHECKPOINT_AT]))
        self.pass_s(1)

    def save(self, *ranks):
        for rank in ranks:
            self.told[rank].remove("save")
            self.run.write_part(STAGING, f"learner{rank}", {"policy": {"w": torch.zeros(1)}}, {})
            self.say(rank, "saved", "")

    @property
    def saved(self):
        return self.run.checkpoint_meta("latest")["ranks"] if self.run.checkpoints.names() else None


@pytest.fixture
def team(tmp_path):
    def make(**settings):
        updates = settings.pop("updates", 0)
        return Team(tmp_path, Config(**settings, log=LogConfig(checkpoint_interval_s=1e9, keep_milestones=0)), updates)

    return make


GALA = {"algo": "gala", "learners": 3}
LOCK_STEP = {**GALA, "gossip": GossipConfig(tau=0)}
ALONE = {"algo": "a2c", "learners": 1}


@pytest.mark.parametrize("settings", [ALONE, GALA, LOCK_STEP])
def test_the_last_state_is_waited_for_and_the_run_says_so(team, settings):
    team = team(**settings)
    everyone = range(settings["learners"])
    team.rest(*everyone, kind="finished")
    team.save(*everyone[1:])
    assert not team.pass_s(200) and team.saved is None
    assert team.checkpoint.unsaved == "learner 0 has not saved within 60 s"
    team.save(0)
    assert team.pass_s(1) and team.checkpoint.unsaved == "" and team.saved == [*everyone]


@pytest.mark.parametrize("settings", [ALONE, GALA, LOCK_STEP])
def test_a_run_whose_last_state_is_not_saved_does_not_end_as_if_it_were(team, settings):
    team = team(**settings)
    everyone = range(settings["learners"])
    team.rest(*everyone, kind="finished")
    team.save(*everyone[1:])
    assert team.pass_s(700) and "not saved within 600 s" in team.checkpoint.unsaved
    assert team.saved == ([1, 2] if settings is GALA else None), "only gossip can do without one"


def test_a_job_that_was_suspended_while_it_saved_has_not_been_late(team):
    team = team(**LOCK_STEP)
    team.checkpoint.request(["latest"])
    team.rest(0, 1, 2)
    team.now += 3600.0
    assert not team.pass_s(5) and team.checkpoint.unsaved == ""
    team.save(0, 1, 2)
    team.pass_s(1)
    assert team.saved == [0, 1, 2]


def test_after_a_suspension_nobody_is_left_out_as_silent_or_still(team):
    team = team(**GALA)
    team.pass_s(60)
    team.checkpoint.request(["latest"])
    team.rest(0)
    team.now += 3600.0
    team.pass_s(2, silent=(1, 2))  # neither could do an update
    assert team.states.of(0) == "paused" and team.checkpoint.heeded(team.now, (1, 2)) == ()
    assert not team.pass_s(31) and team.checkpoint.heeded(team.now, (1, 2)) == (1, 2), "they had the time since"
    team.board.beats += 1
    team.rest(1, 2)
    team.save(0, 1, 2)
    team.pass_s(1)
    assert team.saved == [0, 1, 2]


def test_a_late_learner_is_left_out_of_gossip_and_told_to_go_on_once(team):
    team = team(**GALA)
    team.checkpoint.request(["latest"])
    team.rest(0, 1)
    team.rest(2, kind="finished")
    team.save(0)
    team.pass_s(61)
    assert team.saved == [0] and team.checkpoint.unsaved == "the checkpoint lacks learners 1, 2: not saved within 60 s"
    assert [team.states.of(rank) for rank in range(3)] == ["running", "running", "finished"]
    assert team.told == [["resume"], ["save", "resume"], ["save", "resume"]]
    team.save(1)
    assert team.told[1] == ["resume"], "a second one would wake it when it rests the next time"
    assert not (team.run.checkpoints.root / f".{STAGING}/learner1.json").exists()


def test_an_answer_that_came_too_late_does_not_count_for_the_next_checkpoint(team):
    team = team(**GALA)
    team.rest(2, kind="finished")
    for _ in range(2):
        team.checkpoint.request(["latest"])
        for rank in (0, 1):
            team.say(rank, "paused")
        team.pass_s(1)
        team.save(0, 1)
        team.pass_s(61 if team.saved is None else 0)
    assert team.saved == [0, 1] and team.told[2].count("save") == 2
    before = (team.run.checkpoints.root / "latest").resolve()
    team.save(2)
    team.pass_s(1)
    assert (team.run.checkpoints.root / "latest").resolve() == before, "it is about to write its part once more"
    team.save(2)
    team.pass_s(1)
    assert team.saved == [0, 1, 2] and team.checkpoint.unsaved == ""


def test_on_a_slow_disk_there_are_checkpoints_of_all(team):
    team = team(**GALA)
    team.checkpoint.request(["latest"])
    team.rest(0, 1, 2)
    team.pass_s(90)
    assert team.checkpoint.unsaved == "learners 0, 1, 2 have not saved within 60 s" and team.saved is None
    team.save(1)
    team.pass_s(80)
    assert team.saved is None, "twice as long as the first"
    team.save(0, 2)
    team.pass_s(1)
    assert team.saved == [0, 1, 2] and team.checkpoint.unsaved == ""


def test_a_late_learner_in_lock_step_costs_the_checkpoint_and_nothing_else(team):
    team = team(**LOCK_STEP)
    team.checkpoint.best = 3.0
    team.checkpoint._next = 0.0  # no checkpoint was taken lately
    team.checkpoint.offer_best(5.0)
    assert team.checkpoint.best == 5.0 and team.board.control[CHECKPOINT_AT] > 0
    team.rest(0, 1, 2)
    team.save(0, 1)
    team.pass_s(500)
    assert team.saved is None and team.checkpoint.unsaved == "learner 2 has not saved within 60 s"
    assert team.states.ranks("saved") == [0, 1], "else they would wait for its messages, and give up the run"
    team.pass_s(101)
    assert team.saved is None and team.checkpoint.unsaved == "learner 2 has not saved within 600 s"
    assert team.checkpoint.best == 3.0 and team.board.control[CHECKPOINT_AT] == 0
    assert team.states.ranks("running") == [0, 1, 2]
    team.save(2)
    assert team.told == [["resume"]] * 3
    team.checkpoint.request(["latest"])
    team.rest(0, 1, 2)
    team.save(0, 1, 2)
    team.pass_s(1)
    assert team.saved == [0, 1, 2] and team.checkpoint.unsaved == ""


def test_a_learner_that_exchanges_nothing_is_in_every_checkpoint(team):
    """Nobody else knows what it has learned."""
    team = team(algo="independent", learners=2)
    team.checkpoint.request(["latest"])
    team.rest(0)
    team.pass_s(100)
    assert team.saved is None and team.states.of(0) == "paused"
    team.rest(1)
    team.save(0)
    team.pass_s(100)
    assert team.saved is None and team.checkpoint.unsaved == "learner 1 has not saved within 60 s"


def test_a_learner_that_hangs_after_its_first_updates_is_not_waited_for_ever(team):
    team = team(**GALA)
    team.pass_s(11)
    team.board.progress[:, UPDATES] += 2  # one in five seconds
    team.checkpoint.request(["latest"])
    team.rest(0, 1)
    team.pass_s(25)
    assert team.states.of(0) == "saving"


@pytest.mark.parametrize("before", [0, 1_000_000])
def test_how_far_ahead_an_update_lies_is_a_matter_of_this_part_of_the_run(team, before):
    team = team(**LOCK_STEP, updates=before)
    team.pass_s(101)  # the first look starts the clock
    team.board.progress[:, UPDATES] += 1000
    assert team.checkpoint.update_ahead() == before + 1000 + 20, "two seconds at ten a second"


def test_after_a_resume_a_learner_that_hangs_is_left_out_as_soon_as_before(team):
    def left_out_after_s(before):
        hung = team(**GALA, updates=before)
        hung.pass_s(101)
        hung.board.progress[:, UPDATES] += 50  # half a one a second: four take eight seconds
        hung.checkpoint.request(["latest"])
        hung.rest(0, 1)
        return next(s for s in range(100) if hung.pass_s(1) or hung.states.of(0) == "saving")

    assert left_out_after_s(0) == left_out_after_s(1_000_000) in range(6, 12)


def test_who_was_left_out_is_not_waited_for_again_until_it_moves(team):
    team = team(**GALA)
    team.pass_s(11)
    team.board.progress[:, UPDATES] += 100

    def take(moves, seconds):
        """Ranks that are told to save within ``seconds``, of a checkpoint for which 0 and 1 rest at once."""
        team.checkpoint.request(["latest"])
        team.rest(0, 1)
        for _ in range(seconds):
            team.board.beats[2] += moves
            team.pass_s(1)
        saving = team.states.ranks("saving")
        team.save(*saving)
        team.pass_s(5 if saving else 0)
        for rank in saving:
            team.told[rank].clear()
        return saving

    assert take(moves=0, seconds=9) == [0, 1], "after three seconds, or the time of four updates"
    assert take(moves=0, seconds=1) == [0, 1], "at once: a host that is cut off for long would hold up every checkpoint"
    team.board.beats[2] += 1
    assert take(moves=1, seconds=9) == []
    team.rest(2)
    assert team.states.ranks("saving") == [0, 1, 2]


def test_one_that_heard_too_late_when_to_pause_holds_nobody_up(team):
    """It waits for the others in the midst of the next update, and they for it at rest."""
    team = team(**LOCK_STEP)
    team.board.progress[:, UPDATES] += 1000
    team.pass_s(11)
    team.checkpoint.request(["latest"])
    first = int(team.board.control[CHECKPOINT_AT])
    team.board.progress[:, UPDATES] = first
    team.rest(0, 1)
    team.pass_s(2)
    assert team.states.ranks("paused") == [0, 1], "the third may be about to say that it rests"
    team.pass_s(3)
    assert team.told[:2] == [["resume"], ["resume"]] and team.states.ranks("running") == [0, 1, 2]
    second = int(team.board.control[CHECKPOINT_AT])
    assert second - first > 1.5 * (first - 1000), "with twice the margin, at a rate that suffered meanwhile"
    team.say(2, "missed", first)
    assert team.board.control[CHECKPOINT_AT] == second, "which it says once it can"
    team.rest(0, 1, 2)
    team.save(0, 1, 2)
    team.pass_s(1)
    assert team.saved == [0, 1, 2]
