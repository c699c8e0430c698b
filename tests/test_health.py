"""What is marked as unhealthy: each threshold on both sides, one home for all who show it, and figures that add up."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gala.config.schema import Config
from gala.runs.health import THRESHOLDS, health
from gala.runs.units import whole_percents
from gala.training.board import Board
from gala.training.panel import Panel, closing_record, time_shares
from gala.training.telemetry import Telemetry, closing_lines

WELL = {
    "global_step": 1000,
    "gossip/weight": 1.0,
    "gossip/relative_spread": 0.01,
    "gossip/message_age_mean": 1.0,
    "gossip/weight_min": 0.5,
    "gossip/weight_max": 1.5,
    "gossip/quiet_rounds": 3.0,
    "gossip/kept_rounds": 10.0,
    "perf/updates": 1000,
    "losses/entropy": 0.6,
    "losses/explained_variance": 0.4,
}
BAD = {
    "spread": ("gossip/relative_spread", 0.051),
    "age": ("gossip/message_age_mean", 10.5),
    "least weight": ("gossip/weight_min", 0.1),
    "most weight": ("gossip/weight_max", 5.1),
    "quiet rounds": ("gossip/quiet_rounds", 100.0),
    "kept rounds": ("gossip/kept_rounds", 501.0),
    "entropy": ("losses/entropy", 0.019),
    "explained variance": ("losses/explained_variance", 0.0),
}


def sick(record):
    return [finding.name for finding in health(record) if not finding.healthy]


@pytest.mark.parametrize("name", BAD)
def test_each_quantity_alone_is_marked_with_a_reason(name):
    assert sick(WELL) == [] and len(health(WELL)) == len(BAD)
    tag, value = BAD[name]
    record = WELL | {tag: value}
    assert sick(record) == [name]
    (found,) = [finding for finding in health(record) if not finding.healthy]
    good = next(finding for finding in health(WELL) if finding.name == name)
    assert found.why and found.why != good.why and len(f"! {found.line()}") <= 76


def test_what_is_missing_or_no_number_is_not_judged():
    assert health({"global_step": 5}) == []
    assert sick(dict.fromkeys(WELL) | {"losses/entropy": float("nan")}) == []
    assert sick({"losses/explained_variance": float("-inf")}) == ["explained variance"]


def test_continuous_actions_are_judged_by_clipping_and_not_by_an_entropy_that_may_be_negative():
    record = {"losses/entropy": -3.0, "charts/clipped_actions": 0.2}
    assert sick(record) == []
    assert sick(record | {"charts/clipped_actions": 0.51}) == ["clipped actions"]


def test_learners_that_are_not_meant_to_stay_together_have_no_spread():
    alone = {"gossip/relative_spread": 0.9, "losses/explained_variance": 0.5}
    assert sick(alone) == [] and sick(alone | {"gossip/weight": 1.0}) == ["spread"]


def test_values_of_the_first_updates_are_not_judged():
    assert sick({"losses/explained_variance": -1.0, "perf/updates": 100}) == ["explained variance"]
    assert sick({"losses/explained_variance": -1.0, "perf/updates": 4}) == []


def test_thresholds_have_one_home():
    sources = [path.read_text() for path in (Path(__file__).parent.parent / "gala").rglob("*.py")]
    (home,) = [text for text in sources if "THRESHOLDS: dict" in text]
    assert all(f'_T["{name}"]' in home for name in THRESHOLDS)


def test_whole_percents_add_up_to_100_and_each_is_within_one_of_its_share():
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 5, 8):
        for shares in rng.dirichlet(np.ones(size), 200):
            named = {str(i): float(x) for i, x in enumerate(shares)}
            whole = whole_percents(named)
            assert sum(whole.values()) == 100
            assert all(abs(whole[name] - 100 * share) < 1 for name, share in named.items())
    assert whole_percents({"a": 0.0}) == {"a": 0} and whole_percents({"a": 1.0, "b": 1.0}) == {"a": 50, "b": 50}


def learner_record(interval_s, **seconds):
    record = {
        "returns": [],
        "lengths": [],
        "interval_s": interval_s,
        "interval_steps": 10,
        "env_steps": 1,
        "updates": 1,
    }
    return record | {f"{stage}_s": seconds.get(stage, 0.0) for stage in ("simulate", "act", "learn", "gossip")}


def test_shares_of_the_whole_run_count_each_interval_by_its_length():
    telemetry = Telemetry(2, 1)
    assert telemetry.time_shares() == {}
    first = telemetry.add(0, learner_record(1.0, simulate=1.0))
    telemetry.add(1, learner_record(3.0, learn=1.5, gossip=0.3))
    assert first["perf/simulate_share"] == 1.0 and first["perf/other_share"] == 0.0
    expected = {"simulate": 0.25, "act": 0.0, "learn": 0.375, "gossip": 0.075, "other": 0.3}
    assert telemetry.time_shares() == pytest.approx(expected)
    resumed = Telemetry(2, 1)
    resumed.load_state(json.loads(json.dumps(telemetry.state())))
    assert resumed.time_shares() == pytest.approx(expected)


def test_the_spread_is_told_as_a_share_of_the_mean_of_the_parameters():
    board = Board.create(2, 2, 0)
    telemetry = Telemetry(2, 1)
    assert "gossip/relative_spread" not in telemetry.record(board, [0, 1])  # nothing is published: a mean of zero
    for rank, row in enumerate(([3.0, 4.0], [3.0, 2.0])):
        board.publish_params(rank, np.array(row, np.float32), 1.0)
    record = telemetry.record(board, [0, 1])
    assert record["gossip/relative_spread"] == pytest.approx(1.0 / 18**0.5)  # 1 from (3, 3) each
    board.close()


SUMMARY = {
    "status": "finished",
    "env_steps": 200_064,
    "frames": 800_256,
    "updates": 2_501,
    "wall_s": 12.5,
    "env_steps_per_s": 20_000.0,
    "return_mean": 480.0,
    "time_shares": {"simulate": 0.333, "act": 0.333, "learn": 0.3339, "gossip": 0.0001, "other": 0.0},
    "learners": [
        {"rank": 0, "env_steps": 150_064, "updates": 1_000, "return_mean": 490.0},
        {"rank": 1, "env_steps": 50_000, "updates": 1_501, "return_mean": 470.0},
    ],
}


def final_panel(record, summary):
    out = io.StringIO()
    panel = Panel(Config(), 200_000, "on", Console(width=80, file=out, force_terminal=True, color_system=None))
    panel.update(record)
    panel.close(summary)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    return text[text.rindex("╭") :]


def test_the_final_panel_adds_up():
    last = WELL | {"charts/SPS": 3.0, "perf/wall_s": 12.4, "perf/simulate_share": 0.9, "charts/episodic_return": 1.0}
    last |= {f"learner{k}": {"charts/SPS": 1.0, "losses/entropy": 0.5} for k in range(2)}
    text = final_panel(last, SUMMARY)
    assert max(map(len, text.splitlines())) <= 80
    steps = int(re.search(r"([\d,]+) steps", text)[1].replace(",", ""))
    wall_s = float(re.search(r"wall ([\d.]+) s", text)[1])
    rate = float(re.search(r"steps/s ([\d,]+)", text)[1].replace(",", ""))
    assert steps == 200_064 and rate == round(steps / wall_s)
    shares = [int(x) for x in re.findall(r"(?:simulate|act|learn|gossip|other) (\d+)%", text)]
    assert len(shares) == 5 and sum(shares) == 100
    rows = re.findall(r"│ +([01]) +(\d+) +([\d,]+) ", text)
    assert [row[:2] for row in rows] == [("0", "490"), ("1", "470")]
    assert abs(sum(int(row[2].replace(",", "")) for row in rows) - rate) <= 1
    assert "finished" in text and "ETA" not in text and "return (last 100) 480" in text
    assert "fine: spread, age" in text and "!" not in text
    assert "! explained variance -1: values predict no better" in final_panel(
        last | {"losses/explained_variance": -1.0}, SUMMARY
    )


def test_an_older_summary_without_shares_keeps_those_of_the_last_record():
    older = {key: value for key, value in SUMMARY.items() if key != "time_shares"}
    closing = closing_record(WELL | {"perf/simulate_share": 0.75, "perf/learn_share": 0.2}, older)
    assert time_shares(closing) == {"simulate": 75, "learn": 20, "other": 5}
    assert time_shares({}) == {}


def test_the_closing_lines_add_up_and_fit():
    lines = closing_lines(SUMMARY, "runs/x", SUMMARY["env_steps"])
    assert "200,064 env_steps, 2,501 updates in 12.5 s" in lines
    assert "20,000 env_steps/s (from the second tenth of the run on)" in lines
    short = closing_lines(SUMMARY | {"env_steps_per_s": 0.0}, "runs/x", SUMMARY["env_steps"])
    assert "16,005 env_steps/s, its start included" in short
    assert max(map(len, lines)) <= 80


def test_the_closing_lines_count_episodes_and_name_what_there_is():
    few = closing_lines(SUMMARY | {"episodes": 40, "return_mean": 2.0}, "my runs/x", 5, tensorboard=False)
    assert few[0] == "finished: return 2.00 over all 40 episodes"
    assert "evaluate  gala eval 'my runs/x'" in few and few[-1] == "curves    gala plot 'my runs/x' returns"
    none = closing_lines(SUMMARY | {"return_mean": None}, "runs/x", 5, tensorboard=False)
    assert none[0] == "finished: no episode ended" and not any("plot" in line for line in none)
    many = closing_lines(SUMMARY | {"episodes": 100, "return_mean": 2.0}, "runs/x", 5)
    assert many[0].startswith("finished: return 2.00 over the last 100 episodes")
    assert many[-1] == "curves    tensorboard --logdir runs/x"


def test_the_end_says_what_was_not_saved_and_how_to_go_on():
    killed = SUMMARY | {"status": "interrupted", "env_steps": 5000}
    lines = closing_lines(killed, "runs/x", 1200)
    assert "not saved: the last 3,800 env_steps; there is a checkpoint at 1,200" in lines
    assert "go on     gala resume runs/x" in lines and "evaluate  gala eval runs/x" in lines
    lines = closing_lines(killed, "runs/x", None)
    assert "not saved: nothing of it, there is no checkpoint" in lines and not any("gala eval" in x for x in lines)
    assert not any("not saved" in x or "resume" in x for x in closing_lines(SUMMARY, "runs/x", SUMMARY["env_steps"]))
    assert all(len(x) <= 80 for x in lines)
