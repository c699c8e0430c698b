"""``gala video``: what a short training learns, and that an interrupted one is the one that was not."""

import json
import math
import os
import shutil
import signal
import threading
import time
import zlib

import numpy as np
import pytest
import torch

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.runs.checkpoints import Checkpoints
from gala.runs.lock import lock
from gala.supervised import video
from gala.supervised.video_data import draw

TINY = ("frames=4", "context=1", "scales=2", "width=4", "latent=2", "batch_size=2", "log_every=2", "save_every=2")
EKFAC_ON_NUMBERS = (
    *("data=coin-flip", "likelihood=gaussian", "scales=1", "levels=1"),
    *("optimizer=ekfac", "lr=0.5", "ekfac.basis_every=2", "ekfac.videos=1"),
)
WITHOUT_LATENTS = 0.5 * math.log(2 * math.pi * math.e * 1.01)
"""Nats of a coin under the best single Gaussian."""


def copy_of_last_frame(config):
    """Nats of a Gaussian around the frame before, with the best deviation."""
    x = draw(config.data, "test", video.HELD_OUT, config.frames, config.seed).frames
    return 0.5 * math.log(2 * math.pi * math.e * ((x[1:] - x[:-1]) ** 2).mean())


@pytest.mark.long
def test_a_coin_takes_a_latent_and_its_bound_lies_between_chance_and_the_truth():
    config = parse_options(VideoConfig, ["preset=video/coin-flip", "iterations=350", "warm_up=200"])
    model, rows = video.make_model(config), []
    before = video.judge(config, model)
    for _ in video.train(config, video.make_learner(config, model), 0, rows.append):
        pass
    last = rows[-1]
    assert last["nats"] < before["nats"] - 0.3
    assert last["nats"] < WITHOUT_LATENTS - 0.2 < copy_of_last_frame(config)
    assert last["nats"] > last["nats_if_known"]
    assert 0.9 * math.log(2) < sum(last["kl"]) < 3


def test_a_linear_schedule_ends_at_nothing():
    config = parse_options(VideoConfig, ["data=wall-bounce", *TINY, "iterations=4", "lr=1e-2", "schedule=linear"])
    learner, rates = video.make_learner(config, video.make_model(config)), []
    for _ in video.train(config, learner, 0, lambda row: None):
        rates.append(learner.learning_step.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])


def run(*words):
    return cli.main(["video", *words])


def left(out):
    """(tensors of the checkpoint, its iteration, records without their times and rates)."""
    checkpoints = Checkpoints(out / "checkpoints")
    tensors, _ = checkpoints.load_part("latest", "learner0")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return (
        tensors,
        checkpoints.meta("latest")["iteration"],
        [{k: v for k, v in r.items() if k != "wall_s"} for r in rows],
    )


@pytest.mark.parametrize("optimizer", [(), EKFAC_ON_NUMBERS])
def test_a_resumed_training_is_the_one_that_was_not_interrupted(tmp_path, optimizer):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ("data=wall-bounce", *TINY, *optimizer, "warm_up=3")
    assert run("train", *settings, "iterations=6", f"out={whole}") == 0
    assert run("train", *settings, "iterations=2", f"out={parts}") == 0
    (parts / "metrics.jsonl").open("a").write(
        '[]\n{"wall_s": 0}\n{"iteration": "1", "wall_s": 0}\n{"iteration": 2}\n{"iteration": 4, "wall_s": 0}\n{"iterat'
    )  # no records, past the checkpoint, and torn
    before = (parts / "config.yaml").read_bytes()
    with lock(parts):
        assert run("resume", str(parts), "iterations=6") == 2
    assert (parts / "config.yaml").read_bytes() == before, "the settings of who trains there"
    assert run("resume", str(parts), "iterations=6") == 0
    took_s = [json.loads(line)["wall_s"] for line in (parts / "metrics.jsonl").read_text().splitlines()]
    assert took_s == sorted(took_s), "both parts took time"
    (expected, i, rows), (tensors, j, others) = left(whole), left(parts)
    assert (i, rows) == (j, others) and i == 6 and [r["iteration"] for r in rows] == [2, 4, 6]
    assert expected.keys() == tensors.keys() == {"model", "optimizer"} | ({"ekfac"} if optimizer else set())
    for group in expected:
        assert expected[group].keys() == tensors[group].keys()
        assert all(torch.equal(expected[group][name], tensors[group][name]) for name in expected[group])


def test_a_training_that_diverges_says_so_in_a_line(tmp_path, capsys):
    words = ("data=wall-bounce", *TINY, "lr=1e6", "iterations=4", f"out={tmp_path / 'run'}")
    assert run("train", *words) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err and "not finite; lower the learning rate" in err, err


def test_a_model_that_is_not_finite_between_records_says_so_in_training_and_in_evaluation(tmp_path, capsys):
    out = tmp_path / "run"
    words = ("data=wall-bounce", *TINY, "max_grad_norm=0", "lr=1e6", "iterations=1")
    assert run("train", *words, "log_every=1", f"out={out}") == 1, "the gradient was finite, the bound is not"
    err = capsys.readouterr().err
    assert "bound on held-out videos is nan nats: not finite; lower the learning rate" in err, err

    shutil.rmtree(out)
    assert run("train", "data=wall-bounce", *TINY, "iterations=2", f"out={out}") == 0
    checkpoints = Checkpoints(out / "checkpoints")
    tensors, meta = checkpoints.load_part("latest", "learner0")
    tensors["model"] = {name: torch.full_like(tensor, math.nan) for name, tensor in tensors["model"].items()}
    checkpoints.write_part("staging", "learner0", tensors, meta)
    checkpoints.commit("staging", ["latest"], {"iteration": 2, "learners": 1})
    capsys.readouterr()
    assert run("eval", str(out), "videos=2", "weights=1", "samples=1", "encoder=0") == 2
    assert "has diverged: its bound is not finite" in capsys.readouterr().err


def forget_settings(out):
    """The checkpoint as of a version that did not record them."""
    checkpoints = Checkpoints(out / "checkpoints")
    meta = checkpoints.meta("latest")
    for file in meta.pop("files"):
        if file.endswith(".json"):
            part = file.removesuffix(".json")
            checkpoints.write_part("staging", part, *checkpoints.load_part("latest", part))
    checkpoints.commit("staging", ["latest"], {name: meta[name] for name in meta.keys() - {"settings"}})


def test_what_does_not_fit_the_checkpoint_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "data=wall-bounce", *TINY, "iterations=4", f"out={out}") == 0
    settings = (out / "config.yaml").read_text()
    assert run("resume", str(out), "iterations=2") == 2
    assert "has done 4 iterations: iterations=2 is behind it" in capsys.readouterr().err
    assert (out / "config.yaml").read_text() == settings
    width = next(line for line in settings.splitlines() if line.startswith("width:"))
    (out / "config.yaml").write_text(settings.replace(width, f"width: {2 * int(width.split()[1])}"))
    for words in (("resume", str(out), "iterations=6"), ("eval", str(out), "videos=2")):
        assert run(*words) == 2
        assert "latest was trained with width=4, and config.yaml says 8: undo that" in capsys.readouterr().err
    forget_settings(out)
    assert run("eval", str(out), "videos=2") == 2
    error = capsys.readouterr().err
    assert "the model of config.yaml is not that of" in error and len(error) < 400 + len(str(out)), error


def test_a_checkpoint_of_other_learners_is_refused(tmp_path, capsys):
    """The first of them would be taken for all."""
    out = tmp_path / "run"
    assert run("train", "data=wall-bounce", *TINY, "learners=2", "iterations=2", f"out={out}") == 0
    settings = (out / "config.yaml").read_text()
    assert "learners: 2\n" in settings
    (out / "config.yaml").write_text(settings.replace("learners: 2\n", "learners: 1\n"))
    for words in (("resume", str(out), "iterations=4"), ("eval", str(out), "videos=2")):
        assert run(*words) == 2
        assert "is of 2 learners, config.yaml of 1: undo that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (("learners=2",), "optimizer: ekfac", "was trained with neither ekfac nor slowmo, and config.yaml says ekfac"),
        ((), "optimizer: ekfac", "was trained with neither ekfac nor slowmo, and config.yaml says ekfac"),
        (EKFAC_ON_NUMBERS, "optimizer: adam", "was trained with ekfac, and config.yaml says neither ekfac nor slowmo"),
    ],
)
def test_another_optimizer_than_the_checkpoint_has_is_refused(before, after, told, tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "data=wall-bounce", *TINY, *before, "iterations=2", f"out={out}") == 0
    settings = (out / "config.yaml").read_text()
    line = next(line for line in settings.splitlines() if line.startswith("optimizer:"))
    (out / "config.yaml").write_text(settings.replace(line, after))
    assert run("resume", str(out), "iterations=4") == 2
    was, now = (text.removeprefix("optimizer: ") for text in (line, after))
    assert f"was trained with optimizer={was}, and config.yaml says {now}: undo that" in capsys.readouterr().err
    forget_settings(out)
    assert run("resume", str(out), "iterations=4") == 2
    err = capsys.readouterr().err
    assert told in err and "Traceback" not in err, err


def test_a_training_that_was_killed_before_it_was_saved_starts_anew(tmp_path, capsys):
    out = tmp_path / "run"
    assert run("train", "data=wall-bounce", *TINY, "iterations=2", f"out={out}") == 0
    whole = left(out)
    shutil.rmtree(out / "checkpoints")
    assert run("resume", str(out)) == 0 and "has no checkpoint yet: it starts anew" in capsys.readouterr().out
    assert left(out)[1:] == whole[1:] and len(whole[2]) == 1
    assert all(torch.equal(left(out)[0]["model"][name], tensor) for name, tensor in whole[0]["model"].items())


def test_a_signal_saves_and_the_run_can_go_on(tmp_path):
    out = tmp_path / "run"

    def end_when_it_trains():
        while not (out / "metrics.jsonl").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=end_when_it_trains)
    killer.start()
    words = ("data=wall-bounce", *TINY, "iterations=1000000", "save_every=1000000", f"out={out}")
    assert run("train", *words) == 128 + signal.SIGTERM
    killer.join()
    done = left(out)[1]
    assert 2 <= done < 1_000_000
    assert run("resume", str(out), f"iterations={done + 2}") == 0
    assert left(out)[1] == done + 2


def test_the_picture_of_samples_shows_the_truth_above_its_continuations(tmp_path):
    config = parse_options(VideoConfig, ["data=wall-bounce", *TINY])
    model = video.make_model(config)
    grid = video.sample_grid(video.sample_films(config, model, videos=2, samples=3))
    side = 17
    assert grid.shape == (2 * 4 * side, 4 * side) and grid.min() >= 0 and grid.max() <= 1
    truth = draw("wall-bounce", "test", 2, 4, config.seed).frames[:, :, 0]
    cells = grid.unflatten(0, (2, 4, side)).unflatten(3, (4, side))[:, :, :16, :, :16].permute(0, 1, 3, 2, 4)
    assert torch.equal(cells[:, 0], truth.transpose(0, 1))
    assert all(torch.equal(cells[:, k, 0], truth[0]) for k in range(4))  # the context
    assert run("train", "data=wall-bounce", *TINY, "iterations=2", f"out={tmp_path / 'run'}") == 0
    png = (tmp_path / "run" / "samples-0000002.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    at = png.index(b"IDAT")
    pixels = zlib.decompress(png[at + 4 : at + 4 + int.from_bytes(png[at - 4 : at])])
    lines = np.frombuffer(pixels, np.uint8).reshape(height, width + 1)
    first = draw("wall-bounce", "test", 4, 4, config.seed).frames[0, 0, 0]
    assert (lines[:, 0] == 0).all() and (lines[:16, 1:17] == (first * 255).numpy()).all()


@pytest.mark.long
def test_moving_digits_are_learned_from_the_preset():
    pytest.importorskip("sklearn")
    config = parse_options(VideoConfig, ["preset=video/moving-digits", "width=8", "batch_size=4", "iterations=2"])
    rows = []
    assert list(video.train(config, video.make_learner(config, video.make_model(config)), 0, rows.append)) == [1, 2]
    assert len(rows) == 1 and len(rows[0]["kl"]) == config.levels and len(rows[0]["kl_by_frame"]) == 8
    assert rows[0]["bits_per_dim"] == pytest.approx(rows[0]["nats"] / math.log(2) / 1024)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "context=12"], "context=12 leaves nothing"),
        (["train", "data=coin-flip", "scales=1", "levels=1", "likelihood=bernoulli"], "likelihood=gaussian"),
        (["train", "data=wall-bounce", "scales=6"], "lower scales"),
        (["train", "topology=foo"], "unknown topology"),
        (["train", "learners=1000000"], "GiB; take fewer learners"),
        (["train", "decoder_blocks=100000"], "0 to 100"),
        (["train", "levels=3", "scales=2"], "at most scales=2"),
        (["train", "preset=digits/compare"], "preset"),
        (["resume", "nowhere"], "nowhere holds no config.yaml"),
        (["watch"], "give `train`"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_a_run_was_built_from_cannot_change(tmp_path, capsys):
    out = str(tmp_path / "run")
    assert run("train", "data=wall-bounce", *TINY, "iterations=2", f"out={out}") == 0
    assert run("train", "data=wall-bounce", *TINY, "iterations=2", f"out={out}") == 2
    assert "gala video resume" in capsys.readouterr().err
    assert run("resume", out, "width=8") == 2
    assert "width cannot change" in capsys.readouterr().err
