import json
import time

import numpy as np
import pytest

from gala.training.board import ENV_STEPS, UPDATES, Board
from gala.training.telemetry import EPISODE_WINDOW, Telemetry, rms_consensus_distance


def learner_record(returns, **changes):
    record = {"returns": returns, "lengths": [10 * int(r) for r in returns], "interval_s": 2.0, "interval_steps": 300}
    record |= {"env_steps": 900, "updates": 9, "simulate_s": 1.0, "act_s": 0.5, "learn_s": 0.25, "gossip_s": 0.05}
    return record | {"losses/entropy": 0.5, "gossip/weight": 1.0, "gossip/message_age_max": 3.0} | changes


@pytest.fixture
def board():
    board = Board.create(2, 3, 0)
    yield board
    board.close()


def test_a_learners_record_becomes_rates_and_shares_of_its_interval():
    tags = Telemetry(2, 4).add(0, learner_record([1.0, 3.0]))
    assert tags["charts/SPS"] == 150.0
    assert [tags[f"perf/{stage}_share"] for stage in ("simulate", "act", "learn", "gossip")] == [
        0.5,
        0.25,
        0.125,
        0.025,
    ]
    assert tags["charts/episodic_return"] == 2.0 and (tags["env_steps"], tags["updates"]) == (900, 9)


def test_a_last_record_after_which_only_the_checkpoint_was_written_keeps_the_rate(board):
    """Before, a run's curve of its rate ended with a fall to 0."""
    telemetry = Telemetry(2, 4)
    board.progress[0] = (300, 3)
    rate = telemetry.record(board, (0, 1))["charts/SPS"]
    last = telemetry.record(board, (0, 1), over=True)
    assert last["charts/SPS"] == rate > 0 and last["charts/frames_per_s"] == 4 * rate
    assert telemetry.record(board, (0, 1))["charts/SPS"] == 0.0, "learners that stand still are told from a last record"
    board.progress[0] = (600, 6)
    assert telemetry.record(board, (0, 1), over=True)["charts/SPS"] > 0


def test_what_learners_have_counted_stays_counted_when_they_are_gone(board):
    telemetry = Telemetry(2, 4)
    for rank, sent in enumerate((30.0, 12.0)):
        telemetry.add(rank, learner_record([1.0], **{"gossip/sent": sent, "gossip/full_peers": 1.0}))
    assert telemetry.record(board, (0, 1))["gossip/sent"] == 42.0
    telemetry.forget(1)
    assert telemetry.record(board, (0,))["gossip/sent"] == 42.0
    resumed = Telemetry(2, 4)
    resumed.load_state(json.loads(json.dumps(telemetry.state())))
    resumed.add(0, learner_record([1.0], **{"gossip/sent": 31.0, "gossip/full_peers": 1.0}))
    resumed.add(1, learner_record([1.0], **{"gossip/sent": 2.0, "gossip/full_peers": 0.0}))  # restarted
    record = resumed.record(board, (0, 1))
    assert (record["gossip/sent"], record["gossip/full_peers"]) == (45.0, 2.0)


def test_the_window_is_the_last_hundred_episodes_of_each_learner():
    telemetry, history = Telemetry(2, 4), ([], [])
    for i in range(12):
        returns = [float(i), float(-i), float(i * i)][: 1 + i % 3] * 17
        tags = telemetry.add(i % 2, learner_record(returns))
        history[i % 2].extend(returns)
        last = history[i % 2][-EPISODE_WINDOW:]
        assert tags["charts/episodic_return"] == pytest.approx(sum(last) / len(last))
    assert min(map(len, history)) > EPISODE_WINDOW


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_the_return_of_the_run_is_the_mean_of_its_learners_whoever_reports_last_or_most(order):
    board, telemetry = Board.create(4, 3, 0), Telemetry(4, 1)
    board.progress[:] = 1
    for rank in order:
        telemetry.add(rank, learner_record([[10.0, 20.0, 30.0, 0.0][rank]] * (150 - 40 * rank)))
    record, summary = telemetry.record(board, range(4)), telemetry.summary(board)
    assert record["charts/episodic_return"] == summary["return_mean"] == 15.0
    assert record["charts/episodic_length"] == 150.0 and summary["episodes"] == 150 + 110 + 70 + 30
    assert [learner["return_mean"] for learner in summary["learners"]] == [10.0, 20.0, 30.0, 0.0]
    telemetry.forget(3)
    assert telemetry.record(board, range(3))["charts/episodic_return"] == 20.0, "who is gone counts no more"
    for rank in range(3):
        telemetry.forget(rank)
    assert telemetry.summary(board)["return_mean"] == 15.0, "a run that has lost all its learners had a return"
    board.close()


def test_the_record_of_the_run_sums_means_and_finds_extremes(board):
    telemetry = Telemetry(2, 4, start_steps=1000)
    telemetry.add(0, learner_record([], **{"gossip/weight": 0.25, "losses/entropy": 0.2}))
    telemetry.add(
        1, learner_record([], **{"gossip/weight": 1.75, "losses/entropy": 0.4, "gossip/message_age_max": 7.0})
    )
    board.progress[:, ENV_STEPS], board.progress[:, UPDATES] = (900, 500), (9, 5)
    board.publish_params(0, np.array([1.0, 2.0, 3.0], np.float32), 1.0)
    board.publish_params(1, np.array([3.0, 2.0, -1.0], np.float32), 1.0)
    before = time.monotonic()
    r = telemetry.record(board, range(board.handle.num_learners))
    slow, fast = 400 / (before - telemetry.started), 400 / (before - telemetry.started + 1.0)
    assert fast < r["charts/SPS"] <= slow and r["charts/frames_per_s"] == 4 * r["charts/SPS"]
    assert (r["global_step"], r["frames"], r["perf/updates"]) == (1400, 5600, 14)
    assert (r["gossip/weight"], r["gossip/weight_min"], r["gossip/weight_max"]) == (1.0, 0.25, 1.75)
    assert r["losses/entropy"] == pytest.approx(0.3) and r["gossip/message_age_max"] == 7.0
    assert r["gossip/consensus_distance"] == pytest.approx(5**0.5)  # both are (1, 0, 2) from the mean (2, 2, 1)
    assert "charts/episodic_return" not in r and r["learner1"]["gossip/weight"] == 1.75
    assert telemetry.record(board, range(board.handle.num_learners))["charts/SPS"] == 0.0  # nothing moved since


def test_the_steady_rate_leaves_out_the_first_tenth(board):
    telemetry = Telemetry(2, 1)
    assert telemetry.steady_rate() == 0.0
    telemetry._steady = [(float(t), 10 * t if t < 4 else 40 + 100 * (t - 4)) for t in range(41)]  # slow at first
    assert telemetry.steady_rate() == 100.0
    assert telemetry.summary(board)["env_steps_per_s"] == 100.0


def test_a_run_in_two_parts_has_the_rate_of_the_whole(board, monkeypatch):
    """100 a second, after ten slow seconds; the second part starts after a night, and is short."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    telemetry, rates = Telemetry(2, 1), []
    for second in range(1, 1001):
        if second == 990:
            state = json.loads(json.dumps(telemetry.state()))
            now[0] += 40_000.0
            telemetry = Telemetry(2, 1, board.total_env_steps())
            telemetry.load_state(state)
        now[0] += 1.0
        board.progress[:, ENV_STEPS] += 5 if second < 10 else 50
        telemetry.record(board, [0])
        rates.append(telemetry.steady_rate())
    assert rates[-1] == pytest.approx(100.0) and len(json.dumps(state["steady"])) < 10_000


def test_the_consensus_distance_is_that_of_a_dense_projection():
    rng = np.random.default_rng(0)
    params = rng.normal(size=(5, 40)).astype(np.float32)
    off_mean = (np.eye(5) - np.full((5, 5), 0.2)) @ params.astype(np.float64)
    assert rms_consensus_distance(params) == pytest.approx(np.linalg.norm(off_mean, "fro") / 5**0.5, rel=1e-6)
    assert rms_consensus_distance(np.tile(params[:1], (5, 1))) == pytest.approx(0.0, abs=1e-6)


def test_bytes_are_summed_with_their_rate_and_ages_added_up(board):
    telemetry = Telemetry(2, 4)
    for sent, ages in ((1000.0, {"0": 1, "8-15": 2}), (5000.0, {"0": 3, "2-3": 1, "8-15": 4})):
        for rank in range(2):
            traffic = {"gossip/bytes_sent": sent * (1 + rank), "message_ages": ages}
            telemetry.add(rank, learner_record([], **traffic))
    r = telemetry.record(board, [0, 1])
    assert r["gossip/bytes_sent"] == 15_000.0
    assert r["gossip/bytes_per_s"] == (4000 + 8000) / 2.0  # of intervals of two seconds
    assert list(r["message_ages"].items()) == [("0", 6), ("2-3", 2), ("8-15", 8)]


def test_bound_and_distance_are_of_the_same_published_parameters(board):
    """Rank 1 publishes again before the record is made: its newest parameters count once their log is here."""
    telemetry = Telemetry(2, 4)
    start = np.zeros(3, np.float32)
    for rank, row in enumerate(([3.0, 0, 0], [0, 4.0, 0])):
        number = board.publish_params(rank, np.array(row, np.float32), 1.0)
        norm = float(np.linalg.norm(row - start))
        log = [("update", rank, rank, norm, 1, 1, 0), ("mark", rank, rank, 0.0, number, 1, 0)]
        telemetry.add(rank, learner_record([], events=log))
    r = telemetry.record(board, [0, 1])
    assert r["gossip/consensus_distance"] == pytest.approx(2.5)  # both are ||(3, -4)|| / 2 from their mean
    assert r["gossip/epsilon_bound"] == pytest.approx((3 + 4) / 2) and r["epsilon_marks"] == (1, 1)
    number = board.publish_params(1, np.array([9.0, 9, 9], np.float32), 1.0)
    assert telemetry.record(board, [0, 1])["gossip/consensus_distance"] == r["gossip/consensus_distance"]
    telemetry.add(1, learner_record([], events=[("update", 1, 1, 20.0, 2, 1, 0), ("mark", 1, 1, 0.0, number, 1, 0)]))
    later = telemetry.record(board, [0, 1])
    assert later["epsilon_marks"] == (1, 2)
    assert later["gossip/consensus_distance"] == pytest.approx((36 + 81 + 81) ** 0.5 / 2)


def test_a_learner_that_exchanges_nothing_is_named_once_with_the_peer_that_holds_it_up():
    telemetry = Telemetry(3, 4)
    quiet = {"gossip/quiet_rounds": 99.0, "gossip/held_up_by": 2.0}
    tags = telemetry.add(0, learner_record([], **quiet))
    assert telemetry.warnings() == [] and "gossip/held_up_by" not in tags
    telemetry.add(0, learner_record([], **quiet | {"gossip/quiet_rounds": 250.0}))
    assert telemetry.warnings() == [
        "warning: learner 0 has exchanged nothing for 250 rounds: learner 2 does not read its messages"
    ]
    assert telemetry.warnings() == []
    telemetry.add(0, learner_record([], **quiet | {"gossip/quiet_rounds": 0.0, "gossip/held_up_by": -1.0}))
    assert telemetry.warnings() == ["learner 0 exchanges again"]


def test_a_learner_that_makes_no_updates_is_named_once_and_so_is_its_return():
    telemetry = Telemetry(3, 1)
    assert telemetry.warnings([1]) == ["warning: learner 1 makes no updates; it is left out until it does"]
    assert telemetry.warnings([1]) == []
    assert telemetry.warnings([1, 2]) == ["warning: learner 2 makes no updates; it is left out until it does"]
    assert telemetry.warnings([2]) == ["learner 1 makes updates again"]
    telemetry.forget(2)
    assert telemetry.warnings([]) == [], "what has died is not back"
