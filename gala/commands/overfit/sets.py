"""``gala overfit split`` and ``audit``: sets of MDPs, and whether they are fit to tell train from test."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from gala_envs.splits import split as split_family

from gala.commands.overfit.words import pairs, show_help, sort_words, take_family
from gala.commands.waiting import waiting
from gala.config.own_words import asks_for_help, take_paths
from gala.diagnostics.overfitting.audit import audit_sets
from gala.overfit.options import AuditOptions, SplitOptions
from gala.overfit.study import SETS, read_sets


def split(words: Sequence[str]) -> int:
    """FAMILY, sizes and parameters of the family. Writes one file per set."""
    if asks_for_help(words):
        return show_help("split FAMILY", SplitOptions)
    family, rest = take_family(words)
    options, settings, training = sort_words(rest, SplitOptions, family)
    if training:
        raise ValueError(f"{training[0]} is a setting of training, which split does not do")
    sizes = {name: getattr(options, name) for name in SETS}
    if negative := [name for name, size in sizes.items() if size < 0]:
        raise ValueError(f"{negative[0]}={sizes[negative[0]]} must be 0 or more")
    for name, least in (("train", 1), ("test", 2)):
        if sizes[name] < least:
            raise ValueError(f"{name}={sizes[name]} must be at least {least}: a gap is between a train and a test set")
    folder = Path(options.out)
    if existing := [name for name in SETS if (folder / f"{name}.json").exists()]:
        raise ValueError(f"{folder / existing[0]}.json already exists; choose another out=DIRECTORY")
    with waiting(f"drawing {sum(sizes.values()):,} different contexts of {family.name}"):
        sets = split_family(family, sizes, region=options.region, seed=options.seed, **settings)  # type: ignore[arg-type]
    for name, contexts in sets.items():
        contexts.write(folder / f"{name}.json")
        print(f"{folder / name}.json  {len(contexts):>6,} contexts  sha256 {contexts.sha256[:16]}")
    print(f"train: gala train env.id={family.name} env.contexts={folder / 'train.json'}")
    return 0


def audit(words: Sequence[str]) -> int:
    """DIRECTORY. Exit status 0 if nothing was found, otherwise 1."""
    if asks_for_help(words):
        return show_help("audit DIRECTORY", AuditOptions)
    paths, rest = take_paths(words)
    options, _, training = sort_words(rest, AuditOptions, None)
    if len(paths) != 1 or training:
        raise ValueError("usage: gala overfit audit DIRECTORY [tolerance=0.01] [symmetries=true]")
    if not 0 <= options.tolerance < math.inf:
        raise ValueError(f"tolerance={options.tolerance:g} must be a finite number, 0 or more")
    if Path(paths[0]).is_file():
        raise ValueError(
            f"{paths[0]} is a file; a table of tasks has a name that ends in .csv, and sets are a DIRECTORY"
        )
    sets = read_sets(paths[0], overlapping=True)
    with waiting("comparing contexts"):
        report = audit_sets(sets, tolerance=options.tolerance, symmetries=options.symmetries)
    print(f"{report['checked']} contexts of {report['family']}, random policy:")
    for name, score in report["random"].items():
        spread = "" if score["standard_error"] is None else f" ± {score['standard_error']:.3f}"
        print(f"  {name:<7} return {score['mean']:8.3f}{spread}")
    for row in report["rows"][:20]:
        print(f"  {row['a']} ({row['sets'][0]}) and {row['b']} ({row['sets'][1]}): {row['why']}")
    found = pairs(report["rows"]) or "nothing"
    text = f"looked for {'; '.join(report['looked_for'])}. Found {found}."
    print("\n".join(textwrap.wrap(text, 80)))
    return int(bool(report["rows"]))
