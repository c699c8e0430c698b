"""What ``auto`` stands for in settings that the environment decides."""

from __future__ import annotations

import dataclasses

from gala.build.envs import Spaces, backend_of
from gala.config.schema import Config
from gala.models.encoders import encoder_for

AUTO = "auto"


def choose(config: Config, spaces: Spaces) -> tuple[Config, str]:
    """(``config`` without auto, what was chosen in one line; empty if there was nothing to say)."""
    chosen = []
    model, normalize, backend = config.model, config.normalize, backend_of(config)
    if model.encoder == AUTO:
        model = dataclasses.replace(model, encoder=encoder_for(spaces.obs))
        chosen.append(f"model.encoder={model.encoder} for {spaces.obs.dtype} {list(spaces.obs.shape or ())}")
    if normalize.reward == AUTO:
        normalize = dataclasses.replace(normalize, reward="sign" if backend == "atari" else "none")
        if backend == "atari":
            lives = ", lost lives end episodes" if config.env.life_loss_ends_episode else ""
            chosen.append(f"normalize.reward=sign for Atari{lives}")
    line = f"chosen: {'; '.join(chosen)}" if chosen else ""
    return dataclasses.replace(config, model=model, normalize=normalize), line
