"""``gala supervised`` as a user runs it: what it writes, and what is left when it breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gala import configure
from gala.supervised.config import SupervisedConfig

pytest.importorskip("sklearn")
ROOT = Path(__file__).parent.parent
TINY = ("learners=2", "iterations=6", "compute_ms=1", "latency_ms=1", "slow.every=3")
LONG = ("learners=2", "iterations=1000000", "compute_ms=1", "method=sgp", "slowmo=off")
PATIENCE_S = 90.0


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "gala", "supervised", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "envs")))},
        start_new_session=True,
    )


def learners(process):
    """The learner processes in the order of their ranks, once both of them have begun to train."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        found = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        if len(found) == 2 and all(is_training(p) for p in found):
            return sorted(found, key=lambda p: p.pid)
        time.sleep(0.05)
    raise AssertionError("no learners")


def is_training(process):
    """Whether it has opened the mailboxes, which exist in the parent's memory only."""
    return any("gala-mailboxes" in os.readlink(link) for link in Path(f"/proc/{process.pid}/fd").iterdir())


def end(process, children):
    """(status, stdout, stderr); no learner may be left."""
    out, err = process.communicate(timeout=PATIENCE_S)
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert not alive
    return process.returncode, out, err


def test_a_comparison_prints_a_table_writes_it_and_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    words = [*TINY, "method=sgp,local-sgd,overlap-sgp", "seeds=1,2", f"out={out}"]
    code, text, err = end(start("preset=digits/slowmo", *words), [])
    assert (code, err) == (0, "") and max(map(len, text.splitlines())) <= 80
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    modes = {"sgp": 3, "overlap-sgp": 3, "local-sgd": 2}
    assert len({(r["method"], r["slowmo"], r["seed"]) for r in rows}) == len(rows) == 2 * 8
    assert {name: sum(r["method"] == name for r in rows) for name in modes} == {k: 2 * v for k, v in modes.items()}
    for row in rows:
        assert 0 < row["test_accuracy"] < 1 and row["ms_per_iteration"] >= row["injected_ms"] - 0.1, row
        assert row["total_weight"] == pytest.approx(2, abs=1e-9)
    table = (out / "table.md").read_text().splitlines()
    assert table[0].startswith("| method | SlowMo | test acc. % |") and sum(x.startswith("| ") for x in table) == 2 + 8
    assert table[2].startswith(
        f"| sgp | off | {100 * (rows[0]['test_accuracy'] + rows[8]['test_accuracy']) / 2:.2f} ± "
    )
    assert "sgp          no-average" in text
    saved = configure.parse_options(SupervisedConfig, [f"preset={out / 'config.yaml'}"])
    assert (saved.out, saved.seeds, saved.iterations) == (str(out), (1, 2), 6)

    before = (out / "results.jsonl").read_bytes()
    code, text, err = end(start(*TINY, f"out={out}"), [])
    assert (code, text) == (2, "") and err.count("\n") == 1 and "add overwrite=true" in err
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine").touch()
    code, text, err = end(start(*TINY, f"out={tmp_path / 'else'}", "overwrite=true"), [])
    assert code == 2 and "leaves it alone" in err and (out / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("how", ["killed", "interrupted", "parent killed"])
def test_no_learner_outlives_a_run_and_the_user_is_told_once(tmp_path, how):
    process = start(*LONG, f"out={tmp_path / 'out'}")
    children = learners(process)
    if how == "killed":
        children[1].kill()
        code, _, err = end(process, children)
        assert code == 1 and err.startswith("\nlearner 1 was killed by SIGKILL; the run has ended.\n"), err
        assert "Traceback" not in err and err.count("learner") == 1
    elif how == "interrupted":
        os.killpg(process.pid, signal.SIGINT)
        code, _, err = end(process, children)
        assert (code, err) == (130, "")
    else:
        process.kill()
        code, _, err = end(process, children)
        assert code == -signal.SIGKILL and "Traceback" not in err


def test_the_first_traceback_reaches_the_user_once(tmp_path):
    code, _, err = end(start(*TINY, "method=dpsgd", "optim.lr=1e30", "optim.warmup=0", f"out={tmp_path / 'out'}"), [])
    assert code == 1 and err.count("Traceback") == 1 and err.count("FloatingPointError: ") == 1, err
    assert "failed; the run has ended." in err


def test_a_dry_run_shows_the_settings_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gala", "supervised", "preset=digits/straggler", "--dry-run"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "envs")))},
    )
    assert "straggler: 4.0\n" in done.stdout and "overlap-sgp  SlowMo off         seed 1  22.1 ms" in done.stdout
    assert list(tmp_path.iterdir()) == []
