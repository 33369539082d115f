"""What the engine counts, under the names of OpenTelemetry's semantic conventions for generative AI where
they have one (`gen_ai.client.operation.duration`, `gen_ai.client.token.usage`, with the buckets that they
advise), and `treewright.*` for the rest.

Written as JSON and as Prometheus text (which node_exporter's textfile collector takes as it is); no exporter
and no dependency.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.contracts import write_bytes, write_json

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Histogram:
    """Counts by upper bound, the last for everything above."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def to_json(self) -> dict[str, Any]:
        return {"count": sum(self.counts), "sum": round(self.total, 6), "buckets": self.counts}

    def merge(self, value: Mapping[str, Any]) -> None:
        self.counts = [mine + other for mine, other in zip(self.counts, value["buckets"], strict=True)]
        self.total += value["sum"]


@dataclass
class Counters:
    """What this engine did: requests sent over the wire, answers from the store, attempts that were
    repeated, requests that failed for good, times that a server said it was overloaded.
    """

    sent: int = 0
    cached: int = 0
    retried: int = 0
    failed: int = 0
    overloaded: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0

    def add(self, other: Mapping[str, int]) -> None:
        """Add what another engine (another shard's) did."""
        for name, value in other.items():
            if name == "peak_in_flight":
                self.peak_in_flight = max(self.peak_in_flight, value)
            elif name != "in_flight":
                setattr(self, name, getattr(self, name) + value)


@dataclass
class Series:
    """One model at one address."""

    seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    prompt: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    completion: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    errors: dict[str, int] = field(default_factory=dict)

    def error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1


class Telemetry:
    """Series by (model, address)."""

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], Series] = {}

    def of(self, model: str, address: str) -> Series:
        key = (model, address)
        found = self.series.get(key)
        if found is None:
            found = self.series[key] = Series()
        return found

    def merge(self, series: Iterable[Mapping[str, Any]]) -> None:
        """Add what another engine measured, as its `to_json` tells it."""
        for value in series:
            mine = self.of(value["gen_ai.request.model"], value["server.address"])
            mine.seconds.merge(value["gen_ai.client.operation.duration"])
            mine.prompt.merge(value["gen_ai.client.token.usage"]["input"])
            mine.completion.merge(value["gen_ai.client.token.usage"]["output"])
            for kind, count in value["error.type"].items():
                mine.errors[kind] = mine.errors.get(kind, 0) + count

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": model,
                "server.address": address,
                "gen_ai.client.operation.duration": one.seconds.to_json(),
                "gen_ai.client.token.usage": {
                    "input": one.prompt.to_json(),
                    "output": one.completion.to_json(),
                },
                "error.type": dict(sorted(one.errors.items())),
            }
            for (model, address), one in sorted(self.series.items())
        ]


def write(folder: Path, counters: Counters, series: Iterable[Mapping[str, Any]]) -> None:
    """`telemetry.json` and `telemetry.prom` in `folder`."""
    found = list(series)
    totals = {name: value for name, value in vars(counters).items() if name != "in_flight"}
    bounds = {"seconds": list(SECONDS), "tokens": list(TOKENS)}
    write_json(folder / "telemetry.json", {"counters": totals, "series": found, "bounds": bounds})
    write_bytes(folder / "telemetry.prom", [prometheus(totals, found).encode()])


def prometheus(totals: Mapping[str, int], series: Iterable[Mapping[str, Any]]) -> str:
    """The text exposition format, version 0.0.4."""
    lines: list[str] = []
    for name, value in totals.items():
        kind = "gauge" if name == "peak_in_flight" else "counter"
        full = f"treewright_requests_{name}" + ("" if kind == "gauge" else "_total")
        lines += [f"# TYPE {full} {kind}", f"{full} {value}"]
    found = list(series)
    name = "gen_ai_client_operation_duration_seconds"
    lines += [f"# TYPE {name} histogram"]
    for one in found:
        lines += _histogram(name, _labels(one), SECONDS, one["gen_ai.client.operation.duration"])
    name = "gen_ai_client_token_usage"
    lines += [f"# TYPE {name} histogram"]
    for one in found:
        for kind, value in one["gen_ai.client.token.usage"].items():
            lines += _histogram(name, {**_labels(one), "gen_ai_token_type": kind}, TOKENS, value)
    name = "treewright_request_errors_total"
    lines += [f"# TYPE {name} counter"]
    for one in found:
        for kind, count in one["error.type"].items():
            lines.append(f"{name}{_braces({**_labels(one), 'error_type': kind})} {count}")
    return "\n".join(lines) + "\n"


def _labels(one: Mapping[str, Any]) -> dict[str, str]:
    names = ("gen_ai.operation.name", "gen_ai.request.model", "server.address")
    return {name.replace(".", "_"): str(one[name]) for name in names}


def _histogram(
    name: str, labels: Mapping[str, str], bounds: tuple[float, ...], value: Mapping[str, Any]
) -> list[str]:
    lines, running = [], 0
    for bound, count in zip((*bounds, "+Inf"), value["buckets"], strict=True):
        running += count
        lines.append(f"{name}_bucket{_braces({**labels, 'le': str(bound)})} {running}")
    return [
        *lines,
        f"{name}_sum{_braces(labels)} {value['sum']}",
        f"{name}_count{_braces(labels)} {value['count']}",
    ]


def _braces(labels: Mapping[str, str]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"
