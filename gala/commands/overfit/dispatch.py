"""``gala overfit``: does an agent solve its task, or has it memorised its training MDPs?"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from gala.config.preset_files import nearest

SUBCOMMANDS = {
    "split": ("gala.commands.overfit.sets:split", "draw disjoint sets of MDPs: split maze train=10 test=200 size=5"),
    "audit": (
        "gala.commands.overfit.sets:audit",
        "look for leaks in sets, or in a table: audit tasks.csv",
    ),
    "train": ("gala.commands.overfit.train:train", "train several runs on a training set"),
    "eval": ("gala.commands.overfit.runs:evaluate", "judge runs, or a policy in Python: eval RUN ... sets=DIR"),
    "judge": (
        "gala.commands.overfit.outside:judge",
        "judge scores that were made anywhere: judge scores.csv solved=500",
    ),
    "sweep": ("gala.commands.overfit.sweeps:sweep", "gap against the number of training MDPs: sweep maze n=1,10,100"),
    "flip": ("gala.commands.overfit.sweeps:flip", "the same with randomised rewards: flip maze flip=0,0.2,0.5"),
    "stress": (
        "gala.commands.overfit.stress:stress",
        "robustness of runs: stress RUN ... sticky=0,0.25 obs_sigma=0,0.3",
    ),
    "value": ("gala.commands.overfit.value:value", "value function, policy shift, replay and features of one run"),
    "report": ("gala.commands.overfit.runs:report", "write the report of a study again"),
    "selftest": ("gala.commands.overfit.selftest:main", "check the statistics against closed forms, in a minute"),
}


def main(argv: Sequence[str]) -> int:
    """One subcommand. Returns 0 NO-GAP, 3 OVERFIT, 4 INCONCLUSIVE, or 0 where nothing is judged."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] not in SUBCOMMANDS:
        raise ValueError(f"unknown subcommand {argv[0]!r}; `gala overfit` lists them{nearest(argv[0], SUBCOMMANDS)}")
    target = SUBCOMMANDS[argv[0]][0]
    if argv[0] == "audit" and any(word.lower().endswith(".csv") and "=" not in word for word in argv[1:]):
        target = "gala.commands.overfit.outside:audit"
    module, function = target.split(":")
    run: Callable[[Sequence[str]], int] = getattr(importlib.import_module(module), function)
    try:
        return run(argv[1:])
    except SystemExit as error:  # of a user's environment or policy: its status is no verdict
        raise ValueError(f"code that was called has ended with sys.exit({error.code}); nothing was judged") from error
    except RuntimeError as error:  # a training failed: its own last lines say why
        print(f"gala: {error}", file=sys.stderr)
        return 1


def usage() -> str:
    """What `gala overfit --help` prints."""
    rows = "\n".join(f"  {name:<9} {text}" for name, (_, text) in SUBCOMMANDS.items())
    codes = "Verdicts are exit codes: 0 NO-GAP, 3 OVERFIT, 4 INCONCLUSIVE."
    return f"usage: gala overfit SUBCOMMAND ...\n\n{rows}\n\n{codes}\n`gala overfit SUBCOMMAND --help` says more."
