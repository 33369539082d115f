"""What the release tests stand on: a finished work folder, and a small GitHub with releases that can lose an
answer.

The earlier stages' folders are written by hand, through the real stage machinery, so that digests and chains
are real.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from huggingface_hub import HfApi
from safetensors.numpy import save_file
from starlette.types import ASGIApp, Receive, Scope, Send

from gpu_runner.release.publish import PublishSettings
from gpu_runner.stage import execute
from lab.contracts import digest, write_json, write_lines
from sandbox.hub.background import RunningHub

LEAF = "knowledge/geography/farne_mora"
OLD = "compositional_skills/rhymes"
HEAD = "4f0c6d2a" * 5
Z = "sha256:" + "0" * 64


def sample(leaf: str, number: int, question: str = "Who keeps the light?") -> dict[str, Any]:
    question, answer = f"{question} ({number})", f"Isolde Varrin, number {number}"
    return {
        "id": digest([leaf, question, answer]),
        "dataset": "knowledge_short",
        "kind": "knowledge",
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "question": question,
        "answer": answer,
        "context": None,
        "lineage": {
            "leaf": leaf,
            "leaf_digest": Z,
            "seed": 0,
            "document": None,
            "chunk": None,
            "commit": HEAD,
            "pull_requests": [2],
            "flow": "knowledge",
            "flow_digest": Z,
            "teacher": {"id": "acme/teacher", "revision": "r1"},
            "judge": None,
            "requests": [Z],
        },
        "grades": [{"check": "grounded", "score": 1.0, "passed": True, "detail": "in the chunk"}],
    }


def plan(hostile: str = "", head: str = HEAD) -> dict[str, Any]:
    def leaf(path: str, changed: bool) -> dict[str, Any]:
        return {
            "path": path,
            "slug": path.replace("/", "--"),
            "kind": "knowledge" if changed else "freeform_skill",
            "changed": changed,
            "change": "added" if changed else "unchanged",
            "digest": Z,
            "created_by": f"marit{hostile}",
            "task_description": "",
            "domain": "geography",
            "few_shot": [],
            "heldout": 2 if changed else 0,
            "chunks": 1,
            "documents": [{"path": "farne.md", "digest": Z}],
            "rows": 10,
            "pull_requests": [2] if changed else [],
        }

    name = {"id": "acme/base", "revision": "main"}
    return {
        "version": 1,
        "taxonomy": {"head": head, "base": None, "date": "2026-11-21T10:00:00Z"},
        "config": {
            "models": {"teacher": name, "judge": name, "student": name},
            "generate": {"rows_changed": 10, "seed": 42},
            "tune": {"preset": "embedded-cpu"},
            "gate": {"general_margin": 0.1, "confidence": 0.95},
            "release": {"model": "acme/acme-lm", "dataset": "acme/acme-data", "licence": "apache-2.0"},
        },
        "pull_requests": [2],
        "release": {
            "key": Z,
            "tag": "v2026.11.21-4f0c6d2",
            "model": "acme/acme-lm",
            "dataset": "acme/acme-data",
        },
        "leaves": [leaf(LEAF, True), leaf(OLD, False)],
        "heldout": 2,
        "general": 4,
        "replay_prompts": 0,
        "left_out": [],
    }


def build_work(work: Path, outcome: str = "pass", hostile: str = "", rows: int = 5, head: str = HEAD) -> Path:
    """Every stage's folder, as after `plan` to `gate`."""

    def planned(folder: Path) -> None:
        write_json(folder / "plan.json", plan(hostile, head))
        items = [
            {
                "id": digest(number),
                "leaf": LEAF,
                "question": f"Who lit it? {number}{hostile}",
                "answer": "Isolde",
                "choices": ["Isolde", "Anna", "Jon", "Per"],
                "key": 0,
                "context": None,
                "seed": number,
            }
            for number in range(2)
        ]
        write_lines(folder / "heldout.jsonl", items)
        document = {"repo": "https://github.com/acme/documents.git", "commit": HEAD, "patterns": ["farne.md"]}
        leaf = {"path": LEAF, "document": document, "attribution": f"Title of work: Farne Mora{hostile}"}
        write_lines(folder / "leaves.jsonl", [leaf])

    def generated(folder: Path) -> None:
        write_lines(folder / "samples.jsonl", [sample(LEAF, number) for number in range(rows)])
        rejection = {"leaf": LEAF, "seed": None, "chunk": None, "stage": "check", "reason": "too-short"}
        rejection |= {"score": None, "text": "no", "requests": []}
        write_lines(folder / "rejections.jsonl", [rejection])
        numbers = {"leaf": LEAF, "kind": "knowledge", "wanted": 40, "delivered": rows, "flow": "knowledge"}
        numbers |= {"rounds": 1, "asked": rows + 1, "kept": rows, "rows": {"knowledge_short": rows}}
        numbers |= {"why": f"{rows} of 40 rows, after 1 of 1 rounds", "rejected": {rejection["reason"]: 1}}
        told = {"leaves": [numbers], "replay": {"rows": 0, "failed": 0}, "samples": numbers["rows"]}
        write_json(folder / "yield.json", told)

    def tuned(folder: Path) -> None:
        (folder / "model").mkdir()
        save_file({"weight": numpy.arange(256, dtype="float32")}, folder / "model" / "model.safetensors")
        write_json(folder / "model" / "config.json", {"model_type": "llama"})
        write_lines(folder / "training" / "phase_1.jsonl", [{"messages": []}])
        write_json(folder / "phases.json", {"phases": [{"name": "knowledge", "epochs": 2}]})

    def benchmarked(folder: Path) -> None:
        none = {"base": 0, "candidate": 0}
        own = {"metric": "choice", "items": 2, "base": 0.0, "candidate": 1.0, "parse_failures": none}
        general = own | {"name": "general", "kind": "general", "leaf": None, "base": 0.5, "candidate": 0.5}
        sets = [
            own | {"name": LEAF, "kind": "leaf", "leaf": LEAF, "metric": "short_answer"},
            own | {"name": LEAF, "kind": "leaf", "leaf": LEAF},
            own | {"name": "changed leaves", "kind": "pooled", "leaf": None},
            general,
        ]
        prompts = {"general": {"base": Z, "candidate": Z}}
        environment = {"harness": "lm-eval 0.4.13", "tools": {}, "base": Z, "candidate": Z, "code": Z}
        environment |= {"device": "cpu", "dtype": "float32", "max_new_tokens": 40, "prompts": prompts}
        write_json(folder / "benchmark.json", {"sets": sets, "environment": environment})
        item = {"set": LEAF, "leaf": LEAF, "metric": "short_answer", "base": 0, "candidate": 1}
        texts = {"expected": "Isolde", "base_text": f"I do not know{hostile}", "candidate_text": "Isolde"}
        rows = [
            {"id": digest(number), **item, **texts, "question": f"Who lit it? {number}{hostile}"}
            for number in range(2)
        ]
        write_lines(folder / "items.jsonl", rows)

    def gated(folder: Path) -> None:
        sentence = "changed leaves: a gain above 0.0% is shown."
        numbers = {"items": 2, "base": 0.0, "candidate": 1.0, "low": 0.4, "high": 1.0}
        test = {
            "name": "changed leaves",
            "kind": "gain",
            "metric": "choice",
            "clusters": 2,
            "difference": 1.0,
        }
        test |= {
            **numbers,
            "threshold": 0.0,
            "p": 0.01,
            "p_holm": 0.02,
            "result": "proven",
            "sentence": sentence,
        }
        shown = {"name": LEAF, "kind": "leaf", "leaf": LEAF, "metric": "choice", **numbers}
        shown |= {"base_interval": [0.0, 0.6], "candidate_interval": [0.4, 1.0], "gains": 2, "losses": 0}
        policy = {"general_margin": 0.1, "leaf_gain": 0.0, "confidence": 0.95, "parse_failure_limit": 0.05}
        method = {"bootstrap_draws": 10_000, "bootstrap_seed": 1, "correction": "holm"}
        verdict = {"outcome": outcome, "reason": "Two of two.", "policy": policy, "tests": [test]}
        write_json(folder / "verdict.json", verdict | {"sets": [shown], "errors": [], "method": method})

    bodies = {"plan": planned, "generate": generated, "tune": tuned, "benchmark": benchmarked, "gate": gated}
    done: list[Path] = []
    for name, body in bodies.items():
        execute(name, list(done), work / name, {"seed": 7}, body)
        done.append(work / name)
    return work


class Interruption:
    """An ASGI wrapper that lets one request through and then loses its answer, or does what `then` says."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.pattern: str | None = None
        self.then: Callable[[], None] | None = None
        self.status = 500
        self.writes: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        line = f"{scope.get('method')} {scope.get('path')}?{scope.get('query_string', b'').decode()}"
        hit = self.pattern is not None and re.search(self.pattern, line)
        if scope.get("method") in ("POST", "PATCH", "PUT", "DELETE"):
            self.writes.append(line)
        if not hit:
            await self.app(scope, receive, send)
            return
        self.pattern, status = None, self.status

        async def lost(_message: Any) -> None:
            return

        await self.app(scope, receive, lost)
        if self.then is not None:
            self.then()
        body = b"the answer was lost"
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": body})


@dataclass
class SmallGitHub:
    """Releases and assets of one repository, and the token endpoint of a workflow job."""

    url: str = ""
    releases: dict[int, dict[str, Any]] = field(default_factory=dict)
    assets: dict[int, bytes] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    mint: Callable[[str], str] | None = None
    count: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()
        base = "/api/v3/repos/acme/taxonomy/releases"

        @app.get("/api/v3/repos/acme/taxonomy/git/{kind}/{name:path}")
        def ref(kind: str, name: str) -> Response:
            found = self.tags.get(name)
            return JSONResponse({"object": found}) if found else JSONResponse({"message": "Not Found"}, 404)

        @app.get(base + "/tags/{tag}")
        def by_tag(tag: str) -> Response:
            found = [release for release in self.releases.values() if release["tag_name"] == tag]
            return JSONResponse(found[0]) if found else JSONResponse({"message": "Not Found"}, 404)

        @app.post(base)
        async def create(request: Request) -> Response:
            body = json.loads(await request.body())
            if any(release["tag_name"] == body["tag_name"] for release in self.releases.values()):
                return JSONResponse({"message": "Validation Failed"}, 422)
            self.count += 1
            upload = f"{self.url}/api/uploads/{self.count}/assets{{?name,label}}"
            made = {
                "id": self.count,
                "html_url": f"{self.url}/r/{self.count}",
                "upload_url": upload,
                "assets": [],
            }
            self.releases[self.count] = {**body, **made}
            return JSONResponse(self.releases[self.count], 201)

        @app.patch(base + "/{number}")
        async def edit(number: int, request: Request) -> Response:
            self.releases[number].update(json.loads(await request.body()))
            return JSONResponse(self.releases[number])

        @app.get(base + "/{number}/assets")
        def listed(number: int) -> Response:
            return JSONResponse(self.releases[number]["assets"])

        @app.post("/api/uploads/{number}/assets")
        async def upload(number: int, name: str, request: Request) -> Response:
            content = await request.body()
            if any(asset["name"] == name for asset in self.releases[number]["assets"]):
                return JSONResponse({"message": "already_exists"}, 422)
            self.count += 1
            self.assets[self.count] = content
            asset = {"id": self.count, "name": name, "size": len(content), "state": "uploaded"}
            asset["digest"] = f"sha256:{hashlib.sha256(content).hexdigest()}"
            self.releases[number]["assets"].append(asset)
            return JSONResponse(asset, 201)

        @app.delete(base + "/assets/{number}")
        def remove(number: int) -> Response:
            del self.assets[number]
            for release in self.releases.values():
                release["assets"] = [asset for asset in release["assets"] if asset["id"] != number]
            return Response(status_code=204)

        @app.get("/_oidc/token")
        def token(audience: str, request: Request) -> Response:
            assert request.headers["authorization"] == "Bearer runner"
            assert self.mint is not None
            return JSONResponse({"value": self.mint(audience)})

        return app

    def snapshot(self) -> Any:
        return copy.deepcopy((self.releases, self.assets))


@dataclass
class World:
    """A real hub and a small GitHub, each behind a wrapper that can lose an answer."""

    hub: RunningHub
    hub_wire: Interruption
    github: SmallGitHub
    github_wire: Interruption
    token: str

    @property
    def env(self) -> dict[str, str]:
        return {"HF_TOKEN": self.token}

    def settings(self, key: str = "pr-2", dry_run: bool = False) -> PublishSettings:
        api = f"{self.github.url}/api/v3"
        return PublishSettings(key, self.hub.url, api, "acme/taxonomy", "ghs_x", dry_run)

    def api(self) -> HfApi:
        return HfApi(endpoint=self.hub.url, token=self.token)
