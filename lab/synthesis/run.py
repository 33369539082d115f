"""Running a flow: each row goes through its cells by itself, with no barrier between steps or rows.

A slow answer delays its own row only. A failed request, an unreadable answer or a failed check ends its own
row, with a rejection that says at which cell and why. Only a dead endpoint ends the run (`EndpointError`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lab.synthesis.cells import Cells, RejectedError, Row, shown
from lab.synthesis.checks import FLOOR, clear_of_heldout
from lab.synthesis.endpoints import Endpoint, EndpointError
from lab.synthesis.engine import Engine
from lab.synthesis.flow import Cell, Flow, Output
from lab.synthesis.items import Made, Rejection, Task
from lab.synthesis.units import Unit, units

_CELL_ORDER = {"check": 0, "filter": 0, "join": 0, "parse": 1, "model": 1, "judge": 1, "fan_out": 2}


@dataclass(frozen=True)
class Outcome:
    """Everything that came out of one leaf's flow, in the order of the document, not of the answers. `asked`
    counts what ended: every row that was tried, and every part of a row that was lost by itself.
    """

    made: tuple[Made, ...]
    rejected: tuple[Rejection, ...]
    asked: int


Tick = Callable[[str, str], None]
"""Called with (leaf, "made" or the reason of the rejection) whenever a row ends."""


def count_rows(flow: Flow, task: Task) -> int:
    """How many rows the first round of `run_flow` will try, before anything is asked."""
    return sum(len(unit.values["ways"]) for unit in units(flow, task)) * flow.branches


async def run_flow(
    flow: Flow,
    task: Task,
    engine: Engine,
    endpoints: Mapping[str, Endpoint],
    tick: Tick = lambda leaf, what: None,
    gate: asyncio.Semaphore | None = None,
    chosen: Sequence[Unit] | None = None,
) -> Outcome:
    """Every row of `task` (or of the `chosen` units) through `flow`. `gate` bounds the rows under way over
    all leaves together.
    """
    run = _Run(flow, task, Cells(flow, task, engine, endpoints), tick, gate or asyncio.Semaphore(64))
    try:
        async with asyncio.TaskGroup() as group:
            for unit in units(flow, task) if chosen is None else chosen:
                group.create_task(run.unit(unit))
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    made = sorted(run.made, key=lambda row: (row.order, row.output is None))
    rejected = sorted(run.rejected, key=lambda entry: entry[0])
    asked = sum(row.output is None for row in made) + len(rejected)
    return Outcome(tuple(made), tuple(entry[1] for entry in rejected), asked)


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error to show: the endpoint's, if it is among them."""
    flat = [
        first_error(error) if isinstance(error, BaseExceptionGroup) else error for error in errors.exceptions
    ]
    return next((error for error in flat if isinstance(error, EndpointError)), flat[0])


class _Run:
    def __init__(self, flow: Flow, task: Task, cells: Cells, tick: Tick, gate: asyncio.Semaphore) -> None:
        self.flow, self.task, self.cells, self.tick, self.gate = flow, task, cells, tick, gate
        self.made: list[Made] = []
        self.rejected: list[tuple[tuple[int, ...], Rejection]] = []

    async def unit(self, unit: Unit) -> None:
        """A flow that does not fan out at once asks for the whole unit: it waits its turn like a branch."""
        row = Row(unit, (unit.order,), unit.values)
        if self.flow.cells[0].do == "fan_out":
            await self.row(row, holds=False)
            return
        async with self.gate:
            await self.row(row, holds=True)

    async def row(self, row: Row, holds: bool) -> None:
        """Run the row to its end, or to a fan-out, whose branches are rows of their own. `holds` says whether
        a place of the gate is held: branches of a row that holds one run within it.
        """
        try:
            while len(row.done) < len(self.flow.cells):
                ready = [cell for cell in self.flow.cells if self._is_ready(cell, row)]
                cheap = min(_CELL_ORDER[cell.do] for cell in ready)
                now = [cell for cell in ready if _CELL_ORDER[cell.do] == cheap]
                if now[0].do == "fan_out":
                    await self._fan_out(now[0], row, holds)
                    return
                row = await self._step(now, row)
                self._side_rows(now, row)
            self._floor(row)
        except RejectedError as error:
            self._lost(error.row)
            self._enter(error.row, error.entry(self.task.leaf))
            return
        self._lost(row)
        self.made.append(self._finish(row))
        self.tick(self.task.leaf, "made")

    def _is_ready(self, cell: Cell, row: Row) -> bool:
        return cell.id not in row.done and row.done.issuperset(cell.needs)

    async def _fan_out(self, cell: Cell, row: Row, holds: bool) -> None:
        self._lost(row)
        over = cell.options["over"]
        if over in row.missing:
            return
        entries = row.values[over]
        plain = replace(row, lost=(), done=row.done | {cell.id})

        async def branch(number: int, value: object) -> None:
            spread = value if cell.options.get("spread") and isinstance(value, Mapping) else {}
            values = {**row.values, cell.options.get("as", cell.id): value, **spread}
            made = replace(plain, values=values, order=(*row.order, number))
            if holds:
                await self.row(made, holds)
                return
            async with self.gate:
                await self.row(made, True)

        async with asyncio.TaskGroup() as group:
            for number, value in enumerate(entries):
                group.create_task(branch(number, value))

    async def _step(self, cells: list[Cell], row: Row) -> Row:
        """Cells that do not need each other, at the same time; the row then holds what all of them found."""
        if len(cells) == 1:
            return await self.cells.step(cells[0], row)
        results = await asyncio.gather(
            *(self.cells.step(cell, row) for cell in cells), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        merged = row
        for result in results:
            assert isinstance(result, Row)  # noqa: S101 (every exception was raised above)
            merged = replace(
                merged,
                values={**merged.values, **result.values},
                grades=merged.grades + result.grades[len(row.grades) :],
                requests=merged.requests + result.requests[len(row.requests) :],
                done=merged.done | result.done,
                missing=merged.missing | result.missing,
                lost=merged.lost + result.lost[len(row.lost) :],
                cleared=result.cleared or merged.cleared,
            )
        return merged

    def _side_rows(self, cells: Sequence[Cell], row: Row) -> None:
        """Training rows that are made on the way, whatever becomes of the row later."""
        for cell in cells:
            for output in self.flow.outputs:
                if output.after == cell.id and cell.id not in row.missing:
                    self.made.append(self._finish(row, output))

    def _floor(self, row: Row) -> None:
        """What no flow can leave out: held-out items and benchmarks stay out of the training rows."""
        view = self.cells.view(row.values)
        for check in FLOOR:
            if check is clear_of_heldout and row.cleared == (view.question, view.context):
                continue
            grade = check(view)
            if not grade.passed:
                text = f"{shown(view)} [{grade.detail}]"
                raise RejectedError(row, "floor", grade.check, text, grade.score)

    def _lost(self, row: Row) -> None:
        for entry in row.lost:
            self._enter(row, entry)

    def _enter(self, row: Row, entry: Rejection) -> None:
        self.rejected.append((row.order, entry))
        self.tick(self.task.leaf, entry.reason)

    def _finish(self, row: Row, output: Output | None = None) -> Made:
        values = row.values
        fact = str(values.get("fact", ""))
        texts = {
            name: value
            for name, value in values.items()
            if isinstance(value, str) and name not in row.missing
        }
        return Made(
            leaf=self.task.leaf,
            seed=row.unit.seed,
            chunk=row.unit.chunk,
            document=row.unit.document,
            question=texts.get("question", ""),
            answer=texts.get("answer") or fact,
            context=values.get("context"),
            source=fact or str(values.get("context") or values.get("passage") or ""),
            grades=row.grades,
            requests=row.requests,
            order=row.order,
            extra=texts,
            output=output,
        )
