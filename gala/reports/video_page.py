"""The page of ``gala video eval``: truth and samples side by side, moving; one file that opens without a network."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gala.reports.page import image_tag, page, table
from gala.reports.png import animated_png, png

FRAMES_PER_S, LAST_S = 4, 1.0
TILE_PX, BORDER_PX = 112, 4
CONTEXT_GREY, PREDICTED = (140, 140, 140), (221, 132, 82)
_COLOURS = np.array(
    [(230, 80, 60), (70, 150, 240), (250, 200, 60), (90, 200, 120), (200, 110, 220), (250, 140, 40), (80, 210, 210)],
    np.float32,
)


def video_page(title: str, films: NDArray[np.float32], context: int, report: dict[str, Any]) -> str:
    """A page of held-out videos beside what a model makes of their context.

    Args:
        title: of the page, the run say.
        films: [T, V, K, C, H, W] in [0, 1]: V videos, in K tiles each: truth, the best sample, other samples.
        context: frames that were given.
        report: of ``gala video eval``.
    """
    tiles = _tiles(films, context)
    names = ["truth", "best sample", *(f"sample {k}" for k in range(1, films.shape[2] - 1))]
    rows = [animated_png(np.concatenate(list(row), 2), FRAMES_PER_S, LAST_S) for row in _by_video(tiles)]
    first = _by_video(tiles)[0]
    strip = np.concatenate([np.concatenate(list(tile), 1) for tile in first], 0)
    numbers = {k: v for k, v in report.items() if isinstance(v, int | float)}
    steps = {k: v for k, v in report.items() if isinstance(v, list)}
    head = ["predicted frame", *range(1, 1 + len(films) - context)]
    frechet = (
        f" Frechet distance: {report['frechet']:.4g}, on an {html.escape(report['frechet_encoder'])}."
        if "frechet_encoder" in report
        else ""
    )
    body = f"""<p>{_with_error(report, "nats")} nats per predicted frame;
{_with_error(report, "nats_weighted")} by the importance-weighted bound of {report["weights"]} draws; each &plusmn; its
standard error over videos.{frechet}</p>
<p>Frames with a <b class="grey">grey</b> border are given, those with an <b class="orange">orange</b> one are
predicted. The best sample is the one of {report["samples"]} with the highest mean PSNR.</p>
<div class="films"><div class="names">{"".join(f"<span>{name}</span>" for name in names)}</div>
{"".join(image_tag(row, f"video {k} and its samples") for k, row in enumerate(rows, 1))}</div>
<h2>Scores</h2>
{table([["score", "value"], *([name, f"{value:.4g}"] for name, value in numbers.items())])}
{table([head, *([name, *(f"{x:.2f}" for x in values)] for name, values in steps.items())]) if steps else ""}
<h2>Frame by frame</h2>
<p>The first video: truth above the samples, time from left to right.</p>
<div class="wide strip">{image_tag(png(strip), "the first video, frame by frame")}</div>"""
    return page(title, body, _style(len(names), tiles.shape[-2] * len(names)), "gala video eval")


def _with_error(report: dict[str, Any], score: str) -> str:
    return f"{report[score]:.3f} &plusmn; {report[f'{score}_standard_error']:.2g}"


def _style(columns: int, width_px: int) -> str:
    return f""".films {{ width: {width_px}px; max-width: 100% }} .strip img {{ max-width: none }}
.films img, .strip img {{ image-rendering: pixelated; display: block; margin-bottom: .6rem }}
.names {{ display: grid; grid-template-columns: repeat({columns}, 1fr); font-size: 13px; text-align: center }}
.grey {{ color: rgb{CONTEXT_GREY} }} .orange {{ color: rgb{PREDICTED} }}
"""


def paint(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[..., C, H, W] in [0, 1] -> [..., H, W, 3]: grey of one channel, the colours of three, else a colour for each
    plane, of which the brightest is seen."""
    channels = frames.shape[-3]
    pixels = np.moveaxis(frames.clip(0, 1), -3, -1)
    if channels == 1:
        rgb = np.repeat(pixels, 3, -1) * 255
    elif channels == 3:
        rgb = pixels * 255
    else:
        rgb = np.zeros((*pixels.shape[:-1], 3), np.float32)
        for k in range(channels):
            rgb = np.maximum(rgb, pixels[..., k : k + 1] * _COLOURS[k % len(_COLOURS)])
    return np.rint(rgb).astype(np.uint8)


def film_frames(films: NDArray[np.float32], context: int) -> NDArray[np.uint8]:
    """Films [T, V, K, C, H, W] in [0, 1] -> frames [T, H', W', 3] of all of them, a row for each video, with even
    sides, as encoders want them."""
    tiles = _tiles(films, context)
    rows = [np.concatenate(list(video), 2) for video in _by_video(tiles)]
    frames = np.concatenate(rows, 1)
    return np.pad(frames, [(0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)])


def _tiles(films: NDArray[np.float32], context: int) -> NDArray[np.uint8]:
    """[T, V, K, H', W', 3]: enlarged, with borders that tell given frames from predicted ones."""
    larger = max(1, TILE_PX // max(films.shape[-2:]))
    tiles = paint(films).repeat(larger, -3).repeat(larger, -2)
    wide = [(0, 0)] * 3 + [(BORDER_PX, BORDER_PX)] * 2 + [(0, 0)]
    framed = np.pad(tiles, wide)
    inside = np.pad(np.ones(tiles.shape[-3:-1], bool), BORDER_PX)
    framed[:context, :, :, ~inside] = CONTEXT_GREY
    framed[context:, :, :, ~inside] = PREDICTED
    return framed


def _by_video(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[T, V, K, ...] -> [V, K, T, ...]."""
    return np.moveaxis(tiles, 0, 2)
