"""How long a text is: words as people count them, and tokens as a teacher roughly counts them.

Words miss texts without spaces (Chinese, long tables, pasted code), and prompts are filled by tokens. The
estimate is one token for each six letters of a word, each digit, each sign and each Chinese, Japanese or
Korean character; see `tests/lab/taxonomy/test_sizes.py` for how far it is from the embedded teacher's own
tokenizer.
"""

from __future__ import annotations

import re

_PIECE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]|[^\W\d_]{1,6}|\d|[^\w\s]|_")


def words(text: str) -> int:
    return len(text.split())


def tokens(text: str) -> int:
    """An estimate, linear in the text."""
    return len(_PIECE.findall(text))


def over_tokens(text: str, limit: int) -> int:
    """The estimate when it is above the limit, else 0; a short text is not even looked through."""
    if len(text) <= limit:
        return 0
    count = tokens(text)
    return count if count > limit else 0
