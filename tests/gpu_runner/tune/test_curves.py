"""The curve is a well-formed SVG with one line per phase, whatever the losses."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from gpu_runner.tune.curves import curves


@pytest.mark.parametrize(
    ("metrics", "lines"),
    [
        ([], 0),
        ([{"phase": 1, "loss": 2.0}], 1),
        ([{"phase": 1, "loss": 2.0}, {"phase": 1, "loss": 0.0}, {"phase": 2, "loss": 1.5}], 2),
    ],
)
def test_one_line_per_phase(metrics: list[dict[str, float]], lines: int) -> None:
    root = ElementTree.fromstring(curves(metrics, title="Loss <of> a run"))  # noqa: S314 - our own text
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == lines
    assert root.get("aria-label") == "Loss <of> a run"


def test_points_lie_inside_the_picture_and_fall_with_the_loss() -> None:
    root = ElementTree.fromstring(  # noqa: S314 - our own text
        curves([{"phase": 1, "loss": loss} for loss in (5.0, 1.0, 0.2)])
    )
    (line,) = root.findall("{http://www.w3.org/2000/svg}polyline")
    points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
    assert [point[1] for point in points] == sorted(point[1] for point in points)
    assert all(0 <= x <= 760 and 0 <= y <= 320 for x, y in points)
