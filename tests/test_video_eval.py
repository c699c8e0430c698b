"""Scores of predictions, against slow second implementations and models whose scores are known."""

import json
import math

import numpy as np
import pytest
import torch

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.supervised import video, video_eval
from gala.supervised.video import make_model
from gala.supervised.video_checkpoint import load_consensus
from gala.supervised.video_data import draw
from gala.supervised.video_eval import _other_than, best_of, evaluate, films, psnr, ssim
from gala.supervised.video_settings import read_settings


def slow_ssim(a, b):
    """Wang et al. 2004, eq. 13, window by window, in NumPy."""
    offsets = np.arange(-5, 6)
    w = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    w /= w.sum()
    scores = []
    for y in range(5, a.shape[0] - 5):
        for x in range(5, a.shape[1] - 5):
            p, q = (m[y - 5 : y + 6, x - 5 : x + 6] for m in (a, b))
            mp, mq = (w * p).sum(), (w * q).sum()
            vp, vq, c = (w * (p - mp) ** 2).sum(), (w * (q - mq) ** 2).sum(), (w * (p - mp) * (q - mq)).sum()
            scores.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(scores)


def test_ssim_is_the_formula():
    a, b = torch.rand(2, 3, 1, 16, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = (0.7 * a + 0.3 * b).roll(1, -1)
    expected = [slow_ssim(x[0].numpy(), y[0].numpy()) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b).tolist() == pytest.approx(expected, abs=1e-10)
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    two = torch.cat([a, b], 1)
    assert torch.allclose(ssim(two, two.flip(1)), ssim(a, b))


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = torch.rand(2, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    expected = metrics.structural_similarity(a, b, **settings)
    mine = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None]).item()
    assert mine == pytest.approx(expected, abs=1e-10)


def test_psnr_of_a_known_error():
    a = torch.rand(4, 1, 8, 8, dtype=torch.float64) * 0.9
    assert psnr(a, a + 0.1).tolist() == pytest.approx([20.0] * 4)
    assert psnr(a, a).tolist() == pytest.approx([100.0] * 4)


def test_the_best_sample_is_one_for_the_whole_video():
    scores = torch.tensor([[[1.0, 5.0]], [[9.0, 2.0]]])  # 2 frames, 1 video, 2 samples: means 5 and 3.5
    assert best_of(scores) == [1.0, 9.0]


def test_eval_reports_what_a_checkpoint_can_do(tmp_path, capsys):
    out = str(tmp_path / "run")
    words = ("data=wall-bounce", "frames=4", "context=2", "scales=2", "width=4", "latent=2", "batch_size=2")
    assert cli.main(["video", "train", *words, "iterations=2", f"out={out}"]) == 0
    capsys.readouterr()
    assert cli.main(["video", "eval", out, "videos=8", "weights=4", "samples=3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "run" / "eval.json").read_text())
    assert report["iteration"] == 2 and len(report["psnr"]) == len(report["ssim"]) == 2
    assert report["nats"] > report["nats_if_known"] and report["nats_if_known"] >= 0
    assert report["nats"] < 1.05 * 256 * math.log(2)  # an untrained Bernoulli: a coin per pixel
    assert abs(report["nats_weighted"] - report["nats"]) < 0.5  # prior and posterior still agree nearly
    assert cli.main(["video", "eval", out, "videos=1"]) == 2
    assert "videos=1 must be at least 2" in capsys.readouterr().err


def test_pictures_have_a_page_under_every_likelihood_and_numbers_are_told_to_have_none(tmp_path, capsys):
    words = ("frames=3", "context=1", "scales=1", "levels=1", "width=4", "latent=1", "batch_size=2", "iterations=1")
    for data, has_page in (("wall-bounce", True), ("coin-flip", False)):
        out = tmp_path / data
        train = ("video", "train", f"data={data}", *words, "likelihood=gaussian", f"out={out}")
        assert cli.main(list(train)) == 0
        assert cli.main(["video", "eval", str(out), "videos=2", "weights=1", "samples=2", "encoder=0"]) == 0
        report, said = json.loads((out / "eval.json").read_text()), capsys.readouterr().err
        assert ("no page: these are numbers, not pictures" in said) is not has_page
        assert ((out / "eval.html").exists(), "psnr" in report, "ssim" in report) == (has_page,) * 3
    config = read_settings(tmp_path / "wall-bounce")
    model = make_model(config)
    load_consensus(config, tmp_path / "wall-bounce", model)
    shown = films(config, model, 2, 2)
    assert shown.min() >= 0 and shown.max() <= 1  # samples of a Gaussian, which would pass both


def test_each_bound_has_the_standard_error_of_its_videos():
    config = parse_options(
        VideoConfig, ["data=wall-bounce", "frames=3", "context=1", "scales=1", "levels=1", "width=4"]
    )
    model = make_model(config)
    report = evaluate(config, model, videos=6, weights=1, samples=1, seed=3)
    drawn = draw(config.data, "test", 6, 3, _other_than(config.seed, 3))
    with torch.no_grad():
        bound = model(drawn.frames, drawn.actions, torch.Generator().manual_seed(3)).bound.double() / 2
    assert report["nats_standard_error"] == pytest.approx(np.std(bound.numpy(), ddof=1) / 6**0.5, rel=1e-4)
    assert report["nats_weighted_standard_error"] != report["nats_standard_error"]


def test_no_more_videos_are_in_memory_than_allowed_and_each_counts_once(monkeypatch):
    config = parse_options(
        VideoConfig, ["data=wall-bounce", "frames=3", "context=1", "scales=2", "levels=1", "width=4", "latent=2"]
    )
    model, seen = video.make_model(config), []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0]) // 3))
    monkeypatch.setattr(video_eval, "AT_ONCE", 8)
    videos = draw(config.data, "test", 5, 3, 0)
    with torch.no_grad():
        bounds = video_eval._weighted(model, videos, 4, torch.Generator().manual_seed(0))
        alone = model(videos.frames).bound
    assert seen[:3] == [8, 8, 4] and bounds.shape == (5,)
    assert torch.allclose(
        bounds, alone, rtol=2e-3
    )  # prior and posterior agree at the start: nearly any draw is as good
