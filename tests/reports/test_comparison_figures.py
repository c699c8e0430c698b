"""Pictures of a comparison: what is drawn is in the picture, and the names do not lie over the curves."""

import itertools

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg

from gala.reports.comparison_figures import _improvements, _intervals, draw_curves
from gala.reports.figures import HALF_PAGE, figure_with_axes, literal, save


@pytest.mark.parametrize("words", [1, 9, 40])
def test_long_names_stand_under_the_curves_and_in_the_picture(words, tmp_path):
    figure, axes = figure_with_axes()
    names = [" ".join(f"group.setting{i}=value" for i in range(words)) + f" {n}" for n in range(4)]
    draw_curves(axes, {name: [{"x": [0, 1, 2], "y": [0, n, 2]}] for n, name in enumerate(names)}, "x", "y")
    save(figure, tmp_path / "curves.png")
    legend, lines = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert (legend.y1 < lines.y0) == (words > 1) and lines.height > 100
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 and figure.bbox.y0 <= legend.y0


@pytest.mark.filterwarnings("error:Tight layout not applied")
@pytest.mark.parametrize("settings", [1, 2, 6])
@pytest.mark.parametrize("draw", [_intervals, _improvements])
def test_long_names_of_rows_stand_beside_their_rows_and_not_over_each_other(draw, settings, tmp_path):
    figure, axes = figure_with_axes(HALF_PAGE)
    names = [" ".join(["gala", *(f"group.a_setting{i}=value{n}" for i in range(settings))]) for n in range(5)]
    groups = {name: {"score": (1.0, 2.0, 3.0), "scores": [1.0, 2.0, 3.0]} for name in names}
    against = {name: {"improvement": (0.2, 0.5, 0.8)} for name in names[1:]}
    told = {"groups": groups, "against": against, "baseline": names[0], "threshold": None, "mode": "sampled"}
    draw(axes, told | {"task": "CartPole-v1"})
    save(figure, tmp_path / f"rows{settings}.png")
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert axes.get_window_extent().width > figure.bbox.width / 2 and len(boxes) == len(names) - (draw is _improvements)
    assert all(figure.bbox.x0 <= box.x0 and box.y1 <= figure.bbox.y1 and box.y0 >= figure.bbox.y0 for box in boxes)
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
    label = axes.xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0 and label.x1 <= figure.bbox.x1 and figure.bbox.y0 <= label.y0


@pytest.mark.parametrize("name", ["lr=$1$_x$2$", "_hidden", "a_b", "50 %"])
def test_names_are_drawn_as_they_are(name, tmp_path):
    """Before, what stood between two dollar signs was set as mathematics, and `_hidden` was in no legend."""
    pictures = []
    for text, how in ((literal(name), {}), (name, {"parse_math": False})):
        figure, axes = figure_with_axes()
        axes.set_title(text.strip(), **how)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba()).copy())
    assert (pictures[0] == pictures[1]).all()
    draw_curves(axes, {name: [{"env_steps": [0, 1], "return": [0, 1]}]}, "env_steps")
    (shown,) = axes.get_legend().get_texts()
    assert shown.get_text().strip() == name.replace("$", r"\$")
