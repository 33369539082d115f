"""How long a text is: words as people count them, and tokens as a teacher counts them.

Words miss texts without spaces (Chinese, long tables, pasted code), and prompts are filled by tokens. They
are counted by the teacher's own tokenizer where somebody names its file (`tokenizer.py`), else estimated: one
token for each six letters of a word, each digit, each sign and each Chinese, Japanese or Korean character.
`tests/lab/taxonomy/test_tokenizer.py` says how far that is from the embedded teacher's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_PIECE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\d_]{1,6}|\d|[^\w\s]|_")


def words(text: str) -> int:
    return len(text.split())


def tokens(text: str) -> int:
    """An estimate, linear in the text."""
    return len(_PIECE.findall(text))


@dataclass(frozen=True)
class Tokens:
    """A way to count tokens. `digest` names the tokenizer's file, and is empty for the estimate."""

    count: Callable[[str], int]
    digest: str = ""

    @property
    def counted(self) -> bool:
        return bool(self.digest)

    def say(self, number: int) -> str:
        """`812 tokens (counted with the teacher's tokenizer)`, or `about 812 tokens (estimated)`."""
        if self.counted:
            return f"{number} tokens (counted with the teacher's tokenizer)"
        return f"about {number} tokens (estimated)"

    def over(self, text: str, limit: int) -> int:
        """How many when that is above the limit, else 0; a short text is not even looked through."""
        # A token is at least one byte of UTF-8; the estimate's is at least one character.
        if (len(text.encode("utf-8", "replace")) if self.counted else len(text)) <= limit:
            return 0
        count = self.count(text)
        return count if count > limit else 0


ESTIMATE = Tokens(tokens)


def over_tokens(text: str, limit: int) -> int:
    """The estimate when it is above the limit, else 0."""
    return ESTIMATE.over(text, limit)
