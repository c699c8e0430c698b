"""Pictures of a comparison: what is drawn is in the picture, and the names do not lie over the curves."""

import pytest

pytest.importorskip("matplotlib")
from gala.reports.comparison_figures import draw_curves
from gala.reports.figures import figure_with_axes, save


@pytest.mark.parametrize("words", [1, 9, 40])
def test_long_names_stand_under_the_curves_and_in_the_picture(words, tmp_path):
    figure, axes = figure_with_axes()
    names = [" ".join(f"group.setting{i}=value" for i in range(words)) + f" {n}" for n in range(4)]
    draw_curves(axes, {name: [{"x": [0, 1, 2], "y": [0, n, 2]}] for n, name in enumerate(names)}, "x", "y")
    save(figure, tmp_path / "curves.png")
    legend, lines = axes.get_legend().get_window_extent(), axes.get_window_extent()
    assert (legend.y1 < lines.y0) == (words > 1) and lines.height > 100
    assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1 and figure.bbox.y0 <= legend.y0
