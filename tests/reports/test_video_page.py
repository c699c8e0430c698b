"""The page of ``gala video eval``: its pictures as another library reads them, and what stands where in them."""

import base64
import io
import re

import numpy as np
import pytest
import torch

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.reports.png import animated_png, png
from gala.reports.video_page import BORDER_PX, CONTEXT_GREY, PREDICTED, paint, video_page
from gala.supervised import video
from gala.supervised.video_data import draw
from gala.supervised.video_eval import _other_than, films, psnr


def frames_of(data):
    """All frames of a PNG [T, H, W(, 3)], and how long each is shown, in ms."""
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(data))
    pictures, shown_ms = [], []
    for t in range(getattr(image, "n_frames", 1)):
        image.seek(t)
        pictures.append(np.array(image))
        shown_ms.append(image.info.get("duration"))
    return np.stack(pictures), shown_ms


def test_pictures_survive_another_librarys_reading():
    rng = np.random.default_rng(0)
    for shape in ((7, 5), (7, 5, 3)):
        picture = rng.integers(0, 256, shape).astype(np.uint8)
        assert np.array_equal(frames_of(png(picture))[0][0], picture)
        moving = rng.integers(0, 256, (4, *shape)).astype(np.uint8)
        read, shown_ms = frames_of(animated_png(moving, 8, last_s=0.5))
        read = read if read.ndim == moving.ndim else read[..., :3]
        assert np.array_equal(read, moving) and shown_ms == [125, 125, 125, 625]


def test_colours_of_planes():
    planes = np.zeros((4, 1, 2), np.float32)
    planes[1, 0, 0] = 1
    assert paint(planes)[0, 0].tolist() == [70, 150, 240] and (paint(planes)[0, 1] == 0).all()
    grey = np.array([[[0.0, 0.5, 1.0]]], np.float32)
    assert paint(grey)[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    assert paint(np.array([1.0, 0.0, 2.0], np.float32).reshape(3, 1, 1))[0, 0].tolist() == [255, 0, 255]


def test_tiles_are_truth_and_samples_in_the_borders_of_what_was_given():
    rng = np.random.default_rng(0)
    shown = rng.random((3, 2, 3, 1, 8, 8)).astype(np.float32)
    report = {"nats": 1.0, "nats_weighted": 0.9, "weights": 2, "samples": 5, "psnr": [10.0, 9.0]}
    report |= {"nats_standard_error": 0.25, "nats_weighted_standard_error": 0.125}
    page = video_page("<run>", shown, 1, report)
    images = [base64.b64decode(text) for text in re.findall(r'base64,([^"]+)"', page)]
    assert len(images) == 3 and "http" not in page and "<run>" not in page and "&lt;run&gt;" in page
    side = 14 * 8 + 2 * BORDER_PX
    for v in range(2):
        film = frames_of(images[v])[0]
        assert film.shape[:3] == (3, side, 3 * side)
        for t, border in enumerate((CONTEXT_GREY, PREDICTED, PREDICTED)):
            for k in range(3):
                tile = film[t, :, k * side : (k + 1) * side, :3]
                assert (tile[0] == border).all() and (tile[:, -1] == border).all()
                inside = tile[BORDER_PX:-BORDER_PX:14, BORDER_PX:-BORDER_PX:14, 0]
                assert np.array_equal(inside, np.rint(shown[t, v, k, 0] * 255))
    strip = frames_of(images[2])[0][0]
    assert np.array_equal(strip[:side, side : 2 * side], frames_of(images[0])[0][1, :, :side])


def test_the_best_sample_is_the_one_of_highest_psnr_and_eval_writes_the_page(tmp_path, capsys):
    words = ("data=wall-bounce", "frames=5", "context=2", "scales=2", "width=4", "latent=2", "batch_size=2")
    config = parse_options(VideoConfig, [*words, "iterations=1"])
    model = video.make_model(config)
    for head in model.priors:  # else all samples are nearly one
        torch.nn.init.normal_(head.last.weight, std=3)
    shown = films(config, model, 3, 6)
    truth = draw("wall-bounce", "test", 3, 5, _other_than(config.seed, 1)).frames
    assert torch.equal(shown[:, :, 0], truth)
    assert all(torch.equal(shown[:2, :, k], truth[:2]) for k in range(shown.shape[2])) and shown.shape[2] == 5
    scores = psnr(shown[2:, :, 1:], truth[2:].unsqueeze(2)).mean(0)
    assert (scores[:, :1] >= scores).all() and scores.std() > 0
    assert films(config, model, 2, 1).shape[2] == 2
    out = tmp_path / "run"
    assert cli.main(["video", "train", *words, "iterations=1", f"out={out}"]) == 0
    assert cli.main(["video", "eval", str(out), "videos=3", "weights=2", "samples=2"]) == 0
    assert "eval.html" in capsys.readouterr().err
    assert (out / "eval.html").read_text().count("data:image/png") == 3 + 1
