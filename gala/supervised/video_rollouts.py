"""Recorded rollouts as videos: windows of episodes, with the action that led to each frame."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gala.runs.rollouts import RolloutFacts, Rollouts
from gala.supervised.videos import SPLITS, Split, Videos

EVERY_TEST = 5
"""One episode in so many, the last of them, is for testing: no episode is in both splits."""


class RecordedVideos:
    """Videos drawn from rollouts: each window of an episode that is long enough is as likely."""

    def __init__(self, rollouts: Rollouts) -> None:
        self.rollouts, self.facts = rollouts, rollouts.facts
        self.frame = frame_shape(self.facts)
        self._starts = cache(self._find_starts)

    def draw(self, split: Split, count: int, steps: int, seed: int) -> Videos:
        """See ``Source.draw``."""
        starts = self._starts(split, steps)
        rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS[split]]))
        return self.windows(starts[rng.integers(len(starts), size=count)], steps)

    def windows(self, starts: NDArray[np.int64], steps: int) -> Videos:
        """The ``steps`` frames from each row of ``starts`` on, which lie in one episode."""
        frames = np.stack([self.rollouts.rows(int(start), steps) for start in starts], 1)
        rows = starts + np.arange(steps)[:, None]
        actions = encode_actions(self.facts.action, self.rollouts.action[rows], self.rollouts.first[rows])
        return Videos(frames_to_tensor(self.facts, frames), None, actions)

    def episodes(self, split: Split) -> NDArray[np.int64]:
        """Numbers of the episodes of a split."""
        numbers = np.arange(len(self.rollouts.episode_starts) - 1)
        is_test = numbers % EVERY_TEST == EVERY_TEST - 1
        return numbers[is_test if split == "test" else ~is_test]

    def _find_starts(self, split: Split, steps: int) -> NDArray[np.int64]:
        opens, closes = self.rollouts.episode_starts[:-1], self.rollouts.episode_starts[1:]
        chosen = self.episodes(split)
        if not len(chosen):
            raise ValueError(
                f"{self.rollouts.path} has {len(opens)} episodes, none of them to test on; record 5 or more"
            )
        parts = [np.arange(opens[e], closes[e] - steps + 1) for e in chosen]
        starts = np.concatenate(parts)
        if not len(starts):
            splits = [self.episodes(of) for of in SPLITS]
            most = min(int((closes - opens)[numbers].max()) for numbers in splits if len(numbers))
            raise ValueError(
                f"{self.rollouts.path}: no {split} episode has frames={steps}; the longest has {most} (the smaller of "
                "training and test): lower it"
            )
        return starts


def frame_shape(facts: RolloutFacts) -> tuple[int, int, int]:
    """(C, H, W): as recorded, or [numbers, 1, 1] of what is no picture."""
    if len(facts.frame) == 3:
        return facts.frame[0], facts.frame[1], facts.frame[2]
    return int(np.prod(facts.frame)), 1, 1


def frames_to_tensor(facts: RolloutFacts, frames: NDArray) -> Tensor:
    """[T, B, ...] as recorded -> [T, B, C, H, W] float32, pixels in [0, 1]."""
    scaled = torch.from_numpy(np.ascontiguousarray(frames)).float() / (facts.top or 1)
    return scaled.reshape(*frames.shape[:2], *frame_shape(facts))


def encode_actions(action: dict[str, Any], taken: NDArray, first: NDArray) -> Tensor:
    """Actions as recorded [T, B] or [T, B, k] -> [T, B, A] float32: one-hot, or a box's own numbers; 0 where ``first``,
    to which no action has led."""
    if action["kind"] == "box":
        encoded = taken.reshape(*first.shape, -1).astype(np.float32)
    else:
        indices = taken.reshape(*first.shape, -1).astype(np.int64) - action.get("start", 0)
        hot = [np.eye(n, dtype=np.float32)[indices[..., k].clip(0, n - 1)] for k, n in enumerate(action["sizes"])]
        encoded = np.concatenate(hot, -1)
    return torch.from_numpy(np.where(first[..., None], np.float32(0), encoded))
