"""Damaged input to what reads files that people write or copy: one clear line, or a good result, and nothing else.

    python benchmarks/fuzz_readers.py                    100,000 inputs for each of 17 readers
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
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_targets import Target, targets

from gala.bench.machine import machine_facts

RESULTS = Path(__file__).parent / "results" / "fuzz_readers.jsonl"
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


class _HangError(BaseException):
    pass


def _hang(*_: Any) -> None:
    raise _HangError


def wrong(target: Target, limit_s: int) -> tuple[str, bool]:
    """(what was wrong, or nothing; whether the input was refused)."""
    names = (target.path.name, *target.names)
    signal.alarm(limit_s)
    try:
        target.read(target.path)
    except ValueError as error:
        text = str(error)
        clear = text and "\n" not in text.strip() and "Traceback" not in text and len(text) < 1000
        return ("" if clear and any(name in text for name in names) else f"unclear: {text[:300]!r}"), True
    except SystemExit as error:
        return f"SystemExit({error.code})", True
    except _HangError:
        return f"no answer in {limit_s} s", True
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]!r}", True
    finally:
        signal.alarm(0)
    return "", False


def fuzz(name: str, target: Target, inputs: int, seed: int, limit_s: int) -> dict[str, Any]:
    """One row."""
    rng, found, refused, slowest_s = np.random.default_rng(seed), [], 0, 0.0
    for _ in range(inputs):
        data = damaged(target.good[int(rng.integers(len(target.good)))], rng)
        target.path.write_bytes(data)
        begun_s = time.monotonic()
        problem, was_refused = wrong(target, limit_s)
        slowest_s = max(slowest_s, time.monotonic() - begun_s)
        refused += was_refused
        if problem:
            text = problem.replace(str(target.path.parent), "")
            found.append({"input": data.decode("latin-1")[:400], "problem": text})
    target.path.write_bytes(target.good[0])  # others read it too
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
    parser.add_argument("--readers", nargs="+", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-s", type=int, default=10, help="after which a reading counts as a hang")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    signal.signal(signal.SIGALRM, _hang)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        every = targets(Path(folder))
        if unknown := [name for name in words.readers if name not in every]:
            parser.error(f"no reader {unknown[0]}; there are {', '.join(every)}")
        for name in words.readers or every:
            row = fuzz(name, every[name], words.inputs, words.seed, words.limit_s)
            with words.out.open("a") as file:
                file.write(json.dumps({**row, **machine_facts()}) + "\n")
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
