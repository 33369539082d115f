"""What each kind of cell does to a row. The walk through the graph is `run`'s; here is one step of it.

A cell takes a row and gives the row with one value more, or raises `RejectedError` with the reason and the
text. Nothing that a model said is ever paired by position: a completion's items are whole or lost, each by
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lab.synthesis import grading, template
from lab.synthesis.calibration import Curve, fit
from lab.synthesis.checks import CHECKS, Values, clear_of_heldout
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.engine import Answer, Engine, RequestError
from lab.synthesis.flow import Cell, Flow
from lab.synthesis.items import Grade, Rejection, Task
from lab.synthesis.parsing import PARSERS, PROSE, WANTED, Items, still_lost
from lab.synthesis.text import harmless, whole
from lab.synthesis.units import Unit, known_pairs

SEED_STEP = 1009
"""Distance between the seed of a try and the seed of its repetition: a prime, so that no two tries meet."""

TOLD = 2000
"""Characters of an unreadable answer that the model is shown again."""

LEDGER_TEXT = 8000
"""Characters of a rejected row that the ledger keeps."""


@dataclass(frozen=True)
class Row:
    """A row under way. `missing` are cells that failed at no more than their own cost; `lost` is what they
    left behind for the ledger.
    """

    unit: Unit
    order: tuple[int, ...]
    values: Mapping[str, Any]
    grades: tuple[Grade, ...] = ()
    requests: tuple[str, ...] = ()
    done: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    lost: tuple[Rejection, ...] = ()
    cleared: tuple[str, str | None] | None = None
    """Question and context that were last found clear of the held-out items, so that the floor need not look
    again while they stay the same."""
    cut: frozenset[str] = frozenset()
    """Model cells whose answer reached its limit of tokens."""


class RejectedError(Exception):
    """The row ends here; `row` is what it held by then."""

    def __init__(self, row: Row, stage: str, reason: str, text: str, score: float | None = None) -> None:
        super().__init__(reason)
        self.row, self.stage, self.reason, self.text, self.score = row, stage, reason, text, score

    def entry(self, leaf: str) -> Rejection:
        row = self.row
        return Rejection(
            leaf,
            row.unit.seed,
            row.unit.chunk,
            self.stage,
            self.reason,
            self.score,
            self.text[:LEDGER_TEXT],
            row.requests,
        )


class Cells:
    """The cells of one flow over one task, with the endpoints that they ask."""

    def __init__(self, flow: Flow, task: Task, engine: Engine, endpoints: Mapping[str, Endpoint]) -> None:
        self.flow, self.task, self.engine, self.endpoints = flow, task, engine, endpoints
        self._by_id = {cell.id: cell for cell in flow.cells}
        self._curves: dict[str, asyncio.Task[Curve]] = {}
        self._kinds: Mapping[str, Callable[[Cell, Row], Awaitable[Row]]] = {
            "model": self._model,
            "parse": self._parse,
            "check": self._check,
            "judge": self._judge,
            "filter": self._filter,
            "join": self._join,
        }

    async def step(self, cell: Cell, row: Row) -> Row:
        """The row after `cell`. Raises `RejectedError`, unless a failure costs only the cell;
        `EndpointError` always.
        """
        if cell.do != "join" and row.missing.intersection(cell.needs):
            return replace(row, done=row.done | {cell.id}, missing=row.missing | {cell.id})
        try:
            try:
                row = await self._kinds[cell.do](cell, row)
            except RequestError as error:
                raise RejectedError(row, cell.id, "request-failed", str(error)) from error
            except template.MissingError as error:
                why = f"the prompt of {cell.id} names {error.args[0]}, which the row does not have"
                raise RejectedError(row, cell.id, "missing-value", why) from error
        except RejectedError as error:
            if cell.costs is None:
                raise
            row = replace(
                error.row,
                missing=row.missing | {cell.id, cell.costs},
                lost=(*error.row.lost, error.entry(self.task.leaf)),
            )
        return replace(row, done=row.done | {cell.id})

    def view(self, values: Mapping[str, Any], answer: str = "answer") -> Values:
        fact = str(values.get("fact", ""))
        passage = str(values.get("passage", ""))
        return Values(
            question=str(values.get("question", "")),
            answer=str(values.get(answer, "")),
            source=fact or passage,
            passage=passage,
            context=values.get("context"),
            siblings=values.get("siblings", ()),
            examples=self.task.examples,
            heldout=self.task.heldout,
            benchmark=self.task.benchmark,
        )

    async def _model(self, cell: Cell, row: Row) -> Row:
        wanted = int(cell.options.get("n", 1))
        answer = await self._ask(cell, row.values, cell.options["role"], n=wanted)
        row = _with(row, answer, {cell.id: answer.text if wanted == 1 else list(answer.texts[:wanted])})
        return replace(row, cut=row.cut | {cell.id}) if wanted == 1 and answer.finish == "length" else row

    async def _parse(self, cell: Cell, row: Row) -> Row:
        """What cannot be read is a failed request in disguise: it is asked for again, at another seed, and
        the model is told what was wrong. Prose that was cut off is read up to its last whole sentence: a row
        that breaks off would teach the student to.
        """
        name = cell.options["parser"]
        parser, wanted = PARSERS[name], WANTED[name]
        written = cell.options["from"]
        source = self._model_behind(written)
        text = str(row.values[written])
        cut = written in row.cut
        found: list[Mapping[str, str]] = []
        missed: tuple[tuple[str, str], ...] = ()
        for attempt in range(1, int(cell.options.get("attempts", 1)) + 1):
            parsed = parser(whole(text) if cut and name in PROSE else text)
            if isinstance(parsed, Items):
                found += parsed.found
                missed = parsed.lost if attempt == 1 else still_lost(missed, parsed)
                if found and not missed:
                    break
                why = parsed.told()
            elif parsed is not None:
                given = {cell.id: parsed["text"]} if name == "text" else parsed
                return replace(row, values={**row.values, written: text, **given})
            else:
                why = f"It was too long and was cut off. Wanted: {wanted}." if cut else f"Wanted: {wanted}."
            if attempt < int(cell.options.get("attempts", 1)):
                answer = await self._again(source, row, text, why, attempt)
                row, text, cut = _with(row, answer, {}), answer.text, answer.finish == "length"
        if not found:
            raise RejectedError(row, cell.id, "cut-off" if cut else "unreadable", text)
        lost = [RejectedError(row, cell.id, reason, piece).entry(self.task.leaf) for reason, piece in missed]
        values = {**row.values, cell.id: [dict(item) for item in found]}
        return replace(row, values=values, lost=(*row.lost, *lost))

    def _model_behind(self, name: str) -> Cell:
        """The model cell that wrote `name`, also through a fan-out over its samples."""
        cell = self._by_id[name]
        return self._by_id[cell.options["over"]] if cell.do == "fan_out" else cell

    async def _check(self, cell: Cell, row: Row) -> Row:
        view = self.view(row.values, cell.options.get("answer", "answer"))
        for name in cell.options["checks"]:
            grade = CHECKS[name](view)
            if not grade.passed:
                text = f"{shown(view)} [{grade.detail}]"
                raise RejectedError(row, cell.id, grade.check, text, grade.score)
            row = replace(row, grades=(*row.grades, grade))
            if CHECKS[name] is clear_of_heldout:
                row = replace(row, cleared=(view.question, view.context))
        return row

    async def _judge(self, cell: Cell, row: Row) -> Row:
        judged = cell.options.get("answer", "answer")
        asked = replace(row, values={**row.values, "answer": row.values.get(judged, "")})
        answer = await self._ask(cell, asked.values, "judge")
        row = _with(row, answer, {})
        view = self.view(asked.values)
        score = grading.grade(cell.options, answer.text, answer.likelihoods, view)
        for attempt in range(1, int(cell.options.get("attempts", 1))):
            if score is not None:
                break
            why = f"End with one of: {', '.join(cell.options.get('scale', ('Yes', 'No')))}."
            answer = await self._again(cell, asked, answer.text, why, attempt)
            row = _with(row, answer, {})
            score = grading.grade(cell.options, answer.text, answer.likelihoods, view)
        if score is None:
            raise RejectedError(row, cell.id, "judge-unreadable", f"{shown(view)} [{answer.text}]")
        detail = f"{cell.options['grader']} gave {score:.3f}"
        if cell.options.get("calibrate", False):
            curve = await self._curve(cell)
            score = curve.grade(score)
            detail += f", calibrated on {curve.pairs} known pairs"
        said = grading.reason(answer.text)
        detail += f": {said}" if said else ""
        found = Grade(f"judge:{cell.id}", score, True, detail)
        return replace(row, values={**row.values, cell.id: score}, grades=(*row.grades, found))

    async def _filter(self, cell: Cell, row: Row) -> Row:
        value = float(row.values[cell.options["value"]])
        if value < cell.options["at_least"]:
            about = next(
                (one.detail for one in row.grades if one.check == f"judge:{cell.options['value']}"), ""
            )
            text = f"{shown(self.view(row.values))} [{about}]"
            raise RejectedError(row, cell.id, cell.options["reason"], text, value)
        return row

    async def _join(self, cell: Cell, row: Row) -> Row:
        """Branches come together: what is there, as a list of name and text."""
        here = [name for name in cell.options["of"] if name not in row.missing and row.values.get(name)]
        return replace(
            row,
            values={
                **row.values,
                cell.id: [{"name": name, "text": str(row.values[name])} for name in here],
            },
        )

    async def _curve(self, cell: Cell) -> Curve:
        """The judge's calibration on this leaf's seeds, asked for by whichever row needs it first."""
        if cell.id not in self._curves:
            self._curves[cell.id] = asyncio.create_task(self._calibrate(cell))
        return await asyncio.shield(self._curves[cell.id])

    async def _calibrate(self, cell: Cell) -> Curve:
        async def score(values: Mapping[str, Any]) -> float | None:
            try:
                answer = await self._ask(cell, values, "judge")
            except RequestError:
                return None
            return grading.grade(cell.options, answer.text, answer.likelihoods, self.view(values))

        right, wrong = known_pairs(self.task.examples)
        asked = await asyncio.gather(*(score(values) for values in (*right, *wrong)))
        scored = [
            [number for number in part if number is not None]
            for part in (asked[: len(right)], asked[len(right) :])
        ]
        return fit(scored[0], scored[1])

    async def _again(self, cell: Cell, row: Row, text: str, why: str, repetition: int) -> Answer:
        """The same question once more, after what came of it and what was wrong with that."""
        told = [
            {"role": "assistant", "content": harmless(text[:TOLD]) or "(nothing)"},
            {"role": "user", "content": f"That could not be read. {why} Write it again, and nothing else."},
        ]
        return await self._ask(cell, row.values, cell.options.get("role", "judge"), repetition, told)

    async def _ask(
        self,
        cell: Cell,
        row: Mapping[str, Any],
        role: str,
        repetition: int = 0,
        told: Sequence[dict[str, str]] = (),
        n: int = 1,
    ) -> Answer:
        prompt = self.flow.prompts[cell.options["prompt"]]
        values = {**row, "task": self.task}
        params = {name: _value(given, values) for name, given in cell.options.get("params", {}).items()}
        if "seed" in params:
            params["seed"] = int(params["seed"]) + SEED_STEP * repetition
        if n > 1:
            params["n"] = n
        form = prompt.response_format(values)
        if form is not None:
            params["response_format"] = form
        messages = [*prompt.messages(values), *told]
        # What rows share at the start of their prompts is the leaf's examples and the chunk: where an
        # endpoint has several addresses, those rows go to one, whose prefix cache is warm.
        affinity = f"{self.task.leaf}\n{row.get('passage', '')}"
        return await self.engine.chat(self.endpoints[role], messages, params, affinity)


def shown(view: Values) -> str:
    """A row as the ledger tells it."""
    asked = f"{view.context}\n{view.question}" if view.context else view.question
    return f"{asked} → {view.answer}" if view.answer else asked


def _with(row: Row, answer: Answer, values: Mapping[str, Any]) -> Row:
    return replace(row, values={**row.values, **values}, requests=(*row.requests, answer.key))


def _value(given: object, values: Mapping[str, Any]) -> Any:
    """`$way.seed` is the entry `seed` of the row's value `way`; anything else is itself."""
    if not isinstance(given, str) or not given.startswith("$"):
        return given
    return template.look_up(values, given[1:])
