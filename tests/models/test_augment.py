"""Augmentation of images: against pads, crops and squares, one image at a time; and nothing of it in evaluation."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gala.config import derived
from gala.config.parse import parse_config
from gala.models.actor_critic import build_actor_critic
from gala.models.augment import AUGMENTATIONS, Cutout, RandomShift

IMAGES = torch.randint(1, 256, (300, 3, 12, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_shift_is_a_crop_of_the_image_with_its_border_repeated():
    torch.manual_seed(0)
    moved = RandomShift(2)(IMAGES)
    padded = F.pad(IMAGES.float(), (2, 2, 2, 2), mode="replicate").to(torch.uint8)
    seen = set()
    for image, wide in zip(moved, padded, strict=True):
        crops = {(y, x): wide[:, y : y + 12, x : x + 9] for y in range(5) for x in range(5)}
        found = [at for at, crop in crops.items() if torch.equal(crop, image)]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 25, "every shift occurs"


def test_a_cut_out_square_is_0_in_all_channels_and_the_rest_stays():
    torch.manual_seed(0)
    sides, starts = set(), set()
    for before, after in zip(IMAGES, Cutout(4)(IMAGES), strict=True):
        cut = after[0] == 0
        assert torch.equal(after, before * ~cut)
        ys, xs = (torch.nonzero(cut.any(axis)).flatten().tolist() for axis in (1, 0))
        assert cut.sum() == len(ys) * len(xs) == len(ys) ** 2 and ys == list(range(ys[0], ys[0] + len(ys)))
        sides.add(len(ys))
        starts.add((ys[0] == 0, xs[0] == 0, ys[-1] == 11, xs[-1] == 8))
    assert sides == {1, 2, 3, 4} and len(starts) > 5, "any size, and any place up to the edges"


def test_only_training_sees_it_and_one_pass_learns_from_what_was_seen():
    space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    obs = torch.randint(0, 256, (6, *space.shape), dtype=torch.uint8)
    for name in AUGMENTATIONS:
        config = parse_config(["preset=atari/pong", f"model.augment={name}", "a2c.passes=auto"])
        policy = build_actor_critic(space, gym.spaces.Discrete(6), config.model)
        plain = build_actor_critic(space, gym.spaces.Discrete(6), parse_config(["preset=atari/pong"]).model)
        plain.load_state_dict(policy.state_dict())
        state, first = policy.initial_state(6), torch.zeros(6, dtype=torch.bool)
        with torch.no_grad():
            assert not torch.equal(policy(obs, state, first).value, plain(obs, state, first).value)
            policy.eval()
            assert torch.equal(policy(obs, state, first).value, plain(obs, state, first).value)
        assert derived.is_one_pass(config)
    assert AUGMENTATIONS["shift"](84).pixels == 4 and AUGMENTATIONS["cutout"](84).side == 28


def test_what_is_not_images_is_refused():
    model = parse_config(["preset=classic/cartpole", "model.augment=shift"]).model
    with pytest.raises(ValueError, match=r"^model.augment=shift wants \[C, H, W\] images, not \(4,\)$"):
        build_actor_critic(gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(2), model)
