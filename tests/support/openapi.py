"""Checks HTTP exchanges against GitHub's OpenAPI description, in process, with openapi-core.

    checker = Checker.load()
    problems = checker.check(method, url, request_body, status, headers, response_body)

`problems` is empty when the exchange is as GitHub describes it. The description is not in this repository
(13 MB); it is looked for at $TREEWRIGHT_OPENAPI, then .cache/openapi/api.github.com.json. When it is not
there the tests fail and say how to get it: `python tests/support/fetch_openapi.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
FETCH = "python tests/support/fetch_openapi.py"
HOST = "https://api.github.com"

# A path parameter that may hold slashes, which the description does not say: what stands before and after.
_MULTI = (
    re.compile(r"^(/repos/[^/]+/[^/]+/contents/)(.+)()$"),
    re.compile(r"^(/repos/[^/]+/[^/]+/git/(?:ref|refs|matching-refs)/)(.+)()$"),
    re.compile(r"^(/repos/[^/]+/[^/]+/compare/)(.+)()$"),
    re.compile(r"^(/repos/[^/]+/[^/]+/releases/tags/)(.+)()$"),
    re.compile(r"^(/repos/[^/]+/[^/]+/branches/)(.+?)((?:/protection.*)?)$"),
    re.compile(
        r"^(/repos/[^/]+/[^/]+/commits/)(.+?)((?:/(?:check-runs|check-suites|status|statuses|pulls))?)$"
    ),
)
# PyGithub sends labels as a bare list; GitHub takes it and does not describe it.
_UNDESCRIBED_BODIES = (re.compile(r"^/repos/[^/]+/[^/]+/issues/\d+/labels$"),)


class DescriptionMissingError(RuntimeError):
    """GitHub's OpenAPI description is not on this machine."""


def description_path() -> Path:
    given = os.environ.get("TREEWRIGHT_OPENAPI")
    path = Path(given) if given else ROOT / ".cache" / "openapi" / "api.github.com.json"
    if not path.is_file():
        raise DescriptionMissingError(
            f"GitHub's OpenAPI description is not at {path}. Fetch it with: {FETCH}"
        )
    return path


def encoded(path: str) -> str:
    for pattern in _MULTI:
        match = pattern.match(path)
        if match is not None:
            return match[1] + quote(match[2], safe="") + match[3]
    return path


@dataclass(frozen=True)
class _Request:
    """What openapi-core asks of a request (its protocol)."""

    host_url: str
    path: str
    method: str
    parameters: Any
    content_type: str
    body: bytes | None


@dataclass(frozen=True)
class _Response:
    status_code: int
    content_type: str
    headers: Mapping[str, str]
    data: bytes | None


def _mend(schema: object) -> None:
    """`nullable` beside `oneOf` or `enum` means that null is fine; openapi-core does not read it so."""
    if isinstance(schema, dict):
        if schema.get("nullable") is True and "type" not in schema:
            for word in ("oneOf", "anyOf"):
                if isinstance(schema.get(word), list):
                    # Null and no string at all.
                    schema[word].append({"type": "string", "nullable": True, "minLength": 1, "maxLength": 0})
        if schema.get("nullable") is True and isinstance(schema.get("enum"), list):
            schema["enum"] = [*schema["enum"], *([] if None in schema["enum"] else [None])]
        if isinstance(schema.get("discriminator"), dict):
            del schema["discriminator"]  # that of `contents` names a property of a list: it fits nothing
        for value in list(schema.values()):
            _mend(value)
    elif isinstance(schema, list):
        for value in schema:
            _mend(value)


class Checker:
    def __init__(self, description: dict[str, Any]) -> None:
        from openapi_core import Config, OpenAPI

        # The description itself is GitHub's: checking it again would take minutes.
        self.api = OpenAPI.from_dict(description, config=Config(spec_validator_cls=None))
        self.checked = 0

    @classmethod
    def load(cls) -> Checker:
        return _loaded()

    def check(
        self,
        method: str,
        url: str,
        request_headers: Mapping[str, str],
        request_body: bytes | None,
        status: int,
        response_headers: Mapping[str, str],
        response_body: bytes | None,
    ) -> list[str]:
        from openapi_core.datatypes import RequestParameters
        from werkzeug.datastructures import Headers, ImmutableMultiDict

        parts = urlsplit(url)
        plain = parts.path.removeprefix("/api/v3")
        path = encoded(plain)
        asked = {name.lower(): value for name, value in request_headers.items()}
        said = {name.lower(): value for name, value in response_headers.items()}
        request = _Request(
            HOST,
            path,
            method.lower(),
            RequestParameters(
                query=ImmutableMultiDict(parse_qsl(parts.query, keep_blank_values=True)),
                header=Headers(dict(request_headers)),
                cookie=ImmutableMultiDict(),
                path={},
            ),
            asked.get("content-type", "application/json").partition(";")[0],
            request_body or None,
        )
        content_type = said.get("content-type", "application/json").partition(";")[0]
        response = _Response(status, content_type, dict(response_headers), response_body or None)
        self.checked += 1
        where = f"{method.upper()} {path} -> {status}"
        problems = []
        if status < 400 and not any(pattern.match(plain) for pattern in _UNDESCRIBED_BODIES):
            problems += [
                f"{where}: request: {error}" for error in self._errors(self.api.validate_request, request)
            ]
        # An error's body is not described for each status; a redirect and a 304 have none.
        if status < 300 and content_type == "application/json":
            errors = self._errors(self.api.validate_response, request, response)
            problems += [f"{where}: response: {error}" for error in errors]
        return problems

    @staticmethod
    def _errors(validate: Any, *args: object) -> list[str]:
        try:
            validate(*args)
        except Exception as error:  # openapi-core has a family of errors; each is a finding
            details = getattr(error.__cause__ or error, "schema_errors", None) or []
            listed = [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in details]
            return listed or [f"{type(error).__name__}: {error} {error.__cause__ or ''}"[:500]]
        return []


@cache
def _loaded() -> Checker:
    description = json.loads(description_path().read_text())
    listed = description["paths"]["/app/installations"]["get"]["responses"]["200"]["content"]
    account = listed["application/json"]["schema"]["items"]["properties"]["account"]
    if "allOf" in account:  # a person and an enterprise at once: everywhere else it is one of the two
        account["anyOf"] = account.pop("allOf")
    remark = description["components"]["schemas"]["pull-request-review-comment"]["properties"]
    for name in ("line", "position"):  # GitHub answers null for a comment that is outdated
        remark[name]["nullable"] = True
    _mend(description)
    return Checker(description)
