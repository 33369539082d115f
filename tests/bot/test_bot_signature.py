"""Signatures, by GitHub's own published vector and by property."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.signature import sign, verify

SECRET = b"It's a Secret to Everybody"
BODY = b"Hello, World!"
# GitHub Docs, "Validating webhook deliveries", section "Testing the webhook payload validation".
VECTOR = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_the_published_vector_holds() -> None:
    assert sign(SECRET, BODY) == VECTOR
    assert verify([SECRET], BODY, VECTOR)


def test_a_missing_or_odd_header_is_refused() -> None:
    for header in (None, "", "sha1=abc", VECTOR.upper(), VECTOR + " ", "sha256=é"):
        assert not verify([SECRET], BODY, header)


def test_no_live_secret_means_no_delivery() -> None:
    assert not verify([], BODY, VECTOR)


@given(st.binary(min_size=1), st.binary(min_size=1), st.binary())
def test_both_live_secrets_work_and_no_other_does(new: bytes, old: bytes, body: bytes) -> None:
    assert verify([new, old], body, sign(old, body))
    assert verify([new, old], body, sign(new, body))
    assert not verify([new, old], body + b"x", sign(new, body))
