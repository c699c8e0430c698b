"""The frame that all pages share, and what a narrow screen and a dark one ask of it."""

from __future__ import annotations

import re

import pytest
from documents import ROOT

from gala.reports.charts import HEIGHT, WIDTH, Line, chart
from gala.reports.page import cell_text, page, picture, table


def test_all_pages_have_the_same_frame():
    """It is what has the colours of the dark scheme, and the rules for narrow screens."""
    sources = [path for path in (ROOT / "gala").rglob("*.py") if "<!doctype" in path.read_text().lower()]
    assert [path.relative_to(ROOT).as_posix() for path in sources] == ["gala/reports/page.py"]


def test_pages_state_colours_by_the_names_that_the_dark_scheme_changes():
    """A colour that is written out is as dark on dark paper as it is on white."""
    for path in (ROOT / "gala" / "reports").glob("*.py"):
        if path.name != "page.py":
            assert not re.search(r"(?<![-\w])color: ?#|color:#", path.read_text()), path.name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"python": "3.11", "envpool": None, "git": "1f"}, "python 3.11, git 1f"),
        ([], "none"),
        (("a", 2), "a, 2"),
        ({}, "none"),
        (None, "none"),
        (0, "0"),
        ("", ""),
        ({"gpus": [], "size": 5}, "gpus none, size 5"),
    ],
)
def test_a_cell_is_no_programs_text(value, text):
    assert cell_text(value) == text
    assert f"<td>{text}</td>" in table([["what", "value"], ["x", value]])


def test_wide_things_scroll_inside_the_page():
    assert table([["a"]]).startswith('<div class="wide"><table')
    assert '<div class="broad"><img' in picture(b"", "two in a row", broad=True)
    assert "broad" not in picture(b"", "one")
    assert ".wide { overflow-x: auto" in page("t", "") and ".broad { overflow-x: auto" in page("t", "")


def test_the_axis_of_a_curve_is_named_and_its_numbers_do_not_cover_the_name():
    for last in (7, 150_400, 999_999, 1e9):
        text = chart("return", [Line("", [(0, 0.0), (last, 1.0)])])
        (name,) = re.findall(rf'<text x="([\d.]+)" y="{HEIGHT - 10}">env_steps</text>', text)
        numbers = re.findall(rf'<text x="([\d.]+)" y="{HEIGHT - 10}" text-anchor', text)
        width_px = 9 * 7  # nine letters of 12 px
        assert numbers and all(float(name) + width_px < float(x) - 20 < WIDTH for x in numbers)


def test_the_committed_reports_have_that_frame_too():
    reports = sorted((ROOT / "benchmarks" / "results").glob("*.html"))
    assert reports
    for path in reports:
        text = path.read_text()
        assert "prefers-color-scheme: dark" in text and text.count("<table") == text.count("wide><table"), path.name
