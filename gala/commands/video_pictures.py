"""Pictures of samples that `gala video train` leaves beside each checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from gala.config.video import VideoConfig
from gala.files.whole import write_atomically

if TYPE_CHECKING:
    from gala.models.vrnn import VRNN


def draw_samples(config: VideoConfig, out: Path, model: VRNN, done: int) -> None:
    """Samples as a grid, and as a film where its encoder is installed (the extra ``video``)."""
    from gala.reports.png import png
    from gala.supervised.video import sample_films, sample_grid

    films, name = sample_films(config, model), _name(done)
    write_atomically(out / f"{name}.png", png((sample_grid(films) * 255).round().byte().numpy()))
    _write_film(out / f"{name}.mp4", films.numpy(), config.context)


def _write_film(path: Path, films: NDArray, context: int) -> None:
    """One that cannot be written is told in a line, and ends no training."""
    from gala.evaluation.film import check_encoder, mp4_file
    from gala.reports.video_page import FRAMES_PER_S, film_frames

    try:
        check_encoder()
    except ValueError:
        return
    try:
        with mp4_file(path, FRAMES_PER_S) as show:
            for frame in film_frames(films, context):
                show(frame)
    except Exception as error:  # the encoder's own, of whatever kind
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        print(f"{path} was not written: {why}", file=sys.stderr)


def draw_missing(config: VideoConfig, out: Path, model: VRNN, done: int) -> None:
    """``draw_samples`` of a checkpoint that should have some, if whoever saved it was killed before they were there."""
    due = done > 0 and (done % config.save_every == 0 or done == config.iterations)
    if due and not all((out / f"{_name(done)}.{kind}").exists() for kind in ("png", "mp4")):
        draw_samples(config, out, model, done)


def _name(done: int) -> str:
    return f"samples-{done:07d}"
