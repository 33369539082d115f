"""A pull request that changes `.github/treewright.yml`: what would hold after its merge, for the comment.

The bot itself never takes a setting from a head; here both sides are only read and compared. The new file is
linted like any other changed file, so its mistakes are among the findings.
"""

from __future__ import annotations

from bot.services import CONFIG, Services, Trees
from bot.store import Pull
from lab.config import RepositoryConfig, load_config
from lab.report.config_changes import changes
from lab.taxonomy.diff import TreeDiff
from lab.taxonomy.tree import GitTree
from lab.untrusted import Refused

_LARGEST = 256 * 1024


def remember(services: Services, pull: Pull, head: str, trees: Trees, found: TreeDiff) -> None:
    """Keep with the head what changes in the settings; nothing when the file does not change."""
    told = None
    if CONFIG in found.paths:
        # Against the default branch as it is now: that is what the merge would take the place of.
        new, readable = _read(trees.head)
        told = {"changes": [one.to_json() for one in changes(trees.config, new)], "readable": readable}
    services.store.update_review(pull, head, config=told)


def _read(tree: GitTree) -> tuple[RepositoryConfig, bool]:
    if CONFIG not in set(tree.paths()):
        return RepositoryConfig(), True
    try:
        config, findings = load_config(tree.read(CONFIG, _LARGEST))
    except Refused:
        return RepositoryConfig(), False
    return config, not findings
