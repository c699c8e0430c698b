"""Records go to a tracker from the side: complete and in order, and whatever a tracker does, a run goes on."""

import importlib
import importlib.util
import json
import threading

import pytest
from training import TINY

from gala import cli
from gala.config.parse import parse_config
from gala.runs.run_dir import RunDir
from gala.training import tracking
from gala.training.tracking import Tracking, _Kind, settings_of


class Fake:
    def __init__(self, run_dir):
        self.run, self.logged, self.finished = run_dir, [], False
        self.may_go, self.fails_at = threading.Event(), None
        self.may_go.set()
        made.append(self)

    def log(self, values, step):
        self.may_go.wait(60)
        if len(self.logged) == self.fails_at:
            raise ConnectionError("the server\nis gone")
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


made = []


@pytest.fixture
def run(tmp_path, monkeypatch):
    made.clear()
    monkeypatch.setitem(tracking.TRACKERS, "wandb", _Kind(Fake, "pip install it"))
    run = RunDir.create(parse_config([f"run={tmp_path / 'run'}", "model.hidden=8,4"]), [], overwrite=False)
    yield run
    run.close()


RECORDS = [
    {
        "global_step": k,
        "losses/entropy": 0.5 * k,
        "losses/value_loss": None,
        "learner0": {"charts/SPS": 2.0, "updates": 1},
    }
    for k in range(1, 6)
]


def test_every_number_of_every_record_arrives_in_order(run):
    warnings = []
    tracker = Tracking("wandb", run, warnings.append)
    for record in RECORDS:
        tracker.record(record)
    tracker.close()
    tracker.close()
    (fake,) = made
    assert fake.finished and fake.run is run and warnings == []
    assert fake.logged == [
        (k, {"losses/entropy": 0.5 * k, "learner0/charts/SPS": 2.0, "learner0/updates": 1}) for k in range(1, 6)
    ]


def test_a_slow_tracker_holds_nobody_up(run):
    warnings = []
    tracker = Tracking("wandb", run, warnings.append)
    while not made:
        pass
    made[0].may_go.clear()
    for record in RECORDS:
        tracker.record(record)  # would wait for ever
    tracker.close(patience_s=0.05)
    (line,) = warnings
    assert line.startswith("warning: track=wandb: it has not taken all records 0 s after the end; nothing more is sent")
    made[0].may_go.set()


@pytest.mark.parametrize("failure", ["init", "log", "exit"])
def test_a_tracker_that_fails_costs_one_warning(run, monkeypatch, failure):
    def broken(run_dir):
        if failure == "init":
            raise RuntimeError("no network")
        if failure == "exit":
            raise SystemExit(1)
        fake = Fake(run_dir)
        fake.fails_at = 2
        return fake

    monkeypatch.setitem(tracking.TRACKERS, "wandb", _Kind(broken, ""))
    warnings = []
    tracker = Tracking("wandb", run, warnings.append)
    for record in RECORDS * 3:
        tracker.record(record)
    tracker.close()
    said = {"init": "RuntimeError: no network", "log": "ConnectionError: the server is gone", "exit": "SystemExit: 1"}
    assert warnings == [f"warning: track=wandb: {said[failure]}; nothing more is sent, metrics.jsonl has all"]


def test_no_tracker_starts_no_thread(run):
    before = threading.active_count()
    tracker = Tracking("none", run, print)
    tracker.record(RECORDS[0])
    tracker.close()
    assert threading.active_count() == before and made == []


def test_settings_are_json_and_say_nothing_of_the_place(run):
    told = settings_of(run.config)
    assert json.loads(json.dumps(told)) == told and told["model.hidden"] == [8, 4]
    assert "run" not in told and str(run.path) not in json.dumps(told)


def test_a_tracker_that_is_missing_is_said_before_anything_starts(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "trackio" else found(name))
    assert cli.main(["train", f"run={tmp_path / 'run'}", "track=trackio"]) == 2
    err = capsys.readouterr().err
    assert err == "gala: error: track=trackio needs the package trackio: pip install 'trackio>=0.43'\n"
    assert not (tmp_path / "run").exists()
    assert cli.main(["train", "track=wand"]) == 2
    assert "did you mean 'wandb'" in capsys.readouterr().err


def tracked(project):
    """Of trackio's own data base: name of each run -> {step: value of losses/entropy}."""
    storage = importlib.import_module("trackio.sqlite_storage").SQLiteStorage
    return {
        name: {log["step"]: log["losses/entropy"] for log in storage.get_logs(project, name)}
        for name in storage.get_runs(project)
    }


@pytest.fixture
def trackio_here(tmp_path, monkeypatch):
    """trackio keeps its records in the test's folder, and no network is asked."""
    pytest.importorskip("trackio")
    for module in ("trackio", "trackio.utils", "trackio.sqlite_storage", "trackio.run"):
        found = importlib.import_module(module)
        if hasattr(found, "TRACKIO_DIR"):
            monkeypatch.setattr(found, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TRACKIO_PROJECT", "tests")


def test_trackio_has_every_record_and_says_nothing(run, trackio_here, capfd):
    warnings = []
    for _ in range(2):  # the second time as a resumed run has it
        tracker = Tracking("trackio", run, warnings.append)
        for record in RECORDS:
            tracker.record(record | {"global_step": record["global_step"] + len(tracked("tests")) * 5})
        tracker.close()
    assert warnings == [] and capfd.readouterr() == ("", "")
    (name,) = tracked("tests")
    assert name.startswith("run-") and tracked("tests")[name] == {k: 0.5 * (k - 1) % 2.5 + 0.5 for k in range(1, 11)}
    assert "print" not in vars(importlib.import_module("trackio"))


def test_another_run_of_the_same_name_is_another_in_trackio(run, trackio_here):
    for again in range(2):
        tracker = Tracking("trackio", run, print)
        tracker.record(RECORDS[again])
        tracker.close()
        run.close()
        run = RunDir.create(run.config, [], overwrite=True)
    assert sorted(map(len, tracked("tests").values())) == [1, 1]


def logged(data):
    """The entries of a file in LevelDB's log format, behind W&B's header of 7 bytes: blocks of 32 KiB, in which each
    piece has a checksum (4 bytes), a length (2) and a kind: whole, first, middle or last."""
    assert data[:4] == b":W&B"
    at, entry = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        entry += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield entry
            entry = b""


@pytest.mark.long
def test_wandb_offline_keeps_the_records_of_a_real_training(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    assert cli.main(["train", f"run={run}", *TINY, "steps=20000", "track=wandb"]) == 0
    assert "warning: track" not in capsys.readouterr().out
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    steps = []
    for data in logged(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            steps.append((int(items["_step"]), float(items["perf/updates"])))
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert dict(steps) == {r["global_step"]: r["perf/updates"] for r in written}
