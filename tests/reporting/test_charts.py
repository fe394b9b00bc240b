"""Lines in their frame, whatever the numbers."""

import re
from itertools import pairwise

import pytest

from tests.reporting.pages import Page
from vgglab.reporting.charts import COLOURS, Series, line_chart

Points = list[tuple[float, float]]


def lines(html: str) -> list[Points]:
    """The polylines' points in the SVG's units."""
    return [
        [(float(x), float(y)) for x, y in (place.split(",") for place in points.split())]
        for points in re.findall(r'<polyline[^>]*points="([^"]*)"', html)
    ]


def test_a_chart_stays_inside_its_frame_and_skips_what_is_not_a_number() -> None:
    points = [(0.0, 1.0), (50, float("nan")), (60, float("inf")), (100, -3.0)]
    html = line_chart("Loss", [Series("a", points), Series("none", [(1, float("nan"))])])
    (width, height) = map(float, re.findall(r'viewBox="0 0 (\d+) (\d+)"', html)[0])
    (line,) = lines(html)
    assert len(line) == 2
    assert all(0 <= x <= width and 0 <= y <= height for x, y in line)
    assert line[0][0] < line[1][0]
    assert line[0][1] < line[1][1]  # SVG counts downwards
    assert "none" not in html
    assert line_chart("Nothing", [Series("a", [(0, float("nan"))])]) == ""


@pytest.mark.parametrize("value", [0.0, 0.1, -5.0, 1e9, 1e-12])
def test_a_constant_has_a_chart(value: float) -> None:
    html = line_chart("lr", [Series("lr", [(0, value), (1, value)])])
    assert len(lines(html)) == 1
    assert f"<b>{value:g}</b>" in html


def test_an_axis_ends_at_round_numbers_around_the_values() -> None:
    html = line_chart("Accuracy", [Series("a", [(0, 0.13), (9, 0.992)])])
    labels = [float(text) for text in re.findall(r'text-anchor="end">([\d.]+)<', html)]
    assert labels == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


def test_long_curves_are_thinned_and_keep_their_end_and_their_spikes() -> None:
    points = [(float(s), 1 / (s + 1)) for s in range(100_001)]
    points[54_321] = (54_321, 7.0)
    html = line_chart("Loss", [Series("a", points)])
    (line,) = lines(html)
    assert 700 < len(line) <= 1500
    assert "<b>9.9999e-06</b>" in html
    highest = min(y for _, y in line)
    assert len([y for _, y in line if y == highest]) == 1
    assert line[-1][0] == max(x for x, _ in line)


def test_a_trend_lies_between_the_noise() -> None:
    noise = [(float(s), float(s % 2)) for s in range(400)]
    faint, mean = lines(line_chart("Loss", [Series("a", noise, trend=True)]))
    heights = [y for _, y in faint]
    middle = (min(heights) + max(heights)) / 2
    assert len(faint) == len(mean) == 400
    inner = [y for _, y in mean[20:-20]]
    assert max(abs(y - middle) for y in inner) < 0.1 * (max(heights) - min(heights))
    short = line_chart("Loss", [Series("a", noise[:40], trend=True)])
    assert len(lines(short)) == 1


def test_a_trend_of_a_line_is_that_line() -> None:
    straight = [(float(s), 3.0 * s) for s in range(200)]
    faint, mean = lines(line_chart("Loss", [Series("a", straight, trend=True)]))
    assert mean == [pytest.approx(place, abs=0.11) for place in faint]


def test_there_are_as_many_lines_as_asked_for() -> None:
    count = 2 * COLOURS + 1
    html = line_chart("Loss", [Series(f"run {i}", [(0, i), (1, i)]) for i in range(count)])
    classes = re.findall(r'<polyline class="line ([^"]*)"', html)
    assert classes[:2] == ["c0", "c1"]
    assert classes[COLOURS] == "c0 dashed"
    assert len(set(classes[: 2 * COLOURS])) == 2 * COLOURS
    assert html.count('class="key') == count


def test_lines_take_the_colour_and_the_look_they_are_given() -> None:
    points: Points = [(0, 1), (1, 2)]
    html = line_chart(
        "Loss",
        [
            Series("seed 0", points, colour=3, faint=True),
            Series("mean", points, colour=3),
            Series("other", points),
        ],
    )
    classes = re.findall(r'<polyline class="line ([^"]*)"', html)
    assert classes == ["c3 faint", "c3", "c2"]
    assert "seed 0" not in html


def test_only_faint_lines_are_drawn_as_well() -> None:
    html = line_chart("Loss", [Series("a", [(0, 1), (1, 2)], faint=True)])
    assert len(lines(html)) == 1


def test_under_the_mouse_the_values_at_a_step_are_read() -> None:
    often = [(float(s), s / 100) for s in range(0, 1000, 10)]
    seldom = [(249.0, 7.5), (499.0, 8.5), (749.0, 9.5)]
    html = line_chart("Loss", [Series("a<b", often), Series("val", seldom)])
    page = Page(html)
    assert "step 0 a<b 0 val 7.5" in page.text
    assert "step 990 a<b 9.9 val 9.5" in page.text
    strips = re.findall(r'class="strip" x="([\d.]+)" y="\d+" width="([\d.]+)"', html)
    edges = [(float(x), float(x) + float(width)) for x, width in strips]
    assert 20 < len(edges) <= 60
    for (_, end), (begin, _) in pairwise(edges):
        assert begin == pytest.approx(end, abs=0.11)  # no gaps
    crosses = [float(x) for x in re.findall(r'class="cross" x1="([\d.]+)"', html)]
    assert all(a - 0.1 <= x <= b + 0.1 for (a, b), x in zip(edges, crosses, strict=True))


def test_a_reading_of_many_lines_is_cut_short() -> None:
    html = line_chart("Loss", [Series(f"run {i}", [(5, i)]) for i in range(50)])
    assert "and 38 more" in html
