"""What ``auto`` stands for in settings that the environment decides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gala_envs.parts import num_mask, without_mask
from gymnasium.spaces import Box

from gala.build.envs import Spaces, backend_of, probe_spaces
from gala.config.parse import parse_config, preset_environments, split_settings
from gala.config.schema import Config
from gala.models.encoders import encoder_for

AUTO = "auto"
TUNED = ("learners", "auto")
"""What only the preset decides, so that it cannot help to find one."""
COMMON = {"atari": "atari/_common", "minatar": "minatar/_common", "mujoco": "mujoco/_common"}
"""What the presets of a backend have in common."""


def with_fitting_preset(words: Sequence[str]) -> tuple[list[str], str]:
    """(``words`` with the preset that fits their environment, if they name an environment and no preset; why, in one
    line).

    The preset of that environment, else what those of its backend have in common, else one for vectors or for images.
    ``preset=none`` leaves all settings at their defaults.

    Raises:
        ValueError: the environment cannot be made, or a setting is wrong.
    """
    given = dict(split_settings(words))
    if not given.get("env.id") or given.get("preset"):
        return list(words), ""
    config = parse_config([f"{key}={text}" for key, text in split_settings(words) if (key, text) != TUNED])
    preset = _preset_of(config) or COMMON.get(backend_of(config))
    if not preset:
        seen = _seen(probe_spaces(config))
        preset = f"any/_{'vector' if len(seen.shape) == 1 and encoder_for(seen) == 'mlp' else 'image'}"
    fitted = f"preset={preset}"
    return [*words, fitted] if "preset" in given else [
        fitted,
        *words,
    ], f"preset={preset} fits {config.env.id}; preset=none is none"


def fitted_config(words: Sequence[str]) -> Config:
    """The settings with which ``gala train WORDS`` would train. Raises ValueError in one line."""
    return parse_config(with_fitting_preset(words)[0])


def _preset_of(config: Config) -> str:
    """The preset of that environment, or of the one in ``seeds:ID`` and ``module:ID`` if it sees the like: a family may
    draw numbers as pictures. The plainest of several."""
    ids, env_id = preset_environments(), config.env.id
    for wanted in (env_id, env_id.rpartition(":")[2]):
        if found := [name for name, env in ids.items() if env == wanted]:
            preset = min(found, key=len)
            return preset if wanted == env_id or _reads(preset, _seen(probe_spaces(config))) else ""
    return ""


def _reads(preset: str, seen: Box) -> bool:
    """Whether the preset's encoder is of the kind that such observations want: for vectors, or for images."""
    encoder = parse_config([f"preset={preset}"]).model.encoder
    return encoder == AUTO or (encoder == "mlp") == (encoder_for(seen) == "mlp")


def _seen(spaces: Spaces) -> Box:
    assert isinstance(spaces.obs, Box)
    return without_mask(spaces.obs)


def choose(config: Config, spaces: Spaces) -> tuple[Config, str]:
    """(``config`` without auto, what was chosen in one line; empty if there was nothing to say)."""
    chosen = []
    model, normalize, env, backend = config.model, config.normalize, config.env, backend_of(config)
    if model.encoder == AUTO:
        seen = _seen(spaces)
        model = dataclasses.replace(model, encoder=encoder_for(seen))
        chosen.append(f"model.encoder={model.encoder} for {seen.dtype} {list(seen.shape)}")
    if normalize.reward == AUTO:
        normalize = dataclasses.replace(normalize, reward="sign" if backend == "atari" else "none")
        if backend == "atari":
            lives = ", lost lives end episodes" if config.env.life_loss_ends_episode else ""
            chosen.append(f"normalize.reward=sign for Atari{lives}")
    if env.action_masks == AUTO and backend == "gymnasium":
        masks = num_mask(spaces.obs)
        env = dataclasses.replace(env, action_masks="on" if masks else "off")
        if masks:
            chosen.append(f"env.action_masks=on ({masks} actions)")
    line = f"chosen: {'; '.join(chosen)}" if chosen else ""
    return dataclasses.replace(config, model=model, normalize=normalize, env=env), line
