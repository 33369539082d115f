"""Running a flow: each row goes through its cells by itself, with no barrier between steps or rows.

A slow answer delays its own row only. A failed request, an unreadable answer or a failed check ends its own
row, with a rejection that says at which cell and why. Only a dead endpoint ends the run (`EndpointError`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lab.synthesis.calibration import Curve, fit
from lab.synthesis.checks import CHECKS, Values
from lab.synthesis.endpoints import Endpoint, EndpointError
from lab.synthesis.engine import Answer, Engine, RequestError
from lab.synthesis.flow import Cell, Flow
from lab.synthesis.grading import GRADERS
from lab.synthesis.items import Grade, Made, Rejection, Task
from lab.synthesis.parsing import PARSERS
from lab.synthesis.units import Unit, known_pairs, units

SEED_STEP = 1009
"""Distance between the seed of a try and the seed of its repetition: a prime, so that no two tries meet."""

_CELL_ORDER = {"check": 0, "filter": 0, "parse": 1, "model": 1, "judge": 1, "fan_out": 2}


@dataclass(frozen=True)
class Outcome:
    """Everything that came out of one leaf's flow, in the order of the document, not of the answers."""

    made: tuple[Made, ...]
    rejected: tuple[Rejection, ...]
    asked: int


@dataclass(frozen=True)
class _Row:
    unit: Unit
    order: tuple[int, ...]
    values: Mapping[str, Any]
    grades: tuple[Grade, ...] = ()
    requests: tuple[str, ...] = ()
    done: frozenset[str] = frozenset()


class _RejectedError(Exception):
    def __init__(self, row: _Row, stage: str, reason: str, text: str, score: float | None = None) -> None:
        super().__init__(reason)
        self.row, self.stage, self.reason, self.text, self.score = row, stage, reason, text, score


Tick = Callable[[str, str], None]
"""Called with (leaf, "made" or the reason of the rejection) whenever a row ends."""


def count_rows(flow: Flow, task: Task) -> int:
    """How many rows `run_flow` will try, before anything is asked."""
    return sum(len(unit.values["ways"]) for unit in units(flow, task))


async def run_flow(
    flow: Flow,
    task: Task,
    engine: Engine,
    endpoints: Mapping[str, Endpoint],
    tick: Tick = lambda leaf, what: None,
    gate: asyncio.Semaphore | None = None,
) -> Outcome:
    """Every row of `task` through `flow`. `gate` bounds the rows under way over all leaves together."""
    run = _Run(flow, task, engine, endpoints, tick, gate or asyncio.Semaphore(64))
    try:
        async with asyncio.TaskGroup() as group:
            for unit in units(flow, task):
                group.create_task(run.unit(unit))
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    made = sorted(run.made, key=lambda row: row.order)
    rejected = sorted(run.rejected, key=lambda entry: entry[0])
    return Outcome(tuple(made), tuple(entry[1] for entry in rejected), len(made) + len(rejected))


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to show: the endpoint's, if it is among them."""
    flat = [_first(error) if isinstance(error, BaseExceptionGroup) else error for error in errors.exceptions]
    return next((error for error in flat if isinstance(error, EndpointError)), flat[0])


class _Run:
    def __init__(
        self,
        flow: Flow,
        task: Task,
        engine: Engine,
        endpoints: Mapping[str, Endpoint],
        tick: Tick,
        gate: asyncio.Semaphore,
    ) -> None:
        self.flow, self.task, self.engine, self.endpoints = flow, task, engine, endpoints
        self.tick, self.gate = tick, gate
        self.made: list[Made] = []
        self.rejected: list[tuple[tuple[int, ...], Rejection]] = []
        self.curves: dict[str, asyncio.Task[Curve]] = {}

    async def curve(self, cell: Cell) -> Curve:
        """The judge's calibration on this leaf's seeds, asked for by whichever row needs it first."""
        if cell.id not in self.curves:
            self.curves[cell.id] = asyncio.create_task(self._calibrate(cell))
        return await asyncio.shield(self.curves[cell.id])

    async def _calibrate(self, cell: Cell) -> Curve:
        async def score(values: Mapping[str, Any]) -> float | None:
            try:
                answer = await self._ask(cell, values, "judge", 0)
            except RequestError:
                return None
            view = self._view(values)
            return GRADERS[cell.options["grader"]](answer.text, answer.likelihoods, view)

        right, wrong = known_pairs(self.task.examples)
        asked = await asyncio.gather(*(score(values) for values in (*right, *wrong)))
        scored = [
            [number for number in part if number is not None]
            for part in (asked[: len(right)], asked[len(right) :])
        ]
        return fit(scored[0], scored[1])

    async def unit(self, unit: Unit) -> None:
        await self.row(_Row(unit, (unit.order,), unit.values))

    async def row(self, row: _Row) -> None:
        """Run the row to its end, or to a fan-out, whose branches are rows of their own."""
        try:
            while len(row.done) < len(self.flow.cells):
                ready = [cell for cell in self.flow.cells if self._is_ready(cell, row)]
                cheap = min(_CELL_ORDER[cell.do] for cell in ready)
                now = [cell for cell in ready if _CELL_ORDER[cell.do] == cheap]
                if now[0].do == "fan_out":
                    await self._fan_out(now[0], row)
                    return
                row = await self._step(now, row)
        except _RejectedError as error:
            self._reject(error)
            return
        self.made.append(self._finish(row))
        self.tick(self.task.leaf, "made")

    def _is_ready(self, cell: Cell, row: _Row) -> bool:
        return cell.id not in row.done and row.done.issuperset(cell.needs)

    async def _fan_out(self, cell: Cell, row: _Row) -> None:
        async def branch(number: int, value: object) -> None:
            async with self.gate:
                values = {**row.values, cell.id: value}
                await self.row(
                    replace(row, values=values, order=(*row.order, number), done=row.done | {cell.id})
                )

        async with asyncio.TaskGroup() as group:
            for number, value in enumerate(row.values[cell.options["over"]]):
                group.create_task(branch(number, value))

    async def _step(self, cells: list[Cell], row: _Row) -> _Row:
        """Cells that do not need each other, at the same time; the row then holds what all of them found."""
        if len(cells) == 1:
            return await self._cell(cells[0], row)
        results = await asyncio.gather(*(self._cell(cell, row) for cell in cells), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        merged = row
        for result in results:
            assert isinstance(result, _Row)  # noqa: S101 (every exception was raised above)
            merged = replace(
                merged,
                values={**merged.values, **result.values},
                grades=merged.grades + result.grades[len(row.grades) :],
                requests=merged.requests + result.requests[len(row.requests) :],
                done=merged.done | result.done,
            )
        return merged

    async def _cell(self, cell: Cell, row: _Row) -> _Row:
        kinds = {
            "model": self._model,
            "parse": self._parse,
            "check": self._check,
            "judge": self._judge,
            "filter": self._filter,
        }
        try:
            row = await kinds[cell.do](cell, row)
        except RequestError as error:
            raise _RejectedError(row, cell.id, "request-failed", str(error)) from error
        return replace(row, done=row.done | {cell.id})

    async def _model(self, cell: Cell, row: _Row) -> _Row:
        answer = await self._ask(cell, row.values, cell.options["role"], 0)
        return _with(row, answer, {cell.id: answer.text})

    async def _parse(self, cell: Cell, row: _Row) -> _Row:
        """A text that cannot be read is a failed request in disguise: ask again, at another seed."""
        parser = PARSERS[cell.options["parser"]]
        source = next(other for other in self.flow.cells if other.id == cell.options["from"])
        text = str(row.values[source.id])
        for attempt in range(1, cell.options.get("attempts", 1) + 1):
            parsed = parser(text)
            if parsed is not None:
                return replace(row, values={**row.values, source.id: text, **parsed})
            if attempt < cell.options.get("attempts", 1):
                answer = await self._ask(source, row.values, source.options["role"], attempt)
                row, text = _with(row, answer, {}), answer.text
        raise _RejectedError(row, cell.id, "unreadable", text)

    async def _check(self, cell: Cell, row: _Row) -> _Row:
        view = self._view(row.values)
        for name in cell.options["checks"]:
            grade = CHECKS[name](view)
            if not grade.passed:
                text = f"{view.question} → {view.answer}" if view.answer else view.question
                raise _RejectedError(row, cell.id, grade.check, f"{text} [{grade.detail}]", grade.score)
            row = replace(row, grades=(*row.grades, grade))
        return row

    async def _judge(self, cell: Cell, row: _Row) -> _Row:
        answer = await self._ask(cell, row.values, "judge", 0)
        grader = cell.options["grader"]
        score = GRADERS[grader](answer.text, answer.likelihoods, self._view(row.values))
        row = _with(row, answer, {})
        if score is None:
            raise _RejectedError(row, cell.id, "judge-unreadable", answer.text)
        detail = f"{grader} gave {score:.3f}"
        if cell.options.get("calibrate", False):
            curve = await self.curve(cell)
            score = curve.grade(score)
            detail += f", calibrated on {curve.pairs} known pairs"
        grade = Grade(f"judge:{cell.id}", score, True, detail)
        return replace(row, values={**row.values, cell.id: score}, grades=(*row.grades, grade))

    async def _filter(self, cell: Cell, row: _Row) -> _Row:
        value = float(row.values[cell.options["value"]])
        if value < cell.options["at_least"]:
            raise _RejectedError(row, cell.id, cell.options["reason"], self._view(row.values).question, value)
        return row

    async def _ask(self, cell: Cell, row: Mapping[str, Any], role: str, repetition: int) -> Answer:
        prompt = self.flow.prompts[cell.options["prompt"]]
        values = {**row, "task": self.task}
        params = {name: _value(given, values) for name, given in cell.options.get("params", {}).items()}
        if "seed" in params:
            params["seed"] = int(params["seed"]) + SEED_STEP * repetition
        form = prompt.response_format(values)
        if form is not None:
            params["response_format"] = form
        return await self.engine.chat(self.endpoints[role], prompt.messages(values), params)

    def _view(self, values: Mapping[str, Any]) -> Values:
        return Values(
            question=str(values.get("question", "")),
            answer=str(values.get("answer", "")),
            source=str(values.get("fact", "")),
            passage=str(values.get("passage", "")),
            context=values.get("context"),
            siblings=values.get("siblings", ()),
            examples=self.task.examples,
            heldout=self.task.heldout,
        )

    def _reject(self, error: _RejectedError) -> None:
        row = error.row
        entry = Rejection(
            self.task.leaf,
            row.unit.seed,
            row.unit.chunk,
            error.stage,
            error.reason,
            error.score,
            error.text[:2000],
            row.requests,
        )
        self.rejected.append((row.order, entry))
        self.tick(self.task.leaf, error.reason)

    def _finish(self, row: _Row) -> Made:
        values = row.values
        fact = str(values.get("fact", ""))
        return Made(
            leaf=self.task.leaf,
            seed=row.unit.seed,
            chunk=row.unit.chunk,
            document=row.unit.document,
            question=values["question"],
            answer=values.get("answer") or fact,
            context=values.get("context"),
            source=fact or str(values.get("context") or ""),
            grades=row.grades,
            requests=row.requests,
            order=row.order,
            extra={name: str(values[name]) for name in ("passage", "neighbour") if values.get(name)},
        )


def _with(row: _Row, answer: Answer, values: Mapping[str, Any]) -> _Row:
    return replace(row, values={**row.values, **values}, requests=(*row.requests, answer.key))


def _value(given: object, values: Mapping[str, Any]) -> Any:
    """`$way.seed` is the entry `seed` of the row's value `way`; anything else is itself."""
    if not isinstance(given, str) or not given.startswith("$"):
        return given
    found: Any = values
    for part in given[1:].split("."):
        found = found[part]
    return found
