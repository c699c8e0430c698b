"""A hierarchical conditional VRNN: predicts the next frame of a video, given past frames and actions.

After arXiv 1904.12165 (Castrejon, Ballas, Courville 2019), written anew from its description. What is kept: a
hierarchy of latents at several resolutions, learned prior and posterior that both see the coarser latents, residual
blocks of small steps, skip connections from the context frames, KL that starts at 0. What differs: one convolutional
GRU per scale carries the past for prior, posterior and decoder alike (the paper has an LSTM for each of the three);
the KL is in closed form; sampling keeps its state, so that a frame is rendered once, with the latents that the next
frame goes on from.

Model, for t >= ``context``: p(x_t | x_<t, z_<=t) prod_l p(z_t^l | x_<t, z_<t, z_t^<l), with q(z_t^l | x_<=t, z_<t,
z_t^<l). Frames before ``context`` are conditioned on: their latents are the posterior's means, so that what is
remembered of them is a function of them, and the bound is one of log p(x_context.. | x_<context).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gala.models.likelihoods import LIKELIHOODS, Gaussian, gaussian_kl
from gala.models.vrnn_layers import ConvGRU, Encoder, GaussianHead, ResidualBlock, upsample
from gala.models.vrnn_shape import VrnnShape


class State(NamedTuple):
    """All that is remembered of frames 0 .. t - 1. Lists of one entry per scale run from fine to coarse."""

    t: int
    hidden: list[Tensor]
    """Per scale [B, width, h, w]."""
    latents: list[Tensor]
    """Those of frame t - 1, from coarse to fine: [B, latent, h, w]."""
    features: list[Tensor]
    """The encoder's, of frame t - 1, per scale."""
    skips: list[Tensor]
    """The mean of the encoder's features over the context frames so far, per scale."""


class Step(NamedTuple):
    """What one observed frame was worth; [B] each, in nats."""

    log_prob: Tensor
    """log p(x_t | x_<t, z_<=t)."""
    kl: Tensor
    """[levels, B]: KL of posterior and prior, in closed form, from coarse to fine."""
    log_ratio: Tensor
    """log q(z_t) - log p(z_t) at the latents that were used, summed over levels: for importance weights."""
    params: Tensor
    """[B, likelihood.num_params * C, H, W]: what the decoder says of each pixel."""
    centre: Tensor
    """[B, C, H, W]: the frame as reconstructed."""
    posteriors: list[Gaussian]
    priors: list[Gaussian]


class Trace(NamedTuple):
    """A video as seen by the model; S frames were predicted, those from ``context`` on."""

    log_prob: Tensor
    """[S, B]"""
    kl: Tensor
    """[S, levels, B]"""
    log_ratio: Tensor
    """[S, B]"""
    last: Step
    """That of the last frame."""
    state: State

    @property
    def bound(self) -> Tensor:
        """[B]: the evidence lower bound on log p(x_context.. | x_<context), summed over frames, in nats."""
        return (self.log_prob - self.kl.sum(1)).sum(0)


class VRNN(nn.Module):
    """See the module. Frames are float ``[B, C, H, W]``; actions float ``[B, shape.actions]``."""

    def __init__(self, shape: VrnnShape) -> None:
        """Raises ValueError: the shape cannot be built."""
        super().__init__()
        shape.check()
        self.shape = shape
        width, latent, scales = shape.width, shape.latent, shape.scales
        self.likelihood = LIKELIHOODS[shape.likelihood]
        self.encoder = Encoder(shape.frame[0], width, scales)
        self.level_at = {scales - 1 - level: level for level in range(shape.levels)}
        """Scale -> level of its latent."""
        here = [latent if s in self.level_at else 0 for s in range(scales)]
        self.cells = nn.ModuleList(ConvGRU(width + n + shape.actions, width) for n in here)
        coarser = [0 if s == scales - 1 else width for s in range(scales)]
        heads = [s for s in reversed(range(scales)) if s in self.level_at]
        self.posteriors = nn.ModuleList(GaussianHead(2 * width + coarser[s], width, latent) for s in heads)
        prior_heads = heads if shape.learned_prior else []
        self.priors = nn.ModuleList(GaussianHead(width + coarser[s], width, latent) for s in prior_heads)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2 * width + n + c, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                *(ResidualBlock(width) for _ in range(shape.decoder_blocks)),
            )
            for n, c in zip(here, coarser, strict=True)
        )
        self.out = nn.Conv2d(width, self.likelihood.num_params * shape.frame[0], 3, padding=1)

    def initial(self, batch_size: int) -> State:
        """Before the first frame."""
        parameter = self.out.weight
        height, width = self.shape.frame[1:]

        def zeros(channels: int, s: int) -> Tensor:
            return parameter.new_zeros(batch_size, channels, -(-height >> s), -(-width >> s))

        scales, at = range(self.shape.scales), self.level_at
        blank = [zeros(self.shape.width, s) for s in scales]
        return State(0, blank, [zeros(self.shape.latent, s) for s in reversed(scales) if s in at], blank, blank)

    def observe(
        self,
        state: State,
        frame: Tensor,
        action: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        latents: list[Tensor] | None = None,
    ) -> tuple[State, Step]:
        """Take in frame t. ``action`` is the one that led to it. Latents are the posterior's (means inside the context,
        samples after it) unless they are given, from coarse to fine."""
        return self._observe(state, frame, self.encoder(frame), action, generator, latents)

    def imagine(
        self,
        state: State,
        steps: int,
        actions: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        latents: list[list[Tensor]] | None = None,
        pixel_noise: bool = False,
    ) -> tuple[State, Tensor]:
        """Go on without frames: latents from the prior, each frame fed back.

        Args:
            steps: frames to make.
            actions: [steps, B, A], each the one that leads to its frame.
            latents: per step, in place of samples.
            pixel_noise: frames are samples of the likelihood in place of its centre.

        Returns:
            The state after them, and frames [steps, B, C, H, W].
        """
        frames = []
        for i in range(steps):
            hidden = self._carry(state, None if actions is None else actions[i])
            given = None if latents is None else latents[i]
            params, chosen, _, _ = self._render(state, hidden, None, given, generator)
            frame = self.likelihood.sample(params, generator) if pixel_noise else self.likelihood.centre(params)
            frames.append(frame)
            state = self._remember(state, hidden, chosen, self.encoder(frame))
        return state, torch.stack(frames)

    def forward(self, frames: Tensor, actions: Tensor | None = None, generator: torch.Generator | None = None) -> Trace:
        """Observe a video from its start: frames [T, B, C, H, W], actions [T, B, A] (that of frame 0 leads to it).

        Raises:
            ValueError: there is no frame after the context.
        """
        if len(frames) <= self.shape.context:
            raise ValueError(f"{len(frames)} frames leave none after context={self.shape.context}")
        features = [f.unflatten(0, frames.shape[:2]) for f in self.encoder(frames.flatten(0, 1))]
        state, seen = self.initial(frames.shape[1]), list[Step]()
        for t, frame in enumerate(frames):
            action = None if actions is None else actions[t]
            state, step = self._observe(state, frame, [f[t] for f in features], action, generator, None)
            seen.append(step)
        seen = seen[self.shape.context :]
        return Trace(
            torch.stack([s.log_prob for s in seen]),
            torch.stack([s.kl for s in seen]),
            torch.stack([s.log_ratio for s in seen]),
            seen[-1],
            state,
        )

    def loss(self, trace: Trace, beta: float | Tensor = 1.0) -> Tensor:
        """Minus the bound per predicted frame, mean over the batch, in nats; the KL weighs ``beta``."""
        return -trace.log_prob.mean() + beta * trace.kl.sum(1).mean()

    def _observe(
        self,
        state: State,
        frame: Tensor,
        features: list[Tensor],
        action: Tensor | None,
        generator: torch.Generator | None,
        latents: list[Tensor] | None,
    ) -> tuple[State, Step]:
        hidden = self._carry(state, action)
        params, chosen, priors, posteriors = self._render(state, hidden, features, latents, generator)
        terms = list(zip(chosen, priors, posteriors, strict=True))
        step = Step(
            self.likelihood.log_prob(params, frame).flatten(1).sum(1),
            torch.stack([gaussian_kl(q, p) for _, p, q in terms]),
            torch.stack([q.log_prob(z) - p.log_prob(z) for z, p, q in terms]).sum(0),
            params,
            self.likelihood.centre(params),
            posteriors,
            priors,
        )
        return self._remember(state, hidden, chosen, features), step

    def _carry(self, state: State, action: Tensor | None) -> list[Tensor]:
        """The recurrent state of frame t, from all that came before it and the action that leads to it."""
        if (action is not None) != bool(self.shape.actions):
            raise ValueError(f"this model was built for actions of {self.shape.actions} numbers")
        hidden = []
        for s, cell in enumerate(self.cells):
            h = state.hidden[s]
            inputs = [state.features[s]]
            if s in self.level_at:
                inputs.append(state.latents[self.level_at[s]])
            if action is not None:
                inputs.append(action[:, :, None, None].expand(-1, -1, *h.shape[2:]))
            hidden.append(cell(torch.cat(inputs, 1), h))
        return hidden

    def _render(
        self,
        state: State,
        hidden: list[Tensor],
        features: list[Tensor] | None,
        given: list[Tensor] | None,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, list[Tensor], list[Gaussian], list[Gaussian]]:
        """From coarse to fine: latents (the posterior's if there are ``features`` of the frame, else the prior's) and
        the decoder, whose output carries all coarser latents to prior, posterior and decoder of the next level.

        Returns (parameters of the pixels, latents, priors, posteriors).
        """
        latents, priors, posteriors = list[Tensor](), list[Gaussian](), list[Gaussian]()
        coarser: list[Tensor] = []
        for s in reversed(range(self.shape.scales)):
            known = [hidden[s], *coarser]
            here: list[Tensor] = []
            if s in self.level_at:
                level = self.level_at[s]
                prior = self._prior(level, known)
                priors.append(prior)
                chosen = prior
                if features is not None:
                    chosen = self.posteriors[level](torch.cat([features[s], *known], 1))
                    posteriors.append(chosen)
                inside = features is not None and state.t < self.shape.context
                z = given[level] if given is not None else chosen.mean if inside else chosen.sample(generator)
                latents.append(z)
                here = [z]
            decoded = self.stages[s](torch.cat([*known, state.skips[s], *here], 1))
            coarser = [upsample(decoded, hidden[s - 1].shape[2:])] if s else []
        return self.out(decoded), latents, priors, posteriors

    def _prior(self, level: int, known: list[Tensor]) -> Gaussian:
        if self.shape.learned_prior:
            return self.priors[level](torch.cat(known, 1))
        n, _, height, width = known[0].shape
        mean = known[0].new_zeros(n, self.shape.latent, height, width)
        return Gaussian(mean, torch.ones_like(mean))

    def _remember(self, state: State, hidden: list[Tensor], latents: list[Tensor], features: list[Tensor]) -> State:
        skips = state.skips
        if state.t < self.shape.context:
            skips = [old + (new - old) / (state.t + 1) for old, new in zip(skips, features, strict=True)]
        return State(state.t + 1, hidden, latents, features, skips)
