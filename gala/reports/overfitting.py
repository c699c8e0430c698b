"""The report of an overfitting study: one HTML page that opens without a network, its figures, and its rows as CSV."""

from __future__ import annotations

import csv
import html
import io
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gala.diagnostics.overfitting import oracle, surprise
from gala.diagnostics.overfitting.generalisation import SIGN, GapGroup, judge, verdict_on
from gala.files.plain_yaml import parse_json, read_json
from gala.files.whole import write_atomically
from gala.reports.figures import HALF_PAGE, figure_with_axes, save
from gala.reports.overfitting_figures import PANELS, Study
from gala.reports.overfitting_page import BODY, STYLE
from gala.reports.page import cell_text, image_tag, page

COLOR = {"OVERFIT": "var(--no)", "NO-GAP": "var(--yes)", "INCONCLUSIVE": "var(--open)"}
_COLUMNS = ("mean", "95% interval", "IQM", "worst 10%", "solved", "random", "reference", "MDPs", "episodes")


def write_report(folder: Path, out: Path, *, figures: Sequence[str] = ("png",)) -> dict[str, Any]:
    """Judges the rows of the study in ``folder``, and writes ``out``, ``rows.csv`` and ``figures/``.

    Returns what ``judge`` found, and ``lines``, for a terminal of 80 columns.

    Raises:
        ValueError: no rows, or fewer than 3 runs.
    """
    meta = read_json(folder / "study.json")
    rows, curves = _read(folder / "rows.jsonl"), _read(folder / "curves.jsonl")
    study = Study(meta, rows, curves, judged(rows, meta), surprise.summarise(_read(folder / "surprise.jsonl")))
    study.result["oracle"] = oracle.of_rows(rows, study.head)
    pictures = _draw(study, folder / "figures", figures)
    write_atomically(folder / "rows.csv", _csv(rows).encode())
    write_atomically(out, _page(study, pictures).encode())
    return study.result | {"lines": lines(study)}


def judged(rows: list[dict[str, Any]], meta: dict[str, Any]) -> dict[str, Any]:
    """What ``judge`` finds in the rows of a study, on the terms of its header ``study.json``."""
    solved = (meta.get("solved") or {}).get("return")
    stress = meta.get("protocol") == "stress"
    return judge(rows, delta=meta["delta"], solved=solved, random=meta.get("random"), stress=stress)


def lines(study: Study) -> list[str]:
    """The verdict and its reasons, at most 80 columns wide."""
    head, told = study.head, [f"{study.result['verdict']}: {name(study.head)}"]
    low, mid, high = head.judged
    margin = "" if head.in_return else f"; delta {study.result['delta']:g}"
    told.append(f"  gap {mid:+z.3f} [{low:+z.3f}, {high:+z.3f}], {kind(head)}{margin}")
    told += _wrap(why(study))
    others = _ordered(study)[1:]
    for g in others:
        mark = "*" * (g.in_return != head.in_return)
        interval = f"{g.judged.estimate:+z.3f} [{g.judged.low:+z.3f}, {g.judged.high:+z.3f}]{mark}"
        train, test = (g.sets[s]["mean"].estimate for s in ("train", "test"))
        brief = " ".join(filter(None, [g.condition, f"N={g.n_train}"]))
        told.append(f"  {brief:<23} {interval:<24} train {train:.2f} test {test:.2f}")
    told += [f"  * {g.unit}" for g in others if g.in_return != head.in_return][:1]
    if gap := study.result["oracle"]:
        told += _wrap(oracle.told_of(gap, head, study.result["delta"]))
    if study.surprise:
        told += _wrap(surprise.told(study.surprise, head.judged))
    said = head.refusals[:1]  # by the sentence above
    return told + [line for w in head.warnings if w not in said for line in _wrap(f"warning: {w}")]


def kind(group: GapGroup) -> str:
    """What the judged gap is a difference of."""
    return f"{'adjusted, ' if group.adjusted else ''}{group.unit}"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 80, initial_indent="  ", subsequent_indent="    ")


def name(group: GapGroup) -> str:
    """The name of a group, in words."""
    n = "" if group.n_train is None else f"{group.n_train} training MDP{'s' * (group.n_train != 1)}"
    return ", ".join(filter(None, [group.condition, n])) or "the agent"


def why(study: Study) -> str:
    """One plain sentence."""
    train, test = (study.head.sets[s]["mean"].estimate for s in ("train", "test"))
    head, delta = study.head, study.result["delta"]
    # The two scores alone would contradict a verdict that comes from the adjustment.
    if head.refusals:
        return f"no verdict: {head.refusals[0]}"
    adjusted = head.adjusted and verdict_on(head.normalised, delta, in_return=head.in_return) != head.verdict
    scores = f"it scores {train:.3g} on training MDPs and {test:.3g} on others: "
    scores += "next to the reference, " if adjusted else ""
    if study.result["verdict"] == "OVERFIT":
        return f"{scores}part of it was memorised"
    if study.result["verdict"] == "NO-GAP":
        return f"{scores}the same, within delta"
    if head.in_return and head.judged.low == head.judged.high == 0.0:
        return f"{scores}equal, but without a scale nobody knows whether anything was learned"
    if head.judged.high < 0:
        return f"{scores}better on others; are the training MDPs harder?"
    return f"{scores}too few runs or MDPs to tell"


def _draw(study: Study, folder: Path, kinds: Sequence[str]) -> dict[str, Path | str]:
    """Panel -> its PNG, or the reason why there is none."""
    folder.mkdir(exist_ok=True)
    drawn: dict[str, Path | str] = {}
    for key, (_, panel) in PANELS.items():
        figure, axes = figure_with_axes(HALF_PAGE)
        missing = panel(study, axes)
        if missing is None:
            for kind in {*kinds, "png"}:
                save(figure, folder / f"{key}.{kind}")
        drawn[key] = missing or folder / f"{key}.png"
    return drawn


def number(value: float | None, places: int = 3) -> str:
    """A cell whose exact value can be read back from the page."""
    return "<td>–</td>" if value is None else f'<td data-value="{value!r}">{value:z.{places}f}</td>'


def _group_table(group: GapGroup) -> str:
    head = "".join(f"<th>{c}</th>" for c in ("", *_COLUMNS))
    body = ""
    for split, s in group.sets.items():
        interval = (
            f'<td data-value="{s["mean"].low!r} {s["mean"].high!r}">{s["mean"].low:.3f} to {s["mean"].high:.3f}</td>'
        )
        solved = "<td>–</td>"
        if s["success"] is not None:
            p = s["success"]
            solved = f'<td data-value="{p.estimate!r}">{p.estimate:.0%} ({p.low:.0%} to {p.high:.0%})</td>'
        cells = number(s["mean"].estimate) + interval + number(s["iqm"]) + number(s["worst"]) + solved
        cells += number(s["random"]) + number(s["reference"])
        body += f"<tr data-set={split}><td>{split}</td>{cells}<td>{s['contexts']}</td><td>{s['episodes']}</td></tr>"
    gaps = []
    for key in ("gap", "normalised", "adjusted"):
        if getattr(group, key) is not None and not (key == "normalised" and group.in_return):
            low, mid, high = getattr(group, key)
            label = {"gap": "gap", "normalised": "normalised", "adjusted": kind(group)}[key]
            values = f"{low!r} {mid!r} {high!r}"
            gaps.append(f'{label} <b data-gap={key} data-value="{values}">{mid:+z.3f} [{low:+z.3f}, {high:+z.3f}]</b>')
    verdict = f"<span style='color:{COLOR[group.verdict]}'>{group.verdict}</span>: " if group.verdict else ""
    text = f"{verdict}{'; '.join(gaps)}. {group.runs} runs; {group.design}. "
    text += f"A training MDP's score beats a test MDP's with probability {group.p_train_better:.2f}."
    table = f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"
    return f"<h3>{html.escape(name(group))}</h3><p>{text}</p>{table}"


def _overview(study: Study) -> str:
    """All groups on a line each, where there are several."""
    if len(study.result["groups"]) < 2:
        return ""
    head = "".join(f"<th>{c}</th>" for c in ("", "verdict", "gap", "95% interval", "train", "test"))
    body = ""
    for g in sorted(study.result["groups"], key=_order):
        low, mid, high = g.judged
        scores = "".join(number(g.sets[s]["mean"].estimate, 2) for s in ("train", "test"))
        unit = f", {g.unit}" * (g.in_return != study.head.in_return)
        interval = f'<td data-value="{low!r} {high!r}">{low:+z.3f} to {high:+z.3f}{unit}</td>'
        verdict = g.verdict or "robustness"
        body += f"<tr><td>{html.escape(name(g))}</td><td>{verdict}</td>{number(mid)}{interval}{scores}</tr>"
    trends = [_trend(c, t) for c, t in study.result["trends"].items() if t]
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>" + "".join(
        f"<p>{html.escape(t)}</p>" for t in trends
    )


def _order(group: GapGroup) -> tuple[bool, str, int]:
    """Robustness last; conditions by name, and numbers of training MDPs from few to many."""
    return group.robustness, group.condition, group.n_train or 0


def _ordered(study: Study) -> list[GapGroup]:
    """The headline's group first."""
    return [study.head, *(g for g in sorted(study.result["groups"], key=_order) if g is not study.head)]


def _checks(study: Study) -> list[str]:
    """What a reader must see before any number: leaks, the audit, and which checkpoints were judged."""
    meta, checks = study.meta, []
    if meta.get("outside"):
        checks.append("Leaks: not checked here; the scores were made elsewhere.")
    elif audited := meta.get("audit"):
        pairs, looked_for = len(audited["rows"]), "; ".join(audited.get("looked_for", ["the same MDP"]))
        found = f"{pairs} pair{'s' * (pairs != 1)} within a set" if pairs else "none"
        checks.append(f"Leaks between sets: none. Duplicates: {found}, of {audited['checked']} MDPs ({looked_for}).")
    else:
        checks.append("Leaks between sets: none; the sets were drawn together, without an MDP in common.")
    if gap := study.result["oracle"]:
        text = oracle.told_of(gap, study.head, study.result["delta"])
        checks.append(f"{text[0].upper()}{text[1:]}.")
    if policy := meta.get("policy"):
        known = f"no test MDP in {meta['played']}, all else unchecked" if meta.get("played") else "unchecked"
        checks.append(f"Policy: {policy}, made elsewhere; training: {known}.")
    names = list(meta.get("checkpoints", {}))
    if names:
        checks.append(f"Checkpoints: {len(names)} runs, {meta['selection']}; each run's own log names no test MDP.")
    return checks


def _trend(condition: str, t: dict[str, Any]) -> str:
    text = f"{condition or 'Trend'}: that the gap falls with N, Page's test p = {t['page_p']:.4f}"
    if t["law"]:
        text += f"; fit {t['law'].a:.2f} N^-{t['law'].b:.2f} + {t['law'].c:.2f}; "
        # A power law says nothing far beyond the N that it was fitted to.
        if t["n05"] is not None:
            least, most, reached = t["n"][0], 10 * t["n"][-1], t["n05"]
            known = f"below 0.05 from N = {reached:,.0f}" if reached > least else "below 0.05 at every N tried"
            text += known if reached <= most else f"not below 0.05 by N = {most:,}"
    if t["capacity"] is None:
        return text + "."
    text += "; normalised train score "
    return text + (f"at 0.9 or more up to N = {t['capacity']:,}." if t["capacity"] else "below 0.9 at every N.")


def _threats(study: Study) -> list[str]:
    meta, head = study.meta, study.head
    threats = [
        f"{head.runs} training runs, {head.sets['test']['contexts']} test MDPs; {head.design}.",
    ]
    if meta.get("outside"):
        threats.append("The scores were made elsewhere: that no test MDP was trained on, or chosen by, is not checked.")
    else:
        threats += [
            f"Policy: {meta['policy']}." if meta.get("policy") else f"Checkpoint: {meta['selection']}.",
            f"Observation normaliser: {meta['normaliser']}. Actions: {meta['mode']}.",
            f"The policy {'is' if meta['expose'] else 'is not'} told the parameters of its MDP.",
            "Scores are without the noise that training may have had, unless a condition says so.",
        ]
    return [*threats, *meta.get("notes", []), *head.warnings]


def _page(study: Study, pictures: dict[str, Path | str]) -> str:
    meta, head = study.meta, study.head
    low, mid, high = head.judged
    interval = f"{mid:+z.3f}, 95% interval {low:+z.3f} to {high:+z.3f}"
    drawn = {key: picture for key, picture in pictures.items() if not isinstance(picture, str)}
    panels = "".join(
        f"<section id={key}><h3>{k}. {html.escape(PANELS[key][0])}</h3>{image_tag(picture.read_bytes(), key)}</section>"
        for k, (key, picture) in enumerate(drawn.items(), 1)
    )
    facts: dict[str, Any] = {"family": meta["family"], "settings": meta.get("settings"), "created": meta["created"]}
    facts |= {f"{n} set": f"{s['size']} MDPs, sha256 {s['sha256'][:16]}" for n, s in meta["sets"].items()}
    facts |= {"scores": meta.get("scores"), "scale": _scale(head, meta)}
    facts |= {"checkpoints": ", ".join(f"{run} {sha}" for run, sha in meta.get("checkpoints", {}).items())}
    facts |= {"versions": ", ".join(f"{k} {v}" for k, v in meta["versions"].items() if v)}
    body = BODY.format(
        color=COLOR[study.result["verdict"]],
        verdict=study.result["verdict"],
        what=html.escape(f"{meta['family']}: {name(head)}"),
        interval=f'<span data-headline="{low!r} {mid!r} {high!r}">{interval}</span>',
        kind=kind(head),
        delta="none" if head.in_return else f"{study.result['delta']:g}",
        why=html.escape(why(study)),
        sign=html.escape(SIGN),
        overview=_overview(study),
        checks="".join(f"<li>{html.escape(text)}</li>" for text in _checks(study)),
        table="".join(_group_table(g) for g in _ordered(study)),
        panels=panels,
        threats="".join(f"<li>{html.escape(t)}</li>" for t in _threats(study)),
        facts="".join(
            f"<tr><td>{html.escape(k)}</td><td>{html.escape(cell_text(v))}</td></tr>" for k, v in facts.items() if v
        ),
        command=html.escape(meta["command"]),
    )
    return page(f"gala overfit: {meta['family']}", body, STYLE, "gala overfit")


def _scale(group: GapGroup, meta: dict[str, Any]) -> str:
    if group.in_return:
        return "none: gaps are in units of return"
    random = (
        "0 (no random policy was played)" if group.j_random is None else f"{group.j_random:.4g} of the random policy"
    )
    played = any(s["reference"] is not None for s in group.sets.values())
    source = "the reference policy" if played else (meta.get("solved") or {}).get("source", "")
    return f"gaps are divided by {group.scale:.4g}: {group.j_reference:.4g} ({source}) less {random}"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "params": json.dumps(row.get("params") or {})} for row in rows)
    return text.getvalue()


def _read(path: Path) -> list[dict[str, Any]]:
    return [parse_json(line) for line in path.read_text().splitlines()] if path.is_file() else []
