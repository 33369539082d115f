"""From finished rows to samples: the cross-row rules of a leaf, and the rows that training reads.

Whatever compares rows with each other happens here, after all rows of the leaf are done and in the order of
the document, so that the same answers always give the same samples, whichever answer came first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.contracts import digest
from lab.synthesis.checks import Values, clear_of_heldout
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.flow import Flow
from lab.synthesis.items import Example, Made, Rejection, Task
from lab.synthesis.text import likeness, normal

Sample = dict[str, Any]


def choose(flow: Flow, task: Task, made: Sequence[Made]) -> tuple[list[Made], list[Rejection]]:
    """At most `task.rows` rows, no two alike, spread evenly over their sentences or seeds."""
    kept: list[Made] = []
    rejected: list[Rejection] = []
    seen = {_identity(example.question, example.context) for example in task.examples}
    by_source: dict[str, list[str]] = {}
    # One row of every sentence, then the second of every sentence, and so on.
    for row in sorted(made, key=lambda row: (row.order[1:], row.order[0])):
        near = by_source.setdefault("" if flow.unit == "seed" else row.source, [])
        text = f"{row.context}\n{row.question}" if row.context else row.question
        score = max((likeness(text, other) for other in near), default=0.0)
        if _identity(row.question, row.context) in seen or score >= flow.near_duplicate:
            rejected.append(_late(row, "near-duplicate", max(score, flow.near_duplicate)))
        elif len(kept) >= task.rows:
            rejected.append(_late(row, "surplus", None))
        else:
            kept.append(row)
            near.append(text)
            seen.add(_identity(row.question, row.context))
    return kept, rejected


def _identity(question: str, context: str | None) -> tuple[str, str]:
    return normal(question), normal(context or "")


def _late(row: Made, reason: str, score: float | None) -> Rejection:
    return Rejection(row.leaf, row.seed, row.chunk, "keep", reason, score, row.question, row.requests)


def samples(flow: Flow, task: Task, kept: Sequence[Made], endpoints: Mapping[str, Endpoint]) -> list[Sample]:
    """The training rows of one leaf: generated ones, rephrased ones up to `task.rows`, and the seeds
    themselves.
    """
    made: list[Sample] = []
    for row in kept:
        if task.kind == "knowledge":
            made.append(
                _sample(flow, task, row, "knowledge_short", row.question, row.answer, None, endpoints)
            )
            made.append(_long(flow, task, row, endpoints))
        else:
            made.append(_sample(flow, task, row, "skill", row.question, row.answer, row.context, endpoints))
    made += _rephrased(flow, task, kept, endpoints)
    made += [_seed_sample(task, example) for example in task.examples]
    return made


def _rephrased(
    flow: Flow, task: Task, kept: Sequence[Made], endpoints: Mapping[str, Endpoint]
) -> list[Sample]:
    """Kept questions again in the flow's phrasings, until the leaf has the rows that it should have. A
    phrasing is a rule, not a model's work, and its sample says so; the held-out rule holds for it as for
    any question."""
    made: list[Sample] = []
    for phrasing in flow.phrasings:
        for row in kept:
            if len(kept) + len(made) >= task.rows:
                return made
            question = phrasing.format(question=row.question)
            if not clear_of_heldout(Values(question, heldout=task.heldout)).passed:
                continue
            sample = _sample(flow, task, row, "knowledge_short", question, row.answer, None, endpoints)
            note = {
                "check": "rephrased",
                "score": None,
                "passed": True,
                "detail": f"by the phrasing {phrasing!r}",
            }
            sample["grades"] = [*sample["grades"], note]
            made.append(sample)
    return made


def _long(flow: Flow, task: Task, row: Made, endpoints: Mapping[str, Endpoint]) -> Sample:
    """Reading comprehension: the chunk comes with the question, and the answer brings the next sentence
    along.
    """
    answer = f"{row.answer} {row.extra['neighbour']}" if row.extra.get("neighbour") else row.answer
    return _sample(
        flow,
        task,
        row,
        "knowledge_long",
        row.question,
        answer,
        row.extra.get("passage") or row.source,
        endpoints,
    )


def _sample(
    flow: Flow,
    task: Task,
    row: Made,
    dataset: str,
    question: str,
    answer: str,
    context: str | None,
    endpoints: Mapping[str, Endpoint],
) -> Sample:
    lineage = {
        **_lineage(task),
        "seed": row.seed,
        "document": row.document,
        "chunk": row.chunk,
        "flow": flow.name,
        "flow_digest": flow.digest,
        "teacher": _model(endpoints["teacher"]),
        "judge": _model(endpoints["judge"]) if flow.judged else None,
        "requests": list(row.requests),
    }
    grades = [grade.to_json() for grade in row.grades]
    return _row(dataset, task.kind, question, answer, context, lineage, grades)


def _seed_sample(task: Task, example: Example) -> Sample:
    """A person's own pair, one that was not held out: the best row there is."""
    dataset = "knowledge_short" if task.kind == "knowledge" else "skill"
    lineage = {
        **_lineage(task),
        "seed": example.seed,
        "document": None,
        "chunk": None,
        "flow": "seed",
        "flow_digest": task.leaf_digest,
        "teacher": None,
        "judge": None,
        "requests": [],
    }
    context = example.context if task.kind == "grounded_skill" else None
    return _row(dataset, task.kind, example.question, example.answer, context, lineage, [])


def replay_sample(
    prompt: str, answer: str, key: str, student: Endpoint, commit: str, source: Mapping[str, str]
) -> Sample:
    """A general prompt with the base model's own answer: what tuning must not unlearn (the replay buffer)."""
    lineage = {
        "leaf": source["path"],
        "leaf_digest": source["digest"],
        "seed": None,
        "document": None,
        "chunk": None,
        "commit": commit,
        "pull_requests": [],
        "flow": "replay",
        "flow_digest": source["digest"],
        "teacher": _model(student),
        "judge": None,
        "requests": [key],
    }
    return _row("replay", "replay", prompt, answer, None, lineage, [])


def _lineage(task: Task) -> dict[str, Any]:
    return {
        "leaf": task.leaf,
        "leaf_digest": task.leaf_digest,
        "commit": task.commit,
        "pull_requests": list(task.pull_requests),
    }


def _model(endpoint: Endpoint) -> dict[str, str]:
    return {"id": endpoint.model, "revision": endpoint.revision}


def _row(
    dataset: str,
    kind: str,
    question: str,
    answer: str,
    context: str | None,
    lineage: dict[str, Any],
    grades: list[dict[str, Any]],
) -> Sample:
    asked = f"{context.strip()}\n\n{question}" if context else question
    return {
        "id": digest([lineage["leaf"], dataset, question, answer, context]),
        "dataset": dataset,
        "kind": kind,
        "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
        "question": question,
        "answer": answer,
        "context": context,
        "lineage": lineage,
        "grades": grades,
    }
