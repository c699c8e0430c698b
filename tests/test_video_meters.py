"""Meters of video models against closed forms and models whose answers are known."""

import json
import math

import numpy as np
import pytest
import torch

from gala import cli
from gala.config.parse import parse_options
from gala.config.video import VideoConfig
from gala.supervised import video, video_meters
from gala.supervised.frechet import FEATURES, SPOILT, frechet_distance, gaussian_distance, train_encoder
from gala.supervised.video_data import draw, open_source
from gala.supervised.videos import Videos

D, N = 8, 20_000


def gaussians(seed):
    """(mean, covariance, its Cholesky factor) of two Gaussians in 8 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2):
        root = torch.randn(D, D, generator=generator, dtype=torch.float64) / math.sqrt(D)
        cov = root @ root.T + 0.1 * torch.eye(D, dtype=torch.float64)
        yield torch.randn(D, generator=generator, dtype=torch.float64), cov, torch.linalg.cholesky(cov)


def closed_form(a, b):
    """With the square root of the product itself, by its eigenvalues, which are real: no code shared with the rest."""
    values = np.linalg.eigvals((a[1] @ b[1]).numpy())
    assert np.abs(values.imag).max() < 1e-9
    return float((a[0] - b[0]).square().sum() + a[1].trace() + b[1].trace() - 2 * np.sqrt(values.real).sum())


@pytest.mark.parametrize("seed", range(4))
def test_frechet_distance_of_samples_is_that_of_their_gaussians(seed):
    a, b = gaussians(seed)
    exact = closed_form(a, b)
    assert gaussian_distance(*a[:2], *b[:2]) == pytest.approx(exact, rel=1e-10)
    generator = torch.Generator().manual_seed(seed + 100)
    x, y = (m + torch.randn(N, D, generator=generator, dtype=torch.float64) @ root.T for m, _, root in (a, b))
    assert frechet_distance(x, y) == pytest.approx(exact, rel=0.02)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + 0.5) == pytest.approx(0.25 * D, rel=1e-9)
    assert frechet_distance(x.float(), y.float()) == pytest.approx(frechet_distance(x, y), rel=1e-4)


def test_frechet_distance_in_one_dimension_and_of_flat_sets():
    x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert frechet_distance(x, 3 * x) == pytest.approx(4 * (x.var() + x.mean() ** 2).item())
    flat = torch.ones(10, 3, dtype=torch.float64)
    assert frechet_distance(flat, flat) == 0 and frechet_distance(flat, 3 * flat) == pytest.approx(12)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(flat[:1], flat)


def test_the_encoder_is_repeatable_and_far_from_true_clips_is_what_poor_models_make():
    clips = lambda count, seed: draw("wall-bounce", "train", count, 4, seed).frames  # noqa: E731
    one, again = (train_encoder(clips, "wall-bounce", 100) for _ in range(2))
    truth, other = (draw("wall-bounce", "test", 200, 4, seed).frames for seed in (1, 2))
    a, b = one.encode(truth), one.encode(other)
    assert a.shape == (200, FEATURES) and torch.equal(a, again.encode(truth)) and not a.requires_grad
    assert "4-frame clips of wall-bounce from blurred, shuffled, frozen, superposed ones" in one.name
    assert one.accuracy > 0.3  # of five kinds
    floor = frechet_distance(a, b)
    for way in ("blurred", "frozen", "superposed"):
        spoilt = SPOILT[way](other, torch.Generator().manual_seed(0))
        assert frechet_distance(a, one.encode(spoilt)) > 5 * floor
    assert frechet_distance(a, one.encode(torch.zeros_like(truth))) > 5 * floor


def test_spoilt_clips_are_what_their_names_say():
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(5, 6, 2, 4, 4, generator=generator)
    spoilt = {name: spoil(clips, generator) for name, spoil in SPOILT.items()}
    assert all(x.shape == clips.shape for x in spoilt.values())
    assert torch.allclose(spoilt["blurred"][2, 1, 0, 1, 2], clips[2, 1, 0, :3, 1:4].mean())
    assert torch.equal(spoilt["frozen"], clips[:1].expand_as(clips))
    assert torch.equal(spoilt["superposed"][:, 2], (clips[:, 2] + clips[:, 1]) / 2)
    for b in range(6):
        order = [int((clips[:, b] - frame).abs().sum((1, 2, 3)).argmin()) for frame in spoilt["shuffled"][:, b]]
        assert sorted(order) == list(range(5)) and torch.equal(spoilt["shuffled"][:, b], clips[order, b])
    numbers = train_encoder(lambda n, seed: draw("coin-flip", "train", n, 1, seed).frames, "coin-flip", 2)
    assert "from superposed ones" in numbers.name, "one number has no blur and no order"


def test_diversity_is_the_root_mean_squared_difference_of_two_samples():
    samples = torch.rand(3, 2, 4, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples[2] = samples[2, :, :1]
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    slow = [
        np.mean([math.sqrt(np.mean([((s[i] - s[j]) ** 2).mean() for i, j in pairs])) for s in at.numpy()])
        for at in samples
    ]
    assert video_meters.diversity(samples) == pytest.approx(slow, abs=1e-12) and slow[2] == 0


def test_auroc_counts_pairs_and_half_of_ties():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    assert video_meters.auroc(scores, positive) == pytest.approx(np.mean(pairs))


def test_a_model_that_is_surprised_by_what_is_random_alone_has_the_ratio_1():
    config = parse_options(VideoConfig, ["preset=video/wall-bounce"])
    videos = draw("wall-bounce", "test", 50, config.frames, 0)
    exact = videos.entropy[config.context :].unsqueeze(1)
    row = video_meters.stochasticity(config, videos, exact)
    assert row["kl_over_chance"] == pytest.approx(1) and row["kl_auroc"] == 1.0
    assert row["kl_by_frame"] == pytest.approx(row["chance_by_frame"])
    blind = video_meters.stochasticity(config, videos, exact.mean() + 0 * exact)
    assert blind["kl_over_chance"] == pytest.approx(1) and blind["kl_auroc"] == 0.5
    two = video_meters.stochasticity(config, videos, torch.cat([exact, exact], 1))
    assert two["kl_over_chance"] == pytest.approx(2)
    assert video_meters.stochasticity(config, Videos(videos.frames), exact).keys() == {"kl_by_frame"}


@pytest.mark.parametrize(
    ("name", "nats"), [("coin-flip", math.log(2)), ("alternating", 0.0), ("random-walk", math.log(4))]
)
def test_chance_is_the_entropy_without_the_noise_of_pixels(name, nats):
    config = parse_options(VideoConfig, [f"data={name}", "likelihood=gaussian", "frames=5", "context=2"])
    row = video_meters.stochasticity(config, draw(name, "test", 20, 5, 0), torch.zeros(3, 1, 20))
    assert row["chance_by_frame"] == pytest.approx([nats] * 3, abs=1e-5) and ("kl_over_chance" in row) == (nats > 0)


def test_the_chance_of_the_particle_is_what_a_frame_tells_of_it():
    """Mutual information of x_t and z_t given the past: half the log of how much the filter's variance shrinks."""
    from gala.supervised.particles import kalman_filter

    videos = draw("particle", "test", 3, 6, 0)
    known = kalman_filter(videos.frames[..., 0, 0, 0].double().numpy())
    told = 0.5 * np.log(known.predicted_var / known.var)
    assert np.allclose(videos.entropy.numpy() - open_source("particle").noise_nats, told, atol=1e-5)


def test_eval_has_all_meters_and_the_page_names_the_encoder(tmp_path, capsys):
    out = tmp_path / "run"
    words = ("data=wall-bounce", "frames=5", "context=2", "scales=2", "levels=1", "width=4", "latent=2", "batch_size=2")
    assert cli.main(["video", "train", *words, "iterations=2", f"out={out}"]) == 0
    assert cli.main(["video", "eval", str(out), "videos=8", "weights=2", "samples=3", "encoder=20"]) == 0
    report = json.loads((out / "eval.json").read_text())
    assert len(report["diversity"]) == len(report["kl_by_frame"]) == len(report["chance_by_frame"]) == 3
    assert report["frechet"] > report["frechet_of_truth"] > 0
    page = (out / "eval.html").read_text()
    assert report["frechet_encoder"] in page and "FVD" not in page
    for name in ("diversity", "kl_by_frame", "chance_by_frame", "frechet_of_truth"):
        assert name in page
    assert cli.main(["video", "eval", str(out), "videos=8", "weights=2", "samples=1", "encoder=0"]) == 0
    assert not {"frechet", "diversity"} & set(json.loads((out / "eval.json").read_text()))
    assert cli.main(["video", "eval", str(out), "encoder=-1"]) == 2
    assert "encoder=-1 must be at least 0" in capsys.readouterr().err


def test_frechet_distance_of_an_untrained_model_is_far_above_that_of_the_truth():
    config = parse_options(VideoConfig, ["preset=video/coin-flip"])
    row = video_meters.frechet(config, video.make_model(config), 10, seed=5)
    assert row["frechet"] > 5 * row["frechet_of_truth"] > 0
