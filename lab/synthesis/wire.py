"""The bytes between us and an OpenAI-compatible server: requests, their identity, answers. No I/O.

Every function that reads an answer treats it as hostile: a malformed one is a failed attempt, never a crash.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lab.contracts import canonical
from lab.synthesis.answers import Answer
from lab.synthesis.endpoints import Endpoint, EndpointError

Messages = Sequence[Mapping[str, str]]

OVERLOADED = frozenset({429, 503})
"""The server is well and has too much to do: the row waits its turn, it does not fail."""
_RETRIED = frozenset({408, 409, 425, 500, 502, 504}) | OVERLOADED
_REFUSED = frozenset({401, 402, 403, 404, 405})
_UNSUPPORTED = frozenset({400, 415, 422, 501})
OPTIONAL = ("response_format", "n")
"""Parameters that some servers do not know; the engine can do without them."""
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class RequestError(RuntimeError):
    """One request cannot be answered: refused as invalid, or failed at every attempt."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AgainError(Exception):
    """This attempt failed in a way that another may not. `after`: seconds that the server asked us to
    wait; `overloaded`: the server has too much to do; `unreachable`: nobody listens.
    """

    def __init__(
        self, why: str, after: float | None = None, unreachable: bool = False, overloaded: bool = False
    ) -> None:
        super().__init__(why)
        self.after = after
        self.unreachable = unreachable
        self.overloaded = overloaded


def request_key(endpoint: Endpoint, messages: Messages, params: Mapping[str, Any]) -> str:
    """The identity of a request. The address is not part of it: the same model may move."""
    value = {
        "model": endpoint.model,
        "revision": endpoint.revision,
        "messages": messages if isinstance(messages, list) else [dict(message) for message in messages],
        "params": params if isinstance(params, dict) else dict(params),
    }
    return "sha256:" + hashlib.sha256(canonical(value)).hexdigest()


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def body(endpoint: Endpoint, messages: Messages, params: Mapping[str, Any], without: frozenset[str]) -> bytes:
    """The request as it is sent, without the parameters that this endpoint is known not to take."""
    value = {"model": endpoint.model, "messages": messages, **params}
    for name in without:
        value.pop(name, None)
    return _encode(value).encode()


def droppable(status: int, params: Mapping[str, Any], without: frozenset[str]) -> str | None:
    """The parameter to do without when a server refuses a request that asked for something optional."""
    if status not in _UNSUPPORTED:
        return None
    return next((name for name in OPTIONAL if name in params and name not in without), None)


def check_status(endpoint: Endpoint, url: str, status: int, retry_after: str | None, raw: bytes) -> None:
    if status == 200:
        return
    said = raw[:300].decode("utf-8", "replace").strip()
    if status in _RETRIED:
        raise AgainError(f"HTTP {status}: {said}", seconds(retry_after), overloaded=status in OVERLOADED)
    if status in _REFUSED or 300 <= status < 400:
        prefix = endpoint.variable.removesuffix("_URL")
        raise EndpointError(
            f"The {endpoint.role}'s endpoint {url} answers HTTP {status} for the model "
            f"{endpoint.model!r}: {said} (check {prefix}_URL, {prefix}_MODEL and {prefix}_KEY)"
        )
    raise RequestError(f"{url}: HTTP {status}: {said}", status)


def seconds(retry_after: str | None) -> float | None:
    """`Retry-After` in its form in seconds; the form with a date, which no model server sends, is None."""
    try:
        found = float(retry_after) if retry_after else None
    except ValueError:
        return None
    return found if found is not None and math.isfinite(found) and found > 0 else None


def read_answer(raw: bytes, key: str) -> Answer:
    """A malformed body is a failed attempt like any other: it is asked for again."""
    try:
        value = json.loads(raw)
        choices = value["choices"]
        texts = [choice["message"]["content"] for choice in choices]
        first = choices[0]
        finish = first.get("finish_reason") or ""
        usage = value.get("usage") or {}
        tokens, prompt = _count(usage.get("completion_tokens")), _count(usage.get("prompt_tokens"))
    except _MALFORMED as error:
        raise AgainError(f"malformed answer: {raw[:120]!r}") from error
    for text in texts:
        if not isinstance(text, str):
            raise AgainError("malformed answer: the message has no text")
    if b"\\ud" in raw or b"\\uD" in raw:  # half of a surrogate pair is no text that can be kept
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
    found = _first_token(first) if first.get("logprobs") else {}
    return Answer(texts[0], key, False, tokens, found, tuple(texts[1:]), prompt, str(finish)[:40])


def _count(value: object) -> int:
    return min(max(int(value or 0), 0), 1 << 40)  # type: ignore[call-overload, no-any-return]


def _first_token(choice: Mapping[str, Any]) -> dict[str, float]:
    """Probabilities of the first token's alternatives; variants of one word (`Yes`, ` yes`) are added up."""
    found: dict[str, float] = {}
    try:
        for entry in choice["logprobs"]["content"][0]["top_logprobs"]:
            word = str(entry["token"]).strip().lower()
            found[word] = round(found.get(word, 0.0) + math.exp(min(float(entry["logprob"]), 0.0)), 6)
    except (KeyError, IndexError, TypeError, ValueError):
        return {}
    return found
