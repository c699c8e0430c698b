"""gala and other frameworks on one task with as many simulators and cores each: env_steps per second, in turns.

    python benchmarks/peers/compare.py pong --num-envs 64 --learners 4 --rounds 5 --block-s 10

Each peer runs in a venv of its own (venvs.py) with its own recommended settings (the workers), in whichever of its
variants was the fastest in a short trial. All systems are started and warmed up, then frozen but for the one whose turn
it is; the order rotates. One JSON line per system: rates of every turn, their median, gala / peer of the same round
with its 95% interval, versions, machine facts. A peer that cannot be installed or fails gets a line with "error".
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import venvs
from peer import Peer, PeerFailed
from rich.console import Console
from rich.table import Table

from gala.bench.machine import machine_facts
from gala.bench.ratios import paired_ratio
from gala.processes.resources import available_cores

HERE = Path(__file__).parent
TASKS = ("pong", "halfcheetah", "cartpole")


class System(NamedTuple):
    """``venv``: name of its requirements; empty for gala's own. The fastest of ``variants`` takes part."""

    worker: str
    venv: str = ""
    words: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("",)
    notes: dict[str, str] = {}  # noqa: RUF012  never written to
    """Task -> how it differs from the others'."""


SYSTEMS = {
    "gala": System("worker_gala.py"),
    "sb3-a2c": System("worker_sb3.py", "sb3", ("--algo", "a2c"), ("dummy", "subproc")),
    "sb3-ppo": System("worker_sb3.py", "sb3", ("--algo", "ppo"), ("dummy", "subproc")),
    "sample-factory": System(
        "worker_sample_factory.py",
        "sample-factory",
        variants=("serial", "parallel", "async"),
        notes={"halfcheetah": "HalfCheetah-v4"},
    ),
    "cleanrl-ppo": System("worker_cleanrl.py", "cleanrl"),
}


def command(name: str, variant: str, options: argparse.Namespace) -> list[str]:
    """Raises InstallFailed when the venv cannot be made."""
    system = SYSTEMS[name]
    python = str(venvs.ensure(system.venv, options.venvs)) if system.venv else sys.executable
    words = [python, str(HERE / system.worker), "--seed", str(options.seed), *system.words]
    if variant:
        words += ["--variant", variant]
    if name == "gala":
        words += ["--learners", str(options.learners), f"--settings={options.gala}"]
    return words


def started(name: str, variant: str, options: argparse.Namespace) -> Peer:
    """Warmed up and frozen."""
    peer = Peer(name, command(name, variant, options))
    try:
        peer.start(options.task, options.num_envs, options.cores)
        peer.warm_up()
        peer.freeze()
    except BaseException:
        peer.kill()
        raise
    return peer


def fastest(name: str, options: argparse.Namespace, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """(variant, rate of each in a trial, or why it has none). Raises the last failure when none works."""
    variants = SYSTEMS[name].variants
    if len(variants) == 1:
        return variants[0], {}
    rates: dict[str, float] = {}
    trials: dict[str, Any] = {}
    failure: PeerFailed | None = None
    for variant in variants:
        say(f"{name}: trying {variant}")
        try:
            peer = started(name, variant, options)
            try:
                rates[variant] = trials[variant] = peer.measure(options.trial_s)
            finally:
                peer.kill()
        except PeerFailed as error:
            failure, trials[variant] = error, one_line(error)
    if not rates:
        assert failure is not None
        raise failure
    return max(rates, key=rates.__getitem__), trials


def one_line(error: Exception) -> str:
    """The first line of the message, and the last of what the peer had to say."""
    first, *rest = str(error).splitlines()
    words = [line.strip() for line in rest if line.strip()]
    return f"{first}: {words[-1]}"[:300] if words else first[:300]


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, list[str]]]:
    """(round, order of that round): each begins with another system."""
    for i in range(rounds):
        start = i % max(1, len(names))
        yield i, [*names[start:], *names[:start]]


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row per system, without what is common to all."""
    rows: dict[str, dict[str, Any]] = {}
    rates: dict[str, list[float]] = {}
    peers: dict[str, Peer] = {}
    with ExitStack() as stack:
        for name in options.systems:
            rows[name] = {"peer": name, "task": options.task}
            try:
                variant, trials = fastest(name, options, say)
                say(f"{name}: starting {variant}")
                peers[name] = started(name, variant, options)
            except (PeerFailed, venvs.InstallFailed) as error:
                rows[name]["error"] = one_line(error)
                say(f"{name}: {rows[name]['error']}")
                continue
            stack.callback(peers[name].kill)
            rows[name] |= {"variant": variant, "trials": trials}
            rates[name] = []
        for i, order in turns(list(peers), options.rounds):
            say(f"round {i + 1} of {options.rounds}")
            for name in order:
                if "error" in rows[name]:
                    continue
                try:
                    rates[name].append(peers[name].measure(options.block_s))
                except PeerFailed as error:
                    peers[name].kill()
                    rows[name]["error"] = one_line(error)
                    say(f"{name}: {rows[name]['error']}")
    for name, found in rates.items():
        rows[name]["env_steps_per_s_rounds"] = found
        if "error" in rows[name]:
            continue
        rows[name]["env_steps_per_s"] = statistics.median(found)
        if name != "gala" and "env_steps_per_s" in rows.get("gala", {}):
            rows[name]["gala_over_peer"] = paired_ratio(rates["gala"], found)._asdict()
    return list(rows.values())


def common(options: argparse.Namespace) -> dict[str, Any]:
    """What all rows share. No paths: neither of the venvs nor of the output."""
    words = f"python benchmarks/peers/compare.py {options.task} --num-envs {options.num_envs} --cores {options.cores}"
    words += f" --learners {options.learners} --rounds {options.rounds} --block-s {options.block_s:g}"
    words += f" --seed {options.seed} --systems {' '.join(options.systems)}"
    words += f" --gala={options.gala!r}" if options.gala else ""
    facts = {"num_envs": options.num_envs, "cores": options.cores, "seed": options.seed, "learners": options.learners}
    return {"benchmark": "peers", **facts, "command": words, "machine": machine_facts()}


def versions(name: str, root: Path) -> dict[str, str]:
    system = SYSTEMS[name]
    return venvs.installed(system.venv, venvs.ensure(system.venv, root)) if system.venv else {}


def show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(box=None)
    for title in ("system", "variant", "env_steps/s", "gala / peer", "95% interval"):
        table.add_column(title, justify="left" if title in ("system", "variant") else "right")
    for row in rows:
        ratio = row.get("gala_over_peer")
        cells = (f"{ratio['median']:.2f}", f"{ratio['low']:.2f} to {ratio['high']:.2f}") if ratio else ("", "")
        rate = f"{row['env_steps_per_s']:,.0f}" if "env_steps_per_s" in row else "failed"
        table.add_row(row["peer"], row.get("variant", ""), rate, *cells)
    console.print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--num-envs", type=int, default=64, help="simulators in all, of each system")
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--learners", type=int, default=4, help="of gala")
    parser.add_argument("--gala", default="", help="more settings of gala train, in one word")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--block-s", type=float, default=10.0)
    parser.add_argument("--trial-s", type=float, default=8.0, help="for each variant of a peer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--venvs", type=Path, default=venvs.DEFAULT)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "peers.jsonl", help="lines are added")
    options = parser.parse_args()
    if options.rounds < 1 or options.cores < 1:
        parser.error("--rounds and --cores must be at least 1")
    if options.num_envs % options.learners:
        parser.error(f"--num-envs {options.num_envs} cannot be shared equally among {options.learners} learners")
    return options


def main() -> None:
    options = parse()
    console = Console(stderr=True)
    rows = measure(options, lambda line: console.print(line, style="dim", highlight=False, markup=False))
    shared = common(options)
    for row in rows:
        if note := SYSTEMS[row["peer"]].notes.get(options.task):
            row["note"] = note
        if "variant" in row:
            row["versions"] = versions(row["peer"], options.venvs)
    with options.out.open("a") as file:
        file.writelines(json.dumps(row | shared) + "\n" for row in rows)
    show(rows, Console())


if __name__ == "__main__":
    main()
