"""``gala overfit sweep`` and ``flip``: gap against the number of training MDPs, by algorithm or with random rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gala.commands.overfit.verdict import conclude
from gala.commands.overfit.words import (
    command_line,
    default_out,
    resumable,
    show_help,
    sort_words,
    take_family,
    without_out,
)
from gala.config.own_words import asks_for_help
from gala.overfit.judging import check_reference
from gala.overfit.options import SweepOptions
from gala.overfit.sweep import Sweep, budget_s, check, conditions, config_of, draw_all, open_study, training_words

FLIPS = (0.0, 0.2, 0.5)


def flip(words: Sequence[str]) -> int:
    """As ``sweep``, with the flips of ``FLIPS`` unless others are given."""
    if asks_for_help(words) or any(word.startswith(("flip=", "--flip")) for word in words):
        return sweep(words, "flip")
    return sweep([*words, f"flip={','.join(map(str, FLIPS))}"], "flip")


def sweep(words: Sequence[str], name: str = "sweep") -> int:
    """FAMILY, options, parameters of the family and settings of ``gala train``. Returns the verdict's exit code."""
    if asks_for_help(words):
        return show_help(f"{name} FAMILY", SweepOptions)
    family, rest = take_family(words)
    options, settings, training = sort_words(rest, SweepOptions, family)
    check(options, family)
    training = training_words(options, training)
    budget_s(options.judge.budget)
    options = dataclasses.replace(options, out=default_out(f"{name}-{family.name}", options.out))
    given = without_out(words)
    command = command_line(name, [*given, f"out={options.out}"])
    config = config_of(family, training)
    for condition in conditions(options):
        config_of(family, (*training, *condition.words))
    drawn = draw_all(family, options, settings)
    every = [contexts for test, pools in drawn.values() for contexts in (test, *pools)]
    check_reference(options.judge, every, (), config.env.max_episode_steps)
    study = open_study(options, command, settings, drawn, config)
    with resumable(options.out):
        Sweep(study, family, options, drawn, training).run(print)
    return conclude(study)
