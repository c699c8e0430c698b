"""One learner, in this process: for grids of many short trainings."""

from __future__ import annotations

from typing import Any

from gala.config.supervised import SupervisedConfig, geometry
from gala.supervised.comparison import build, report
from gala.supervised.comparison.data import load
from gala.supervised.comparison.learner import train
from gala.supervised.tiny.images import TinyImages
from gala.supervised.tiny.oracle import oracle_accuracy

_ORACLE_IMAGES = 2000


def train_alone(config: SupervisedConfig) -> dict[str, Any]:
    """Train on images with a small object, and say how well it went.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    data, job = load(config), build.ComparisonJob("sgp", "off", config.seeds[0])
    row = report.row(config, job, [train(config, job, 0, data, None)], data)
    assert isinstance(data.train_images, TinyImages) and isinstance(data.test_images, TinyImages)
    p, side = geometry(config.data, config.tiny)
    kept = ("train_accuracy", "test_accuracy", "train_loss", "ms_per_iteration")
    return {
        "object_px": p,
        "side": side,
        "ratio": p * p / side**2,
        "num_clutter": data.train_images.num_clutter,
        "parameters": build.num_parameters(config),
        "oracle_accuracy": oracle_accuracy(data.train_images.first(_ORACLE_IMAGES), data.test_images),
        **{key: row[key] for key in kept},
    }
