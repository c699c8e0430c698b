"""A grid of classifiers trained on images with a small object: each finished training is a row on disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from gala.config.parse import override
from gala.config.schema import flatten
from gala.config.supervised import SupervisedConfig, geometry, validate
from gala.experiments.row_fields import COUNT, NUMBER, TABLE, TEXT
from gala.experiments.rows import Row, read_rows, write_rows

RESULTS = "results.jsonl"
NEEDED = ("name", "seed", "axes", "settings", "ratio", "test_accuracy", "train_accuracy")
_FIELDS = {
    "name": TEXT,
    "seed": COUNT,
    "settings": TABLE,
    **dict.fromkeys(("ratio", "test_accuracy", "train_accuracy"), NUMBER),
}
AXES = {
    "ratios": "tiny.ratio",
    "train_sizes": "tiny.train_images",
    "poolings": "model.pooling",
    "receptive_fields": "model.receptive_field",
    "widths": "model.channels",
    "updates": "iterations",
}
"""Option of the sweep -> the setting whose values it lists."""
_SHORT = {"ratios": "r", "train_sizes": "n", "poolings": "", "receptive_fields": "f", "widths": "w", "updates": "u"}
PERMUTED = "tiny.permuted_labels"
_NO_SETTINGS = ("seeds", "split_seed", "out", "overwrite", "preset")


@dataclass(frozen=True)
class Axes:
    """What is varied; a list with one value is no axis. All values are combined with all others."""

    ratios: tuple[float, ...] = (0.25, 0.0625, 0.015625)
    train_sizes: tuple[int, ...] = (1000, 10000)
    poolings: tuple[str, ...] = ("max", "mean")
    receptive_fields: tuple[int, ...] = (9,)
    widths: tuple[int, ...] = (16,)
    updates: tuple[int, ...] = (600,)
    seeds: tuple[int, ...] = (1, 2, 3)
    """Each draws its own split of the digits, images, initial parameters and batches."""
    control: bool = True
    """One more training per seed, with shuffled labels: its test accuracy must be chance."""


class NeedleCell(NamedTuple):
    """One training."""

    name: str
    seed: int
    config: SupervisedConfig

    @property
    def cost(self) -> float:
        """In units of no meaning, for an estimate of the time that is left."""
        side = geometry(self.config.data, self.config.tiny)[1]
        return self.config.iterations * self.config.batch_size * side**2 * (self.config.model.channels + 8)


def cells(base: SupervisedConfig, axes: Axes) -> list[NeedleCell]:
    """All trainings, seed by seed, so that a grid that is cut off has whole seeds; controls last.

    Raises:
        ValueError: an axis is empty, or a combination cannot be.
    """
    for name in (*AXES, "seeds"):
        if not getattr(axes, name):
            raise ValueError(f"{name} wants at least one value")
    if base.data == "digits":
        raise ValueError("gala needle wants images with a small object: preset=tiny/digits or preset=tiny/glyphs")
    for name, key in AXES.items():
        for value in getattr(axes, name):
            override(base, [f"{key}={value}"])  # refuses a name that there is not; slow, so not for every cell
    lists = [list(dict.fromkeys(getattr(axes, name))) for name in AXES]
    found, controls = [], []
    for seed in dict.fromkeys(axes.seeds):
        for values in itertools.product(*lists):
            found.append(_cell(base, dict(zip(AXES, values, strict=True)), seed, permuted=False))
        if axes.control:
            first = {name: values[0] for name, values in zip(AXES, lists, strict=True)}
            first |= {"ratios": max(axes.ratios), "train_sizes": min(axes.train_sizes)}
            controls.append(_cell(base, first, seed, permuted=True))
    return found + controls


def _cell(base: SupervisedConfig, values: Mapping[str, Any], seed: int, *, permuted: bool) -> NeedleCell:
    config = dataclasses.replace(base, seeds=(seed,), split_seed=seed)
    for key, value in {**{AXES[name]: value for name, value in values.items()}, PERMUTED: permuted}.items():
        group, _, leaf = key.rpartition(".")
        inner: Any = getattr(config, group) if group else config
        changed = dataclasses.replace(inner, **{leaf: value})
        config = dataclasses.replace(config, **{group: changed}) if group else changed
    validate(config)
    parts = [f"{_SHORT[n]}{v:g}" if isinstance(v, float | int) else f"{_SHORT[n]}{v}" for n, v in values.items()]
    return NeedleCell("-".join([*parts, *(["permuted"] if permuted else []), f"s{seed}"]), seed, config)


def settings_of(config: SupervisedConfig) -> dict[str, Any]:
    """Dotted name -> value of what decides the result, the seed left out."""
    plain = {key: value for key, value in flatten(config).items() if key not in _NO_SETTINGS}
    return dict(json.loads(json.dumps(plain)))


def axes_of(config: SupervisedConfig) -> dict[str, Any]:
    """The settings by which cells of the grid may differ."""
    settings = settings_of(config)
    return {key: settings[key] for key in (*AXES.values(), PERMUTED)}


class NeedleGrid:
    """The cells, and what of them is done; several grids of the same other settings may share a directory."""

    def __init__(self, planned: Sequence[NeedleCell], out: Path) -> None:
        self.cells, self.results = planned, out / RESULTS

    def rows(self) -> list[Row]:
        """All that the directory holds. Raises ValueError if its file holds anything else."""
        if not self.results.is_file():
            return []
        return read_rows(self.results, NEEDED, "gala needle", _FIELDS)

    def check(self) -> None:
        """Raises ValueError if the directory holds trainings of other settings than these, the axes left out."""
        mine = settings_of(self.cells[0].config)
        for row in self.rows():
            odd = [key for key in mine if key not in row["axes"] and row["settings"].get(key) != mine[key]]
            if odd:
                raise ValueError(
                    f"{self.results} holds trainings with {odd[0]}={row['settings'].get(odd[0])}, not {mine[odd[0]]}; "
                    "choose another out=DIRECTORY"
                )

    def left(self) -> list[NeedleCell]:
        done = {row["name"] for row in self.rows()}
        return [cell for cell in self.cells if cell.name not in done]

    def run(
        self,
        train: Callable[[SupervisedConfig], Row],
        said: Callable[[NeedleCell, Row, int, float], None],
        failed: Callable[[NeedleCell, str], None],
    ) -> None:
        """Trains what is left; ``said`` hears of each row, with how many are left and for how many seconds, and
        ``failed`` of those whose numbers were not finite, and why. They have no row, and the others are trained."""
        left, started = self.left(), time.monotonic()
        total, done = sum(cell.cost for cell in left), 0.0
        for k, cell in enumerate(left, 1):
            begun = time.monotonic()
            row = {"name": cell.name, "seed": cell.seed, "axes": axes_of(cell.config)}
            try:
                row |= {"settings": settings_of(cell.config), **train(cell.config)}
            except FloatingPointError as error:
                failed(cell, str(error))
                done += cell.cost
                continue
            row["seconds"] = round(time.monotonic() - begun, 3)
            write_rows(self.results, [*self.rows(), row])
            done += cell.cost
            said(cell, row, len(left) - k, (time.monotonic() - started) / done * (total - done))
