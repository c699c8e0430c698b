import io
import re

import pytest
from rich.console import Console

from gala.config.schema import Config, EnvConfig
from gala.training.panel import Eta, Panel, clock, short

TAGS = {
    "charts/episodic_return": -17.25,
    "charts/episodic_length": 1234.5,
    "charts/SPS": 1845.2,
    "charts/frames_per_s": 7380.9,
    "charts/learning_rate": 6.9e-4,
    "losses/policy_loss": -0.0123,
    "losses/value_loss": float("nan"),
    "losses/entropy": 1.6,
    "losses/explained_variance": float("-inf"),
    "losses/grad_norm": 123456789.0,
    "gossip/consensus_distance": 0.031,
    "gossip/message_age_mean": 1.5,
    "gossip/message_age_max": 7,
    "gossip/weight": 0.25,
    "gossip/weight_min": 0.25,
    "gossip/weight_max": 1.8765,
    "gossip/bytes_per_s": 12_345_678.9,
    "gossip/bytes_sent": 9.87e11,
    "gossip/epsilon_bound": 0.123456,
    "perf/simulate_share": 0.31,
    "perf/act_share": 0.2,
    "perf/learn_share": 0.45,
    "perf/gossip_share": 0.02,
    "perf/updates": 123_456,
    "perf/wall_s": 3725.0,
}
AGES = {"0": 10, "1": 20, "2-3": 30, "4-7": 20, "8-15": 15, "1024-2047": 5}


def record(step, learners=4):
    return {
        "global_step": step,
        "message_ages": AGES,
        **TAGS,
        **{f"learner{i}": {**TAGS, "charts/SPS": 100.0 + i} for i in range(learners)},
    }


def show(records, learners=4, terminal=True, mode="auto", width=80):
    out = io.StringIO()
    console = Console(width=width, file=out, force_terminal=terminal, color_system="standard" if terminal else None)
    config = Config(env=EnvConfig(id="MinAtar/SpaceInvaders-v1"), learners=learners)
    panel = Panel(config, 10_000_000, mode, console)
    for r in records:
        panel.update(r)
    panel.message("a checkpoint was saved")
    panel.close()
    panel.close()
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("learners", [1, 2, 4, 100])
def test_the_live_panel_fits_its_columns_and_shows_what_matters(learners, width):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show([record(3_250_000, learners)], learners, width=width))
    lines = text.splitlines()
    assert max(map(len, lines)) <= min(80, width) and len(lines) < 90
    unwrapped = " ".join(text.replace("│\n│", "").split())
    for word in (
        "-17.2",
        "1,845",
        "7,381",
        "simulate 31%",
        "gossip 2%",
        "message age 1.5",
        "consensus dist. 0.031",
        "epsilon bound 0.123",
        "weight 0.25 to 1.9",
        "gossip 12.3 MB/s",
        "sent 987 GB",
        "message ages: 0 10%  1 20%  2-3 30%  4-7 20%  8 or more 20%",
        "32%",
    ):
        assert " ".join(word.split()) in unwrapped, (word, text)
    assert "a checkpoint was saved" in text
    assert "…" not in text  # nothing had to be cut off
    for rank in range(learners if 1 < learners < 9 else 0):
        assert re.search(rf"│ +{rank} +-17.2 +10{rank} ", text)
    if learners == 100:
        assert "and 92 more" in text


@pytest.mark.parametrize("width", [40, 50])
def test_a_narrow_panel_cuts_off_names_before_numbers(width):
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show([record(3_250_000, 4)], 4, width=width))
    assert max(map(len, text.splitlines())) <= width
    for number in ("-17.2", "1,845", "7,381", "0.031", "0.123", "0.25 to 1.9", "12.3 MB/s", "987 GB"):
        assert number in text, (number, text)
    for rank in range(4):
        assert re.search(rf"│ +{rank} +-17.2 +10{rank} ", text)


def test_a_log_gets_plain_lines_and_few_of_them():
    text = show([record(step) for step in range(0, 9_000_000, 1_000_000)] + [record(10_000_000)], terminal=False)
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert len(lines) == 3  # the first record, the last one, the message
    assert lines[0].startswith("step 0/10,000,000 (0%) | return -17.2 | 1,845 steps/s | loss -0.0123 nan")
    assert "age 1.5 | spread 0.031 | ETA" in lines[0]
    assert lines[1].startswith("step 10,000,000/10,000,000 (100%)")


def test_a_first_record_without_episodes_is_shown():
    assert "return -" in show([{"global_step": 0}], terminal=False)
    assert "return (last 100) -" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show([{"global_step": 0}]))


def test_off_means_plain_even_on_a_terminal():
    assert "\x1b" not in show([record(5)], mode="off")


@pytest.mark.parametrize("mode", ["off", "on"])
def test_what_an_environment_raises_moves_no_cursor(mode):
    console = Console(file=io.StringIO(), width=80)
    panel = Panel(Config(env=EnvConfig(id="CartPole-v1")), 100, mode, console)
    panel.message("learner 0 failed\n\tValueError: \x1b[2J\x9b2J\r gone\x07")
    panel.close()
    said = console.file.getvalue()
    assert r"ValueError: \x1b[2J\x9b2J\r gone\x07" in said and "learner 0 failed\n" in said


def test_eta_is_the_remaining_steps_over_the_rate(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gala.training.panel.time.monotonic", lambda: now[0])
    eta = Eta(10_000)
    assert eta.seconds() is None
    for step in range(0, 4001, 500):  # 500 steps in 2 s: 250 per second
        eta.update(step)
        now[0] += 2.0
    assert eta.seconds() == pytest.approx(6000 / 250)


def test_numbers_for_people():
    assert [clock(s) for s in (None, 5, 65, 3725, 1e12)] == ["--:--", "0:05", "1:05", "1:02:05", "--:--"]
    assert [short(x) for x in (999, 1234, 3_250_000, 10_000_000)] == ["999", "1.23k", "3.25M", "10M"]


def test_without_gossip_the_panel_says_nothing_of_it():
    plain = {key: value for key, value in record(5).items() if "gossip" not in key and key != "message_ages"}
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show([plain]))
    assert "message age" not in text and "weight -" not in text and "gossip -" not in text
    assert "wall 1:02:05" in text
