"""The loss of a run as one small SVG: `curves(metrics) -> text`. No library: a polyline per phase and two
axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 320, 64, 16, 34, 44
_COLOURS = ("#2b6cb0", "#b7791f", "#2f855a", "#97266d")
_FLOOR = 1e-4


def curves(metrics: Sequence[Mapping[str, Any]], title: str = "Training loss per target token") -> str:
    """`metrics` are the lines of `metrics.jsonl` in order; the loss is drawn on a logarithmic scale."""
    losses = [max(_FLOOR, float(line["loss"])) for line in metrics]
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

        def x(step: float) -> float:
            return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(1, len(losses) - 1)

        def y(loss: float) -> float:
            return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - math.log10(loss)) / (high - low)

        for power in range(low, high + 1):
            at = y(10.0**power)
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#dddddd"/>'
                f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{10.0**power:g}</text>'
            )
        start = 0
        for index, (phase, group) in enumerate(groupby(metrics, key=lambda line: int(line["phase"]))):
            count = len(list(group))
            # Each phase begins at its predecessor's last point, so that the line is unbroken.
            span = range(max(0, start - 1), start + count)
            points = " ".join(f"{x(step):.1f},{y(losses[step]):.1f}" for step in span)
            colour = _COLOURS[index % len(_COLOURS)]
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts.append(f'<text x="{x(start) + 4:.1f}" y="{_TOP + 12}" fill="{colour}">phase {phase}</text>')
            start += count
        parts.append(
            f'<text x="{(_WIDTH + _LEFT) / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">'
            f"optimizer step (1 to {len(losses)})</text>"
        )
    return "\n".join([*parts, "</svg>", ""])
