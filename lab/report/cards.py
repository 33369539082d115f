"""The texts of a release: model card, data set card, release notes. Pure functions from `ReleaseFacts` to
Markdown.

The YAML at a card's top is added by the stage that writes it. Everything that a contributor or a model wrote
passes through `lab.report.markdown`. Only what the run measured is stated; what was not measured is said to
be so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.report.markdown import code, code_block, fold, link, table, text
from lab.synthesis.yields import told

PAPER = "https://arxiv.org/abs/2403.01081"
METRICS = {
    "choice": "choice of four",
    "short_answer": "short answer",
    "judged": "judge's mark",
    "accuracy": "accuracy",
    "mt_bench": "rating of 10",
    "choice_with_retrieval": "choice of four, with passages",
    "short_answer_with_retrieval": "short answer, with passages",
}
"""Words for how an item is scored."""
_CELL = 400
_NONE = "–"


@dataclass(frozen=True)
class ModelName:
    """A model by Hub id and pinned revision."""

    id: str
    revision: str


@dataclass(frozen=True)
class Score:
    """One benchmark set. `low` and `high` bound candidate minus base; None where no interval was computed."""

    name: str
    kind: str
    leaf: str | None
    metric: str
    items: int
    base: float | None
    candidate: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Example:
    leaf: str
    question: str
    expected: str
    base: str
    candidate: str


@dataclass(frozen=True)
class Source:
    """Where a leaf's knowledge is from: a document's repository, commit and path, and what must be
    attributed.
    """

    leaf: str
    repository: str
    commit: str
    paths: tuple[str, ...]
    attribution: str


@dataclass(frozen=True)
class LeafFacts:
    path: str
    kind: str
    created_by: str
    changed: bool
    pull_requests: tuple[int, ...]
    rows: int
    rejected: int
    heldout: int
    base: float | None
    candidate: float | None
    wanted: int = 0
    delivered: int = 0
    rejected_by_reason: Mapping[str, int] = field(default_factory=dict)
    why: str = ""


@dataclass(frozen=True)
class ReleaseFacts:
    """All that the texts say. `repository` is the taxonomy's `owner/name`, or empty."""

    tag: str
    model: str
    dataset: str
    repository: str
    server: str
    head: str
    licence: str
    student: ModelName
    teacher: ModelName
    judge: ModelName
    verdict: str
    sentences: tuple[str, ...]
    confidence: float
    scores: tuple[Score, ...]
    leaves: tuple[LeafFacts, ...]
    examples: tuple[Example, ...]
    sources: tuple[Source, ...]
    rows_by_dataset: Mapping[str, int]
    rejected_by_reason: Mapping[str, int]
    phases: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def changed(self) -> tuple[LeafFacts, ...]:
        return tuple(leaf for leaf in self.leaves if leaf.changed)


def percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in percentage points, always with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def before_after(base: float | None, candidate: float | None) -> str:
    if base is None or candidate is None:
        return "not measured"
    return f"{percent(base)} → {percent(candidate)}"


def _taxonomy(facts: ReleaseFacts) -> str:
    commit = code(facts.head[:12])
    if not facts.repository:
        return f"a taxonomy of knowledge and skills at commit {commit}"
    address = f"{facts.server}/{facts.repository}/tree/{facts.head}"
    return f"the taxonomy {link(facts.repository, address)} at commit {commit}"


def _pinned(model: ModelName) -> str:
    return f"{code(model.id, 200)} at revision {code(model.revision, 80)}"


def _interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return _NONE
    return f"{points(score.low)} to {points(score.high)}"


def results_table(scores: Sequence[Score], confidence: float) -> str:
    """Base against candidate on every set, the pooled new leaves first."""
    order = {"pooled": 0, "leaf": 1, "general": 2}
    rows = []
    for score in sorted(scores, key=lambda score: (order.get(score.kind, 3), score.name, score.metric)):
        name = code(score.leaf, 160) if score.leaf else text(score.name, 120)
        gain = (
            _NONE if score.base is None or score.candidate is None else points(score.candidate - score.base)
        )
        rows.append(
            [
                name,
                text(score.kind),
                text(METRICS.get(score.metric, score.metric)),
                str(score.items),
                percent(score.base),
                f"**{percent(score.candidate)}**",
                gain,
                _interval(score),
            ]
        )
    interval = f"bounds, {100 * confidence:g} % each"
    return table(["set", "kind", "metric", "items", "base", "this model", "gain in points", interval], rows)


def _pulls(numbers: Sequence[int], facts: ReleaseFacts) -> str:
    if not facts.repository:
        return ", ".join(f"pull request {number}" for number in numbers) or _NONE
    address = f"{facts.server}/{facts.repository}/pull"
    return ", ".join(f"[{number}](<{address}/{number}>)" for number in numbers) or _NONE


def _learned(facts: ReleaseFacts) -> str:
    rows = [
        [
            code(leaf.path, 160),
            _pulls(leaf.pull_requests, facts),
            text(leaf.created_by, 80),
            str(leaf.rows),
            before_after(leaf.base, leaf.candidate),
        ]
        for leaf in facts.changed
    ]
    return table(["leaf", "pull request", "by", "rows", "held-out questions right"], rows)


def _examples(facts: ReleaseFacts) -> str:
    blocks = []
    for example in facts.examples:
        rows = [
            ["expected", text(example.expected, _CELL)],
            ["base", text(example.base, _CELL)],
            ["this model", text(example.candidate, _CELL)],
        ]
        blocks.append(fold(f"{example.leaf}: {example.question[:200]}", table(["", "answer"], rows)))
    return "\n\n".join(blocks)


def model_card(facts: ReleaseFacts) -> str:
    """The model card without its YAML."""
    name = facts.model.split("/")[-1]
    usage = "\n".join(
        [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f"name, revision = {facts.model!r}, {facts.tag!r}",
            "tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)",
            "model = AutoModelForCausalLM.from_pretrained(name, revision=revision)",
            'chat = [{"role": "user", "content": "Your question"}]',
            'options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}',
            "inputs = tokenizer.apply_chat_template(chat, **options)",
            "answer = model.generate(**inputs, max_new_tokens=128, do_sample=False)",
            "print(tokenizer.decode(answer[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True))",
        ]
    )
    blocks = [
        f"# {text(name)}",
        (
            f"{code(facts.model)} {text(facts.tag)} is {_pinned(facts.student)}, tuned on data that was "
            "generated from "
            f"{_taxonomy(facts)}. People proposed each leaf of it in a pull request. The method is LAB, "
            "large-scale "
            f"alignment for chatbots ([arXiv 2403.01081](<{PAPER}>)): a teacher writes training rows from "
            "few seed "
            "examples, they are checked, and the student is tuned in phases with a replay of earlier data."
        ),
        "## Results",
        (
            "Base and tuned model answered the same items under the same settings. Held-out questions were "
            "set aside before any data was generated and were never trained on."
        ),
        results_table(facts.scores, facts.confidence),
        f"Gate, written in the repository before the run: **{text(facts.verdict)}**.",
        "\n".join(f"- {text(sentence, 600)}" for sentence in facts.sentences),
        "## What it learned",
        _learned(facts) if facts.changed else "No leaf changed in this release.",
    ]
    if facts.examples:
        blocks += [
            "### Before and after",
            (
                "The first held-out questions of each changed leaf, in their fixed order; not chosen by "
                "their "
                "outcome."
            ),
            _examples(facts),
        ]
    blocks += [
        "## How to use",
        code_block(usage, "python"),
        "## How it was made",
        "\n".join(
            [
                f"- Base (student): {_pinned(facts.student)}",
                f"- Teacher: {_pinned(facts.teacher)}",
                f"- Judge: {_pinned(facts.judge)}",
                (
                    f"- Data: {code(facts.dataset)} at tag {code(facts.tag)}, "
                    f"{sum(facts.rows_by_dataset.values())} rows, with the lineage of each"
                ),
                *(f"- {text(phase, 300)}" for phase in facts.phases),
                (
                    "- `release.lock.json` beside the weights pins commit, leaves, data, flows, models, "
                    "seeds, versions, "
                    "mixing and the gate's policy"
                ),
            ]
        ),
        table(
            ["tool", "version"],
            [[text(tool), text(version)] for tool, version in sorted(facts.versions.items())],
        ),
        "## Limits",
        (
            "- What it knows of a leaf is what its rows and documents say. The tables above are the only "
            "measurements; "
            "a set with few items says little, and its interval shows how little.\n"
            "- A row can be wrong although it passed every check: teacher and judge are models.\n"
            "- It inherits the base model's biases and limits, and no safety tuning was added."
        ),
        "## Licence and sources",
        (
            f"Released under {code(facts.licence)}; the base model's own terms apply as well. "
            f"The sources of each leaf are attributed in the card of {code(facts.dataset)}."
        ),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _sources(facts: ReleaseFacts) -> str:
    blocks = []
    for source in facts.sources:
        lines = []
        if source.repository:
            place = link(source.repository, source.repository)
            lines.append(f"- Documents: {place} at {code(source.commit, 64)}")
            lines.append(f"- Files: {', '.join(code(path, 200) for path in source.paths) or _NONE}")
        if source.attribution:
            lines += ["", code_block(source.attribution[:4000])]
        if lines:
            blocks.append(fold(source.leaf, "\n".join(lines)))
    return "\n\n".join(blocks)


def _yields(facts: ReleaseFacts) -> str:
    """By leaf: what was asked for, what came, and why the rest did not. Seeds and replay are not counted."""
    known = [leaf for leaf in facts.leaves if leaf.wanted]
    rows = [
        [
            code(leaf.path, 160),
            str(leaf.wanted),
            str(leaf.delivered),
            text(told(leaf.rejected_by_reason), 400),
        ]
        for leaf in known
    ]
    short = "\n".join(f"- {code(leaf.path, 160)}: {text(leaf.why, 400)}" for leaf in known if leaf.why)
    if not rows:
        return ""
    shown = table(["leaf", "asked for", "delivered", "rejected, by reason"], rows)
    return f"{shown}\n\nFewer rows than were asked for:\n\n{short}" if short else shown


def dataset_card(facts: ReleaseFacts) -> str:
    """The data set card without its YAML."""
    name = facts.dataset.split("/")[-1]
    kept, dropped = sum(facts.rows_by_dataset.values()), sum(facts.rejected_by_reason.values())
    share = f" ({100 * kept / (kept + dropped):.0f} % kept)" if kept + dropped else ""
    leaves = [
        [
            code(leaf.path, 160),
            text(leaf.kind.replace("_", " ")),
            _pulls(leaf.pull_requests, facts),
            str(leaf.rows),
            str(leaf.rejected),
            str(leaf.heldout),
        ]
        for leaf in facts.leaves
    ]
    rejected = sorted(facts.rejected_by_reason.items(), key=lambda item: (-item[1], item[0]))
    sources = _sources(facts)
    blocks = [
        f"# {text(name)}",
        (
            f"Training rows that a model wrote from {_taxonomy(facts)}, for {code(facts.model)} "
            f"{text(facts.tag)}. "
            f"{kept} rows were kept, {dropped} rejected{share}; both are here, each with its lineage."
        ),
        "## Files",
        table(
            ["config", "file", "what"],
            [
                ["`train`", "`data/train.jsonl`", "every row that was kept: messages, lineage, grades"],
                [
                    "`heldout`",
                    "`data/heldout.jsonl`",
                    "held-out questions of people. **Never train on them.**",
                ],
                ["`rejections`", "`data/rejections.jsonl`", "what was made and not kept, with the reason"],
            ],
        ),
        code_block(
            "from datasets import load_dataset\n\n"
            f'rows = load_dataset({facts.dataset!r}, "train", revision={facts.tag!r}, split="train")',
            "python",
        ),
        "## What it holds",
        table(
            ["training set", "rows"],
            [[text(key), str(n)] for key, n in sorted(facts.rows_by_dataset.items())],
        ),
        table(["leaf", "kind", "pull request", "rows", "rejected", "held out"], leaves),
        "## What was rejected, and why",
        table(["reason", "rows"], [[text(reason, 200), str(count)] for reason, count in rejected])
        if rejected
        else "Nothing was rejected.",
        _yields(facts),
        "## How it was made",
        f"The method is LAB ([arXiv 2403.01081](<{PAPER}>)).",
        "\n".join(
            [
                f"- Teacher: {_pinned(facts.teacher)}",
                f"- Judge: {_pinned(facts.judge)}",
                (
                    "- `lineage` of a row names its leaf, seed, document, chunk, commit, pull requests, "
                    "flow, models and "
                    "the stored requests; `grades` are the checks that it passed"
                ),
                "- `release.lock.json` pins everything that it took",
            ]
        ),
        "## Limits",
        (
            "- The rows are synthetic: written by a model, checked by rules and a model, and not read by "
            "people one by "
            "one.\n- They teach what the leaves say; nothing here was checked against the world."
        ),
        "## Licence and sources",
        f"Released under {code(facts.licence)}.",
        sources or "No leaf of this release names an outside source.",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def release_notes(facts: ReleaseFacts, budget: int = 120_000) -> str:
    """The body of the GitHub release (at most 125,000 characters there), naming every contribution."""
    measured = [leaf for leaf in facts.changed if leaf.base is not None]
    lead = f"{len(facts.changed)} {'leaf' if len(facts.changed) == 1 else 'leaves'} learned anew"
    rows = [
        [
            ", ".join(f"#{number}" for number in leaf.pull_requests) or _NONE,
            code(leaf.path, 160),
            text(leaf.created_by, 80),
            str(leaf.rows),
            before_after(leaf.base, leaf.candidate),
        ]
        for leaf in facts.changed
    ]
    blocks = [
        (
            f"**{text(facts.model)}** {text(facts.tag)}: {lead}, {len(measured)} of them measured on "
            "held-out "
            "questions."
        ),
        "### Contributions",
        table(["pull request", "leaf", "by", "rows", "held-out questions right"], rows) if rows else "None.",
        "### Results",
        results_table(facts.scores, facts.confidence),
        f"Gate: **{text(facts.verdict)}**",
        "\n".join(f"- {text(sentence, 600)}" for sentence in facts.sentences),
        "### Pinned",
        "\n".join(
            [
                f"- Taxonomy: {code(facts.head)}",
                f"- Base: {_pinned(facts.student)}",
                f"- Teacher: {_pinned(facts.teacher)}",
                f"- Data set: {code(facts.dataset)} at tag {code(facts.tag)}",
                "- `release.lock.json` and `report.json` are attached",
            ]
        ),
    ]
    whole = "\n\n".join(block for block in blocks if block)
    if len(whole) > budget:
        whole = "\n\n".join(
            [blocks[0], f"The tables do not fit here; see the card of {code(facts.model)}.", *blocks[-2:]]
        )
    return whole + "\n"
