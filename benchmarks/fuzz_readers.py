"""Damaged input to what reads files that people write or copy: one clear line, or a good result, and nothing else.

    python benchmarks/fuzz_readers.py                    100,000 inputs a reader, about twenty minutes
    python benchmarks/fuzz_readers.py --inputs 2000 --readers edges

Each input is a good file, changed at one to six random places: bytes flipped, cut, doubled, moved, replaced by what
readers trip over (NUL, a byte-order mark, huge and tiny numbers, brackets, quotes, anchors, YAML's special words). An
outcome is right if the reader returns, or raises ValueError whose text is one line, names the file, and has no
traceback in it. A reading that takes longer than ten seconds is a hang. One JSON line a reader: how many were read, how
many were refused, the slowest, and the first inputs whose outcome was wrong, in full.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gala.bench.machine import machine_facts
from gala.config.parse import parse_config
from gala.gossip.graphs.from_file import load_topology

LIMIT_S = 10
RESULTS = Path(__file__).parent / "results" / "fuzz_readers.jsonl"
EDGES = b"# four learners\n0 1 0.5\n1 2 0.25\n2 3\n3 0\n---\n0 2\n2 0\n1 3\n3 1\n"
ROUNDS = b"rounds:\n  - [[0, 1], [1, 2, 0.5], [2, 0]]\n  - [[0, 2], [2, 1], [1, 0]]\n"
MATRIX = b"matrix:\n  - [0.5, 0.25, 0.0]\n  - [0.5, 0.5, 0.5]\n  - [0.0, 0.25, 0.5]\n"
PRESET = b"env:\n  id: CartPole-v1\nmodel: {hidden: [64, 64], activation: tanh}\noptim:\n  lr: 7e-4\nsteps: 20_000\n"
PIECES = [
    *(b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\n", b"\r", b"\t", b" ", b",", b":", b"-", b"---\n", b"...\n", b"#"),
    *(b"'", b'"', b"[", b"]", b"{", b"}", b"&a ", b"*a", b"!!python/object:os.system ", b"!!binary ", b"<<: ", b"? "),
    *(b"| ", b"null", b"~", b".nan", b".inf", b"-.inf", b"1e999", b"1e-999", b"999999999999999999999", b"-1", b"0x1F"),
    *(b"0o7", b"nan", b"inf", b"true", b"2026-01-01", b"1:2:3", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"[" * 40),
    *(b"{a: " * 40, b"edges: ", b"rounds: ", b"matrix: ", b"base: ", b"preset: ", b"a" * 5000, b"1" * 400),
    *(b"%YAML 9.9\n", b"@", b"`"),
]


def damaged(good: bytes, rng: np.random.Generator) -> bytes:
    """``good`` with one to six changes."""
    data = bytearray(good)
    for _ in range(int(rng.integers(1, 7))):
        at = int(rng.integers(len(data) + 1))
        to = min(len(data), at + int(rng.integers(1, 12)))
        match int(rng.integers(6)):
            case 0 if at < len(data):
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at:to]
            case 2:
                data[at:at] = data[at:to] * int(rng.integers(1, 4))
            case 3:
                del data[at:]
            case 4:
                data[at:to] = PIECES[int(rng.integers(len(PIECES)))]
            case _:
                data[at:at] = PIECES[int(rng.integers(len(PIECES)))]
    return bytes(data)


READERS: dict[str, tuple[str, list[bytes], Callable[[Path], Any]]] = {
    "edges": ("graph.txt", [EDGES], load_topology),
    "graph-yaml": ("graph.yaml", [ROUNDS, MATRIX], load_topology),
    "preset": ("preset.yaml", [PRESET], lambda path: parse_config([f"preset={path}"])),
}


class _HangError(BaseException):
    pass


def _hang(*_: Any) -> None:
    raise _HangError


def wrong(path: Path, read: Callable[[Path], Any]) -> tuple[str, bool]:
    """(what was wrong, or nothing; whether the input was refused)."""
    signal.alarm(LIMIT_S)
    try:
        read(path)
    except ValueError as error:
        text = str(error)
        clear = text and "\n" not in text.strip() and "Traceback" not in text and len(text) < 1000
        return ("" if clear and path.name in text else f"unclear: {text[:300]!r}"), True
    except SystemExit as error:
        return f"SystemExit({error.code})", True
    except _HangError:
        return f"no answer in {LIMIT_S} s", True
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]!r}", True
    finally:
        signal.alarm(0)
    return "", False


def fuzz(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """One row."""
    file_name, good, read = READERS[name]
    rng, found, refused, slowest_s = np.random.default_rng(seed), [], 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file_name
        for _ in range(inputs):
            data = damaged(good[int(rng.integers(len(good)))], rng)
            path.write_bytes(data)
            begun_s = time.monotonic()
            problem, was_refused = wrong(path, read)
            slowest_s = max(slowest_s, time.monotonic() - begun_s)
            refused += was_refused
            if problem:
                found.append({"input": data.decode("latin-1")[:400], "problem": problem.replace(folder, "")})
    return {
        "reader": name,
        "inputs": inputs,
        "seed": seed,
        "refused": refused,
        "wrong": len(found),
        "slowest_s": round(slowest_s, 3),
        "first_wrong": found[:5],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--readers", nargs="+", default=list(READERS), choices=READERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    signal.signal(signal.SIGALRM, _hang)
    for name in words.readers:
        row = fuzz(name, words.inputs, words.seed)
        with words.out.open("a") as file:
            file.write(json.dumps({**row, **machine_facts()}) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
