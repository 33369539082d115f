"""Every rule's example does what it says, and the rules' page is up to date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.config import Limits, LintPolicy, RepositoryConfig
from lab.taxonomy import examples, excerpts
from lab.taxonomy.documents import SourceDocument
from lab.taxonomy.leaf import build
from lab.taxonomy.lint import LintReport, lint
from lab.taxonomy.render import rule_text, rules_markdown
from lab.taxonomy.rules import RULES, Rule
from lab.taxonomy.rules_advice import ADVICE
from lab.taxonomy.tree import FolderTree
from lab.untrusted import YamlNode, parse_yaml

BASES = {
    "skill": ("compositional_skills/writing/plain/qna.yaml", examples.SKILL),
    "grounded": ("compositional_skills/grounded/naming/qna.yaml", examples.GROUNDED),
    "knowledge": ("knowledge/geography/isles/qna.yaml", examples.KNOWLEDGE),
    "attribution": ("compositional_skills/writing/plain/attribution.txt", examples.ATTRIBUTION),
    "second": ("compositional_skills/writing/single_word/qna.yaml", examples.SECOND),
    "document": ("knowledge/geography/isles/qna.yaml", examples.KNOWLEDGE),
    "config": (".github/treewright.yml", examples.CONFIG),
}


def tree_of(root: Path, files: dict[str, str]) -> FolderTree:
    for path, text in ({".treewright/general.jsonl": examples.ITEMS} | files).items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8", newline="")
        beside = place.parent / "attribution.txt"
        if place.name == "qna.yaml" and not beside.exists():
            beside.write_text(examples.ATTRIBUTION, "utf-8")
    return FolderTree(root)


def against_documents(rule: Rule, text: str) -> LintReport:
    root = parse_yaml(text.encode())
    assert isinstance(root, YamlNode)
    leaf = build("knowledge/geography/isles", root)
    documents = [SourceDocument("guides/lights.md", examples.DOCUMENT, "sha256:0")]
    return LintReport(tuple(excerpts.findings(leaf, f"{leaf.path}/qna.yaml", documents, text=text)), 1)


def report(root: Path, rule: Rule, bad: bool) -> LintReport:
    config = RepositoryConfig(lint=LintPolicy(limits=Limits(**dict(rule.limits))))
    skill = BASES["skill"]
    if rule.place == "path":
        paths = (rule.bad if bad else rule.good).split("\n")
        texts = [examples.SKILL, *[examples.SECOND] * (len(paths) - 1)]
        return lint(tree_of(root, dict(zip(paths, texts, strict=True))), config)
    if rule.place == "link":
        path, _, target = rule.bad.partition(" -> ")
        tree = tree_of(root, {"compositional_skills/writing/other/qna.yaml": examples.SKILL})
        if bad:
            (root / path).parent.mkdir(parents=True)
            os.symlink(target, root / path)
        return lint(tree, config)
    path, base = BASES[rule.place]
    if bad:
        assert rule.good == "*" or rule.good in base, "the good example is no part of a valid leaf"
        base = rule.bad if rule.good == "*" else base.replace(rule.good, rule.bad)
    if rule.place == "document":
        return against_documents(rule, base)
    strict = rule.id in ("empty-file", "version")
    return lint(tree_of(root, {skill[0]: skill[1], path: base}), config, strict=strict)


@pytest.mark.parametrize("name", list(RULES))
def test_the_bad_example_breaks_its_rule_and_the_good_one_breaks_none(name: str, tmp_path: Path) -> None:
    rule = RULES[name]
    good = report(tmp_path / "good", rule, bad=False)
    assert good.findings == ()
    found = [each for each in report(tmp_path / "bad", rule, bad=True).findings if each.rule == name]
    assert found
    assert {each.severity for each in found} == {rule.severity}
    assert all(each.message and each.help for each in found)


OPTIONAL = [r.id for r in RULES.values() if not r.fixed_level and r.place not in ("path", "link", "document")]


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_rule_can_be_turned_off(name: str, tmp_path: Path) -> None:
    rule = RULES[name]
    path, base = BASES[rule.place]
    base = rule.bad if rule.good == "*" else base.replace(rule.good, rule.bad)
    policy = LintPolicy(rules={name: "off"}, limits=Limits(**dict(rule.limits)))
    files = {BASES["skill"][0]: examples.SKILL, path: base}
    told = lint(tree_of(tmp_path, files), RepositoryConfig(lint=policy))
    assert name not in {each.rule for each in told.findings}


def test_the_page_of_rules_is_written_from_the_rules() -> None:
    page = Path(__file__).parents[3] / "docs" / "rules.md"
    assert page.read_text("utf-8") == rules_markdown()


def test_every_rule_explains_itself() -> None:
    for name, rule in RULES.items():
        told = rule_text(name)
        assert rule.why in told
        assert rule.fix in told


def test_advice_is_never_an_error_unless_a_repository_says_so(tmp_path: Path) -> None:
    assert {rule.severity for rule in ADVICE} == {"note", "warning"}
    for rule in ADVICE:
        if rule.place in BASES and rule.place != "document":
            path, base = BASES[rule.place]
            base = rule.bad if rule.good == "*" else base.replace(rule.good, rule.bad)
            tree = tree_of(tmp_path / rule.id, {BASES["skill"][0]: examples.SKILL, path: base})
            told = lint(tree, RepositoryConfig(lint=LintPolicy(rules={rule.id: "error"})))
            assert rule.id in {each.rule for each in told.findings if each.severity == "error"}
