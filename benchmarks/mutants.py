"""Mutation testing: one small change to the code at a time, and whether the tests that should care notice it.

    python benchmarks/mutants.py                             every file of TESTS, for an hour or more
    python benchmarks/mutants.py --files gala/rl gala/optim  some of them
    python benchmarks/mutants.py --sample 100 --seed 1       a random hundred

The changes are those of ``mutations.py``. Each is made in a private copy of the tree, never in the working tree, and
the quick tests of that file run in a process forked from one that has PyTorch loaded. Every outcome is a line in
``--journal``, which a later call goes on with: what was noticed is not run again while its file is the same, what
survived is. The order is a seeded shuffle, so the share noticed of an unfinished run is an unbiased estimate.
``--out`` writes the summary and what survives, with the reason where that is known to matter to nobody.

mutmut 3 fits less: it changes nothing outside functions, drops no statements, and cannot be told which tests to run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mutants_targets import ACCEPTED, EQUIVALENT, TESTS
from mutations import Mutant, mutants_of

ROOT = Path(__file__).parent.parent
COPIED = ("gala", "envs", "tests", "configs", "examples", "benchmarks", "pyproject.toml", "README.md", "Makefile")
HEAVY = ("torch", "scipy.stats", "gymnasium", "hypothesis", "networkx", "safetensors.torch", "mujoco", "pytest")
Row = dict[str, Any]


class Slot:
    """One private copy of the tree, and the run that is under way in it."""

    def __init__(self, folder: Path, original: Path) -> None:
        self.folder, self.pid = folder, 0
        folder.mkdir()
        for name in COPIED:
            if (original / name).is_dir():
                shutil.copytree(original / name, folder / name, ignore=shutil.ignore_patterns("results"))
            else:
                shutil.copy2(original / name, folder / name)

    def start(self, mutant: Mutant, limit_s: float) -> None:
        """Run the tests of the mutant's file."""
        file = self.folder / mutant.path
        self.original, self.times_ns = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
        if mutant.source:
            file.write_text(mutant.source)
            os.utime(file, (0, 0))  # so that no bytecode of the original passes for it
        self.mutant, self.limit_s, self.started = mutant, limit_s, time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            _test(self.folder, TESTS[mutant.path], keep_bytecode=not mutant.source)

    def poll(self) -> tuple[str, float] | None:
        """(outcome, seconds) once it is over; the file is then as it was."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.started
        late = not pid and seconds > self.limit_s
        if not pid and not late:
            return None
        self.kill(reap=late)
        (self.folder / self.mutant.path).write_bytes(self.original)
        os.utime(self.folder / self.mutant.path, ns=self.times_ns)
        if late:
            return "noticed (time)", seconds
        return "survived" if status == 0 else "noticed", seconds

    def kill(self, reap: bool = True) -> None:
        """End the run, and what its tests have left."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            if reap:
                os.waitpid(self.pid, 0)
        self.pid = 0


def _test(folder: Path, tests: Sequence[str], keep_bytecode: bool) -> None:
    """In the forked process: pytest in the copy, its output in a file. Never returns."""
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        sys.dont_write_bytecode = not keep_bytecode
        sys.path[:0] = [str(folder), str(folder / "envs"), str(folder / "tests")]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
        import hypothesis
        import pytest

        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)  # a counterexample need not be made small
        hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
        hypothesis.settings.load_profile("mutants")
        flags = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-m", "not long"]
        status = int(pytest.main([*flags, "--hypothesis-seed=0", *tests]))
    finally:
        os._exit(status)


def limits(slot: Slot, paths: Iterable[str]) -> dict[str, float]:
    """Seconds that each file's tests may take. Raises SystemExit if they fail unchanged: nothing could be told then."""
    by_tests: dict[tuple[str, ...], float] = {}
    for path in paths:
        if TESTS[path] not in by_tests:
            slot.start(Mutant(path, "unchanged", ""), 900.0)
            while (result := slot.poll()) is None:
                time.sleep(0.05)
            if result[0] != "survived":
                raise SystemExit(
                    f"{path}: its tests fail unchanged\n{(slot.folder / 'output.txt').read_text()[-3000:]}"
                )
            print(f"{result[1]:6.1f} s  {path}", flush=True)
            by_tests[TESTS[path]] = 15.0 + 5 * result[1]
    return {path: by_tests[TESTS[path]] for path in paths}


def run(mutants: list[Mutant], slots: list[Slot], limit_s: dict[str, float], until: float) -> Iterator[Row]:
    """The outcome of each mutant, as it comes; no new one is begun after ``until``."""
    waiting = list(reversed(mutants))
    while waiting or any(slot.pid for slot in slots):
        for slot in slots:
            if slot.pid and (result := slot.poll()):
                row = {"key": slot.mutant.key, "outcome": result[0], "seconds": round(result[1], 1)}
                yield row | {"file_sha256": _sha256(slot.mutant.path)}
            if not slot.pid and waiting:
                mutant = waiting.pop()
                slot.start(mutant, limit_s[mutant.path])
        if time.monotonic() > until:
            waiting.clear()
        time.sleep(0.02)


def _sha256(path: str) -> str:
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16]


def summarise(mutants: list[Mutant], done: dict[str, Row]) -> list[Row]:
    """A row per file, then one per survivor, with the reason if it is an accepted one; equivalent changes count neither
    way."""
    rows, survivors = [], list[Mutant]()
    for path in sorted({m.path for m in mutants}):
        mine = [m for m in mutants if m.path == path]
        different = [m for m in mine if not equivalent(m)]
        outcomes = Counter(done[m.key]["outcome"] for m in different if m.key in done)
        noticed = outcomes["noticed"] + outcomes["noticed (time)"]
        row = {"file": path, "mutants": len(mine), "equivalent": len(mine) - len(different)}
        rows.append(row | {"tried": noticed + outcomes["survived"], "noticed": noticed})
        survivors += [m for m in different if m.key in done and done[m.key]["outcome"] == "survived"]
    for row in rows:
        print(f"{row['noticed']:5} of {row['tried']:4} noticed, {row['equivalent']:3} equivalent  {row['file']}")
    tried, noticed = (sum(row[key] for row in rows) for key in ("tried", "noticed"))
    print(f"{noticed:5} of {tried:4} noticed: {noticed / max(tried, 1):.1%}")
    survived: list[Row] = []
    for mutant in sorted(survivors, key=lambda m: m.key):
        reason = ACCEPTED.get(mutant.path, {}).get(mutant.name, "")
        survived.append({"survived": mutant.key} | ({"reason": reason} if reason else {}))
        print(f"survived  {mutant.key}" + (f"  (accepted: {reason})" if reason else ""))
    return [*rows, *survived]


def equivalent(mutant: Mutant) -> str:
    """Why nothing can come of it; empty if something can."""
    return EQUIVALENT.get(mutant.path, {}).get(mutant.name, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", nargs="*", default=list(TESTS), help="of TESTS, or folders")
    parser.add_argument("--sample", type=int, default=0, help="so many only, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no other after so long")
    parser.add_argument("--journal", type=Path, default=ROOT / "runs" / "mutants.jsonl")
    parser.add_argument("--out", type=Path, help="write a summary there")
    options = parser.parse_args()
    paths = [path for path in TESTS if any(path == f or path.startswith(f.rstrip("/") + "/") for f in options.files)]
    mutants = [mutant for path in paths for mutant in mutants_of(path, (ROOT / path).read_text())]
    random.Random(options.seed).shuffle(mutants)
    mutants = mutants[: options.sample or None]
    options.journal.parent.mkdir(exist_ok=True)
    lines = options.journal.read_text().splitlines() if options.journal.exists() else []
    done = {row["key"]: row for row in map(json.loads, lines)}
    done = {m.key: done[m.key] for m in mutants if done.get(m.key, {}).get("file_sha256") == _sha256(m.path)}
    left = [m for m in mutants if not equivalent(m) and done.get(m.key, {}).get("outcome") in (None, "survived")]
    left.sort(key=lambda m: m.key in done)  # what has survived comes last
    print(f"{len(mutants)} mutants of {len(paths)} files, {len(left)} to try", flush=True)
    if left and options.minutes > 0:
        try_all(left, options, done)
    rows = summarise(mutants, done)
    if options.out:
        from gala.bench.machine import machine_facts

        head = {"command": " ".join(["benchmarks/mutants.py", *sys.argv[1:]]), "seed": options.seed}
        facts = head | {"machine": machine_facts()}
        options.out.write_text("".join(json.dumps(row) + "\n" for row in [facts, *rows]))


def try_all(mutants: list[Mutant], options: argparse.Namespace, done: dict[str, Row]) -> None:
    """Run them, each outcome into ``done`` and the journal at once, until all have one, time is up, or Ctrl-C."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in HEAVY:
        __import__(name)
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name, options.journal.open("a", buffering=1) as journal:
        slots = [Slot(Path(name) / "0", ROOT)]
        try:
            limit_s = limits(slots[0], sorted({m.path for m in mutants}))
            # The others have the bytecode of the first.
            slots += [Slot(Path(name) / str(i), slots[0].folder) for i in range(1, options.workers)]
            for row in run(mutants, slots, limit_s, until):
                done[row["key"]] = row
                journal.write(json.dumps(row) + "\n")
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here")
        finally:
            for slot in slots:
                slot.kill()


if __name__ == "__main__":
    main()
