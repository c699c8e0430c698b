"""What ``gala overfit eval`` and ``stress`` have in common: the study, and as many contexts as the budget allows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gala_envs.contexts import ContextSet

from gala.commands.overfit.words import command_line, default_out, without_out
from gala.overfit.header import header
from gala.overfit.judging import env_options, episodes_each, judge, load_agent
from gala.overfit.options import JudgeOptions
from gala.overfit.study import Study
from gala.overfit.sweep import budget_s
from gala.runs.run_dir import RunDir

Sets = Mapping[str, ContextSet]


def head_of(run: int, n_train: int | None, condition: str = "") -> dict[str, Any]:
    """The fields that all rows of one run share; run -1 is no training run, but a policy that it is set against."""
    return {"run": run, "n_train": n_train, "condition": condition}


def begin_study(
    protocol: str,
    words: Sequence[str],
    out: str,
    sets: Sets,
    asked: tuple[JudgeOptions, JudgeOptions],
    runs: Sequence[RunDir],
    design: str,
) -> Study:
    """A new study of the command ``words``, without rows. ``asked``: how to judge, as it was asked for, and with the
    reference that ``auto`` stands for."""
    given, judging = asked
    budget_s(judging.budget)
    out = default_out(protocol, out)
    kept = without_out(words)
    command = command_line(protocol, [*kept, f"out={out}"])
    meta = header(protocol, command, sets, judging, [run.config for run in runs], design=design)
    study = Study.create(out, meta)
    if judging.reference != given.reference:
        study.note(f"the reference is {judging.reference}, trained on other MDPs by `gala overfit train on=many`")
    return study


def afford(study: Study, runs: Sequence[RunDir], sets: Sets, judging: JudgeOptions, times: int = 1) -> Sets:
    """The sets, with fewer contexts where the budget asks for it, after the first 20 were timed. Each run plays them
    ``times`` times."""
    seconds = budget_s(judging.budget)
    if not seconds or not runs:
        return sets
    sample = sets["test"].take(20)
    started = time.monotonic()
    judge(load_agent(runs[0], sample, judging), [sample], judging, {}, **env_options(runs[0].config))
    each_s = (time.monotonic() - started) / _episodes(sample, judging)
    wanted = sum(_episodes(s, judging) for s in sets.values()) * (len(runs) * times + 2)
    share = min(1.0, 0.8 * seconds / (each_s * wanted))
    if share == 1.0:
        return sets
    fewer = {n: s if n == "train" else s.take(max(20, int(len(s) * share))) for n, s in sets.items()}
    sizes = ", ".join(f"{len(s)} {n}" for n, s in fewer.items())
    study.note(f"budget {judging.budget}: {sizes} contexts, fewer than the sets hold")
    return fewer


def _episodes(contexts: ContextSet, judging: JudgeOptions) -> int:
    return len(contexts) * episodes_each(contexts, judging.episodes)
