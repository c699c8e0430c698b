import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gala.commands.plot import FIGURES
from gala.config.parse import load_config
from gala.config.schema import Config, LogConfig
from gala.files.whole import write_atomically
from gala.runs.events import LAYOUT
from gala.runs.run_dir import RunDir

WRITER = """
import sys, torch
from gala.runs.run_dir import RunDir
run = RunDir.open(sys.argv[1])
number = 0
while True:
    number += 1
    for rank in (0, 1):
        tensors = {"policy": {"w": torch.full((100_000,), float(number)), "b": torch.full((3,), float(number))}}
        run.write_part("staging", f"learner{rank}", tensors, {"number": number})
    run.commit_checkpoint("staging", ["latest", "best"], {"number": number})
    print(number, flush=True)
"""

HOLDER = """
import sys, time
from gala.runs.run_dir import RunDir
run = RunDir.open(sys.argv[1])
run.claim()
print(1, flush=True)
time.sleep(1e6)
"""


def make_run(path, **log):
    config = Config(run=str(path), log=LogConfig(**log))
    return RunDir.create(config, ["run=x y"], overwrite=False)


def save(run, value, names=("latest",)):
    run.write_part("staging", "learner0", {"policy": {"layer.w": torch.tensor([value])}}, {"updates": 3})
    run.commit_checkpoint("staging", names, {"env_steps": int(value)})


def test_a_kill_in_the_middle_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    run = make_run(tmp_path / "run")
    delay_s = 0.0
    for attempt in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "1\n"
        deadline = time.monotonic() + 200.0
        while run.load_part("latest", "learner0")[1]["number"] < 3:  # links and folders change under this reader
            assert time.monotonic() < deadline
        time.sleep(delay_s := (delay_s + 0.0037 * attempt) % 0.03)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        meta = run.checkpoint_meta("latest")
        assert run.checkpoint_meta("best")["number"] in (meta["number"], meta["number"] - 1)
        for rank in (0, 1):
            tensors, part = run.load_part("latest", f"learner{rank}")
            assert part["number"] == meta["number"]
            assert (tensors["policy"]["w"] == meta["number"]).all() and tensors["policy"]["w"].shape == (100_000,)
            assert (tensors["policy"]["b"] == meta["number"]).all()
    save(run, 1.0, ["latest", "best"])
    assert len(list((run.path / "checkpoints/.store").iterdir())) == 1  # what the kills left over is gone


def test_tensors_come_back_exactly_even_when_they_share_memory(tmp_path):
    run = make_run(tmp_path / "run")
    flat = torch.randn(10)
    tensors = {
        "policy": {"a.weight": flat[:6].view(2, 3), "b": flat[6:]},
        "rng": {"actions": torch.Generator().get_state()},
        "optimizer": {"step": torch.tensor(7, dtype=torch.int64), "square_avg": flat.double().view(2, 5).t()},
    }
    run.write_part("staging", "learner0", tensors, {"x": 0.1})
    assert run.checkpoints.names() == []  # nothing is visible before the commit
    run.commit_checkpoint("staging", ["latest", "step10"], {"env_steps": 10})
    loaded, meta = run.load_part("step10", "learner0")
    assert meta == {"x": 0.1} and loaded.keys() == tensors.keys()
    for group, named in tensors.items():
        for name, tensor in named.items():
            assert loaded[group][name].dtype == tensor.dtype and torch.equal(loaded[group][name], tensor)


def test_milestones_stay_and_unnamed_checkpoints_go(tmp_path):
    run = make_run(tmp_path / "run")
    for value, names in [(1.0, ["latest", "step1"]), (2.0, ["latest"]), (3.0, ["latest", "best"]), (4.0, ["latest"])]:
        save(run, value, names)
    assert run.checkpoints.names() == ["best", "latest", "step1"]
    values = {name: run.load_part(name, "learner0")[0]["policy"]["layer.w"].item() for name in run.checkpoints.names()}
    assert values == {"best": 3.0, "latest": 4.0, "step1": 1.0}
    assert len(list((run.path / "checkpoints/.store").iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path, damage):
    run = make_run(tmp_path / "run")
    save(run, 1.0)
    path = run.path / "checkpoints/latest/learner0.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-5] if damage == "cut" else data)
    with pytest.raises(ValueError, match=r"is damaged|has no learner0\.safetensors") as caught:
        run.load_part("latest", "learner0")
    assert "\n" not in str(caught.value)


def _watch(monkeypatch, root):
    """Every fsync, rename and unlink below ``root``, in order: (what, path, what is there under the new name)."""
    calls = []

    def content(path):
        return path.read_bytes() if path.is_file() else path.exists()

    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink")}

    def fsync(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        calls.append(("fsync", path.relative_to(root), content(path)))
        real["fsync"](descriptor)

    def rename(source, target, name="rename"):
        calls.append(("rename", Path(target).relative_to(root), content(Path(target))))
        real[name](source, target)

    def unlink(path, *args, **kwargs):
        if not kwargs:  # else a name in a folder that is being removed
            calls.append(("unlink", Path(path).relative_to(root), None))
        real["unlink"](path, *args, **kwargs)

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr("os.rename", rename)
    monkeypatch.setattr("os.replace", lambda source, target: rename(source, target, "replace"))
    monkeypatch.setattr("os.unlink", unlink)
    return calls


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    calls = _watch(monkeypatch, tmp_path)
    write_atomically(path, b"new and longer")
    folder = ("fsync", Path(), True)
    assert calls == [("fsync", Path("file.tmp"), b"new and longer"), ("rename", Path("file"), b"old"), folder]
    assert path.read_bytes() == b"new and longer" and list(tmp_path.iterdir()) == [path]


def test_a_name_of_a_checkpoint_always_leads_to_one(tmp_path, monkeypatch):
    """It is replaced by one rename, at which it is still there; parts, folder and names are on the disk by then."""
    run = make_run(tmp_path / "run")
    save(run, 1.0, ["latest", "best"])
    root = run.path / "checkpoints"
    calls = _watch(monkeypatch, root)
    save(run, 2.0, ["latest", "best"])
    assert run.load_part("best", "learner0")[0]["policy"]["layer.w"].item() == 2.0
    renames = {str(path): there for what, path, there in calls if what == "rename"}
    assert renames["latest"] is True and renames["best"] is True and renames[".store/000002"] is False
    assert not {"latest", "best"} & {str(path) for what, path, _ in calls if what == "unlink"}
    order = [(what, str(path)) for what, path, _ in calls]
    stored, named = order.index(("rename", ".store/000002")), order.index(("rename", "best"))
    synced = {path: [i for i, call in enumerate(order) if call == ("fsync", path)] for path in (".store", ".")}
    for part in ("learner0.safetensors", "learner0.json", "meta.json"):
        assert order.index(("fsync", f".staging/{part}.tmp")) < stored
    assert any(stored < i < named for i in synced[".store"]) and any(i > named for i in synced["."])


def test_missing_names_parts_and_foreign_schemas_are_named(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint 'latest'; it has none yet"):
        run.checkpoint_meta("latest")
    save(run, 1.0)
    with pytest.raises(ValueError, match="no checkpoint 'worst'; it has latest"):
        run.checkpoint_meta("worst")
    with pytest.raises(ValueError, match="has no learner9"):
        run.load_part("latest", "learner9")
    meta = run.path / "checkpoints/latest/meta.json"
    meta.write_text(meta.read_text().replace('"schema": 2', '"schema": 99'))
    with pytest.raises(ValueError, match="schema 99; this version of gala reads 2"):
        run.load_part("latest", "learner0")


def test_an_existing_run_is_not_overwritten_silently(tmp_path):
    run = make_run(tmp_path / "run")
    save(run, 1.0)
    with pytest.raises(ValueError, match=r"gala resume .*overwrite=true"):
        RunDir.create(run.config, [], overwrite=False)
    with pytest.raises(ValueError, match=f"is written to by process {os.getpid()} on .*; end that one first"):
        RunDir.create(run.config, [], overwrite=True)
    assert run.checkpoints.names() == ["latest"]
    run.close()
    again = RunDir.create(run.config, [], overwrite=True)
    assert again.checkpoints.names() == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="not a run directory"):
        RunDir.create(Config(run=str(tmp_path / "mine")), [], overwrite=True)
    assert (tmp_path / "mine/thesis.tex").exists()


def test_overwrite_deletes_only_what_a_run_of_ours_has_and_follows_no_link(tmp_path):
    """A folder with a config.yaml of somebody else's; a run with something beside; a link to a run; links in a run."""

    def refused(path, message):
        before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=message):
            RunDir.create(Config(run=str(path)), [], overwrite=True)
        assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before

    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("config.yaml", "versions.json", "command.txt"):
        (theirs / name).write_text("{}")
    refused(theirs, "was not made by gala")
    (theirs / "versions.json").write_text("[1]")
    refused(theirs, "was not made by gala")
    run = make_run(tmp_path / "run")
    save(run, 1.0)
    run.close()
    (tmp_path / "link").symlink_to(run.path)
    refused(tmp_path / "link", "is a link")
    (run.path / "thesis").mkdir()
    refused(run.path, "holds thesis, which is not of a run")
    (run.path / "thesis").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("x")
    (run.path / "learner0").symlink_to(tmp_path / "elsewhere")
    (run.path / ".DS_Store").write_text("x")
    (run.path / "diagnose").mkdir()  # of `gala diagnose`
    for figure in FIGURES:  # of `gala plot`
        (run.path / f"{figure}.png").touch()
    again = RunDir.create(run.config, [], overwrite=True)
    assert again.checkpoints.names() == [] and (tmp_path / "elsewhere/kept").exists()
    assert not (run.path / "learner0").exists()


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    run = make_run(tmp_path / "run")
    run.close()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "1\n"
    with pytest.raises(ValueError, match=f"is written to by process {holder.pid} on"):
        run.claim()
    holder.kill()
    holder.wait()
    run.claim()


def test_the_record_of_what_was_run(tmp_path):
    run = make_run(tmp_path / "run")
    assert (run.path / "command.txt").read_text() == "gala train 'run=x y'\n"
    assert RunDir.open(run.path).config == run.config == load_config(run.path / "config.yaml")
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["torch"].startswith("2.") and {"python", "numpy", "gymnasium", "ale-py", "mujoco", "git"} <= set(
        versions
    )
    assert str(tmp_path) not in (run.path / "versions.json").read_text()
    run.write_summary({"return_mean": float("nan"), "env_steps": 5})
    assert json.loads((run.path / "summary.json").read_text()) == {"return_mean": None, "env_steps": 5}
    with pytest.raises(ValueError, match="not a run directory"):
        RunDir.open(tmp_path)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_another_has_trained_until_the_lock_was_free_is_not_mixed_with_ours(tmp_path, monkeypatch, overwrite):
    claim, path = RunDir.claim, tmp_path / "run"

    def claim_later(self):
        monkeypatch.setattr(RunDir, "claim", claim)
        other = make_run(path)
        other.append_metrics({"global_step": 7})
        other.close()
        claim(self)

    monkeypatch.setattr(RunDir, "claim", claim_later)
    config = Config(run=str(path))
    if overwrite:
        assert RunDir.create(config, ["x"], True).read_metrics() == []
        return
    with pytest.raises(ValueError, match="already exists"):
        RunDir.create(config, ["x"], False)
    assert [record["global_step"] for record in RunDir.open(path).read_metrics()] == [7]


def test_what_is_in_the_way_is_told_with_a_remedy_that_works(tmp_path):
    """A run can be resumed, by words that a shell takes; a file, and a folder of something else, cannot."""
    make_run(tmp_path / "my run").close()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("kept")
    with pytest.raises(ValueError, match="already exists; continue it with") as told:
        RunDir.check_new(tmp_path / "my run", False)
    command = str(told.value).split("`")[1]
    assert shlex.split(command) == ["gala", "resume", str(tmp_path / "my run")]
    for name in ("file", "folder"):
        for overwrite in (False, True):
            with pytest.raises(
                ValueError, match=f"{name} already exists, and is not a run directory .*; give another run="
            ):
                RunDir.check_new(tmp_path / name, overwrite)


@pytest.mark.parametrize("left", [["command.txt"], ["command.txt.tmp"], ["command.txt", "config.yaml.tmp"]])
def test_a_start_that_was_cut_off_is_in_nobodys_way(tmp_path, left):
    """A kill between the first file and config.yaml, which comes last; what is not of gala stays in the way."""
    make_run(tmp_path / "whole").close()
    path = tmp_path / "run"
    path.mkdir()
    for name in left:
        whole = tmp_path / "whole" / name
        (path / name).write_bytes(whole.read_bytes() if whole.is_file() else b"steps:")
    again = "cut off at the start, begin it again: gala train" if "command.txt" in left else "no config.yaml"
    with pytest.raises(ValueError, match=again):
        RunDir.open(path)
    (path / "thesis.tex").write_text("kept")
    refused = "holds thesis.tex beside a training that was cut off" if "command.txt" in left else "not a run directory"
    with pytest.raises(ValueError, match=refused):
        make_run(path)
    (path / "thesis.tex").unlink()
    make_run(path).close()
    assert RunDir.open(path).identity() is not None
    (tmp_path / "whole/config.yaml").unlink()
    (tmp_path / "whole/command.txt").write_text("latex thesis\n")
    with pytest.raises(ValueError, match="already exists, and is not a run directory"):
        make_run(tmp_path / "whole")


def test_metrics_reach_jsonl_and_tensorboard_and_rewind(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path / "run")
    for step in (10, 20, 30):
        learner = {"charts/SPS": float(step), "gossip/weight": 1}
        run.append_metrics(
            {"global_step": step, "charts/SPS": 2.0 * step, "losses/x": float("inf"), "learner0": learner}
        )
    run.close()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"global_step": 4')  # a kill cut this line short
    assert [r["global_step"] for r in run.read_metrics()] == [10, 20, 30]
    assert run.read_metrics()[0]["losses/x"] is None
    run.rewind(20)
    run.append_metrics({"global_step": 25, "charts/SPS": 1.0})
    run.close()
    assert [r["global_step"] for r in run.read_metrics()] == [10, 20, 25]
    for folder, expected in [
        ("", [(10, 20.0), (20, 40.0), (25, 1.0)]),
        ("learner0", [(10, 10.0), (20, 20.0), (30, 30.0)]),
    ]:
        events = EventAccumulator(str(run.path / folder))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("charts/SPS")] == expected
    quiet = make_run(tmp_path / "quiet", tensorboard=False)
    quiet.append_metrics({"global_step": 1, "charts/SPS": 1.0})
    assert not list(quiet.path.rglob("events*"))


def test_message_ages_are_a_histogram_in_tensorboard_and_no_folder(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path / "run")
    run.append_metrics({"global_step": 7, "message_ages": {"0": 5, "2-3": 1, "8-15": 2}})
    run.append_metrics({"global_step": 8, "message_ages": {}})
    run.close()
    assert not (run.path / "message_ages").exists()
    events = EventAccumulator(str(run.path))
    events.Reload()
    (histogram,) = events.Histograms("gossip/message_age")
    value = histogram.histogram_value
    assert (histogram.step, value.num, value.max) == (7, 8.0, 15.0)
    assert dict(zip(value.bucket_limit, value.bucket, strict=True)) == {0.0: 5.0, 3.0: 1.0, 15.0: 2.0}


@pytest.mark.parametrize(
    ("text", "wanted"), [(b"3", 3), (b"", -1), (b"2026-0", -1), (b"\xff\x00", -1), (b"9" * 400, -1)]
)
def test_a_request_for_learners_is_taken_once_and_one_that_is_no_number_ends_no_training(tmp_path, text, wanted):
    run = make_run(tmp_path / "run")
    assert run.take_wanted_learners() == 0
    run.ask_for_learners(2).write_bytes(text)
    assert (run.take_wanted_learners(), run.take_wanted_learners()) == (wanted, 0)
    (run.path / "wanted_learners").mkdir()
    assert run.take_wanted_learners() == 0


def test_tensorboard_is_told_which_curves_belong_together(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    run = make_run(tmp_path / "run")
    for step in (1, 2):
        run.append_metrics({"global_step": step, "charts/SPS": 5.0, "learner0": {"charts/SPS": 5.0}})
    run.close()
    events = EventAccumulator(str(run.path))
    events.Reload()
    assert events.SummaryMetadata("custom_scalars__config__").plugin_data.plugin_name == "custom_scalars"
    (told,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(told.tensor_proto.string_val[0])
    charts = {(c.title, chart.title): list(chart.multiline.tag) for c in layout.category for chart in c.chart}
    assert charts["speed", "env_steps per second"] == ["^charts/SPS$"]
    wanted = {tag for each in LAYOUT.values() for tags in each.values() for tag in tags}
    assert {tag for tags in charts.values() for tag in tags} == {f"^{re.escape(tag)}$" for tag in wanted}
    assert [scalar.value for scalar in events.Scalars("charts/SPS")] == [5.0, 5.0]
    alone = EventAccumulator(str(run.path / "learner0"))
    alone.Reload()
    assert alone.Tags()["tensors"] == []  # once for the run
