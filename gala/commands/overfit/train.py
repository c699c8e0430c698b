"""``gala overfit train``: several runs on one set of MDPs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gala.build.auto import fitted_config
from gala.commands.overfit.words import default_out, resumable, show_help, sort_words
from gala.commands.waiting import waiting
from gala.config.own_words import asks_for_help
from gala.config.validate import validate
from gala.experiments.jobs import TrainingJob, check_settings, train_all
from gala.overfit.options import TrainOptions
from gala.overfit.reference import reference_folder, write_many
from gala.overfit.study import read_sets
from gala.processes.resources import available_cores


def train(words: Sequence[str]) -> int:
    """Options and settings of ``gala train``: several runs on the train set, seeds 1, 2, ..."""
    if asks_for_help(words):
        return show_help("train", TrainOptions)
    options, _, training = sort_words(words, TrainOptions, None)
    sets = read_sets(options.sets)
    out, runs = Path(default_out(sets["train"].family, options.out)), options.runs
    if options.on == "many":
        out, runs = Path(options.out or reference_folder(options.sets)), 1
    shared, folder = (*training, f"env.id={sets['train'].family}"), Path(options.sets)
    validate(fitted_config((*shared, f"env.contexts={folder / 'train.json'}")))  # many.json may not be there yet
    if options.on == "many":
        with waiting(f"drawing {options.many:,} other MDPs"):
            write_many(folder, sets, options.many)
    shared = (*shared, f"env.contexts={folder / options.on}.json")
    jobs = [TrainingJob(out / f"run{k}", (*shared, f"seed={k + 1}")) for k in range(runs)]
    if there := check_settings(jobs):
        print(f"{there} of {len(jobs)} are in {out} already, with these settings")
    if options.on == "train" and options.runs < 3:
        print(f"runs={options.runs}: a verdict needs 3 or more; the same command with runs=3 adds to these")
    with resumable(out):
        train_all(jobs, options.jobs or available_cores(), print)
    paths = [str(job.run) for job in jobs]
    given = {"train": " ".join(paths), "test": "RUN ... oracle=" + ",".join(paths), "many": "RUN ..."}[options.on]
    if options.on == "many" and options.out:
        given += f" reference={paths[0]}"
    print(f"judge: gala overfit eval {given} sets={options.sets}")
    return 0
