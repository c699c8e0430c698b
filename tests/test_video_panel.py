"""The live view of ``gala video train``, and what its records say of the latents."""

import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.models.bounds import active_units
from gala.reports.video_page import BORDER_PX, film_frames
from gala.supervised import video
from gala.supervised.video_data import draw
from gala.training.video_panel import VideoPanel, bars

WORDS = ("data=wall-bounce", "frames=4", "context=1", "scales=2", "levels=2", "width=4", "latent=2", "batch_size=2")


def trained():
    """A model whose posterior means are far from 0."""
    config = parse_options(VideoConfig, list(WORDS))
    model = video.make_model(config)
    for head in model.posteriors:
        torch.nn.init.normal_(head.last.weight, std=5.0)
    return config, model


def test_records_tell_levels_frames_and_units_apart():
    config, model = trained()
    torch.nn.init.zeros_(model.posteriors[1].last.weight)
    row = video.judge(config, model)
    table = np.array(row["kl_by_level"])
    assert table.shape == (2, 3)
    assert np.allclose(table.sum(0), row["kl_by_frame"]) and np.allclose(table.mean(1), row["kl"])
    assert table[0].min() > 0 and table[1].max() < 1e-6
    coarse, fine = row["active_units"]
    assert 0 < coarse <= 2 * 8 * 8 and fine == 0


def test_a_unit_is_active_if_its_mean_differs_between_videos():
    config, model = trained()
    frames = draw(config.data, "test", 16, config.frames, 0).frames
    with torch.no_grad():
        trace = model(frames, None, torch.Generator().manual_seed(0))
        means = [posterior.mean.flatten(1) for posterior in trace.last.posteriors]
    expected = [int((m.double().numpy().var(0, ddof=1) > 0.01).sum()) for m in means]
    assert active_units(trace) == expected and min(expected) > 0
    generator, state = torch.Generator().manual_seed(0), model.initial(16)
    for frame in frames:
        state, step = model.observe(state, frame, generator=generator)
    assert torch.allclose(step.posteriors[0].mean, trace.last.posteriors[0].mean, atol=1e-5)


ROW = {
    "iteration": 50,
    "wall_s": 10.0,
    "train_loss": 12.5,
    "beta": 0.5,
    "nats": 1068.75,
    "nats_if_known": 1.5,
    "bits_per_dim": 0.04,
    "kl": [1.25, 0.5],
    "kl_by_level": [[0.0, 2.5], [0.5, 0.5]],
    "active_units": [12, 3],
}


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_panel_fits_the_terminal_and_says_what_the_record_says(width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    panel = VideoPanel(parse_options(VideoConfig, [*WORDS, "iterations=200"]), console)
    panel.update(ROW)
    panel.update(ROW | {"iteration": 100, "wall_s": 20.0})
    panel.message("stays")
    panel.close()
    panel.close()
    shown = Console(file=io.StringIO(), width=width)
    shown.print(panel._panel(ROW | {"iteration": 100}))
    lines = shown.file.getvalue().splitlines()
    assert max(map(len, lines)) <= min(80, width)
    text = "\n".join(lines)
    for told in (
        "held-out nats 1,069",
        "entropy of the law 1.5",
        "weight of the KL 0.5",
        "training loss 12.5",
        "1.250",
    ):
        assert told in text
    if width >= 80:
        for told in ("50%", "100/200 iterations", "ETA 0:20", "12"):
            assert told in text
    assert "stays" in console.file.getvalue()


def test_without_a_terminal_a_record_is_a_line():
    console = Console(file=io.StringIO(), width=80)
    panel = VideoPanel(parse_options(VideoConfig, [*WORDS]), console)
    panel.update(ROW)
    panel.close()
    assert console.file.getvalue() == "     50  1068.750 nats per held-out frame, of these KL 1.250 0.500\n"


def test_bars_are_eighths_of_the_largest():
    assert bars([0.0, 1.0, 4.0, 8.0, 9.0], 8.0) == " ▁▄██"
    assert bars([0.0, 0.0], 0.0) == "  "


def test_a_film_shows_all_videos_beside_their_samples_in_time():
    films = np.zeros((3, 2, 4, 1, 16, 15), np.float32)
    films[1, 1, 2] = 1.0  # the second video's second sample, at time 1
    frames = film_frames(films, 1)
    assert frames.shape[0] == 3 and frames.dtype == np.uint8 and frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    tile_h, tile_w = frames.shape[1] // 2, frames.shape[2] // 4
    white = (frames == 255).all(-1)
    assert not white[0].any() and not white[2].any()
    where = np.argwhere(white[1])
    assert (where // (tile_h, tile_w) == (1, 2)).all()
    assert len(where) == (tile_h - 2 * BORDER_PX) * (tile_w - 2 * BORDER_PX)


def test_training_leaves_a_film_where_it_can_be_written(tmp_path, monkeypatch):
    iio = pytest.importorskip("imageio.v2")
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "run"
    assert cli.main(["video", "train", *WORDS, "iterations=2", f"out={out}"]) == 0
    frames = iio.mimread(out / "samples-0000002.mp4")
    assert len(frames) == 4 and frames[0].shape[2] == 3

    def missing():
        raise ValueError("no encoder")

    monkeypatch.setattr("gala.evaluation.film.check_encoder", missing)
    assert cli.main(["video", "resume", str(out), "iterations=4"]) == 0
    assert {p.name for p in out.glob("samples-*")} == {
        *("samples-0000002.mp4", "samples-0000002.png", "samples-0000004.png")
    }
    assert math.isfinite(frames[0].mean())
