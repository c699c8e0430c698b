"""The page of a run says what its directory says, on one file, and replaces nothing that it has not written."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from gala import cli
from gala.config.parse import parse_config
from gala.reports.charts import BOTTOM, HEIGHT, LEFT, MOST_POINTS, RIGHT, TOP, WIDTH, Line, chart, ticks
from gala.reports.run_report import with_kept
from gala.runs.evaluations import append_evaluation, evaluation_text, read_evaluations
from gala.runs.run_dir import RunDir

EVALUATION = {
    "return_mean": 481.25,
    "return_std": 12.0,
    "return_ci95": [470.5, 492.0],
    "length_mean": 481.0,
    "episodes": 30,
    "mode": "greedy",
    "checkpoint": "latest",
    "learner": "consensus",
    "env_steps": 5000,
}


def records(n=50):
    for k in range(1, n + 1):
        learner = {"charts/episodic_return": 10.0 * k, "charts/SPS": 500.0, "losses/entropy": 0.6}
        yield {
            "global_step": 100 * k,
            "charts/episodic_return": 10.0 * k if k > 3 else None,
            "charts/SPS": 1000.0,
            "losses/entropy": 0.69 - 0.01 * k,
            "losses/explained_variance": -50.0 if k == 1 else 0.5,
            "gossip/weight": 1.0,
            "gossip/weight_min": 0.5,
            "gossip/weight_max": 1.5,
            "gossip/consensus_distance": 0.1 / k,
            "gossip/relative_spread": 0.3,
            "gossip/message_age_mean": 1.0,
            "gossip/kept_rounds": 2.0 * k,
            "gossip/sent": 9.0 * k,
            "gossip/received": 8.0 * k,
            "perf/updates": 10 * k,
            "perf/simulate_share": 0.5,
            "message_ages": {"0": 3, "1": 1},
            "learner0": learner,
            "learner1": learner,
        }


@pytest.fixture
def run(tmp_path):
    words = [f"run={tmp_path / 'run'}", "learners=2", "optim.lr=0.001", "log.tensorboard=false"]
    run = RunDir.create(parse_config(words), words, overwrite=False)
    for record in records():
        assert run.append_metrics(record) == ""
    learners = [{"rank": k, "env_steps": 2500, "updates": 250, "return_mean": 500.0} for k in range(2)]
    summary = {"status": "finished", "env_steps": 5000, "frames": 5000, "updates": 500, "wall_s": 4.0}
    summary |= {"env_steps_per_s": 1300.0, "episodes": 77, "return_mean": 500.0, "learners": learners}
    run.write_summary(summary | {"time_shares": {"simulate": 0.25, "other": 0.75}})
    run.close()
    return run


def page_of(run, *words):
    assert cli.main(["report", str(run.path), *words]) == 0
    return (run.path / "report.html").read_text()


class _Links(HTMLParser):
    """What a page would fetch, and whether its tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag("meta", attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def test_the_page_is_whole_and_fetches_nothing(run):
    text = page_of(run)
    links = _Links()
    links.feed(text)
    assert links.open == [] and links.found == [] and "<script" not in text and "http" not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_the_page_says_what_the_run_says(run):
    text = html.unescape(re.sub(r"<[^>]+>", " ", page_of(run)))
    told = "In training: return 500 over the last 100 training episodes."
    assert f"{told} Not evaluated yet: gala eval RUN, RUN being this folder." in text
    assert "finished: 5,000 env_steps (5,000 frames), 500 updates in 0:04: 1,250 env_steps/s, 77 episodes." in text
    assert "! spread 0.3: the learners drift apart" in text and "✓ entropy 0.19" in text
    assert re.search(r"differs from its default\s+value\s+default\s+optim.lr\s+0.001\s+0.0007", text)
    assert re.search(r"learners\s+2\s+1\s", text)
    assert text.index("differs from its default") < text.index("settings  ") and "all 1" in text
    assert "0: 75.0%, 1: 25.0%" in text and "share of time  25.0%  75.0%" in text
    assert str(run.path) not in text.replace(f"run={run.path}", "")  # but in the command that was typed


def test_what_eval_found_is_the_headline(run):
    assert append_evaluation(run.path, EVALUATION) == ""
    assert append_evaluation(run.path, EVALUATION | {"return_mean": 490.0, "mode": "sampled"}) == ""
    with (run.path / "evaluations.jsonl").open("a") as file:
        file.write('{"return_mean": "high"}\nno json\n[1]\n')
    assert [told["mode"] for told in read_evaluations(run.path)] == ["greedy", "sampled"]
    text = page_of(run)
    assert "Evaluated: return 490 (95 % interval 470.5 to 492) over 30 sampled episodes" in text
    assert text.count(evaluation_text(EVALUATION)) == 1


def test_small_films_are_embedded_and_large_ones_linked_relatively(run, tmp_path):
    (run.path / "films").mkdir()
    (run.path / "films/step 100.mp4").write_bytes(b"small")
    (run.path / "large.mp4").write_bytes(bytes(2_000_001))
    out = tmp_path / "pages"
    out.mkdir()
    assert cli.main(["report", str(run.path), f"out={out / 'x.html'}"]) == 0
    text = (out / "x.html").read_text()
    assert 'src="data:video/mp4;base64,c21hbGw="' in text and 'src="../run/large.mp4"' in text
    assert 'href="../run/films/step%20100.mp4"' in text


def test_a_page_of_its_own_is_replaced_and_nothing_else(run, capsys):
    first = page_of(run)
    run.append_metrics({"global_step": 6000, "charts/episodic_return": 501.0})
    assert page_of(run) != first
    own = run.path / "report.html"
    own.write_text("<html>mine</html>")
    assert cli.main(["report", str(run.path)]) == 2
    assert "is no page of gala report; name another or add overwrite=true" in capsys.readouterr().err
    assert own.read_text() == "<html>mine</html>"
    assert "501" in page_of(run, "overwrite=true")
    for words, message in [
        (["out=x.pdf"], "must end in .html"),
        (["out=nowhere/x.html"], "there is no folder nowhere"),
    ]:
        assert cli.main(["report", str(run.path), *words]) == 2
        assert message in capsys.readouterr().err


def test_runs_without_records_or_a_summary(tmp_path, capsys):
    run = RunDir.create(parse_config([f"run={tmp_path / 'run'}"]), [], overwrite=False)
    run.close()
    assert cli.main(["report", str(run.path)]) == 2
    assert "has no records yet" in capsys.readouterr().err
    (run.path / "metrics.jsonl").write_text(json.dumps({"global_step": 64, "losses/entropy": None}) + "\n")
    text = page_of(run)
    assert "no episode has ended" in text and "no summary: it is still training, or was killed" in text


def test_a_page_in_the_run_does_not_keep_it_from_being_replaced(run):
    page_of(run)
    append_evaluation(run.path, EVALUATION)
    RunDir.create(run.config, ["gala"], overwrite=True).close()
    assert not (run.path / "report.html").exists() and not (run.path / "evaluations.jsonl").exists()


def points(svg, kind="first"):
    """(env_steps, value) of all points that are drawn, by the marks of the axes."""
    drawn = [
        tuple(map(float, p.split(",")))
        for pts in re.findall(rf'class="{kind}" points="([^"]+)"', svg)
        for p in pts.split()
    ]
    return np.array(drawn)


def test_curves_lie_where_their_values_say():
    steps = np.arange(1, 101) * 50.0
    values = np.sin(steps / 700) * 3 + 7
    svg = chart("x", [Line("", list(zip(steps, values, strict=True)))])
    drawn = points(svg)
    np.testing.assert_allclose((drawn[:, 0] - LEFT) / (WIDTH - LEFT - RIGHT) * steps[-1], steps, atol=1.0)
    margin = 0.05 * (values.max() - values.min())
    low, high = values.min() - margin, values.max() + margin
    read = high - (drawn[:, 1] - TOP) / (HEIGHT - TOP - BOTTOM) * (high - low)
    np.testing.assert_allclose(read, values, atol=0.02)
    for y, label in re.findall(r'x="52" y="([\d.]+)" text-anchor="end">([^<]+)<', svg):  # the axis says the same
        assert high - (float(y) - 4 - TOP) / (HEIGHT - TOP - BOTTOM) * (high - low) == pytest.approx(
            float(label), abs=0.06
        )


def test_gaps_floors_and_long_curves():
    gap = chart("x", [Line("", [(1, 1.0), (2, 2.0), (3, None), (4, 3.0), (5, 4.0), (6, None), (7, 1.0)])])
    assert gap.count("<polyline") == 2 and gap.count("<circle") == 1
    assert chart("x", [Line("", [(1, None)])]) == "" and chart("x", []) == ""
    wild = chart("x", [Line("", [(1, -1e9), (2, 0.5), (3, 1.0)])], floor=-1.0)
    assert "drawn there" in wild and points(wild)[:, 1].max() <= HEIGHT - BOTTOM
    flat = points(chart("x", [Line("", [(1, 5.0), (2, 5.0)])]))
    assert len(set(flat[:, 1])) == 1 and np.isfinite(flat).all()
    for n in (MOST_POINTS, MOST_POINTS + 1, 10 * MOST_POINTS + 7):
        drawn = points(chart("x", [Line("", [(k, float(k % 7)) for k in range(1, n + 1)])]))
        assert len(drawn) <= MOST_POINTS + 1 and drawn[-1, 0] == WIDTH - RIGHT


def test_ticks_are_round_and_inside():
    rng = np.random.default_rng(0)
    for _ in range(300):
        low = rng.normal() * 10.0 ** rng.integers(-4, 7)
        high = low + abs(rng.normal()) * 10.0 ** rng.integers(-4, 7) + 1e-4
        found = ticks(low, high)
        steps = np.diff(found)
        slack = 1e-6 * (high - low)
        assert 2 <= len(found) <= 8 and low - slack <= found[0] and found[-1] <= high + slack
        leading = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-9)
        assert min(abs(leading - k) for k in (1, 2, 5, 10)) < 1e-3


def test_kept_rounds_are_those_since_the_record_before():
    told = with_kept(
        [{"gossip/kept_rounds": 4.0, "perf/updates": 8}, {}, {"gossip/kept_rounds": 5.0, "perf/updates": 18}]
    )
    assert [record.get("kept") for record in told] == [0.5, None, 0.1]
