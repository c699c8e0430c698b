"""``gala audit-objects ENV``: the smallest thing in an environment's pictures, and whether the encoder can see it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gala_envs.contexts import ContextSet
from gala_envs.families import tiny_objects
from gala_envs.masks import random_actions
from numpy.typing import NDArray

from gala.build.auto import choose
from gala.config.own_words import asks_for_help
from gala.config.parse import parse_config, split_settings
from gala.config.schema import Config
from gala.config.validate import validate

USAGE = """usage: gala audit-objects ENV [pictures=400] [out=FILE.png|FILE.svg]
                    [SETTING=VALUE ...]

Play ENV at random and report the smallest object that moves, and the smallest
of a rare colour, as the policy sees them; their share of the image; and what an
encoder of images (model.encoder, or a preset's) sees at one location. Of
tiny_objects, the size that its contexts set too. out= draws the picture with
the object circled, if one was found. Settings are those of gala train."""
_ENVS, WIDTH = 4, 80


def main(argv: Sequence[str]) -> int:
    """Prints the report. Returns 0. Raises ValueError: no images, or bad settings."""
    if not argv or asks_for_help(argv):
        print(USAGE)
        return 0 if argv else 2
    given = split_settings(argv[1:])
    own = {key: text for key, text in given if key in ("pictures", "out")}
    config = parse_config([*(f"{key}={text}" for key, text in given if key not in own), f"env.id={argv[0]}"])
    validate(config)
    if not own.get("pictures", "400").isdecimal() or int(own.get("pictures", "400")) < 2 * _ENVS:
        raise ValueError(f"pictures={own['pictures']} must be a whole number of at least {2 * _ENVS}")
    if "out" in own:
        from gala.reports.figures import check_output

        check_output(Path(own["out"]), overwrite=False)
    pictures = int(own.get("pictures", "400"))
    frames, breaks = (rows[:pictures] for rows in random_pictures(config, -(-pictures // _ENVS)))
    for line in _report(config, frames, breaks, own.get("out", "")):
        print(textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
    return 0


def random_pictures(config: Config, num_steps: int) -> tuple[NDArray, NDArray]:
    """frames [T, C, H, W] of a random policy, row after row, and bool [T]: the frame follows none. Of stacks the
    newest picture only. Raises ValueError if observations are no images."""
    from gala.build.envs import make_env
    from gala.evaluation.frames import newest_channels

    env = make_env(config, _ENVS)
    if len(env.obs_space.shape) != 3:
        env.close()
        raise ValueError(
            f"{config.env.id} has observations {env.obs_space.shape}; audit-objects wants [C, H, W] images"
        )
    env.action_space.seed(config.seed)
    obs, opens = [env.reset(config.seed).copy()], [np.ones(_ENVS, bool)]
    for _ in range(num_steps - 1):
        step = env.step(random_actions(env, obs[-1]))
        obs.append(step.obs.copy())
        opens.append(step.terminated | step.truncated | ~step.valid)
    env.close()
    frames = np.stack(obs, 1).reshape(-1, *obs[0].shape[1:])
    return frames[:, -newest_channels(config) :], np.stack(opens, 1).ravel()


def _report(config: Config, frames: NDArray, breaks: NDArray, out: str) -> list[str]:
    from gala.build.envs import probe_spaces
    from gala.build.policy import encoder_summary, make_policy
    from gala.diagnostics.objects import Found, smallest_moving, smallest_rare, warnings
    from gala.models.encoders import ImageEncoder
    from gala.models.receptive_field import receptive_field
    from gala.reports.figures import circled

    height, width = frames.shape[2:]
    lines = [f"{config.env.id}: {len(frames)} pictures of {height} x {width} px, by random actions"]
    found = {"moving": smallest_moving(frames, breaks), "of a rare colour": smallest_rare(frames)}
    spaces = probe_spaces(config)
    config, _ = choose(config, spaces)
    encoder = make_policy(config, spaces).encoder

    def warned(thing: Found) -> list[str]:
        seen = receptive_field(encoder) if isinstance(encoder, ImageEncoder) else None
        return [f"  warning: {said}" for said in warnings(thing, *seen)] if seen else []

    for name, thing in found.items():
        if thing is None:
            unseen = name == "moving" and breaks.all()
            why = "movement cannot be seen, as every episode has one decision" if unseen else "none found"
            lines.append(f"smallest {name}: {why}")
            continue
        share = 100 * thing.area / (height * width)
        lines.append(
            f"smallest {name}: {thing.area} px ({thing.height} x {thing.width}), {share:.3g} % of the image, "
            f"in {100 * thing.share:.0f} % of the pictures"
        )
        lines += warned(thing)
    for p in _sides_told(config):
        lines.append(f"object, as its contexts say: {p} x {p} px, {100 * p**2 / (height * width):.3g} % of the image")
        lines += warned(Found(p**2, p, p, 0, (0, 0), 1.0))
    lines.append(f"encoder {encoder_summary(config, spaces)}")
    if not isinstance(encoder, ImageEncoder):
        lines.append("  for its receptive field choose an encoder of images, as in model.encoder=impala")
    shown = [thing for thing in found.values() if thing is not None]
    if out and not shown:
        lines.append(f"no picture: there is nothing to circle, so {out} was not written")
    elif out:
        thing = min(shown, key=lambda each: each.area)
        circled(frames[thing.t], thing.corner, (thing.height, thing.width), lines[0], Path(out))
        lines.append(f"picture {out}")
    return lines


def _sides_told(config: Config) -> list[int]:
    """Sides in pixels of the object as contexts of ``tiny_objects`` set them: it may neither move nor have a rare
    colour."""
    if config.env.id != tiny_objects.TinyObjects.name:
        return []
    return sorted({tiny_objects.object_side(context) for context in ContextSet.read(config.env.contexts)})
