"""EKFAC on videos: what the Fisher matrix of a VRNN is, where it is known."""

import pytest
import torch

from gala.models.vrnn import VRNN
from gala.models.vrnn_shape import VrnnShape
from gala.optim.ekfac import EKFAC
from gala.supervised.video_fisher import VideoFisher, fisher_losses


def build(**more):
    torch.manual_seed(0)
    shape = VrnnShape((1, 1, 1), scales=1, levels=1, width=3, latent=2, context=1, likelihood="gaussian", **more)
    model = VRNN(shape).double()
    for head in (*model.priors, *model.posteriors):
        torch.nn.init.normal_(head.last.weight)
    return model


def test_the_fisher_of_a_pixels_mean_and_of_a_priors_mean_is_one_over_the_variance():
    """One predicted frame of many equal videos: the bias of the mean enters the loss as (x - mean)^2 / (2 std^2)."""
    model, copies = build(), 20_000
    frames = torch.tensor([0.3, -0.7]).double().view(2, 1, 1, 1, 1).expand(2, copies, 1, 1, 1)
    torch.manual_seed(5)
    with torch.no_grad():
        state, _ = model.observe(model.initial(copies), frames[0])
        _, step = model.observe(state, frames[1])
    std = torch.nn.functional.softplus(step.params[:, 1]) + 0.01
    ekfac = EKFAC(model, kind="diagonal", damping=0.0)
    torch.manual_seed(5)
    VideoFisher(ekfac, model, copies)(frames, None)
    pixel, prior = ekfac.blocks["out"].moments[:, -1], ekfac.blocks["priors.0.last"].moments[:, -1]
    assert pixel[0].item() == pytest.approx((std**-2).mean().item(), rel=0.04)
    assert prior[:2].tolist() == pytest.approx((step.priors[0].std[:, :, 0, 0] ** -2).mean(0).tolist(), rel=0.04)


def test_draws_are_the_networks_own_so_that_scores_have_mean_zero():
    model, copies = build(), 20_000
    frames = torch.tensor([0.3, -0.7, 1.9]).double().view(3, 1, 1, 1, 1).expand(3, copies, 1, 1, 1)
    torch.manual_seed(1)
    loss = fisher_losses(model, frames, None)
    heads = [model.out.bias, model.priors[0].last.bias, model.posteriors[0].last.bias]
    scores = torch.autograd.grad(loss.mean(), heads, retain_graph=True)
    assert max(g.abs().max().item() for g in scores) < 0.15
    off = torch.autograd.grad(-model(frames[:, :100]).bound.mean(), heads)
    assert max(g.abs().max().item() for g in off) > 0.5, "the data's own gradient is not 0"


def test_only_so_many_videos_are_looked_at_and_the_gradients_change():
    model = build(actions=2)
    ekfac = EKFAC(model, damping=0.1)
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    frames, actions = torch.randn(3, 8, 1, 1, 1).double(), torch.randn(3, 8, 2).double()
    VideoFisher(ekfac, model, 2)(frames, actions)
    assert set(seen) == {2}
    model.loss(model(frames, actions)).backward()
    plain = [p.grad.clone() for p in model.parameters()]
    ekfac()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert not any(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True) if g.abs().sum() > 0)
