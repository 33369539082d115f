"""What is held out is taught by no other pair: nearly the same of its leaf, or the same of another leaf."""

from __future__ import annotations

from dataclasses import replace

from lab.synthesis.checks import HELD_OUT_LIKENESS
from lab.synthesis.heldout import LIKENESS, apart, split
from lab.taxonomy.model import Leaf, Pair
from tests.lab.synthesis.test_flows import island, skill


def _with_first_pair(leaf: Leaf, question: str, answer: str) -> Leaf:
    first = leaf.seeds[0]
    told = replace(first, pairs=(Pair(question, answer, 1), *first.pairs[1:]))
    return replace(leaf, seeds=(told, *leaf.seeds[1:]))


def test_a_pair_that_another_seed_teaches_in_nearly_the_same_words_is_not_held_out() -> None:
    assert LIKENESS == HELD_OUT_LIKENESS
    leaf = island()
    whole = split(leaf, 0.5, 42)
    item = whole.heldout[5]
    near = split(_with_first_pair(leaf, f"So, {item.question}", item.answer), 0.5, 42)
    assert [one.question for one in near.heldout] == [
        one.question for one in whole.heldout if one.question != item.question
    ]
    assert item.question in {one.question for one in near.examples}
    assert [one.seed for one in near.examples] == sorted(one.seed for one in near.examples)
    other = split(_with_first_pair(leaf, f"So, {item.question}", "Nobody has ever found that out."), 0.5, 42)
    assert len(other.heldout) == len(whole.heldout)


def test_a_leaf_whose_pairs_all_say_the_same_says_why_nothing_is_held_out() -> None:
    leaf = island()
    seed = leaf.seeds[0]
    pairs = tuple(Pair(f"{seed.pairs[0].question} ({n})", f"{seed.pairs[0].answer} {n}", n) for n in range(6))
    same = split(replace(leaf, seeds=(replace(seed, pairs=pairs),)), 0.5, 42)
    assert (len(same.examples), same.heldout) == (6, ())
    assert same.left_out == "every pair that could be is nearly another one"


def test_an_item_that_a_seed_of_another_leaf_teaches_is_not_held_out() -> None:
    leaf = island()
    backwards = replace(
        leaf, path="knowledge/copy", seeds=tuple(replace(s, pairs=s.pairs[::-1]) for s in leaf.seeds)
    )
    skilled = skill("compositional_skills/grounded/extraction/shopping_lists")
    parts = {one.path: split(one, 0.5, 42) for one in (leaf, backwards, skilled)}
    found = apart(parts)
    taught = {example.question for one in (leaf, backwards) for example in found[one.path].examples}
    assert not taught & {item.question for one in (leaf, backwards) for item in found[one.path].heldout}
    assert found[leaf.path].left_out == "other leaves teach every item by a seed"
    # The tasks of a grounded skill are asked of every context: an item is another one by its context.
    assert found[skilled.path] == parts[skilled.path]
