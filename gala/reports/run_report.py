"""The report of ``gala report``: one run on one page, from what lies in its directory."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from gala.config.derived import changed_settings
from gala.config.schema import PLACE, Config, flatten
from gala.experiments.rows import trained_with
from gala.files.whole import write_atomically
from gala.reports import charts
from gala.reports.charts import Line, chart
from gala.reports.page import items, page, table
from gala.runs.command_file import read_command
from gala.runs.evaluations import evaluation_text, read_evaluations
from gala.runs.following import Follower
from gala.runs.health import health
from gala.runs.run_dir import RunDir
from gala.runs.units import clock, number, per_second, size, span
from gala.runs.writable import make_folder

Record = dict[str, Any]
GENERATOR = "gala report"
EMBEDDED_BYTES, EMBEDDED_FILMS = 2_000_000, 8
"""Films that are larger, or more of them than that, are linked and not embedded."""
_STYLE = (
    charts.STYLE
    + """.headline { font-size: 1.15rem } .well { color: var(--yes) } .sick { color: var(--no); font-weight: 600 }
ul.health { list-style: none; padding: 0 } video { max-width: 100%; border-radius: .3rem }
"""
)


class _Chart(NamedTuple):
    title: str
    tags: Mapping[str, str]
    """Tag -> what the curve is called; the first is the blue one."""
    each: bool = False
    """Also of each learner, as thin lines."""
    floor: float = float("-inf")


LEARNING = (
    _Chart("return, last 100 episodes", {"charts/episodic_return": "all learners"}, each=True),
    _Chart("steps of an episode, last 100", {"charts/episodic_length": ""}),
    _Chart("policy loss", {"losses/policy_loss": ""}),
    _Chart("value loss", {"losses/value_loss": ""}),
    _Chart("entropy of the policy, nats", {"losses/entropy": "all learners"}, each=True),
    _Chart("explained variance of the value function", {"losses/explained_variance": ""}, floor=-1.0),
    _Chart("norm of the gradient before clipping", {"losses/grad_norm": ""}),
    _Chart("learning rate", {"charts/learning_rate": ""}),
)
GOSSIP = (
    _Chart(
        "rms distance of the learners to their mean",
        {"gossip/consensus_distance": "measured", "gossip/epsilon_bound": "certified bound"},
    ),
    _Chart("that distance over the norm of the mean", {"gossip/relative_spread": ""}),
    _Chart(
        "age of messages in their sender's updates",
        {"gossip/message_age_mean": "mean", "gossip/message_age_max": "oldest"},
    ),
    _Chart("PushSum weights", {"gossip/weight_max": "largest", "gossip/weight_min": "smallest"}),
    _Chart("rounds that kept their share, per update", {"kept": ""}),
    _Chart("bytes sent per second", {"gossip/bytes_per_s": ""}),
)
PACE = (
    _Chart("env_steps per second", {"charts/SPS": "all learners"}, each=True),
    _Chart("share of a learner's time that simulators take", {"perf/simulate_share": ""}),
)


def check_out(out: Path, overwrite: bool) -> None:
    """Raises ValueError, in one line, unless a page can be written to ``out``: a file that is no page of this command
    is replaced only with ``overwrite``."""
    if out.suffix not in (".html", ".htm"):
        raise ValueError(f"out={out} must end in .html")
    if not out.parent.is_dir():
        raise ValueError(f"out={out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ValueError(f"out={out} is a folder; name a file")
    if out.exists() and not overwrite and not _is_ours(out):
        raise ValueError(f"{out} already exists, and is no page of gala report; name another or add overwrite=true")
    make_folder(out.parent)


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return f'content="{GENERATOR}"'.encode() in file.read(1000)


def write_report(run_dir: RunDir, out: Path) -> str:
    """Writes the page; returns its headline.

    Raises:
        ValueError: the run has no records yet.
    """
    records = run_dir.read_metrics()
    if not records:
        raise ValueError(f"{run_dir.path} has no records yet; let it train for longer")
    summary = _summary(run_dir)
    evaluations = read_evaluations(run_dir.path)
    headline = _headline(records[-1], evaluations)
    body = [
        f'<p class="headline">{html.escape(headline)}</p>',
        f"<p>{html.escape(_state(summary, records[-1]))}</p>",
        _health(records[-1]),
        _section("Evaluation", items([evaluation_text(told) for told in evaluations]) if evaluations else ""),
        _section("Learning", _charts(LEARNING, records)),
        _gossip(records),
        _pace(records, summary),
        _section("Films", _films(run_dir, out, evaluations)),
        _section("Environment", _environment(run_dir)),
        _section("Settings", _settings(run_dir.config)),
        _section("Made with", table([["what", "version"], *_versions(run_dir)], "facts")),
    ]
    title = f"{run_dir.config.env.id} · {run_dir.config.algo} x{run_dir.config.learners}"
    write_atomically(out, page(title, "\n".join(filter(None, body)), _STYLE, GENERATOR).encode())
    return headline


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}" if content else ""


def _summary(run_dir: RunDir) -> dict[str, Any]:
    """What the run has closed with; empty while it trains, or if it was killed."""
    return Follower(run_dir).summary() or {}


def _headline(last: Record, evaluations: Sequence[Mapping[str, Any]]) -> str:
    if evaluations:
        return f"Evaluated: {evaluation_text(evaluations[-1])}."
    mean = last.get("charts/episodic_return")
    learned = "no episode has ended" if mean is None else f"return {number(mean)} over the last 100 training episodes"
    return f"In training: {learned}. Not evaluated yet: gala eval RUN, RUN being this folder."


def _state(summary: Mapping[str, Any], last: Record) -> str:
    if not summary:
        return f"At {last['global_step']:,} env_steps; no summary: it is still training, or was killed."
    wall_s = summary["wall_s"]
    return (
        f"{summary['status']}: {summary['env_steps']:,} env_steps ({summary['frames']:,} frames), "
        f"{summary['updates']:,} updates in {clock(wall_s)}: {summary['env_steps'] / max(wall_s, 1e-9):,.0f} "
        f"env_steps/s, {summary.get('episodes', 0):,} episodes."
    )


def _health(last: Record) -> str:
    findings = sorted(health(last), key=lambda finding: finding.healthy)
    lines = "".join(
        f'<li class="{"well" if finding.healthy else "sick"}">{"&#10003;" if finding.healthy else "!"} '
        f"{html.escape(finding.line())}</li>"
        for finding in findings
    )
    return _section("Health, in the last record", f'<ul class="health">{lines}</ul>' if findings else "")


def _charts(wanted: Sequence[_Chart], records: Sequence[Record]) -> str:
    drawn = "".join(_chart(each, records) for each in wanted)
    return f'<div class="figures">{drawn}</div>' if drawn else ""


def _chart(wanted: _Chart, records: Sequence[Record]) -> str:
    ranks = sorted({key for r in records for key, value in r.items() if _is_learner(key, value)}) if wanted.each else []
    (main, name), *second = wanted.tags.items()
    lines = [Line("each learner", _points(records, _of(rank, main)), "each") for rank in ranks] if ranks[1:] else []
    lines.append(Line(name, _points(records, lambda r: r.get(main)), "first"))
    lines += [Line(label, _points(records, _tag(tag)), "second") for tag, label in second if _has(records, tag)]
    return chart(wanted.title, lines, wanted.floor)


def _is_learner(key: str, value: Any) -> bool:
    return key.startswith("learner") and isinstance(value, dict)


def _tag(tag: str) -> Callable[[Record], float | None]:
    return lambda r: r.get(tag)


def _of(rank: str, tag: str) -> Callable[[Record], float | None]:
    return lambda r: r.get(rank, {}).get(tag)


def _has(records: Sequence[Record], tag: str) -> bool:
    return any(r.get(tag) is not None for r in records)


def _points(records: Sequence[Record], value: Callable[[Record], float | None]) -> list[tuple[float, float | None]]:
    """What is no finite number is a gap."""
    told = [(r["global_step"], value(r)) for r in records]
    return [(step, y if isinstance(y, int | float) and math.isfinite(y) else None) for step, y in told]


def _gossip(records: Sequence[Record]) -> str:
    if not any(_has(records, tag) for tag in ("gossip/weight", "gossip/consensus_distance")):
        return ""
    told = with_kept(records)
    last = told[-1]
    facts = [
        ["messages sent, read", f"{number(last.get('gossip/sent'))}, {number(last.get('gossip/received'))}"],
        ["sent in all", size(last.get("gossip/bytes_sent")) or "-"],
        ["now", per_second(last.get("gossip/bytes_per_s")) or "-"],
        ["weights", span(last.get("gossip/weight_min"), last.get("gossip/weight_max")) or "-"],
        ["rounds that kept their share", number(last.get("gossip/kept_rounds"))],
    ]
    ages = last.get("message_ages") or {}
    total = sum(ages.values())
    if total:
        facts.append(["ages of all messages", ", ".join(f"{label}: {n / total:.1%}" for label, n in ages.items())])
    body = _charts(GOSSIP, told)
    return _section("Gossip", body + (table([["", ""], *facts], "facts") if "gossip/sent" in last else ""))


def with_kept(records: Sequence[Record]) -> list[Record]:
    """The records with ``kept``: rounds that kept their whole share since the record before, per update."""
    told, before = [], (0.0, 0.0)
    for record in records:
        kept, updates = record.get("gossip/kept_rounds"), record.get("perf/updates")
        if kept is None or updates is None:
            told.append(record)
            continue
        new = updates - before[1]
        told.append(record | ({"kept": max(0.0, kept - before[0]) / new} if new > 0 else {}))
        before = (kept, updates)
    return told


def _pace(records: Sequence[Record], summary: Mapping[str, Any]) -> str:
    shares = summary.get("time_shares") or {}
    rows = [["stage", *shares], ["share of time", *(f"{share:.1%}" for share in shares.values())]]
    learners = [["learner", "env_steps", "updates", "return"]]
    for each in summary.get("learners", []):
        counts = [f"{each[name]:,}" for name in ("env_steps", "updates")]
        learners.append([str(each["rank"]), *counts, number(each["return_mean"])])
    tables = (table(rows) if shares else "") + (table(learners) if len(learners) > 1 else "")
    return _section("Throughput", _charts(PACE, records) + tables)


def _films(run_dir: RunDir, out: Path, evaluations: Sequence[Mapping[str, Any]]) -> str:
    named = [Path(told["video"]) for told in evaluations if isinstance(told.get("video"), str) and told["video"]]
    by_step = sorted(run_dir.path.glob("films/*.mp4"), key=lambda path: (len(path.name), path.name))
    found = [*by_step, *sorted(run_dir.path.glob("*.mp4")), *named]
    films = list(dict.fromkeys(path.resolve() for path in found if path.is_file() and path.name[0] != "."))
    if not films:
        return ""
    small = [path for path in films if path.stat().st_size <= EMBEDDED_BYTES][-EMBEDDED_FILMS:]
    return '<div class="figures">' + "".join(_film(path, out, path in small) for path in films) + "</div>"


def _film(path: Path, out: Path, embed: bool) -> str:
    name = html.escape(path.name)
    link = quote(os.path.relpath(path, out.resolve().parent))
    source = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}" if embed else link
    film = f'<video controls muted loop preload="metadata" src="{source}"></video>'
    return f'<figure>{film}<figcaption><a href="{link}">{name}</a></figcaption></figure>'


def _environment(run_dir: RunDir) -> str:
    config = run_dir.config
    settings = {"env.id": config.env.id, "learners": config.learners, "envs_per_learner": config.envs_per_learner}
    settings |= {name: value for name, value, _ in changed_settings(config) if name.startswith("env.")}
    command = read_command(run_dir.path)
    rows = [[name, _plain(value)] for name, value in settings.items()]
    typed = f"<p><code>{html.escape(command)}</code></p>" if command else ""
    return typed + table([["setting", "value"], *rows], "facts")


def _settings(config: Config) -> str:
    changed = [[name, _plain(value), _plain(default)] for name, value, default in changed_settings(config)]
    every = [[name, _plain(value)] for name, value in flatten(config).items() if name not in PLACE]
    rest = table([["setting", "value"], *every], "facts")
    return (
        table([["differs from its default", "value", "default"], *changed], "facts")
        + f"<details><summary>all {len(every)} settings</summary>{rest}</details>"
    )


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _versions(run_dir: RunDir) -> list[list[str]]:
    return [[name, str(version)] for name, version in trained_with(run_dir).items() if version]
