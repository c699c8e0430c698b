"""Figures of a run's records and of gossip graphs, as PNG or SVG."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gala.config.extras import install
from gala.files.whole import write_atomically
from gala.runs.writable import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")
BLUE, ORANGE, GREY = "#4c72b0", "#dd8452", "#999999"
_COLUMNS = 4
_MOST_ROUNDS = 12
Record = dict[str, Any]


def check_matplotlib() -> None:
    """Raises ValueError, in one line: no figure can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError(f"figures need matplotlib: {install('plot')}")


def check_output(path: Path, overwrite: bool) -> None:
    """Before any work: can a figure be written to ``path``? Raises ValueError in one line."""
    check_matplotlib()
    if path.suffix not in FORMATS:
        raise ValueError(f"out={path} must end in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise ValueError(f"out={path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} already exists; name another with out=FILE or add overwrite=true")
    make_folder(path.parent)


def literal(name: str) -> str:
    """``name`` for a figure, as it is: matplotlib would take what stands between two dollar signs for mathematics, and
    leave out of a legend what begins with an underscore."""
    return " " * name.startswith("_") + name.replace("$", r"\$")


def returns(records: Sequence[Record], title: str, path: Path) -> None:
    """Mean return of the last 100 training episodes, as many of each learner, against env_steps; and as a thin line for
    each learner that of its own last 100.

    Raises:
        ValueError: no episode has ended yet.
    """
    mean = curve(records, _RETURN)
    if not mean:
        raise ValueError(f"{title} has no returns: no episode ended before its last record")
    figure, axes = figure_with_axes()
    for rank in _learners(records):
        each = curve([{**r[rank], "global_step": r["global_step"]} for r in records if rank in r], _RETURN)
        if each:
            axes.plot(*xy(each), color=GREY, lw=0.7, alpha=0.7)
    axes.plot(*xy(mean), color=BLUE, lw=1.6, label="all learners")
    axes.set(xlabel="env_steps over all learners", ylabel="return, last 100 episodes", title=literal(title))
    if len(_learners(records)) > 1:
        axes.plot([], [], color=GREY, lw=0.7, label="each learner")
        axes.legend(fontsize=8)
    save(figure, path)


def epsilon_ball(records: Sequence[Record], title: str, path: Path) -> None:
    """Root mean square distance of the learners to their mean, and its certified bound, against env_steps.

    Raises:
        ValueError: the run has no certificate.
    """
    bound = curve(records, "gossip/epsilon_bound")
    if not bound:
        raise ValueError(
            f"{title} has no certificate; train with gossip.certify=true, algo=gala and two learners or more"
        )
    distance = curve([r for r in records if r.get("gossip/epsilon_bound") is not None], "gossip/consensus_distance")
    figure, axes = figure_with_axes()
    axes.plot(*xy(bound), color=ORANGE, lw=1.4, label="epsilon ball: bound from all logged exchanges")
    axes.plot(*xy(distance), color=BLUE, lw=1.4, label="measured, same parameters")
    within = sum(d <= b for (_, d), (_, b) in zip(distance, bound, strict=True))
    axes.set(xlabel="env_steps over all learners", ylabel="rms distance to the learners' mean", yscale="log")
    axes.set_title(f"{literal(title)}: inside at {within} of {len(bound)} points")
    axes.legend(fontsize=8)
    save(figure, path)


def graph_rounds(rounds: Sequence[Sequence[tuple[int, int]]], n: int, title: str, path: Path) -> None:
    """One circle of ``n`` learners per round, an arrow per (source, destination). The first twelve rounds."""
    from matplotlib.figure import Figure

    shown = list(rounds)[:_MOST_ROUNDS]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(3.2 * columns + 0.4, 3.4 * rows + 0.4), dpi=120)
    for i, edges in enumerate(shown):
        axes = figure.add_subplot(rows, columns, i + 1)
        _draw_graph(axes, edges, n)
        axes.set_title(f"round {i}: {len(edges)} edges" if len(shown) > 1 else f"{len(edges)} edges", fontsize=9)
    more = f" (first {_MOST_ROUNDS} of {len(rounds)} rounds)" if len(rounds) > _MOST_ROUNDS else ""
    figure.suptitle(title + more)
    save(figure, path)


def circled(picture: Any, corner: tuple[int, int], box: tuple[int, int], title: str, path: Path) -> None:
    """``picture [C, H, W]`` with a circle around the box (height, width) whose upper left pixel is ``corner``. What is
    neither grey nor colours is drawn by its strongest channel."""
    from matplotlib.patches import Circle

    figure, axes = figure_with_axes()
    axes.imshow(picture[0] if len(picture) == 1 else picture.argmax(0) + picture.any(0), cmap="gray")
    centre = (corner[1] + (box[1] - 1) / 2, corner[0] + (box[0] - 1) / 2)
    axes.add_patch(Circle(centre, 0.75 * max(box) + 0.5, fill=False, color=ORANGE, lw=1.6))
    axes.set_title(title, fontsize=8)
    axes.set_axis_off()
    save(figure, path)


def _draw_graph(axes: Any, edges: Sequence[tuple[int, int]], n: int) -> None:
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(edges)
    # Clockwise from the top, as one counts; equal ranks stay at equal places in all rounds.
    places = {k: (math.sin(2 * math.pi * k / n), math.cos(2 * math.pi * k / n)) for k in range(n)}
    small = n > 16
    nx.draw_networkx(
        graph,
        places,
        ax=axes,
        node_size=90 if small else 260,
        font_size=5 if small else 8,
        node_color="#dce6f2",
        edgecolors=BLUE,
        edge_color=BLUE,
        width=0.5 if small else 1.0,
        arrowsize=5 if small else 9,
        connectionstyle="arc3,rad=0.08",  # both directions of a pair can be seen
    )
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal")
    axes.set_axis_off()


_RETURN = "charts/episodic_return"


def curve(records: Sequence[Record], tag: str) -> list[tuple[int, float]]:
    """(env_steps over all learners, value) of each record that has the tag."""
    return [(r["global_step"], r[tag]) for r in records if r.get(tag) is not None]


def xy(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """For ``axes.plot``."""
    return [step for step, _ in points], [value for _, value in points]


def _learners(records: Sequence[Record]) -> list[str]:
    names = {key for r in records for key, value in r.items() if key.startswith("learner") and isinstance(value, dict)}
    return sorted(names, key=lambda name: int(name[len("learner") :]))


HALF_PAGE = (5.2, 3.4)
"""Inches of a figure that shares its row of a page with another one: it is shrunk, and its text must stay readable."""


def figure_with_axes(inches: tuple[float, float] = (7, 4)) -> tuple[Figure, Any]:
    """A figure with one grid of axes, in the style of all reports."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=120)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """Atomically, in the format that the name of ``path`` says."""
    from io import BytesIO

    from matplotlib import rc_context

    figure.tight_layout()
    data = BytesIO()
    with rc_context({"svg.hashsalt": "gala"}):  # the same records make the same file
        figure.savefig(data, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    write_atomically(path, data.getvalue())
