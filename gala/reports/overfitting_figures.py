"""The eleven panels of an overfitting report. A panel draws on the axes, or returns the reason why it cannot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gala.diagnostics.overfitting.generalisation import STRESS, GapGroup
from gala.diagnostics.overfitting.surprise import Surprise
from gala.experiments.statistics import performance_profile
from gala.reports.figures import BLUE, GREY, ORANGE

Row = dict[str, Any]
COLORS = {"train": BLUE, "val": "#8172b3", "test": ORANGE, "extrap": "#c44e52"}
CYCLE = (BLUE, ORANGE, "#55a868", "#c44e52", "#8172b3", GREY)


class Study(NamedTuple):
    """All that a report is drawn from."""

    meta: dict[str, Any]
    rows: list[Row]
    curves: list[Row]
    result: dict[str, Any]
    surprise: Surprise | None = None

    @property
    def head(self) -> GapGroup:
        head: GapGroup = self.result["headline"]
        return head

    def agents(self, group: GapGroup | None = None) -> list[Row]:
        """The agent's rows of a group; of the headline's without one."""
        g = group or self.head
        key = (g.condition, g.n_train)
        return [r for r in self.rows if r["policy"] == "agent" and (r["condition"], r["n_train"]) == key]

    def means(self, rows: Iterable[Row]) -> NDArray:
        """Mean return of each context over runs and episodes."""
        returns: dict[str, list[float]] = defaultdict(list)
        for r in rows:
            returns[r["context"]].append(r["return"])
        return np.array([np.mean(v) for v in returns.values()])


def learning_curves(study: Study, axes: Any) -> str | None:
    """Return on training and test MDPs while the policies learn."""
    from matplotlib.ticker import EngFormatter

    head = study.head
    mine = [c for c in study.curves if (c["condition"], c["n_train"]) == (head.condition, head.n_train)]
    if not mine:
        return "the runs keep no milestones (log.keep_milestones), or the policy was not trained here"
    for name in ("train", "test"):
        by_run: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for c in mine:
            if c["set"] == name:
                by_run[c["run"]].append((c["env_steps"], c["return"]))
        for points in by_run.values():
            axes.plot(*zip(*sorted(points), strict=True), color=COLORS[name], lw=0.8, alpha=0.4)
        at = [sorted(points) for points in by_run.values()]
        same = min(map(len, at))
        x = np.mean([[p[0] for p in run[:same]] for run in at], 0)
        axes.plot(x, np.mean([[p[1] for p in run[:same]] for run in at], 0), color=COLORS[name], lw=2, label=name)
    axes.set(xlabel="env_steps", ylabel="return")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.legend(fontsize=8)
    return None


def _conditions(study: Study) -> dict[str, list[GapGroup]]:
    found: dict[str, list[GapGroup]] = defaultdict(list)
    for g in study.result["groups"]:
        if g.n_train and not g.robustness:
            found[g.condition].append(g)
    return {c: sorted(groups, key=lambda g: g.n_train or 0) for c, groups in found.items()}


def _number_axis(axes: Any, by_condition: dict[str, list[GapGroup]]) -> None:
    """Logarithmic, with the numbers of training MDPs that there are."""
    n = sorted({g.n_train or 0 for groups in by_condition.values() for g in groups})
    axes.set(xscale="log", xlabel="training MDPs")
    axes.set_xticks(n, [f"{x:,}" for x in n])
    axes.set_xticks([], minor=True)


def gap_against_n(study: Study, axes: Any) -> str | None:
    """The gap against the number of training MDPs."""
    by_condition = {c: groups for c, groups in _conditions(study).items() if len(groups) > 1}
    if not by_condition:
        return "there is one number of training MDPs; `gala overfit sweep` varies it"
    for i, ((condition, groups), color) in enumerate(zip(by_condition.items(), cycle(CYCLE), strict=False)):
        shift = 1.03 ** (i - (len(by_condition) - 1) / 2)  # intervals side by side
        n = np.array([g.n_train or 0 for g in groups]) * shift
        low, mid, high = (np.array(v) for v in zip(*(g.judged for g in groups), strict=True))
        axes.errorbar(
            n, mid, [mid - low, high - mid], marker="o", ms=4, capsize=3, color=color, label=condition or "gap"
        )
        trend = study.result["trends"].get(condition)
        if trend and trend["law"]:
            x = np.geomspace(n[0], n[-1], 60)
            axes.plot(x, trend["law"](x), color=color, lw=0.8, ls=":")
    in_return = any(g.in_return for groups in by_condition.values() for g in groups)
    if not in_return:
        axes.axhspan(-study.result["delta"], study.result["delta"], color=GREY, alpha=0.3, lw=0)
    axes.set(ylabel="gap, in units of return" if in_return else "gap, normalised")
    _number_axis(axes, by_condition)
    axes.legend(fontsize=8)
    return None


def profiles(study: Study, axes: Any) -> str | None:
    """Share of MDPs above each return."""
    rows = study.agents()
    scores = {n: study.means(r for r in rows if r["set"] == n) for n in study.head.sets}
    flat = np.concatenate(list(scores.values()))
    x = np.linspace(flat.min(), flat.max(), 200)
    for name, values in scores.items():
        axes.step(x, performance_profile(values, x), color=COLORS[name], where="post", label=name)
    axes.set(xlabel="return", ylabel="share of MDPs above it", ylim=(-0.02, 1.02))
    axes.legend(fontsize=8)
    return None


def per_context(study: Study, axes: Any) -> str | None:
    """Mean return of each MDP, sorted."""
    rows = study.agents()
    for name in study.head.sets:
        values = np.sort(study.means(r for r in rows if r["set"] == name))
        axes.plot(np.linspace(0, 1, len(values)), values, ".", ms=4, color=COLORS[name], label=name)
    random = study.means(r for r in study.rows if r["policy"] == "random")
    if len(random):
        axes.axhspan(*np.quantile(random, [0.05, 0.95]), color=GREY, alpha=0.3, lw=0, label="random, 5 to 95%")
    axes.set(xlabel="MDPs, from the worst to the best", ylabel="mean return")
    axes.legend(fontsize=8)
    return None


def capacity(study: Study, axes: Any) -> str | None:
    """Fit of randomised rewards against the number of training MDPs."""
    flipped = {c: g for c, g in _conditions(study).items() if c.startswith("flip=")}
    by_condition = {c: [x for x in g if not x.in_return] for c, g in flipped.items()}
    by_condition = {c: g for c, g in by_condition.items() if g}
    if not by_condition:
        return "no rewards were randomised; `gala overfit flip` does that"
    for (condition, groups), color in zip(by_condition.items(), cycle(CYCLE), strict=False):
        n = [g.n_train or 0 for g in groups]
        axes.plot(n, [g.train_normalised for g in groups], "o-", ms=4, color=color, label=f"{condition}, train")
        axes.plot(n, [g.test_normalised for g in groups], "o--", ms=4, color=color, label="test")
    axes.axhline(0.9, color="black", lw=0.6, ls=":")
    axes.set(ylabel="normalised return")
    _number_axis(axes, by_condition)
    axes.legend(fontsize=7, ncols=2)
    return None


def values(study: Study, axes: Any) -> str | None:
    """V of first observations against the discounted return that followed."""
    rows = [r for r in study.agents() if r["value"] is not None and r["discounted"] is not None]
    if not rows:
        return f"V(s0) is left out: {why}" if (why := study.meta.get("values")) else "the policy has no value function"
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        points = np.array([(r["discounted"], r["value"]) for r in rows if r["set"] == name]).reshape(-1, 2)
        points = points[rng.permutation(len(points))[:500]]
        axes.plot(points[:, 0], points[:, 1], ".", ms=3, alpha=0.5, color=COLORS[name], label=name)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="black", lw=0.6)
    axes.set(xlabel="discounted return", ylabel="V(s0)")
    axes.legend(fontsize=8)
    return None


def heat_map(study: Study, axes: Any) -> str | None:
    """Return over two parameters of the MDPs."""
    rows = [r for r in study.agents() if r.get("params")]
    names = sorted({k for r in rows for k, v in r["params"].items() if isinstance(v, int | float)})
    if len(names) < 2:
        return "the MDPs differ in fewer than two numbers (their levels come from seeds)"
    x_name, y_name = names[:2]
    rows = [r for r in rows if x_name in r["params"] and y_name in r["params"]]
    returns: dict[tuple[float, float], list[float]] = defaultdict(list)
    for r in rows:
        returns[r["params"][x_name], r["params"][y_name]].append(r["return"])
    points = np.array([(*at, np.mean(at_point)) for at, at_point in returns.items()])
    drawn = axes.scatter(points[:, 0], points[:, 1], c=points[:, 2], s=14, cmap="viridis")
    axes.figure.colorbar(drawn, ax=axes, label="return")
    axes.set(xlabel=x_name, ylabel=y_name)
    train = np.array([(r["params"][x_name], r["params"][y_name]) for r in rows if r["set"] == "train"])
    if len(train):  # MDPs at their defaults have no numbers written down
        (x0, y0), (x1, y1) = train.min(0), train.max(0)
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="black", lw=1, label="training MDPs")
        axes.legend(fontsize=8)
    return None


def robustness(study: Study, axes: Any) -> str | None:
    """Return under changes of the MDPs that training did not have."""
    stressed = [g for g in study.result["groups"] if g.robustness]
    if not stressed:
        return "no changes were tried; `gala overfit stress` does that"
    base = next(g for g in study.result["groups"] if not g.robustness)
    if any(
        g.condition.partition("=")[0] not in STRESS for g in stressed
    ):  # what has no strength has no place on an axis
        _bars(axes, [base, *stressed])
        return None
    for kind, marker in zip(STRESS, "os^", strict=True):
        some = [(float(g.condition.split("=")[1]), g) for g in stressed if g.condition.startswith(kind)]
        if not some:
            continue
        points = sorted([(1.0 if kind == "init_mult" else 0.0, base), *some], key=lambda p: p[0])
        for name, style in (("train", "-"), ("test", "--")):
            y = [g.sets[name]["mean"].estimate for _, g in points]
            axes.plot([p[0] for p in points], y, marker + style, ms=4, color=COLORS[name], label=f"{kind}, {name}")
    axes.set(xlabel="strength of the change", ylabel="return")
    axes.legend(fontsize=7)
    return None


def _bars(axes: Any, groups: Sequence[GapGroup]) -> None:
    """Scores of the MDPs as they are, and under each change."""
    for shift, name in ((-0.2, "train"), (0.2, "test")):
        means = [g.sets[name]["mean"] for g in groups]
        reach = [[m.estimate - m.low for m in means], [m.high - m.estimate for m in means]]
        places = np.arange(len(groups)) + shift
        axes.bar(places, [m.estimate for m in means], 0.4, yerr=reach, color=COLORS[name], label=name, capsize=3)
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(groups) > 3 else {}
    axes.set_xticks(range(len(groups)), [g.condition or "as it is" for g in groups], fontsize=8, **slanted)
    axes.set(xlabel="changes of the MDPs", ylabel="return")
    axes.legend(fontsize=7)


def audit(study: Study, axes: Any) -> str | None:
    """What random actions earn on each set."""
    audited = study.meta.get("audit")
    if not audited:
        return "the sets were not audited; `gala overfit eval` and `audit` do that"
    names, random = list(audited["random"]), list(audited["random"].values())
    axes.bar(names, [r["mean"] for r in random], yerr=[r["standard_error"] or 0 for r in random], color=GREY, capsize=4)
    axes.set(ylabel="return of the random policy")
    return None


def controls(study: Study, axes: Any) -> str | None:
    """Gaps of the negative controls, beside what they must be."""
    controlled = study.meta.get("controls")
    if not controlled:
        return "no negative control was run with this study; `gala overfit selftest` runs them on closed forms"
    for k, (name, c) in enumerate(controlled.items()):
        low, mid, high = c["gap"]
        axes.errorbar([mid], [k], xerr=[[mid - low], [high - mid]], fmt="o", ms=4, capsize=3, color=BLUE)
        axes.plot([c["expected"]], [k], "x", color="black")
        axes.annotate(name, (low, k), (0, 6), textcoords="offset points", fontsize=8)
    axes.set(yticks=[], ylim=(-0.5, len(controlled) - 0.5), xlabel="gap (cross: what it must be)")
    return None


def surprise(study: Study, axes: Any) -> str | None:
    """Nats per frame of each MDP, and the two gaps in words."""
    if study.surprise is None:
        return "no video model was asked; `gala overfit report STUDY surprise=VIDEO_RUN` does that"
    bins = np.histogram_bin_edges(np.concatenate([study.surprise.train, study.surprise.test]), 20)
    for name, nats in (("train", study.surprise.train), ("test", study.surprise.test)):
        axes.hist(nats, bins, weights=np.full(len(nats), 1 / len(nats)), alpha=0.5, color=COLORS[name], label=name)
        axes.axvline(nats.mean(), color=COLORS[name], lw=1.5)
    low, mid, high = study.surprise.gap
    returns = study.head.judged
    axes.set_title(
        f"surprise gap {mid:+.3g} [{low:+.3g}, {high:+.3g}] nats per frame\n"
        f"return gap {returns.estimate:+.3g} [{returns.low:+.3g}, {returns.high:+.3g}]",
        fontsize=8,
    )
    axes.set(xlabel="minus the bound, nats per predicted frame", ylabel="share of MDPs")
    axes.legend(fontsize=7)
    return None


Panel = Callable[[Study, Any], str | None]
PANELS: dict[str, tuple[str, Panel]] = {
    "curves": ("Learning curves", learning_curves),
    "gap": ("Gap against the number of training MDPs", gap_against_n),
    "profiles": ("Performance profiles", profiles),
    "contexts": ("MDP by MDP", per_context),
    "capacity": ("Memorisation of randomised rewards", capacity),
    "values": ("V(s0) against the realised return", values),
    "heatmap": ("Return over two parameters", heat_map),
    "robustness": ("Robustness, not generalisation", robustness),
    "audit": ("Difficulty of the sets", audit),
    "controls": ("Negative controls", controls),
    "surprise": ("Perception: a video model's surprise", surprise),
}
