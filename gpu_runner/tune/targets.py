"""Which tokens of a conversation the student learns from: what the assistant says, and its end token.

No stock chat template tells (transformers' assistant mask comes back all zero), and guessing by role
markers breaks with the next template. So the conversation is rendered turn by turn: what the rendering
gains when an assistant turn is added is that turn's target. That holds only if each shorter rendering is,
token by token, the beginning of the longer one, so that is checked, and a row for which it fails is refused
with its id, as is one without any target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from jinja2.exceptions import TemplateError

Reason = Literal["no_targets", "too_long", "not_a_prefix", "special_token", "bad_turns"]


class ChatTokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    eos_token_id: int | None
    all_special_tokens: Sequence[str]
    added_tokens_decoder: Mapping[int, Any]
    chat_template: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...
    def decode(self, token_ids: Any) -> Any: ...
    def __call__(self, text: Any, **options: Any) -> Any: ...
    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class TokenRow:
    """One conversation as tokens; `targets[i]` is true when token i is to be learned (predicted from what
    is before).
    """

    id: str
    tokens: tuple[int, ...]
    targets: tuple[bool, ...]

    @property
    def target_count(self) -> int:
        return sum(self.targets)


@dataclass(frozen=True)
class RefusedRow:
    id: str
    reason: Reason
    detail: str

    def to_json(self) -> dict[str, str]:
        return {"id": self.id, "reason": self.reason, "detail": self.detail}


def tokenize(
    row_id: str, messages: Sequence[Mapping[str, str]], tokenizer: ChatTokenizer, max_tokens: int
) -> TokenRow | RefusedRow:
    """The row's tokens with its targets, or why it cannot be learned from. A long row is never cut."""
    # Content is hostile: text that reads as a special token would open a turn of its own.
    control = control_tokens(tokenizer)
    for message in messages:
        found = next((token for token in control if token in message["content"]), None)
        if found is not None:
            return RefusedRow(row_id, "special_token", f"{message['role']} text contains {found!r}")
    if messages and messages[0]["role"] == "assistant":
        return RefusedRow(
            row_id, "bad_turns", "the first turn is the assistant's: there is nothing to answer"
        )
    try:
        return _with_targets(row_id, messages, tokenizer, max_tokens)
    except TemplateError as error:  # "system role not supported", for example
        return RefusedRow(row_id, "bad_turns", f"the chat template refuses the turns: {error}")


@lru_cache(maxsize=4)
def control_tokens(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """What no text may hold: the tokenizer's special tokens, and those of the template's markers that are
    special without being named as such (the headers of Llama 3, the instruction marks of Mistral)."""
    template = str(tokenizer.chat_template)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    marks = [token for token in added if token and token in template]
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *marks]))


def _with_targets(
    row_id: str, messages: Sequence[Mapping[str, str]], tokenizer: ChatTokenizer, max_tokens: int
) -> TokenRow | RefusedRow:
    tokens = _render(tokenizer, messages, False)
    if len(tokens) > max_tokens:
        return RefusedRow(row_id, "too_long", f"{len(tokens)} tokens, at most {max_tokens}")
    targets = [False] * len(tokens)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(tokenizer, messages[:index], True)
        after = _render(tokenizer, messages[: index + 1], False)
        if tokens[: len(after)] != after or after[: len(before)] != before:
            return RefusedRow(
                row_id,
                "not_a_prefix",
                f"the chat template renders turn {index} otherwise once later text follows",
            )
        for position in range(len(before), _turn_end(tokenizer, after, len(before))):
            targets[position] = True
    if not any(targets):
        return RefusedRow(row_id, "no_targets", "no assistant text to learn from")
    return TokenRow(row_id, tuple(tokens), tuple(targets))


def _render(tokenizer: ChatTokenizer, messages: Sequence[Mapping[str, str]], prompt: bool) -> list[int]:
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt
    )
    # The template writes the special tokens itself; adding them again would double the first one.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _turn_end(tokenizer: ChatTokenizer, tokens: Sequence[int], start: int) -> int:
    """One past the end token; the white space that a template sets after it is never generated, so never
    learned.
    """
    if tokenizer.eos_token_id is None:
        return len(tokens)
    for position in range(len(tokens) - 1, start - 1, -1):
        if tokens[position] == tokenizer.eos_token_id:
            rest = tokens[position + 1 :]
            return position + 1 if not rest or not str(tokenizer.decode(list(rest))).strip() else len(tokens)
    return len(tokens)
