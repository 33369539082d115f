"""Loss and learning rate of a run as pictures, without a library.

`curves(metrics)` is one SVG with a panel for each, for the stage's folder and the model's card.
`mermaid(metrics)` is the same for a GitHub job summary: GitHub shows no SVG of ours there (inline ones are
stripped, and a picture would need a public address), but draws Mermaid's charts itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 64, 16, 34, 44
_LOSS, _RATE, _GAP = 242, 90, 26
_HEIGHT = _TOP + _LOSS + _GAP + _RATE + _BOTTOM
_COLOURS = ("#2b6cb0", "#b7791f", "#2f855a", "#97266d")
_FLOOR = 1e-4
_POINTS = 60


def curves(metrics: Sequence[Mapping[str, Any]], title: str = "Training loss per target token") -> str:
    """`metrics` are the lines of `metrics.jsonl` in order. The loss is drawn on a logarithmic scale, the
    learning rate below it on a linear one from 0."""
    losses = [max(_FLOOR, float(line["loss"])) for line in metrics]
    rates = [float(line.get("learning_rate", 0.0)) for line in metrics]
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
            f'aria-label="{escape(title)}" font-family="sans-serif" font-size="12">'
        ),
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    if losses:
        low, high = math.floor(math.log10(min(losses))), math.ceil(math.log10(max(losses)))
        high = max(high, low + 1)
        most, floor = max(rates) or 1.0, _TOP + _LOSS + _GAP + _RATE

        def x(step: float) -> float:
            return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, len(losses) - 1)

        def y(loss: float) -> float:
            return _TOP + _LOSS * (high - math.log10(loss)) / (high - low)

        parts += [_rule(y(10.0**power), f"{10.0**power:g}") for power in range(low, high + 1)]
        parts.append(_rule(floor, "0"))
        parts.append(_rule(floor - _RATE, f"{most:.1e}"))
        parts.append(f'<text x="{_LEFT}" y="{floor - _RATE - 6}">Learning rate</text>')
        start = 0
        for index, (phase, group) in enumerate(groupby(metrics, key=lambda line: int(line["phase"]))):
            count = len(list(group))
            # Each phase begins at its predecessor's last point, so that the line is unbroken.
            span = range(max(0, start - 1), start + count)
            colour = _COLOURS[index % len(_COLOURS)]
            points = " ".join(f"{x(step):.1f},{y(losses[step]):.1f}" for step in span)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            steps = " ".join(
                f"{'L' if step > span[0] else 'M'}{x(step):.1f} {floor - _RATE * rates[step] / most:.1f}"
                for step in span
            )
            parts.append(f'<path d="{steps}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="{x(start) + 4:.1f}" y="{_TOP + 12}" fill="{colour}">phase {phase}</text>')
            start += count
        parts.append(
            f'<text x="{(_WIDTH + _LEFT) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">'
            f"optimizer step (1 to {len(losses)})</text>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _rule(at: float, label: str) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#dddddd"/>'
        f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
    )


def mermaid(metrics: Sequence[Mapping[str, Any]]) -> str:
    """Two fenced charts; long runs are thinned to every n-th step, the last one always among them."""
    every = max(1, math.ceil(len(metrics) / _POINTS))
    shown = [index for index in range(len(metrics)) if (len(metrics) - 1 - index) % every == 0]
    if not shown:
        return ""
    charts = []
    for title, key in (("Loss per target token", "loss"), ("Learning rate", "learning_rate")):
        values = [float(metrics[index][key]) for index in shown]
        steps = ", ".join(str(index + 1) for index in shown)
        drawn = ", ".join(f"{value:.6f}" if key == "loss" else f"{value:.3g}" for value in values)
        charts.append(
            f'```mermaid\nxychart-beta\n  title "{title}"\n  x-axis "optimizer step" [{steps}]\n'
            f'  y-axis "{title.lower()}"\n  line [{drawn}]\n```\n'
        )
    return "\n".join(charts)
