"""From finished rows to samples: the cross-row rules of a leaf, and the rows that training reads.

Whatever compares rows with each other happens here, after all rows of the leaf are done and in the order of
the document, so that the same answers always give the same samples, whichever answer came first.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from lab.contracts import digest
from lab.synthesis.checks import FLOOR, Values
from lab.synthesis.endpoints import Endpoint
from lab.synthesis.flow import Flow, Output
from lab.synthesis.items import Example, Made, Rejection, Task
from lab.synthesis.similar import NearDuplicates
from lab.synthesis.text import normal
from lab.taxonomy.passages import words as benchmark_words

Sample = dict[str, Any]


def choose(flow: Flow, task: Task, made: Sequence[Made]) -> tuple[list[Made], list[Rejection]]:
    """At most `task.rows` rows, no two alike, spread evenly over their sentences, chunks or seeds. Rows that
    were made on the way are not counted among them."""
    kept: list[Made] = []
    rejected: list[Rejection] = []
    seen = {_identity(example.question, example.context) for example in task.examples}
    near: dict[str, NearDuplicates] = {}
    # One row of every unit, then the second of every unit, and so on.
    for row in sorted(made, key=lambda row: (row.order[1:], row.order[0])):
        if row.output is not None:
            kept.append(row)
            continue
        among = near.setdefault(
            "" if flow.among == "leaf" else row.source, NearDuplicates(flow.near_duplicate)
        )
        text = f"{row.context}\n{row.question}" if row.context else row.question
        score = among.nearest(text)
        if _identity(row.question, row.context) in seen or score is not None:
            rejected.append(_late(row, "near-duplicate", max(score or 0.0, flow.near_duplicate)))
        elif sum(one.output is None for one in kept) >= task.rows:
            rejected.append(_late(row, "surplus", None))
        else:
            kept.append(row)
            among.add(text)
            seen.add(_identity(row.question, row.context))
    return kept, rejected


def _identity(question: str, context: str | None) -> tuple[str, str]:
    return normal(question), normal(context or "")


def _late(row: Made, reason: str, score: float | None, stage: str = "keep") -> Rejection:
    text = f"{row.context}\n{row.question}" if row.context else row.question
    return Rejection(
        row.leaf, row.seed, row.chunk, stage, reason, score, f"{text} → {row.answer}", row.requests
    )


def samples(
    flow: Flow, task: Task, kept: Sequence[Made], endpoints: Mapping[str, Endpoint]
) -> tuple[list[Sample], list[Rejection]]:
    """The training rows of one leaf: generated ones, rephrased ones up to `task.rows`, and the seeds
    themselves. None of them twice, and none that holds a benchmark's item.
    """
    found: dict[str, Sample] = {}
    rejected: list[Rejection] = []
    for row in kept:
        for output in flow.outputs if row.output is None else [row.output]:
            if row.output is None and output.after is not None:
                continue
            sample = _output(flow, task, row, output, endpoints)
            if sample is None or sample["id"] in found:
                continue
            hit = _benchmark_hit(task, sample)
            if hit is None:
                found[sample["id"]] = sample
            else:
                rejected.append(_late(row, "benchmark", None, "decontaminate"))
    generated = list(found.values())
    whole = [row for row in kept if row.output is None]
    generated += _rephrased(flow, task, whole, endpoints)
    # A person's own pairs are linted against the benchmarks before anything is generated.
    return generated + [_seed_sample(task, example) for example in task.examples], rejected


def _benchmark_hit(task: Task, sample: Sample) -> str | None:
    if task.benchmark is None:
        return None
    texts = [benchmark_words(message["content"]) for message in sample["messages"]]
    return task.benchmark.hit(benchmark_words(sample["question"]), texts)


def _output(
    flow: Flow, task: Task, row: Made, output: Output, endpoints: Mapping[str, Endpoint]
) -> Sample | None:
    """The training row that `output` makes of a finished row; None where it lacks a value."""
    texts = {"question": row.question, "answer": row.answer, **row.extra}
    if row.context:
        texts["context"] = row.context
    said = [texts.get(name, "") for name in output.answer]
    context = texts.get(output.context, "") if output.context else None
    asked = _pick(output.ask, row) if output.ask else row.question
    if not said[0] or not asked or context == "":
        return None
    if output.distractors and context:
        context = _with_distractors(task, row, output, context)
    dataset = output.dataset
    if dataset == "skill" and task.foundational:
        dataset = "foundational"
    return _sample(flow, task, row, dataset, asked, " ".join(filter(None, said)), context, endpoints)


def _pick(choices: Sequence[str], row: Made) -> str:
    """One of several wordings, by the row's digest: the same row always gets the same one."""
    return choices[int(digest([row.leaf, row.chunk, list(row.order)])[-8:], 16) % len(choices)]


def _with_distractors(task: Task, row: Made, output: Output, own: str) -> str:
    """RAFT (Zhang et al. 2024, arXiv 2403.10131): the question's own chunk among others of the same and of
    other documents, or, for a share of the rows, others only, so that the student learns the facts and not
    only to read. Order and choice follow from digests: the same inputs give the same row.
    """

    def rank(text: str) -> str:
        return digest([row.leaf, row.question, text])

    near = sorted({one.text for one in task.passages if one.text != own}, key=rank)
    far = sorted({one.text for one in task.strangers if one.text != own}, key=rank)
    golden = int(rank(own)[-8:], 16) / 0xFFFFFFFF < output.golden_share
    wanted = output.distractors if golden else output.distractors + 1
    # By turns from the leaf's own documents and from others', so that neither gives itself away.
    mixed = [text for pair in itertools.zip_longest(near, far) for text in pair if text is not None]
    chosen = mixed[:wanted]
    if golden or not chosen:
        chosen = [*chosen, own]
    return "\n\n".join(f"Document:\n{text}" for text in sorted(chosen, key=lambda one: rank(f"place {one}")))


def _rephrased(
    flow: Flow, task: Task, kept: Sequence[Made], endpoints: Mapping[str, Endpoint]
) -> list[Sample]:
    """Kept questions again in the flow's phrasings, until the leaf has the rows that it should have; always
    for the answer that has fewest rows, so that no fact is taught less than another. A phrasing is a rule,
    not a model's work, and its sample says so; the held-out rule holds for it as for any question.
    """
    made: list[Sample] = []
    waiting: dict[str, deque[tuple[Made, str]]] = defaultdict(deque)
    for turn in range(len(flow.phrasings)):
        for place, row in enumerate(kept):
            # In turn over the rows: were it the same for all of them, the phrasing would be learned, too.
            phrasing = flow.phrasings[(turn + place) % len(flow.phrasings)]
            waiting[row.answer].append((row, phrasing))
    rows = Counter(row.answer for row in kept)
    fewest = [(rows[answer], place, answer) for place, answer in enumerate(waiting)]
    heapq.heapify(fewest)
    while fewest and len(kept) + len(made) < task.rows:
        count, place, answer = heapq.heappop(fewest)
        row, phrasing = waiting[answer].popleft()
        question = phrasing.replace("{question}", row.question)
        view = Values(question, row.answer, heldout=task.heldout, benchmark=task.benchmark)
        if all(check(view).passed for check in FLOOR):
            sample = _sample(flow, task, row, "knowledge_short", question, row.answer, None, endpoints)
            note = {
                "check": "rephrased",
                "score": None,
                "passed": True,
                "detail": f"by the phrasing {phrasing!r}",
            }
            sample["grades"] = [*sample["grades"], note]
            made.append(sample)
            count += 1
        if waiting[answer]:
            heapq.heappush(fewest, (count, place, answer))
    return made


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
    skill = "foundational" if task.foundational else "skill"
    dataset = "knowledge_short" if task.kind == "knowledge" else skill
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
