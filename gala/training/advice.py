"""What a training is warned of before it starts: settings that are allowed, and hardly ever meant."""

from __future__ import annotations

from gala.config.schema import Config

_LEAST_EKFAC_LR = 0.02
"""ACKTR's is 0.25; those of Adam and RMSprop are a hundredth of it."""

_LARGE_PIXEL = 10.0
"""Floats within it are about standardised, as a network wants them."""


def advice(config: Config) -> list[str]:
    """Lines for the user, of settings that nothing is left open in; builds a simulator and a network to see."""
    return [*fallback_lines(config), *_scale_lines(config)]


def _scale_lines(config: Config) -> list[str]:
    """One line if convolutions read floats that their bounds let grow large, or dense layers integers."""
    from gala.models.encoders import ENCODERS, bounded_by, unit_scale

    if config.model.encoder not in ENCODERS or config.normalize.obs:
        return []
    from gala_envs.parts import FlatBox, without_mask
    from gymnasium.spaces import Box

    from gala.build.envs import probe_spaces

    space = probe_spaces(config).obs
    if not isinstance(space, Box):
        return []
    read = without_mask(space)
    if config.model.encoder == "mlp":
        told = f"warning: mlp reads numbers up to {bounded_by(read):g} unscaled; add normalize.obs=true"
        return [told] if unit_scale(read) < 1.0 else []
    if space.dtype.kind != "f":
        return []
    images = [read.part_space(p) for p in read.parts if len(p.shape) == 3] if isinstance(read, FlatBox) else [read]
    if all(bounded_by(image) <= _LARGE_PIXEL for image in images):
        return []
    return ["warning: floats of images are not scaled, only integers; add normalize.obs=true"]


def fallback_lines(config: Config) -> list[str]:
    """With optim.name=ekfac: what to set if the settings are those of other optimisers, and a line for each layer that
    has no eigenbasis."""
    if config.optim.name != "ekfac":
        return []
    from gala.build.envs import probe_spaces
    from gala.build.learning import learning_rate, make_ekfac
    from gala.build.policy import make_policy

    ekfac = make_ekfac(config, make_policy(config, probe_spaces(config)))
    assert ekfac is not None
    advice = ekfac_advice(learning_rate(config)(0.0), config.a2c.max_grad_norm, config.ekfac.kl_limit)
    told = [f"ekfac: {layer} has a diagonal only: {why}" for layer, why in ekfac.fallbacks.items()]
    return [advice, *told] if advice else told


def ekfac_advice(lr: float, max_grad_norm: float, kl_limit: float) -> str:
    """One line if natural gradients would hardly move at the rate or under the limit that are usual for others."""
    add = []
    if lr < _LEAST_EKFAC_LR:
        add.append("optim.lr=0.25")
    if max_grad_norm > 0 and kl_limit > 0:
        add.append("a2c.max_grad_norm=0")
    return f"warning: ekfac needs other settings; add {' '.join(add)}" if add else ""
