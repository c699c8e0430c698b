"""``gala needle``: a grid that goes on, limits and findings against planted ones, a page that needs no network."""

import json
import math
import re
from pathlib import Path

import pytest

from gala import cli
from gala.config.parse import parse_options
from gala.config.supervised import SupervisedConfig
from gala.experiments.needle import control, crossing, findings, limits, over_seeds
from gala.experiments.needle_grid import AXES, Axes, NeedleGrid, axes_of, cells, settings_of
from gala.optim.update import NotFinite
from gala.reports.needle import _page
from gala.supervised.comparison import alone

pytest.importorskip("sklearn")
RATIOS = (0.25, 0.0625, 0.015625)
BASE = parse_options(SupervisedConfig, ["preset=tiny/digits"])


def rows(axes, accuracy, train=lambda s: 0.9):
    """A grid as if it had been trained: ``accuracy`` and ``train`` of the settings and the seed."""
    found = []
    for cell in cells(BASE, axes):
        s = axes_of(cell.config) | {"seed": cell.seed}
        score = {"test_accuracy": accuracy(s), "train_accuracy": train(s)}
        row = {"name": cell.name, "seed": cell.seed, "axes": axes_of(cell.config), "ratio": s["tiny.ratio"], **score}
        found.append({**row, "settings": settings_of(cell.config), "object_px": 8, "oracle_accuracy": 0.98})
    return found


@pytest.mark.parametrize("limit", [0.2, 0.0625, 0.03])
def test_the_limit_is_where_the_line_in_the_logarithm_crosses(limit):
    def accuracy(ratio):
        return 0.75 + 0.1 * math.log(ratio / limit)

    assert crossing(RATIOS, [accuracy(r) for r in RATIOS]) == pytest.approx(limit, rel=1e-9)


def test_a_limit_outside_of_the_ratios_is_said_to_be_there():
    assert crossing(RATIOS, (0.9, 0.8, 0.76)) == 0 and crossing(RATIOS, (0.7, 0.9, 0.9)) == math.inf
    assert 0.0625 < crossing(RATIOS, (0.9, 0.6, 0.9)) < 0.25  # what comes back below is no better


def test_limits_move_with_data_as_planted():
    def accuracy(s):
        least = 0.1 * math.sqrt(1000 / s["tiny.train_images"]) * (1 + 0.1 * (s["seed"] - 2))
        return min(1.0, max(0.5, 0.75 + 0.2 * math.log(s["tiny.ratio"] / least)))

    found = limits(rows(Axes(ratios=(0.25, 0.1, 0.05, 0.02), poolings=("max",)), accuracy))
    by_size = {x.axes["tiny.train_images"]: x for x in found}
    assert by_size[1000].by_seed[2] == pytest.approx(0.1, rel=0.01)
    assert by_size[10000].by_seed[2] == pytest.approx(0.1 / math.sqrt(10), rel=0.01)
    assert by_size[1000].tried == (0.02, 0.25)
    low, middle, high = by_size[1000].interval
    assert low < middle < high and middle == pytest.approx((0.09 * 0.1 * 0.11) ** (1 / 3), rel=0.02)


def test_the_interval_over_seeds_is_students():
    from scipy import stats

    values = [0.61, 0.64, 0.72, 0.7]
    expected = stats.t.interval(0.95, 3, sum(values) / 4, stats.sem(values))
    assert over_seeds(values)[::2] == pytest.approx(expected, rel=1e-9)
    assert over_seeds([0.6]) == (-math.inf, 0.6, math.inf)


FULL = Axes(receptive_fields=(3, 9, 17), widths=(4, 16))


def test_planted_effects_are_found_and_absent_ones_are_not():
    def noise(s):
        return 0.002 * (s["seed"] * s["model.receptive_field"] % 5)

    def accuracy(s):
        ratio = 0.2 if s["tiny.ratio"] == 0.25 else 0.0
        data = 0.1 if s["tiny.train_images"] == 10000 else 0.0
        width = 0.05 if s["model.channels"] == 16 else 0.0
        return 0.55 + ratio + data + width + noise(s)

    def train(s):
        return 0.95 if s["model.pooling"] == "max" or s["tiny.ratio"] == 0.25 else 0.6

    found = findings(rows(FULL, accuracy, train))
    assert [f.verdict for f in found] == [
        *("reproduced", "reproduced", "reproduced", "not reproduced", "reproduced"),
    ]
    effects = [f.interval.estimate for f in found]
    assert effects == pytest.approx([0.2, 0.1, 0.05, 0.0, 0.35], abs=0.01)
    reverse = findings(rows(FULL, lambda s: 1.5 - accuracy(s), lambda s: 0.9))
    assert [f.verdict for f in reverse] == ["not reproduced"] * 5


def test_the_longest_trainings_decide():
    def accuracy(s):
        more = s["tiny.train_images"] == 10000
        return 0.9 if more == (s["iterations"] == 600) else 0.7

    found = findings(rows(Axes(updates=(60, 600)), accuracy))
    assert found[1].interval.estimate == pytest.approx(0.2) and found[1].verdict == "reproduced"


def test_one_seed_chance_and_axes_of_one_value_decide_nothing():
    one = findings(rows(Axes(seeds=(1,), poolings=("max",)), lambda s: 0.5 + s["tiny.ratio"]))
    assert [f.verdict for f in one] == ["undecided", "undecided", *["not asked"] * 3]
    assert {f.verdict for f in findings(rows(FULL, lambda s: 0.5))} == {"undecided"}
    shuffled = rows(Axes(), lambda s: 0.51 if s["tiny.permuted_labels"] else 0.9)
    assert (
        control(shuffled).estimate == pytest.approx(0.51) and control(rows(Axes(control=False), lambda s: 0.9)) is None
    )


def test_a_grid_that_was_cut_off_goes_on(tmp_path):
    planned, trained = cells(BASE, Axes(train_sizes=(100,), seeds=(1, 2))), []
    assert len(planned) == len({cell.name for cell in planned}) == 2 * (3 * 2 + 1)
    assert [cell.seed for cell in planned[:6]] == [1] * 6 and all(cell.config.seeds == (cell.seed,) for cell in planned)

    def fails(cell, why):
        raise AssertionError(f"{cell.name}: {why}")

    def train(config):
        if len(trained) == 5:
            trained.append("cut off")
            raise KeyboardInterrupt
        trained.append(config)
        return {"ratio": config.tiny.ratio, "test_accuracy": 0.5, "train_accuracy": 0.5}

    grid, said = NeedleGrid(planned, tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        grid.run(train, lambda *told: said.append(told), fails)
    assert len(grid.rows()) == 5 and len(grid.left()) == 9 and said[-1][2] == 9 and said[-1][3] > 0
    grid.run(train, lambda *told: said.append(told), fails)
    assert len(trained) == 15 and [row["name"] for row in grid.rows()] == [cell.name for cell in planned]
    assert said[-1][2:] == (0, pytest.approx(0.0, abs=1e-6))
    NeedleGrid(cells(BASE, Axes(widths=(8,))), tmp_path).check()
    other = parse_options(SupervisedConfig, ["preset=tiny/digits", "optim.lr=0.1"])
    with pytest.raises(ValueError, match=r"holds trainings with optim.lr=0.001, not 0.1; choose another out="):
        NeedleGrid(cells(other, Axes()), tmp_path).check()
    grid.results.write_text('{"name": "x"}\n')
    with pytest.raises(ValueError, match="has no seed: it is no row of `gala needle`"):
        grid.rows()


TINY = ("preset=tiny/digits", "ratios=0.25,0.11111", "train_sizes=64,100", "updates=3", "seeds=1", "threads=1")
TINY += ("tiny.test_images=40", "poolings=max", "out=out")


def test_a_sweep_is_planned_interrupted_continued_and_reported(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["needle", "sweep", *TINY, "--dry-run"]) == 0
    assert "5 trainings, 0 of them done" in capsys.readouterr().out and not Path("out").exists()
    real, calls = alone.train_alone, []

    def interrupted(config):
        calls.append(config)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(config)

    monkeypatch.setattr(alone, "train_alone", interrupted)
    assert cli.main(["needle", "sweep", *TINY]) == 130
    assert "goes on where it was:\ngala needle sweep preset=tiny/digits" in capsys.readouterr().out
    assert cli.main(["needle", "sweep", *TINY]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) <= 80 and "UNDECIDED" in out and len(calls) == 6
    report = json.loads(Path("out/report.json").read_text())
    assert report["trainings"] == 5 and len(report["findings"]) == 5 and report["oracle_accuracy"][0] > 0.9
    page = Path("out/report.html").read_text()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:)|https?://|url\(", page) and page.count("<img") == 2
    assert "<h2>Limits</h2>" in page and report["limits"]
    assert "Limits" not in _page(report | {"limits": []}, []), "one ratio has no limit"
    for name in ("examples.png", "train_sizes.png"):
        assert Path("out", name).read_bytes().startswith(b"\x89PNG")
    rows_before = Path("out/results.jsonl").read_bytes()
    assert cli.main(["needle", "report", "out=out"]) == 0 and Path("out/results.jsonl").read_bytes() == rows_before
    row = json.loads(rows_before.splitlines()[0])
    assert row["ratio"] == 0.25 and set(row["axes"]) == {*AXES.values(), "tiny.permuted_labels"}


def test_one_training_that_diverges_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    """The same command met it again, and never came to what is behind it."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    real, calls = alone.train_alone, []

    def diverging(config):
        calls.append(config)
        if len(calls) in (1, 6):
            raise NotFinite("the loss of sgd is nan in iteration 2; lower optim.lr")
        return real(config)

    monkeypatch.setattr(alone, "train_alone", diverging)
    assert cli.main(["needle", "sweep", *TINY]) == 1
    out = capsys.readouterr().out
    assert "failed: the loss of sgd is nan in iteration 2" in out and "1 of 5 trainings failed, see above" in out
    assert json.loads(Path("out/report.json").read_text())["trainings"] == 4 and max(map(len, out.splitlines())) <= 80
    assert cli.main(["needle", "sweep", *TINY]) == 1 and len(calls) == 6
    assert cli.main(["needle", "sweep", *TINY]) == 0 and len(calls) == 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sweep",), "preset=tiny/digits or tiny/glyphs"),
        (("sweep", "preset=tiny/digits", "tiny.ratio=0.1"), "tiny.ratio is varied by ratios=; give ratios=0.1"),
        (("sweep", "preset=tiny/digits", "learners=2"), "a sweep trains one learner at a time"),
        (("sweep", "preset=tiny/digits", "ratio=0.1"), "unknown setting 'ratio'; did you mean 'ratios'?"),
        (("sweep", "preset=tiny/digits", "ratios=0.9"), "tiny.ratio=0.9 must be between"),
        (("sweep", "preset=tiny/digits", "poolings=maxi"), "model.pooling=maxi: wants one of"),
        (("sweep", "preset=tiny/digits", "receptive_fields=33"), "it can be 3, 5, 9, 13, 17"),
        (("sweep", "preset=tiny/digits", "train_sizes=10"), "train_sizes=10 is less than batch_size=32"),
        (("sweep", "preset=tiny/digits", "seeds="), "seeds wants at least one value"),
        (("report", "out=nowhere"), "nowhere/results.jsonl holds no trainings"),
        (("swep",), "give `sweep` or `report`"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["needle", *words]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not list(tmp_path.iterdir())
