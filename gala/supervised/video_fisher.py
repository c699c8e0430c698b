"""The Fisher matrix of a VRNN on videos, as losses for ``gala.optim.ekfac.EKFAC.observe``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gala.models.vrnn import VRNN
from gala.optim.ekfac import EKFAC


def fisher_losses(model: VRNN, frames: Tensor, actions: Tensor | None) -> Tensor:
    """``[B]``, of which the mean of gg^T over draws, g being the gradients, is the Fisher matrix of each video, per
    predicted frame.

    The network is taken for a distribution, given past frames and latents, of three things that are independent: a
    frame (its likelihood), what each prior and what each posterior says of a latent. Of each one is drawn, and the
    loss is -log p of the draws: the metric of the bound's three ingredients, of which the KL's own curvature at q = p
    is a part. Frames are those of the videos, taken in one by one, so that every layer sees B rows a time.
    """
    state, total = model.initial(frames.shape[1]), frames.new_zeros(frames.shape[1])
    for t, frame in enumerate(frames):
        state, step = model.observe(state, frame, None if actions is None else actions[t])
        if t < model.shape.context:
            continue
        drawn = model.likelihood.sample(step.params.detach(), None)
        total = total - model.likelihood.log_prob(step.params, drawn).flatten(1).sum(1)
        for latent in (*step.priors, *step.posteriors):
            total = total - latent.log_prob(latent.sample().detach())
    return total / math.sqrt(len(frames) - model.shape.context)


class VideoFisher:
    """Shows an ``EKFAC`` the first ``videos`` of each batch, by a pass of its own over them."""

    def __init__(self, ekfac: EKFAC, model: VRNN, videos: int) -> None:
        self.ekfac, self.model, self.videos = ekfac, model, videos

    def __call__(self, frames: Tensor, actions: Tensor | None) -> None:
        """Draws noise from PyTorch's own generator."""
        few = [None if x is None else x[:, : self.videos] for x in (frames, actions)]
        assert few[0] is not None
        with torch.enable_grad(), self.ekfac.recording():
            losses = fisher_losses(self.model, few[0], few[1])
        self.ekfac.observe([losses])
