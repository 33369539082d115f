"""The short replies to commands. All their wording is here; each is one comment, written once for one
command comment.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.commands import SPECS, WHO, Command, Misused, Spec, Unknown
from bot.policy import Reason
from lab.report.comment import PullRequestView, headline
from lab.report.markdown import code, link, table, text
from lab.taxonomy.findings import Finding


def marker(comment_id: int) -> str:
    return f"<!-- treewright:reply:{comment_id} -->"


def reply(comment_id: int, comment_url: str, login: str, parts: Sequence[str]) -> str:
    """One comment that answers every command of one comment. It names people without pinging them."""
    said = link(f"{login}’s comment", comment_url)
    return "\n\n".join([marker(comment_id), f"In answer to {said}:", *parts])


def help_rows() -> list[tuple[str, str, str]]:
    """Usage, who may, what it does: for the comment, for `/help` and for the documentation."""
    return [(spec.usage, WHO[spec.who], spec.explained) for spec in SPECS]


def help_text() -> str:
    rows = [[code(usage), who, what] for usage, who, what in help_rows()]
    how = (
        "Write a command on a line of its own in a new comment. "
        "Edited comments, quotes and code are not read."
    )
    return f"{how}\n\n{table(['comment', 'who may', 'what happens'], rows)}"


def status(view: PullRequestView, where: str) -> str:
    """Where the pull request stands, in two lines, and where to read more."""
    title, stands, following, who = headline(view)
    turn = f"**Whose turn:** {who}. {link('The whole report', where)}"
    return f"**{title}.** {stands} **Next:** {following} {turn}"


def unknown(said: Unknown) -> str:
    near = f" Did you mean {code('/' + said.nearest)}?" if said.nearest else ""
    return f"I do not know {code('/' + said.word)}.{near} `/help` lists what I know."


def misused(said: Misused) -> str:
    return f"{code('/' + said.name)} is used as {code(said.spec.usage)}."


def not_for_you(spec: Spec) -> str:
    return (
        f"Thank you, but {code('/' + spec.name)} is for {WHO[spec.who]} of this repository. Nothing was done."
    )


def release_not_for_you() -> str:
    return (
        f"Thank you, but trying a release again is for {WHO['maintainer']} of this repository. "
        "Nothing was done."
    )


def not_known(spec: Spec) -> str:
    return (
        f"{code('/' + spec.name)} is for {WHO[spec.who]} of this repository, and I could not find out from "
        "GitHub whether you are one. Nothing was done; please try again later."
    )


def approval_refused(reason: Reason, head: str) -> str:
    """Why an approval was not taken, and what to do."""
    whole = f"`/approve {head}`"
    words: dict[Reason, str] = {
        "not_a_person": "Only people approve.",
        "not_permitted": "Thank you, but approving is for the maintainers of this repository. "
        "Nothing was merged.",
        "permission_unknown": "I could not find out whether you may approve, so nothing was merged. "
        "Please try again later.",
        "author_may_not_approve": "The author of a pull request cannot approve it here; "
        "another maintainer can.",
        "not_open": "This pull request is not open any more.",
        "on_hold": "This pull request is on hold. `/hold off` ends that.",
        "lint_not_green": "The validator has not passed the newest commit, so nothing can be approved yet.",
        "not_previewed": "The newest commit has no finished preview yet. "
        "Wait for it, or ask for one by `/preview`.",
        "head_moved": "The commits changed around the time of your comment, so I cannot be sure which one "
        f"you mean. When its result is here and you have read it, comment {whole}",
        "shown_too_late": "The result for the newest commit appeared only after your comment. "
        f"If you have read it now, comment {whole}",
        "preview_changed": "The preview of this commit changed since you approved it, so nothing was merged. "
        f"When you have read the new one, comment {whole}",
        "base_changed": "The base branch has changed the same leaf since this pull request branched off, so "
        "what would be merged is not what was previewed. Bring the branch up to date (“Update branch”, or "
        "merge the base branch into it); I preview the result, and then it can be approved.",
        "sha_too_short": f"Please give the whole sha, all 40 digits; short ones can be forged: {whole}",
        "sha_not_the_head": f"That is not the newest commit of this pull request. The newest is {whole}",
        "granted": "",
    }
    return words[reason]


def settings_broken(finding: Finding) -> str:
    where = code(f"{finding.file}:{finding.line}")
    return (
        f"The settings on the default branch cannot be read ({where}: {text(finding.message, 300)}), so I "
        "cannot know who may approve. Nothing was merged. Mend the file there, then comment again."
    )


def merge_failed(why: str) -> str:
    return f"GitHub did not merge it: {text(why, 300)}. Nothing was released."


def over_budget(login: str, most: int) -> str:
    return (
        f"Previews cost compute, and {text(login)} has used up the {most} that one person may have here in "
        "24 hours. A maintainer can ask for one more by `/preview`; tomorrow there are new ones."
    )


def most_samples(most: int) -> str:
    return f"A preview has at most {most} samples for each leaf, so that is how many I ask for."


def too_many_in_flight(login: str, most: int) -> str:
    return (
        f"{text(login)} has {most} previews under way in this repository, which is the most at once. When "
        "one of them is done, comment `/preview`; a maintainer can ask for one now."
    )


def on_hold() -> str:
    return "This pull request is on hold, so nothing runs. A maintainer ends that by `/hold off`."


def nothing_to_do(said: Command) -> str:
    return f"There is nothing for {code('/' + said.name)} to do here."


def not_linted() -> str:
    return "The validator must be content with the newest commit before a preview makes sense."


def generated_by_release() -> str:
    return (
        "The full data set is generated by the release, after the merge, so that nothing is made twice. "
        "I run a preview instead."
    )


def explain(rule: str, explanation: tuple[str, str] | None, known: Sequence[str]) -> str:
    """What a rule is about. `explanation` is what it says and what to do."""
    if explanation is None:
        names = ", ".join(code(name) for name in known[:60])
        return f"I know no rule {code(rule)}. The rules are: {names}."
    says, fix = explanation
    return f"**{text(rule)}**: {text(says)}" + (f"\n\n**What to do:** {text(fix)}" if fix else "")


def trouble() -> str:
    return (
        "Something went wrong on my side and I could not do this. Whoever runs me finds the reason in my log."
    )
