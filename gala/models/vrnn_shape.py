"""What a VRNN is built from."""

from __future__ import annotations

from dataclasses import dataclass

from gala.models.likelihoods import LIKELIHOODS


@dataclass(frozen=True)
class VrnnShape:
    """The sizes and choices of one model.

    Attributes:
        frame: (C, H, W).
        scales: resolutions: H, H / 2, .., rounded up; the coarsest has the first latent. Vectors (1 x 1) have that
            size at each.
        levels: latents, at most one per scale, from coarse to fine.
        width: channels of every layer.
        latent: channels of each latent, at its level's resolution.
        actions: numbers in an action, 0 for none.
        context: frames that are conditioned on.
        likelihood: a key of ``LIKELIHOODS``.
        learned_prior: False: every prior is N(0, 1).
        decoder_blocks: residual blocks of the decoder at each scale: the capacity of the likelihood.
    """

    frame: tuple[int, int, int]
    scales: int = 3
    levels: int = 1
    width: int = 32
    latent: int = 8
    actions: int = 0
    context: int = 2
    likelihood: str = "bernoulli"
    learned_prior: bool = True
    decoder_blocks: int = 1

    def check(self) -> None:
        """Raises ValueError: one line that says what to change."""
        if not 1 <= self.levels <= min(3, self.scales):
            raise ValueError(f"levels={self.levels} must be 1 to 3 and at most scales={self.scales}")
        halvings = self.scales - 1 if tuple(self.frame[1:]) != (1, 1) else 0
        if halvings and min(self.frame[1:]) <= 2 ** (halvings - 1):
            raise ValueError(
                f"frames of {self.frame[1]} x {self.frame[2]} do not halve {self.scales - 1} times; lower scales"
            )
        if self.likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood={self.likelihood!r} is unknown; there are {', '.join(LIKELIHOODS)}")
        if min(self.context, self.decoder_blocks) < 0 or min(self.width, self.latent) < 1:
            raise ValueError("context and decoder_blocks must be at least 0, width and latent at least 1")
