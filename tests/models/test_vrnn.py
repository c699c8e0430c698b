"""The VRNN against closed forms, quadrature and itself taken step by step."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from gala.models.bounds import importance_weighted_bound, warm_up
from gala.models.likelihoods import LIKELIHOODS, Gaussian, gaussian_kl
from gala.models.vrnn import VRNN
from gala.models.vrnn_shape import VrnnShape


def gaussian(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Gaussian(draw(), draw().exp())


def build(seed=0, scale=1.0, dtype=torch.float64, **shape):
    """A VRNN whose heads are not at their start, where prior and posterior agree."""
    torch.manual_seed(seed)
    model = VRNN(VrnnShape(**{"frame": (1, 8, 8), "scales": 3, "width": 6, "latent": 2, **shape})).to(dtype)
    for head in (*model.priors, *model.posteriors):
        torch.nn.init.normal_(head.last.weight, std=scale)
        torch.nn.init.normal_(head.last.bias, std=scale)
    return model


def video(steps, batch, frame=(1, 8, 8), seed=1):
    return torch.rand(steps, batch, *frame, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_in_closed_form():
    q, p = gaussian(1, 3, 2, 4), gaussian(2, 3, 2, 4)
    exact = kl_divergence(Normal(q.mean, q.std), Normal(p.mean, p.std)).sum((1, 2))
    assert torch.allclose(gaussian_kl(q, p), exact, atol=1e-10)
    assert gaussian_kl(q, q).abs().max() < 1e-12

    many = Gaussian(q.mean[:1].expand(100_000, -1, -1), q.std[:1].expand(100_000, -1, -1))
    z = many.sample(torch.Generator().manual_seed(3))
    draws = many.log_prob(z) - Gaussian(p.mean[:1], p.std[:1]).log_prob(z)
    assert (draws.mean() - exact[0]).abs() < 3 * draws.std() / math.sqrt(len(draws))


@pytest.mark.parametrize("scale", [-20.0, -3.0, 0.0, 5.0])
@pytest.mark.parametrize("location", [-0.5, 0.0, 0.3, 1.0, 2.0])
def test_discretised_logistic_sums_to_one_and_samples_by_its_law(location, scale):
    family = LIKELIHOODS["disc-logistic"]
    params = torch.tensor([location, scale], dtype=torch.float64).view(1, 2, 1, 1)
    values = (torch.arange(256, dtype=torch.float64) / 255).view(-1, 1, 1, 1)
    log_prob = family.log_prob(params.expand(256, -1, -1, -1), values).flatten()
    assert torch.isfinite(log_prob).all()
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    drawn = family.sample(params.expand(4000, -1, -1, -1), torch.Generator().manual_seed(0)).flatten()
    p = log_prob.exp()
    mean, std = (p * values.flatten()).sum(), ((p * values.flatten() ** 2).sum() - (p * values.flatten()).sum() ** 2)
    assert (drawn.mean() - mean).abs() < 4 * std.clamp(min=0).sqrt() / math.sqrt(4000) + 1e-6


def test_bernoulli_and_gaussian_are_torchs():
    params = torch.randn(5, 2, 3, 3, dtype=torch.float64)
    x = torch.rand(5, 1, 3, 3, dtype=torch.float64)
    logits = params[:, :1]
    exact = torch.distributions.Bernoulli(logits=logits).log_prob(x.round())
    assert torch.allclose(LIKELIHOODS["bernoulli"].log_prob(logits, x.round()), exact)
    std = torch.nn.functional.softplus(params[:, 1:]) + 0.01
    assert torch.allclose(LIKELIHOODS["gaussian"].log_prob(params, x), Normal(logits, std).log_prob(x))


def tiny(**more):
    """One number per frame, one number per latent: integrals over the latents are sums on a grid."""
    return build(seed=4, scale=1.5, frame=(1, 1, 1), scales=1, width=4, latent=1, context=1, **more)


def exact_log_likelihood(model, frames):
    """log p(x_1, x_2 | x_0) of one video [3, 1, ...], by summing over a grid of both latents."""
    grid = torch.linspace(-7, 7, 90, dtype=torch.float64)
    z1, z2 = (z.reshape(-1, 1, 1, 1) for z in torch.meshgrid(grid, grid, indexing="ij"))
    state, _ = model.observe(model.initial(len(z1)), frames[0].expand(len(z1), -1, -1, -1))
    total = torch.zeros(len(z1), dtype=torch.float64)
    for t, z in ((1, z1), (2, z2)):
        state, step = model.observe(state, frames[t].expand(len(z1), -1, -1, -1), latents=[z])
        total += step.log_prob + step.priors[0].log_prob(z)
    return torch.logsumexp(total, 0) + 2 * torch.log(grid[1] - grid[0])


@pytest.mark.parametrize("learned", [True, False])
@torch.no_grad()
def test_the_bound_is_a_bound(learned):
    model = tiny(likelihood="gaussian", learned_prior=learned)
    frames = video(3, 2, (1, 1, 1))
    exact = torch.stack([exact_log_likelihood(model, frames[:, i : i + 1]) for i in range(2)])
    draws = 2_000
    many = frames.repeat_interleave(draws, 1)
    elbo = model(many, generator=torch.Generator().manual_seed(0)).bound.view(2, draws)
    assert (elbo.mean(1) + 4 * elbo.std(1) / math.sqrt(draws) < exact).all()
    tight = importance_weighted_bound(model, frames, None, 8_000, torch.Generator().manual_seed(1))
    assert (tight - exact).abs().max() < 0.05
    some = importance_weighted_bound(
        model, frames.repeat_interleave(500, 1), None, 20, torch.Generator().manual_seed(2)
    )
    some = some.view(2, 500)
    error = some.std(1) / math.sqrt(500)
    assert (some.mean(1) < exact + 3 * error).all() and (some.mean(1) - 3 * error > elbo.mean(1)).all()


@torch.no_grad()
def test_the_likelihood_of_a_tiny_model_sums_to_one_over_all_videos():
    """Two binary frames after one of context have four outcomes."""
    model = tiny(likelihood="bernoulli")
    outcomes = torch.tensor([[1.0, a, b] for a in (0, 1) for b in (0, 1)], dtype=torch.float64)
    total = sum(exact_log_likelihood(model, x.view(3, 1, 1, 1, 1)).exp().item() for x in outcomes)
    assert total == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("learned", [True, False])
def test_gradients_reach_every_parameter(levels, learned):
    model = build(levels=levels, learned_prior=learned, actions=2, context=1)
    trace = model(video(3, 2), torch.randn(3, 2, 2, dtype=torch.float64))
    assert trace.kl.shape == (2, levels, 2)
    model.loss(trace, 0.5).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missing == []


def test_loss_is_minus_the_bound_per_frame_and_beta_weighs_the_kl():
    model = build(levels=2)
    trace = model(video(5, 3))
    assert model.loss(trace).item() == pytest.approx(-(trace.bound / 3).mean().item())
    assert (model.loss(trace) - model.loss(trace, 0.25)).item() == pytest.approx(0.75 * trace.kl.sum(1).mean().item())


@pytest.mark.parametrize("learned", [True, False])
def test_kl_is_zero_where_prior_and_posterior_agree(learned):
    fresh = VRNN(VrnnShape((1, 8, 8), levels=3, width=6, latent=2, learned_prior=learned))
    trace = fresh(video(4, 2).float())
    assert trace.kl.abs().max() < 1e-6 and trace.log_ratio.abs().max() < 1e-5
    assert (build(levels=3)(video(4, 2)).kl > 0).all()


@torch.no_grad()
def test_imagining_is_observing_what_was_imagined():
    model = build(levels=3, actions=2)
    actions, frames = torch.randn(6, 2, 2, dtype=torch.float64), video(3, 2)
    state = model.initial(2)
    for t in range(3):
        state, _ = model.observe(state, frames[t], actions[t])
    latents = [[torch.randn_like(z) for z in state.latents] for _ in range(3)]
    imagined_state, imagined = model.imagine(state, 3, actions[3:], latents=latents)
    for t in range(3):
        state, step = model.observe(state, imagined[t], actions[3 + t], latents=latents[t])
        assert torch.equal(step.centre, imagined[t])
    for mine, other in zip(imagined_state[1:], state[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


@torch.no_grad()
def test_sampling_keeps_its_state():
    model = build(levels=2)
    state, _ = model.observe(model.initial(2), video(1, 2)[0])
    _, together = model.imagine(state, 10, generator=torch.Generator().manual_seed(5), pixel_noise=True)
    generator, alone = torch.Generator().manual_seed(5), []
    for _ in range(10):
        state, frame = model.imagine(state, 1, generator=generator, pixel_noise=True)
        alone.append(frame)
    assert torch.equal(together, torch.cat(alone))


@torch.no_grad()
def test_a_whole_video_is_its_frames_one_by_one():
    model, frames = build(levels=2), video(5, 2)
    trace = model(frames, generator=torch.Generator().manual_seed(7))
    generator, state, bound = torch.Generator().manual_seed(7), model.initial(2), 0.0
    for t, frame in enumerate(frames):
        state, step = model.observe(state, frame, generator=generator)
        bound = bound + (step.log_prob - step.kl.sum(0)) * (t >= model.shape.context)
    assert torch.allclose(bound, trace.bound, atol=1e-10)


@torch.no_grad()
def test_finer_prior_and_posterior_see_the_coarser_latent_and_the_past_not_the_frame():
    model, frames = build(levels=2, context=1), video(3, 2)
    state = model.observe(model.observe(model.initial(2), frames[0])[0], frames[1])[0]
    fine = torch.zeros_like(state.latents[1])

    def look(coarse, frame):
        return model.observe(state, frame, latents=[torch.full_like(state.latents[0], coarse), fine])[1]

    base, other_latent, other_frame = look(0.0, frames[2]), look(1.0, frames[2]), look(0.0, frames[0])
    for heads in ("priors", "posteriors"):
        assert not torch.allclose(getattr(base, heads)[1].mean, getattr(other_latent, heads)[1].mean)
        assert torch.equal(getattr(base, heads)[0].mean, getattr(other_latent, heads)[0].mean)
    assert all(torch.equal(a.mean, b.mean) for a, b in zip(base.priors, other_frame.priors, strict=True))
    assert not torch.allclose(base.posteriors[0].mean, other_frame.posteriors[0].mean)


@torch.no_grad()
def test_actions_and_context_change_what_is_imagined():
    model = build(actions=1)
    none, one = (torch.full((4, 2, 1), v, dtype=torch.float64) for v in (0.0, 1.0))
    state = model.observe(model.initial(2), video(1, 2)[0], none[0])[0]
    other = state._replace(skips=[x + 1 for x in state.skips])

    def frames(state, actions):
        return model.imagine(state, 4, actions, latents=[state.latents] * 4)[1]

    assert not torch.allclose(frames(state, none), frames(state, one))
    assert not torch.allclose(frames(state, none), frames(other, none))


def test_context_is_remembered_without_noise():
    model, frames = build(context=3), video(3, 2)

    def remembered(seed):
        state = model.initial(2)
        for frame in frames:
            state, _ = model.observe(state, frame, generator=torch.Generator().manual_seed(seed))
        return state

    assert all(torch.equal(a, b) for a, b in zip(remembered(1).hidden, remembered(2).hidden, strict=True))
    mean = [f.unflatten(0, (3, 2)).mean(0) for f in model.encoder(frames.flatten(0, 1))]
    assert all(torch.allclose(a, b) for a, b in zip(remembered(1).skips, mean, strict=True))


def test_warm_up_is_linear():
    assert [warm_up(i, 4) for i in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert warm_up(0, 0) == 1


def test_sides_that_do_not_halve_are_rounded_up_and_cut_back():
    model = build(frame=(2, 5, 7), scales=3, levels=3, context=1)
    assert [tuple(h.shape[2:]) for h in model.initial(1).hidden] == [(5, 7), (3, 4), (2, 2)]
    frames = torch.rand(4, 2, 2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state, seen = model.initial(2), []
    generator = torch.Generator().manual_seed(1)
    for frame in frames:
        state, step = model.observe(state, frame, generator=generator)
        seen.append(step.log_prob - step.kl.sum(0))
    trace = model(frames, None, torch.Generator().manual_seed(1))
    assert torch.allclose(trace.bound, torch.stack(seen[1:]).sum(0))
    assert model.imagine(state, 3)[1].shape == (3, 2, 2, 5, 7)
    # What lies at the last row and column reaches the coarsest scale: nothing was cut off on the way there.
    frame = frames[:1, 0].clone().requires_grad_()
    model.encoder(frame)[-1].sum().backward()
    assert (frame.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"levels": 4, "scales": 5, "frame": (1, 16, 16)}, "levels=4"),
        ({"levels": 3, "scales": 2}, "scales=2"),
        ({"frame": (1, 2, 9)}, "halve"),
        ({"likelihood": "l1"}, "bernoulli"),
        ({"width": 0}, "width"),
    ],
)
def test_bad_shapes_are_refused(bad, word):
    with pytest.raises(ValueError, match=word):
        build(**bad)


def test_what_does_not_fit_the_model_is_refused():
    with pytest.raises(ValueError, match="context=2"):
        build()(video(2, 1))
    with pytest.raises(ValueError, match="actions of 0"):
        build().observe(build().initial(1), video(1, 1)[0], torch.zeros(1, 3, dtype=torch.float64))
