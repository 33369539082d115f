"""The curve is a well-formed SVG with one line per phase, whatever the losses."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from gpu_runner.tune.curves import curves, mermaid


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


def test_the_learning_rate_has_a_line_of_its_own_below_the_loss() -> None:
    metrics = [{"phase": 1, "loss": 1.0, "learning_rate": rate} for rate in (1e-5, 2e-5, 0.0)]
    root = ElementTree.fromstring(curves(metrics))  # noqa: S314 - our own text
    (line,) = root.findall("{http://www.w3.org/2000/svg}path")
    heights = [float(word) for word in line.get("d", "").replace("M", "").replace("L", "").split()[1::2]]
    assert heights[1] < heights[0] < heights[2]


def test_a_job_summary_gets_both_curves_thinned_to_what_can_be_read() -> None:
    metrics = [{"phase": 1, "loss": 1 / (step + 1), "learning_rate": 2e-5} for step in range(1000)]
    text = mermaid(metrics)
    assert text.count("```mermaid\nxychart-beta\n") == 2
    loss = text.split("line [")[1].split("]")[0].split(", ")
    assert len(loss) <= 60
    assert loss[-1] == "0.001000"
    assert text.split('"optimizer step" [')[1].split("]")[0].endswith(", 1000")
    assert mermaid([]) == ""
