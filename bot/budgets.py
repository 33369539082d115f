"""What one person may have of the previews' compute: so many in 24 hours, and so many under way at once.

Counted by the numeric id of the person, over all pull requests of a repository. Maintainers have no budget.
"""

from __future__ import annotations

import time

from bot import replies
from bot.store import Store
from lab.config import Budgets

A_DAY = 86_400.0


def refusal(
    store: Store, repo_id: int, login: str, user_id: int, budgets: Budgets, job: str = ""
) -> str | None:
    """Why this person cannot have one more preview now, in words for people; None when they can. A preview
    that is `job` itself does not count: after a crash it asks again.
    """
    if store.count_previews(repo_id, user_id, time.time() - A_DAY, job) >= budgets.previews_per_user_per_day:
        return replies.over_budget(login, budgets.previews_per_user_per_day)
    if store.previews_in_flight(repo_id, user_id, job) >= budgets.previews_in_flight:
        return replies.too_many_in_flight(login, budgets.previews_in_flight)
    return None
