"""The demo: from a pull request to a release, with a forge, a hub, a model and the bot on this machine.

    treewright demo            plays it, with progress
    treewright demo --keep     and leaves the pages open afterwards

The people act as people do: they push with git, open pull requests, read checks and comments and write them,
all through GitHub's public API as the forge speaks it. Nothing here reaches into the bot or the stages. This
file holds the story; `sandbox/stage_hands.py` starts and stops what it plays on.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.markup import escape

from sandbox.stage_hands import House, Options, StoryError, git

BOT_LINT = "treewright / lint"
BOT_PREVIEW = "treewright / preview"


@dataclass(frozen=True)
class Scene:
    """One line of the table at the end: what happened, how long it took, where to look."""

    name: str
    outcome: str
    seconds: float
    where: str = ""


@dataclass
class Story:
    """What the play found out; the end-to-end test asserts on it and the table is made from it."""

    scenes: list[Scene] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class Play:
    """The story, scene by scene, on a house that is open. `say` prints a line for the person who watches."""

    def __init__(self, house: House, say: Callable[[str], None]) -> None:
        self.house = house
        self.say = say
        self.story = Story()

    @contextmanager
    def scene(self, name: str, where: str = "") -> Iterator[dict[str, str]]:
        self.say(f"\n[bold]{name}[/bold]")
        started = time.monotonic()
        result = {"outcome": "done", "where": where}
        yield result
        seconds = time.monotonic() - started
        self.story.scenes.append(Scene(name, result["outcome"], seconds, result["where"]))
        self.say(f"  [green]done[/green] in {seconds:.0f} s: {result['outcome']}")

    # What people do.

    def push_branch(self, person: str, branch: str, material: str, message: str) -> str:
        """`person` copies a folder of examples/contributions into a clone of the own fork and pushes it.

        Returns the new head.
        """
        house = self.house
        clone = house.data / "people" / person / branch
        if not clone.exists():
            git("clone", "--quiet", house.git_url(person, f"{person}/taxonomy"), str(clone))
            git("checkout", "--quiet", "-b", branch, cwd=clone)
        shutil.copytree(house.options.contributions / material, clone, dirs_exist_ok=True)
        git("add", "--all", cwd=clone)
        git(
            "-c", f"user.name={person}", "-c", f"user.email={person}@example.invalid",
            "commit", "--quiet", "--message", message, cwd=clone,
        )  # fmt: skip
        git("push", "--quiet", "origin", branch, cwd=clone)
        return git("rev-parse", "HEAD", cwd=clone).strip()

    def open_pull(self, person: str, branch: str, title: str, body: str) -> int:
        pull = self.house.api(
            person,
            "POST",
            "/repos/acme/taxonomy/pulls",
            {"title": title, "body": body, "head": f"{person}:{branch}", "base": "main"},
        )
        return int(pull["number"])

    def comment(self, person: str, number: int, body: str) -> dict[str, Any]:
        made = self.house.api(
            person, "POST", f"/repos/acme/taxonomy/issues/{number}/comments", {"body": body}
        )
        self.say(f"  {person} writes on #{number}: {body}")
        return dict(made)

    # What people see.

    def wait(self, what: str, look: Callable[[], Any], seconds: float = 300) -> Any:
        """Look again until it is there; a wait that ends says what it waited for and where the logs are."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.house.check_alive()
            if found := look():
                return found
            time.sleep(0.5)
        raise StoryError(f"waited {seconds:.0f} s for {what}; the logs are in {self.house.data / 'logs'}")

    def check_run(self, name: str, head: str, seconds: float = 300) -> dict[str, Any]:
        """The bot's check run of that name on `head`, when it is completed."""

        def look() -> dict[str, Any] | None:
            answer = self.house.api("ada", "GET", f"/repos/acme/taxonomy/commits/{head}/check-runs")
            for run in answer["check_runs"]:
                if run["name"] == name and run["status"] == "completed":
                    return dict(run)
            return None

        return dict(self.wait(f"the check {name!r} on {head[:10]}", look, seconds))

    def annotations(self, check: dict[str, Any]) -> list[dict[str, Any]]:
        return list(
            self.house.api("ada", "GET", f"/repos/acme/taxonomy/check-runs/{check['id']}/annotations")
        )

    def bot_comments(self, number: int) -> list[dict[str, Any]]:
        comments = self.house.api("ada", "GET", f"/repos/acme/taxonomy/issues/{number}/comments?per_page=100")
        return [comment for comment in comments if comment["user"]["type"] == "Bot"]

    def sticky(self, number: int, *phrases: str, seconds: float = 300) -> dict[str, Any]:
        """The bot's one status comment, when it holds every phrase."""

        def look() -> dict[str, Any] | None:
            comments = self.bot_comments(number)
            if comments and all(phrase in comments[0]["body"] for phrase in phrases):
                return comments[0]
            return None

        return dict(self.wait(f"the bot's comment on #{number} with {phrases}", look, seconds))

    # The scenes.

    def play(self) -> Story:
        self.pull_request_with_mistakes()
        number, head = self.pull_request_with_new_knowledge()
        self.approvals(number, head)
        run = self.release_run()
        self.released(number, run)
        return self.story

    def pull_request_with_mistakes(self) -> None:
        house = self.house
        with self.scene("A pull request with mistakes") as scene:
            head = self.push_branch(
                "newcomer", "thank-you-notes", "bad", "Add two writing skills and a craft"
            )
            number = self.open_pull(
                "newcomer", "thank-you-notes", "Add two writing skills and a craft", "My first leaves."
            )
            scene["where"] = house.pull_page(number)
            check = self.check_run(BOT_LINT, head)
            notes = self.annotations(check)
            found = [note for note in notes if note["annotation_level"] == "failure"]
            counts = f"{len(found)} errors, {len(notes) - len(found)} pieces of advice"
            self.say(f"  check {check['name']!r}: {check['conclusion']}, {counts}")
            for note in found:
                first = note["message"].splitlines()[0]
                self.say(escape(f"    {note['path']}:{note['start_line']} {note['title'] or ''}: {first}"))
            before = self.sticky(number)
            scene["outcome"] = f"red, {len(found)} mistakes named at their lines"
            self.story.facts["bad"] = {
                "number": number,
                "head": head,
                "check": check,
                "annotations": found,
                "comment": before,
            }
        with self.scene("The contributor pushes the repair", house.pull_page(number)) as scene:
            head = self.push_branch("newcomer", "thank-you-notes", "mended", "Mend what the bot found")
            check = self.check_run(BOT_LINT, head)
            after = self.sticky(number, head[:10])
            if check["conclusion"] != "success" or after["id"] != before["id"]:
                raise StoryError(
                    f"expected the same check and comment to turn green, got {check['conclusion']}"
                )
            scene["outcome"] = "the same check and the same comment are green"
            self.story.facts["mended"] = {"number": number, "head": head, "check": check, "comment": after}

    def pull_request_with_new_knowledge(self) -> tuple[int, str]:
        house = self.house
        with self.scene("A pull request that teaches something new") as scene:
            head = self.push_branch("newcomer", "farne-mora", "good", "Add knowledge about Farne Mora")
            number = self.open_pull(
                "newcomer", "farne-mora", "Add knowledge about Farne Mora", "An island that no model knows."
            )
            scene["where"] = house.pull_page(number)
            self.check_run(BOT_LINT, head)
            self.say("  lint is green; the preview asks the base model, the teacher and the judge ...")
            preview = self.check_run(BOT_PREVIEW, head, seconds=600)
            comment = self.sticky(number, head[:10])
            self.say(f"  preview: {preview['output']['title']}")
            scene["outcome"] = f"preview: {preview['output']['title']}"
            self.story.facts["good"] = {
                "number": number,
                "head": head,
                "preview": preview,
                "comment": comment,
            }
        return number, head

    def approvals(self, number: int, head: str) -> None:
        house = self.house
        with self.scene("A contributor and a maintainer say /approve", house.pull_page(number)) as scene:
            known = {comment["id"] for comment in self.bot_comments(number)}
            self.comment("newcomer", number, "/approve")
            answer = self.wait(
                "the bot's refusal",
                lambda: next((one for one in self.bot_comments(number) if one["id"] not in known), None),
            )
            self.say(escape(f"  the bot answers: {visible(answer['body'])}"))
            time.sleep(1)  # an approval from the second in which the preview appeared is not taken
            self.comment("ada", number, "/approve")

            def merged() -> dict[str, Any] | None:
                pull = self.house.api("ada", "GET", f"/repos/acme/taxonomy/pulls/{number}")
                return pull if pull["merged"] else None

            pull = self.wait("the merge", merged)
            if pull["head"]["sha"] != head:
                raise StoryError("another commit was merged than the one that was previewed")
            scene["outcome"] = f"refused to newcomer; merged exactly {head[:10]} for ada"
            self.story.facts["approval"] = {"refusal": answer, "pull": pull}

    def release_run(self) -> dict[str, Any]:
        house = self.house
        with self.scene("The release workflow runs") as scene:

            def started() -> dict[str, Any] | None:
                runs = house.api("ada", "GET", "/repos/acme/taxonomy/actions/runs")["workflow_runs"]
                return runs[0] if runs else None

            run = dict(self.wait("the release run", started))
            scene["where"] = run["html_url"]
            self.say(f"  {run['display_title']}: {run['html_url']}")
            shown, said, next_word = 0, "", time.monotonic() + 20
            end = time.monotonic() + self.house.options.release_seconds
            while run["status"] != "completed":
                if time.monotonic() > end:
                    raise StoryError(
                        f"the release run takes longer than {self.house.options.release_seconds} s"
                    )
                house.check_alive()
                time.sleep(1)
                shown = self.follow(run["id"], shown)
                if time.monotonic() > next_word and (words := house.printed(run["id"])) and words[-1] != said:
                    self.say(f"      [dim]{escape(words[-1][:160])}[/dim]")
                    said, next_word = words[-1], time.monotonic() + 20
                run = dict(house.api("ada", "GET", f"/repos/acme/taxonomy/actions/runs/{run['id']}"))
            self.follow(run["id"], shown)
            if run["conclusion"] != "success":
                for word in house.printed(run["id"])[-12:]:
                    self.say(f"      {escape(word)}")
                raise StoryError(f"the release run ended with {run['conclusion']}: {run['html_url']}")
            scene["outcome"] = "plan, generate, tune, benchmark, gate and publish succeeded"
            self.story.facts["run"] = run
        return run

    def follow(self, run_id: int, shown: int) -> int:
        """Print the steps that ended since; returns how many are shown now."""
        jobs = self.house.api("ada", "GET", f"/repos/acme/taxonomy/actions/runs/{run_id}/jobs")["jobs"]
        ended = [
            (job["name"].rpartition("/")[2].strip(), step)
            for job in jobs
            for step in job["steps"]
            if step["status"] == "completed" and not step["name"].startswith(("Pre ", "Post ", "Set up job"))
        ]
        for job, step in ended[shown:]:
            mark = "[green]✓[/green]" if step["conclusion"] == "success" else "[red]✗[/red]"
            seconds = (parse_time(step["completed_at"]) - parse_time(step["started_at"])).total_seconds()
            self.say(f"    {mark} {job}: {step['name'].partition('@')[0]} ({seconds:.0f} s)")
        return len(ended)

    def released(self, number: int, run: dict[str, Any]) -> None:
        house = self.house
        with self.scene("The release comes back to the pull request", house.pull_page(number)) as scene:
            releases = house.api("ada", "GET", "/repos/acme/taxonomy/releases")
            if not releases:
                raise StoryError("the run succeeded, but there is no release")
            release = releases[0]
            asset = next(one for one in release["assets"] if one["name"] == "report.json")
            report = house.download("ada", asset["url"])
            last = self.wait(
                "the bot's last comment",
                lambda: next(
                    (one for one in self.bot_comments(number)[1:] if report["model"]["url"] in one["body"]),
                    None,
                ),
            )
            for score in report["scores"]:
                change = f"base {score['base']:.0%}, candidate {score['candidate']:.0%}"
                self.say(f"  {score['name']}: {change} ({score['items']} items)")
            for example in report["examples"][:3]:
                self.say(escape(f"  Q: {example['question']}"))
                self.say(escape(f"     before: {example['base'].strip()[:150]}"))
                self.say(escape(f"     after:  {example['candidate'].strip()[:150]}"))
            scene["outcome"] = f"release {release['tag_name']}"
            self.story.facts["release"] = {"release": release, "report": report, "comment": last}
            self.story.scenes.append(Scene("Model", report["model"]["id"], 0, report["model"]["url"]))
            self.story.scenes.append(Scene("Data set", report["dataset"]["id"], 0, report["dataset"]["url"]))


def visible(body: str) -> str:
    """The last paragraph of a comment, on one line."""
    return " ".join(body.strip().rpartition("\n\n")[2].split())


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def perform(options: Options, say: Callable[[str], None]) -> Iterator[Story]:
    """Open the house, play, hand over the story, and close the house when the caller is done with it."""
    with House(options) as house:
        play = Play(house, say)
        with play.scene("The house opens") as scene:
            house.open(say)
            scene["outcome"] = "forge, hub, model endpoint and bot are up"
            scene["where"] = house.forge_url
        story = play.play()
        (options.data / "story.json").write_text(json.dumps(story.facts, indent=2))
        yield story
